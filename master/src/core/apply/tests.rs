mod open_chunks;

use sarsen_protocol::crc;
use sarsen_protocol::id::{
    ChunkVersion, DirectoryId, Epoch, RequestId, ServerId, StartNonce, StartNumber,
};

use super::*;
use crate::core::checkpoint;
use crate::core::command::{
    DirectoryStarted, EpochRaised, FileMade, FilePublished, FolderMade, PendingAborted,
    PendingCreated, RangesReserved, SessionOpened, SessionsClosed, TrashEmptied, TrashExpired,
    TrashRestored,
};
use crate::core::scripted::{
    MIB, Script, crc_of, folder, genesis, path, pending, published, registered, removed, renamed,
};
use crate::core::session::PublishedFile;
use crate::core::state::State;

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

#[test]
fn genesis_is_the_first_entry_and_only_that() {
    let mut script = Script::new();
    assert_eq!(
        script.internal(genesis()).answer,
        refused(Refusal::InvalidArgument)
    );
    let mut state = State::default();
    let command = registered(0, 1).into();
    let entry = Entry {
        term: 1,
        index: 1,
        time_ms: 5,
        request: None,
        command,
    };
    assert_eq!(
        apply(&mut state, &entry).answer,
        refused(Refusal::InvalidArgument)
    );
    assert!(state.servers.servers.is_empty());
}

#[test]
fn requests_carry_an_id_and_internal_entries_none() {
    let mut script = Script::new();
    assert_eq!(
        script.internal(folder("/a")).answer,
        refused(Refusal::InvalidArgument)
    );
    let request = Some(script.request_id(1, 1));
    let command = registered(0, 4).into();
    assert_eq!(
        script.apply(request, command).answer,
        refused(Refusal::InvalidArgument)
    );
}

#[test]
fn epochs_and_ranges_only_rise() {
    let mut script = Script::new();
    let epoch = Epoch {
        number: 1,
        incarnation: 5,
    };
    let stale = script.internal(EpochRaised { epoch }).answer;
    assert_eq!(stale, refused(Refusal::StaleEpoch));
    assert_eq!(script.state.epoch.incarnation, 77);
    let lower = RangesReserved {
        handles_end: 999,
        versions_end: 2000,
    };
    assert_eq!(
        script.internal(lower).answer,
        refused(Refusal::InvalidArgument)
    );
    assert_eq!(script.state.versions_end, ChunkVersion(1000));
}

#[test]
fn a_directory_that_was_copied_or_rolled_back_is_found_out() {
    let mut script = Script::new();
    let mut start = |server, number, nonce| {
        let command = DirectoryStarted {
            directory: DirectoryId([3; 16]),
            server: ServerId(server),
            start_number: StartNumber(number),
            start_nonce: StartNonce(nonce),
        };
        script.internal(command).answer
    };
    assert_eq!(
        start(9, 1, 1),
        refused(Refusal::ForeignDirectory),
        "no such server"
    );
    assert_eq!(start(1, 4, 40), Answer::Done);
    assert_eq!(start(1, 4, 40), Answer::Done, "a reconnect");
    assert_eq!(start(1, 4, 41), refused(Refusal::StaleStart), "a copy");
    assert_eq!(start(1, 3, 40), refused(Refusal::StaleStart), "rolled back");
    assert_eq!(
        start(2, 5, 50),
        refused(Refusal::ForeignDirectory),
        "another server's"
    );
    assert_eq!(start(1, 6, 60), Answer::Done);
}

#[test]
fn a_session_is_found_again_by_its_nonce() {
    let mut script = Script::new();
    let again = SessionOpened {
        nonce: [9; 16],
        client: "other".to_owned(),
    };
    assert_eq!(script.internal(again).answer, Answer::Id(1));
    let other = SessionOpened {
        nonce: [8; 16],
        client: "other".to_owned(),
    };
    assert_eq!(script.internal(other.clone()).answer, Answer::Id(2));
    script.internal(SessionsClosed {
        sessions: vec![SessionId(2), SessionId(7)],
    });
    assert_eq!(
        script.internal(other).answer,
        Answer::Id(3),
        "ids are never used twice"
    );
}

#[test]
fn a_request_is_done_once() {
    let mut script = Script::new();
    let first = script.request_id(1, 1);
    let made = script.apply(Some(first), folder("/a").into());
    assert_eq!(made.answer, Answer::Id(2));
    let again = script.apply(Some(first), folder("/a").into());
    assert_eq!((again.answer, again.repeated), (Answer::Id(2), true));

    let taken = script.request_id(2, 1);
    let refusal = script.apply(Some(taken), folder("/a").into());
    assert_eq!(
        (refusal.answer, refusal.repeated),
        (refused(Refusal::AlreadyExists), false)
    );
    script.apply(
        Some(script.request_id(3, 1)),
        removed("/a", false, true).into(),
    );
    let again = script.apply(Some(taken), folder("/a").into());
    assert_eq!(
        again.answer,
        refused(Refusal::AlreadyExists),
        "a refusal is kept too"
    );

    script.apply(Some(script.request_id(4, 4)), folder("/b").into());
    let forgotten = script.apply(Some(first), folder("/c").into());
    assert_eq!(forgotten.answer, refused(Refusal::RequestForgotten));
    let kept = &script
        .state
        .sessions
        .session(script.session)
        .unwrap()
        .answers;
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&4]);
    let nobody = RequestId {
        session: SessionId(99),
        number: 1,
        lowest_outstanding: 1,
    };
    let unknown = script.apply(Some(nobody), folder("/c").into());
    assert_eq!(unknown.answer, refused(Refusal::SessionUnknown));
}

#[test]
fn an_upload_is_published_whole() {
    let mut script = Script::new();
    let file = script.begin("/f");
    let outcome = script.request(published(file, "/f", &[(1, MIB), (2, 5)]));
    let whole = crc::combine(crc_of(1), crc_of(2), 5);
    let expected = PublishedFile {
        file,
        size: u64::from(MIB) + 5,
        modified_ms: script.state.time_ms,
        replicas: 2,
        chunks: 2,
        crc: Some(whole),
    };
    assert_eq!(outcome.answer, Answer::File(expected));
    assert_eq!((outcome.dropped, outcome.ended), (vec![], vec![file]));
    assert_eq!(script.state.namespace.resolve(&path("/f")), Ok(file));
    assert_eq!(
        script
            .state
            .chunks
            .record(ChunkHandle(2))
            .unwrap()
            .references,
        1
    );

    let again = script.request(published(file, "/elsewhere", &[]));
    assert_eq!(
        again.answer,
        Answer::File(expected),
        "publishing a published file is done"
    );
}

#[test]
fn an_empty_file_has_no_chunk_and_a_crc() {
    let mut script = Script::new();
    let file = script.upload("/empty", &[]);
    assert_eq!(script.state.namespace.file(file).unwrap().crc, Some(0));
}

#[test]
fn a_publication_that_does_not_add_up_changes_nothing() {
    let mut script = Script::new();
    script.upload("/there", &[(50, 10)]);
    let file = script.begin("/f");
    let sound = published(file, "/f", &[(1, MIB), (2, 5)]);
    type Break = fn(&mut FilePublished);
    let breaks: &[(&str, Break)] = &[
        ("a short chunk in the middle", |p| {
            p.chunks[0].len -= 1;
            p.size -= 1;
        }),
        ("a chunk that is too long", |p| {
            p.chunks[1].len = MIB + 1;
            p.size = u64::from(2 * MIB + 1);
        }),
        ("a size that is no sum", |p| p.size += 1),
        ("a gap", |p| p.chunks[1].index = 2),
        ("one handle twice", |p| p.chunks[1].handle = ChunkHandle(1)),
        ("a handle of another file", |p| {
            p.chunks[1].handle = ChunkHandle(50)
        }),
        ("a handle never given out", |p| {
            p.chunks[1].handle = ChunkHandle(1000)
        }),
        ("a version never given out", |p| {
            p.chunks[1].version = ChunkVersion(1000)
        }),
        ("nobody acknowledged", |p| p.chunks[1].servers.clear()),
        ("one server twice", |p| {
            p.chunks[1].servers = vec![ServerId(1), ServerId(1)]
        }),
    ];
    for (story, break_it) in breaks {
        let mut broken = sound.clone();
        break_it(&mut broken);
        let before = script.state.namespace.clone();
        let answer = script.request(broken).answer;
        assert_eq!(answer, refused(Refusal::InvalidArgument), "{story}");
        assert_eq!(script.state.namespace, before, "{story}");
    }
    assert!(matches!(script.request(sound).answer, Answer::File(_)));
}

#[test]
fn only_its_session_publishes_or_aborts_a_pending_file() {
    let mut script = Script::new();
    let file = script.begin("/f");
    script.internal(SessionOpened {
        nonce: [8; 16],
        client: String::new(),
    });
    let other = |number| {
        Some(RequestId {
            session: SessionId(2),
            number,
            lowest_outstanding: 1,
        })
    };
    let stolen = script.apply(other(1), published(file, "/f", &[]).into());
    assert_eq!(stolen.answer, refused(Refusal::PendingUnknown));
    let abort = PendingAborted { file };
    assert_eq!(script.apply(other(2), abort.clone().into()).ended, []);
    assert_eq!(script.request(abort.clone()).ended, [file]);
    assert_eq!(
        script.request(abort).answer,
        Answer::Done,
        "aborting what is gone is done"
    );
    let late = script.request(published(file, "/f", &[]));
    assert_eq!(late.answer, refused(Refusal::PendingUnknown));
}

#[test]
fn a_closed_session_takes_its_pending_files_along() {
    let mut script = Script::new();
    let (a, b) = (script.begin("/a"), script.begin("/b"));
    let outcome = script.internal(SessionsClosed {
        sessions: vec![script.session],
    });
    assert_eq!(outcome.ended, [a, b]);
    assert!(script.state.pending.is_empty());
    assert_eq!(
        script.request(folder("/c")).answer,
        refused(Refusal::SessionUnknown)
    );
}

#[test]
fn a_replaced_file_goes_to_the_trash_or_for_good() {
    let mut script = Script::new();
    let old = script.upload("/f", &[(1, 10)]);
    assert_eq!(
        script.request(pending("/f")).answer,
        refused(Refusal::AlreadyExists)
    );
    let mut replace = |handle, purge| {
        let begun = script.request(PendingCreated {
            force: true,
            ..pending("/f")
        });
        let Answer::Pending { file, .. } = begun.answer else {
            panic!("{begun:?}")
        };
        let publish = published(file, "/f", &[(handle, 20)]);
        let unforced = script.request(publish.clone()).answer;
        assert_eq!(unforced, refused(Refusal::AlreadyExists));
        (
            file,
            script.request(FilePublished {
                force: true,
                purge,
                ..publish
            }),
        )
    };
    let (second, outcome) = replace(2, false);
    assert!(outcome.dropped.is_empty());
    let (_, outcome) = replace(3, true);
    assert_eq!(outcome.dropped, [ChunkHandle(2)]);
    assert_eq!(script.state.namespace.node(second), None);
    assert_eq!(
        script
            .state
            .namespace
            .trash()
            .map(|(id, _)| id)
            .collect::<Vec<_>>(),
        [old]
    );
}

#[test]
fn an_empty_file_made_at_once_is_like_one_that_was_uploaded() {
    let mut script = Script::new();
    let uploaded = script.upload("/up", &[]);
    let make = |text: &str, parents| FileMade {
        parents,
        replicas: 2,
        chunk_size: MIB,
        path: path(text),
    };
    let missing = script.request(make("/a/b/f", false)).answer;
    assert_eq!(missing, refused(Refusal::NotFound));
    let made = PublishedFile {
        file: FileId(uploaded.0 + 3),
        size: 0,
        modified_ms: 1000 * (script.state.index + 1),
        replicas: 2,
        chunks: 0,
        crc: Some(0),
    };
    let answer = script.request(make("/a/b/f", true)).answer;
    assert_eq!(answer, Answer::File(made), "the folders above come first");
    let names = &script.state.namespace;
    assert_eq!(names.resolve(&path("/a/b/f")), Ok(made.file));
    assert_eq!(names.file(made.file), names.file(uploaded));
    for (body, refusal) in [
        (make("/up", true), Refusal::AlreadyExists),
        (make("/a/b", true), Refusal::IsAFolder),
        (make("/", true), Refusal::IsAFolder),
        (make("/up/f", true), Refusal::NotAFolder),
    ] {
        assert_eq!(script.request(body).answer, refused(refusal));
    }
    let foreign = FileMade {
        chunk_size: 2 * MIB,
        ..make("/g", true)
    };
    let answer = script.request(foreign).answer;
    assert_eq!(answer, refused(Refusal::InvalidArgument));
    let read = checkpoint::decode(&checkpoint::encode(&script.state)).unwrap();
    assert_eq!(read, script.state);
}

#[test]
fn a_folder_is_never_replaced_by_a_file() {
    let mut script = Script::new();
    script.request(folder("/d"));
    let force = PendingCreated {
        force: true,
        ..pending("/d")
    };
    assert_eq!(script.request(force).answer, refused(Refusal::IsAFolder));
    let root = PendingCreated {
        force: true,
        ..pending("/")
    };
    assert_eq!(script.request(root).answer, refused(Refusal::IsAFolder));
}

#[test]
fn missing_folders_are_made_only_when_asked_for() {
    let mut script = Script::new();
    assert_eq!(
        script.request(folder("/a/b/c")).answer,
        refused(Refusal::NotFound)
    );
    let deep = FolderMade {
        parents: true,
        ..folder("/a/b/c")
    };
    let made = script.request(deep.clone()).answer;
    assert_eq!(made, Answer::Id(4), "folders above are made first");
    assert_eq!(
        script.request(deep).answer,
        made,
        "a folder that is there is done"
    );
    script.upload("/a/f", &[]);
    let through_file = FolderMade {
        parents: true,
        ..folder("/a/f/g/h")
    };
    assert_eq!(
        script.request(through_file).answer,
        refused(Refusal::NotAFolder)
    );
    let over_file = FolderMade {
        parents: true,
        ..folder("/a/f")
    };
    assert_eq!(
        script.request(over_file).answer,
        refused(Refusal::AlreadyExists)
    );
}

#[test]
fn rename_moves_a_tree_and_refuses_what_makes_no_tree() {
    let mut script = Script::new();
    script.request(FolderMade {
        parents: true,
        ..folder("/a/b")
    });
    let file = script.upload("/a/b/f", &[]);
    for (source, target, refusal) in [
        ("/", "/x", Refusal::InvalidArgument),
        ("/a", "/", Refusal::InvalidArgument),
        ("/a", "/a/b/c", Refusal::InvalidArgument),
        ("/a", "/a", Refusal::AlreadyExists),
        ("/a/b/f", "/a/b", Refusal::AlreadyExists),
        ("/nope", "/x", Refusal::NotFound),
        ("/a/b/f", "/x/y", Refusal::NotFound),
        ("/a/b/f/g", "/x", Refusal::NotAFolder),
    ] {
        let answer = script.request(renamed(source, target)).answer;
        assert_eq!(answer, refused(refusal), "{source} {target}");
    }
    assert_eq!(script.request(renamed("/a/b", "/c")).answer, Answer::Done);
    assert_eq!(script.state.namespace.resolve(&path("/c/f")), Ok(file));
    assert_eq!(
        script.state.namespace.path_of(file).as_deref(),
        Some("/c/f")
    );
}

#[test]
fn rename_keeps_every_path_within_the_limits() {
    let mut script = Script::new();
    let name = "n".repeat(255);
    let deep = format!("/{}", vec![name.as_str(); 15].join("/"));
    script.request(FolderMade {
        parents: true,
        ..folder(&format!("/a{deep}"))
    });
    script.request(folder(&format!("/{name}")));
    let too_long = script.request(renamed("/a", &format!("/{name}/{}", "m".repeat(255))));
    assert_eq!(too_long.answer, refused(Refusal::TooLarge));
    let longer = script.request(renamed("/a", "/longer-but-not-too-long"));
    assert_eq!(longer.answer, Answer::Done);
}

#[test]
fn removing_a_tree_and_restoring_it() {
    let mut script = Script::new();
    script.request(FolderMade {
        parents: true,
        ..folder("/a/b")
    });
    script.upload("/a/b/f", &[(1, 10)]);
    script.upload("/a/g", &[(2, 30)]);
    assert_eq!(
        script.request(removed("/", true, true)).answer,
        refused(Refusal::InvalidArgument)
    );
    assert_eq!(
        script.request(removed("/a", false, false)).answer,
        refused(Refusal::NotEmpty)
    );
    let gone = script.request(removed("/a", true, false));
    assert_eq!(
        gone.answer,
        Answer::Removed {
            files: 2,
            bytes: 40
        }
    );
    assert_eq!(gone.dropped, []);
    let (entry, trashed) = script.state.namespace.trash().next().unwrap();
    assert_eq!(
        (trashed.path.as_str(), trashed.deleted_ms),
        ("/a", script.state.time_ms)
    );

    script.request(folder("/a"));
    let back = |target: Option<&str>| TrashRestored {
        entry,
        target: target.map(path),
    };
    assert_eq!(
        script.request(back(None)).answer,
        refused(Refusal::AlreadyExists)
    );
    let restored = script.request(back(Some("/x/y"))).answer;
    assert_eq!(restored, Answer::Restored(path("/x/y")));
    assert!(script.state.namespace.resolve(&path("/x/y/b/f")).is_ok());
    assert_eq!(
        script.request(back(None)).answer,
        refused(Refusal::NotFound)
    );
}

#[test]
fn emptying_the_trash_drops_the_chunks() {
    let mut script = Script::new();
    for (name, handle) in [("/f", 1), ("/g", 2), ("/h", 3)] {
        script.upload(name, &[(handle, 10)]);
        script.request(removed(name, false, false));
    }
    let ids: Vec<FileId> = script.state.namespace.trash().map(|(id, _)| id).collect();
    let one = script.request(TrashEmptied { entry: ids[1] });
    assert_eq!(
        one.answer,
        Answer::Emptied {
            entries: 1,
            bytes: 10
        }
    );
    assert_eq!(one.dropped, [ChunkHandle(2)]);
    let gone = script.request(TrashEmptied { entry: ids[1] });
    assert_eq!(gone.answer, refused(Refusal::NotFound));
    let expired = script.internal(TrashExpired {
        entries: vec![ids[0], ids[1]],
    });
    assert_eq!(expired.dropped, [ChunkHandle(1)]);
    let rest = script.request(TrashEmptied {
        entry: FileId::NONE,
    });
    assert_eq!(rest.dropped, [ChunkHandle(3)]);
    assert!(script.state.chunks.is_empty());
}

#[test]
fn a_replay_gives_the_same_state_and_the_same_answers() {
    let mut script = Script::new();
    script.request(FolderMade {
        parents: true,
        ..folder("/a/b")
    });
    script.upload("/a/f", &[(1, MIB), (2, 7)]);
    script.begin("/a/unfinished");
    script.request(renamed("/a/f", "/a/b/f"));
    script.request(removed("/a/b", true, false));
    script.request(removed("/nope", true, false));
    let mut replayed = State::default();
    for entry in &script.entries {
        apply(&mut replayed, entry);
    }
    assert_eq!(replayed, script.state);
    assert_eq!(
        checkpoint::encode(&replayed),
        checkpoint::encode(&script.state)
    );
    let last = script.entries.last().unwrap().clone();
    let again = Entry {
        index: replayed.index + 1,
        ..last
    };
    let outcome = apply(&mut replayed, &again);
    assert_eq!(
        (outcome.answer, outcome.repeated),
        (refused(Refusal::NotFound), true)
    );
}
