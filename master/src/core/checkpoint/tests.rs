use super::*;
use crate::core::command::{FolderMade, LossCause, PossibleLoss};
use crate::core::scripted::{MIB, Script, folder, removed};

fn busy_state() -> State {
    let mut script = Script::new();
    script.request(FolderMade {
        parents: true,
        ..folder("/a/b")
    });
    script.upload("/a/f", &[(1, MIB), (2, 7)]);
    script.upload("/a/b/g", &[(3, 8)]);
    script.begin("/unfinished");
    script.request(removed("/a/b", true, false));
    script.request(removed("/nope", true, false));
    script.internal(PossibleLoss {
        handle: ChunkHandle(1),
        version: sarsen_protocol::id::ChunkVersion(5),
        serial: sarsen_protocol::id::Serial(6),
        cause: LossCause::Accepted,
    });
    // Every request is still outstanding for the checkpoint to carry its answer.
    let request = script.request_id(script.number + 1, 1);
    script.apply(Some(request), folder("/c").into());
    script.state
}

#[test]
fn a_state_comes_back_as_it_was() {
    for state in [State::default(), Script::new().state, busy_state()] {
        let bytes = encode(&state);
        let back = decode(&bytes).unwrap();
        assert_eq!(back, state);
        assert_eq!(encode(&back), bytes);
    }
}

#[test]
fn no_cut_is_taken_for_a_state() {
    let bytes = encode(&busy_state());
    for len in 0..bytes.len() {
        let cut = decode(&bytes[..len]);
        assert_eq!(
            cut,
            Err(CheckpointError::Body(BodyError::Truncated)),
            "{len}"
        );
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(
        decode(&longer),
        Err(CheckpointError::Body(BodyError::TrailingBytes))
    );
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    type Break = fn(&mut State);
    let breaks: &[(Break, CheckpointError)] = &[
        (
            |state| state.chunks.record_mut(ChunkHandle(1)).unwrap().references = 2,
            CheckpointError::ReferencesWrong {
                handle: ChunkHandle(1),
                slots: 1,
                references: 2,
            },
        ),
        (
            |state| assert!(state.chunks.release(ChunkHandle(3))),
            CheckpointError::ReferencesWrong {
                handle: ChunkHandle(3),
                slots: 1,
                references: 0,
            },
        ),
        (
            |state| assert!(state.sessions.close(SessionId(1))),
            CheckpointError::PendingInconsistent(FileId(6)),
        ),
        (
            |state| state.servers.next = 3,
            CheckpointError::ServersInconsistent,
        ),
        (
            |state| state.sessions.next = 1,
            CheckpointError::SessionsInconsistent,
        ),
        (
            |state| state.namespace.next = 3,
            CheckpointError::NamespaceInconsistent,
        ),
    ];
    for (break_it, error) in breaks {
        let mut state = busy_state();
        break_it(&mut state);
        assert_eq!(decode(&encode(&state)), Err(*error));
    }
}

#[test]
fn folders_in_a_circle_are_refused() {
    let node = |parent, name: &str| Node {
        parent: FileId(parent),
        name: name.into(),
        modified_ms: 0,
        content: Content::Folder(BTreeMap::new()),
    };
    let tree = |second_parent| {
        BTreeMap::from([
            (FileId(1), node(0, "")),
            (FileId(2), node(second_parent, "a")),
            (FileId(3), node(2, "b")),
        ])
    };
    assert!(Namespace::restore(tree(1), BTreeMap::new(), 4).is_some());
    for parent in [0, 2, 3, 9] {
        assert_eq!(
            Namespace::restore(tree(parent), BTreeMap::new(), 4),
            None,
            "{parent}"
        );
    }
}
