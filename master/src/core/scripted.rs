//! A log in memory for tests: commands go in, entries and outcomes come out.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, Epoch, FileId};
use sarsen_protocol::id::{RequestId, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::Level;

use super::apply::{Outcome, apply};
use super::command::cluster::{Addresses, TicketKey};
use super::command::{
    Command, Entry, EpochRaised, FilePublished, FolderMade, Genesis, PendingCreated,
    PublishedChunk, RangesReserved, Removed, Renamed, ServerRegistered, SessionOpened,
};
use super::path::Path;
use super::session::Answer;
use super::state::State;

pub(super) const MIB: u32 = 1024 * 1024;

/// A state, and the entries that made it.
pub(super) struct Script {
    pub(super) state: State,
    pub(super) entries: Vec<Entry>,
    pub(super) session: SessionId,
    pub(super) number: u64,
}

impl Script {
    /// A cluster of 1 MiB chunks with one epoch, a range of ids, three servers and a session.
    pub(super) fn new() -> Self {
        let mut script = Self {
            state: State::default(),
            entries: Vec::new(),
            session: SessionId::NONE,
            number: 0,
        };
        script.internal(genesis());
        script.internal(EpochRaised {
            epoch: Epoch {
                number: 1,
                incarnation: 77,
            },
        });
        script.internal(RangesReserved {
            handles_end: 1000,
            versions_end: 1000,
        });
        for server in 1..=3 {
            script.internal(registered(0, server));
        }
        let opened = SessionOpened {
            nonce: [9; 16],
            client: "test".to_owned(),
        };
        assert_eq!(script.internal(opened).answer, Answer::Id(1));
        script.session = SessionId(1);
        script
    }

    /// Applies a command that no request asked for.
    pub(super) fn internal(&mut self, command: impl Into<Command>) -> Outcome {
        self.apply(None, command.into())
    }

    /// Applies a command of the session's next request.
    pub(super) fn request(&mut self, command: impl Into<Command>) -> Outcome {
        self.number += 1;
        let request = self.request_id(self.number, self.number);
        self.apply(Some(request), command.into())
    }

    /// A request id of the session.
    pub(super) fn request_id(&self, number: u64, lowest_outstanding: u64) -> RequestId {
        RequestId {
            session: self.session,
            number,
            lowest_outstanding,
        }
    }

    /// Applies a command under this request id.
    pub(super) fn apply(&mut self, request: Option<RequestId>, command: Command) -> Outcome {
        let index = self.state.index + 1;
        let entry = Entry {
            term: 1,
            index,
            time_ms: 1000 * index,
            request,
            command,
        };
        self.entries.push(entry.clone());
        apply(&mut self.state, &entry)
    }

    /// Begins an upload of a file that wants two copies.
    pub(super) fn begin(&mut self, path: &str) -> FileId {
        match self.request(pending(path)).answer {
            Answer::Pending { file, .. } => file,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Uploads a file whose chunks have these handles and lengths.
    pub(super) fn upload(&mut self, path: &str, chunks: &[(u64, u32)]) -> FileId {
        let file = self.begin(path);
        let outcome = self.request(published(file, path, chunks));
        assert!(
            matches!(outcome.answer, Answer::File(_)),
            "{path}: {outcome:?}"
        );
        file
    }
}

pub(super) fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

pub(super) fn genesis() -> Genesis {
    let ticket_key = TicketKey {
        id: 5,
        key: SecretKey::new([6; 32]),
    };
    Genesis {
        cluster: ClusterId([1; 16]),
        chunk_size: MIB,
        ticket_key,
    }
}

pub(super) fn registered(server: u64, port: u64) -> ServerRegistered {
    let addresses = Addresses {
        control: format!("127.0.0.1:{port}0"),
        data: format!("127.0.0.1:{port}1"),
        http: format!("127.0.0.1:{port}2"),
    };
    ServerRegistered {
        server: ServerId(server),
        addresses,
        rack: format!("rack{port}"),
    }
}

pub(super) fn folder(text: &str) -> FolderMade {
    FolderMade {
        parents: false,
        path: path(text),
    }
}

pub(super) fn pending(text: &str) -> PendingCreated {
    PendingCreated {
        parents: false,
        force: false,
        replicas: 2,
        level: Level::Disk,
        chunk_size: MIB,
        path: path(text),
    }
}

/// Chunk `handle` of version `handle + 500`, with a CRC made from the handle.
pub(super) fn published(file: FileId, text: &str, chunks: &[(u64, u32)]) -> FilePublished {
    let chunks: Vec<PublishedChunk> = (0..)
        .zip(chunks)
        .map(|(index, &(handle, len))| PublishedChunk {
            index,
            handle: ChunkHandle(handle),
            version: ChunkVersion(handle + 500),
            len,
            crc: crc_of(handle),
            servers: vec![ServerId(1), ServerId(2)],
        })
        .collect();
    FilePublished {
        parents: false,
        force: false,
        purge: false,
        file,
        size: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        path: path(text),
        chunks,
    }
}

pub(super) fn crc_of(handle: u64) -> u32 {
    sarsen_protocol::crc::crc32(&handle.to_le_bytes())
}

pub(super) fn renamed(source: &str, target: &str) -> Renamed {
    Renamed {
        source: path(source),
        target: path(target),
    }
}

pub(super) fn removed(text: &str, recursive: bool, purge: bool) -> Removed {
    Removed {
        recursive,
        purge,
        path: path(text),
    }
}
