use toml::{Table, Value};

use super::*;
use crate::core::command::chunks::Configuration;
use crate::core::command::tests::{cause, member};
use crate::core::command::{FolderMade, LossCause, PossibleLoss};
use crate::core::scripted::{MIB, Script, folder, removed};
use crate::core::vectors::{Vectors, bytes, hex, list, table, text, u32s, u64s};

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

#[test]
fn accepted_vectors_mean_what_they_say() {
    for vector in Vectors::read("checkpoint-state").accepted {
        let body = bytes(&vector.hex);
        let state = decode(&body).unwrap();
        assert_eq!(fields(&state), vector.fields, "{}", vector.name);
        assert_eq!(encode(&state), body, "{}", vector.name);
    }
}

#[test]
fn rejected_vectors_are_rejected_for_their_reason() {
    for vector in Vectors::read("checkpoint-state").rejected {
        match decode(&bytes(&vector.hex)) {
            Err(CheckpointError::Body(error)) => {
                assert_eq!(error.name(), vector.error, "{}", vector.name);
            }
            other => panic!("{}: {other:?}", vector.name),
        }
    }
}

// A state's fields as the vectors spell them.

fn fields(state: &State) -> Table {
    let epoch = [
        ("number", u64s(state.epoch.number)),
        ("incarnation", u64s(state.epoch.incarnation)),
    ];
    table([
        ("format", u32s(FORMAT)),
        ("index", u64s(state.index)),
        ("term", u64s(state.term)),
        ("time", u64s(state.time_ms)),
        ("cluster_id", hex(&state.cluster.id.0)),
        ("chunk_size", u32s(state.cluster.chunk_size)),
        ("ticket_key_id", u32s(state.cluster.ticket_key.id)),
        ("ticket_key", hex(state.cluster.ticket_key.key.bytes())),
        ("epoch", Value::Table(table(epoch))),
        ("handles_end", u64s(state.handles_end.0)),
        ("versions_end", u64s(state.versions_end.0)),
        ("next_file", u64s(state.namespace.next)),
        ("next_session", u64s(state.sessions.next)),
        ("next_server", u64s(state.servers.next)),
        (
            "servers",
            rows(&state.servers.servers, |id, row| server(id.0, row)),
        ),
        (
            "directories",
            rows(&state.servers.directories, |id, row| directory(&id.0, row)),
        ),
        (
            "sessions",
            Value::Array(state.sessions.iter().map(session).collect()),
        ),
        ("pending", rows(&state.pending, |id, row| pending(*id, row))),
        (
            "nodes",
            Value::Array(state.namespace.nodes().map(node).collect()),
        ),
        (
            "trash",
            Value::Array(state.namespace.trash().map(trashed).collect()),
        ),
        (
            "chunks",
            Value::Array(state.chunks.iter().map(chunk).collect()),
        ),
    ])
}

fn rows<K, V>(rows: &BTreeMap<K, V>, describe: impl Fn(&K, &V) -> Value) -> Value {
    Value::Array(rows.iter().map(|(key, row)| describe(key, row)).collect())
}

fn row<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Table(table(fields))
}

fn server(id: u64, server: &ServerRecord) -> Value {
    row([
        ("server", u64s(id)),
        ("control_addr", text(&server.addresses.control)),
        ("data_addr", text(&server.addresses.data)),
        ("http_addr", text(&server.addresses.http)),
        ("rack", text(&server.rack)),
    ])
}

fn directory(id: &[u8], directory: &DirectoryRecord) -> Value {
    row([
        ("directory", hex(id)),
        ("server", u64s(directory.server.0)),
        ("start_number", u64s(directory.start_number.0)),
        ("start_nonce", u64s(directory.start_nonce.0)),
    ])
}

fn session((id, session): (SessionId, &Session)) -> Value {
    row([
        ("session", u64s(id.0)),
        ("nonce", hex(&session.nonce)),
        ("client", text(&session.client)),
        ("opened", u64s(session.opened_ms)),
        ("lowest", u64s(session.lowest)),
        (
            "answers",
            rows(&session.answers, |number, one| answer(*number, one)),
        ),
    ])
}

fn answer(number: u64, answer: &Answer) -> Value {
    let (kind, more) = match answer {
        Answer::Done => ("done", Table::new()),
        Answer::Id(id) => ("id", table([("id", u64s(*id))])),
        Answer::Refused(refusal) => (
            "refused",
            table([("status", u32s(refusal.status().number()))]),
        ),
        Answer::Pending { file, replicas } => (
            "pending",
            table([("file", u64s(file.0)), ("replicas", u32s(*replicas))]),
        ),
        Answer::File(file) => (
            "file",
            table([
                ("file", u64s(file.file.0)),
                ("size", u64s(file.size)),
                ("modified", u64s(file.modified_ms)),
                ("replicas", u32s(file.replicas)),
                ("chunks", u32s(file.chunks)),
                ("crc_known", Value::Boolean(file.crc.is_some())),
                ("crc", u32s(file.crc.unwrap_or(0))),
            ]),
        ),
        Answer::Removed { files, bytes } => (
            "removed",
            table([("files", u64s(*files)), ("bytes", u64s(*bytes))]),
        ),
        Answer::Restored(path) => ("restored", table([("path", text(path))])),
        Answer::Emptied { entries, bytes } => (
            "emptied",
            table([("entries", u64s(*entries)), ("bytes", u64s(*bytes))]),
        ),
    };
    let mut fields = table([("number", u64s(number)), ("kind", text(kind))]);
    fields.extend(more);
    Value::Table(fields)
}

fn pending(id: FileId, pending: &PendingFile) -> Value {
    row([
        ("file", u64s(id.0)),
        ("session", u64s(pending.session.0)),
        ("replicas", u32s(pending.replicas)),
        ("level", text(pending.level.name())),
        ("chunk_size", u32s(pending.chunk_size)),
        ("created", u64s(pending.created_ms)),
        ("path", text(&pending.path)),
    ])
}

fn node((id, node): (FileId, &Node)) -> Value {
    let mut fields = table([
        ("file", u64s(id.0)),
        ("parent", u64s(node.parent.0)),
        ("modified", u64s(node.modified_ms)),
        ("name", text(&node.name)),
        (
            "type",
            text(if node.as_file().is_some() {
                "file"
            } else {
                "folder"
            }),
        ),
    ]);
    if let Some(file) = node.as_file() {
        fields.extend(table([
            ("size", u64s(file.size)),
            ("chunk_size", u32s(file.chunk_size)),
            ("replicas", u32s(file.replicas)),
            ("crc_known", Value::Boolean(file.crc.is_some())),
            ("crc", u32s(file.crc.unwrap_or(0))),
            ("slots", list(&file.slots, |handle| u64s(handle.0))),
        ]));
    }
    Value::Table(fields)
}

fn trashed((id, trashed): (FileId, &Trashed)) -> Value {
    row([
        ("file", u64s(id.0)),
        ("deleted", u64s(trashed.deleted_ms)),
        ("path", text(&trashed.path)),
    ])
}

fn chunk((handle, record): (ChunkHandle, &ChunkRecord)) -> Value {
    let mut fields = table([
        ("handle", u64s(handle.0)),
        ("references", u32s(record.references)),
        ("file", u64s(record.file.0)),
        ("index", u32s(record.index)),
        ("replicas", u32s(record.replicas)),
        ("losses", list(&record.losses, loss)),
    ]);
    if let Some(sealed) = &record.sealed {
        let sealed = row([
            ("version", u64s(sealed.version.0)),
            ("length", u32s(sealed.len)),
            ("crc", u32s(sealed.crc)),
        ]);
        fields.insert("sealed".to_owned(), sealed);
    }
    if let Some(active) = &record.active {
        fields.insert("active".to_owned(), configuration(active));
    }
    Value::Table(fields)
}

fn configuration(active: &Configuration) -> Value {
    row([
        ("version", u64s(active.version.0)),
        ("serial", u64s(active.serial.0)),
        ("flags", u32s(active.memory_allowed)),
        ("primary", u64s(active.primary.0)),
        ("members", list(&active.members, member)),
    ])
}

fn loss(loss: &Loss) -> Value {
    row([
        ("version", u64s(loss.version.0)),
        ("serial", u64s(loss.serial.0)),
        ("cause", cause(loss.cause)),
        ("time", u64s(loss.time_ms)),
    ])
}
