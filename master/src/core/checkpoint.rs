//! The state as the body of a checkpoint (`spec/oplog-entries.md` section 6).
//!
//! [`encode`] and [`decode`] are each other's inverse, and equal states have equal bytes: tables
//! are laid out by ascending key. How the body is framed, checked and put on disk is the log's
//! business. A body comes from our own disk behind a checksum, so what [`decode`] finds wrong is a
//! bug or a forgery; it is refused all the same, before anything is served from it.

use std::collections::BTreeMap;

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{ChunkHandle, FileId, SessionId};
use thiserror::Error;

use super::chunk_table::{ChunkRecord, ChunkTable, LOSSES_MAX, Loss, Sealed};
use super::command::cluster::{Addresses, take_chunk_size};
use super::command::names::take_replicas;
use super::command::{LABEL_LEN_MAX, SLOTS_MAX};
use super::file::{File, PendingFile};
use super::namespace::{Content, Namespace, Node, Trashed};
use super::path::Path;
use super::session::{Answer, PublishedFile, Session, Sessions};
use super::state::{Cluster, DirectoryRecord, ServerRecord, Servers, State};

/// The layout's number.
const FORMAT: u32 = 1;

/// Why a body is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A field breaks its layout.
    #[error("the checkpoint's body is damaged: {0}")]
    Body(#[from] BodyError),
    /// Nodes and trash entries make no trees.
    #[error("the checkpoint's files and folders do not fit together")]
    NamespaceInconsistent,
    /// A chunk's references are not the slots that name it, or a slot names none.
    #[error("chunk {handle} is named by {slots} slots, not by {references}")]
    ReferencesWrong {
        /// The chunk.
        handle: ChunkHandle,
        /// Slots that name it.
        slots: u32,
        /// What its record says; 0 without one.
        references: u32,
    },
    /// Two sessions have one nonce.
    #[error("two sessions of the checkpoint have one nonce")]
    SessionsInconsistent,
    /// A pending file has no session or a file's id.
    #[error("pending file {0} has no session, or is a file")]
    PendingInconsistent(FileId),
    /// A directory has no server, or an id lies at or above the next one to be drawn.
    #[error("the checkpoint's servers and directories do not fit together")]
    ServersInconsistent,
}

/// Lays out a state.
#[must_use]
pub fn encode(state: &State) -> Vec<u8> {
    let mut out = Encoder::new();
    out.put(&FORMAT)
        .put(&state.index)
        .put(&state.term)
        .put(&state.time_ms);
    out.put(&state.cluster.id)
        .put(&state.cluster.chunk_size)
        .put(&state.cluster.ticket_key);
    out.put(&state.epoch)
        .put(&state.handles_end)
        .put(&state.versions_end);
    out.put(&state.namespace.next)
        .put(&state.sessions.next)
        .put(&state.servers.next);
    put_table(
        &mut out,
        state
            .servers
            .servers
            .iter()
            .map(|(&id, server)| (id, server)),
    );
    put_table(
        &mut out,
        state.servers.directories.iter().map(|(&id, row)| (id, row)),
    );
    put_table(&mut out, state.sessions.iter());
    put_table(
        &mut out,
        state.pending.iter().map(|(&id, pending)| (id, pending)),
    );
    put_table(&mut out, state.namespace.nodes());
    put_table(&mut out, state.namespace.trash());
    put_table(&mut out, state.chunks.iter());
    out.into_bytes()
}

/// Reads a state, and checks that its parts fit together.
///
/// # Errors
/// [`CheckpointError`] says what is wrong.
pub fn decode(body: &[u8]) -> Result<State, CheckpointError> {
    let mut input = Decoder::new(body);
    if input.take::<u32>()? != FORMAT {
        return Err(BodyError::UnknownValue.into());
    }
    let (index, term, time_ms) = (input.take()?, input.take()?, input.take()?);
    let cluster = Cluster {
        id: input.take()?,
        chunk_size: take_chunk_size(&mut input)?,
        ticket_key: input.take()?,
    };
    let (epoch, handles_end, versions_end) = (input.take()?, input.take()?, input.take()?);
    let (next_file, next_session, next_server) = (input.take()?, input.take()?, input.take()?);
    let servers = Servers {
        servers: take_table(&mut input)?,
        directories: take_table(&mut input)?,
        next: next_server,
    };
    let sessions = collect_sessions(take_table(&mut input)?, next_session)?;
    let pending = take_table(&mut input)?;
    let (nodes, trash) = (take_table(&mut input)?, take_table(&mut input)?);
    let namespace = Namespace::restore(nodes, trash, next_file)
        .ok_or(CheckpointError::NamespaceInconsistent)?;
    let chunks = collect_chunks(take_table(&mut input)?);
    input.finish()?;
    let state = State {
        index,
        term,
        time_ms,
        cluster,
        epoch,
        handles_end,
        versions_end,
        servers,
        sessions,
        pending,
        namespace,
        chunks,
    };
    check_servers(&state)?;
    check_pending(&state)?;
    check_references(&state)?;
    Ok(state)
}

fn collect_sessions(
    rows: BTreeMap<SessionId, Session>,
    next: u64,
) -> Result<Sessions, CheckpointError> {
    let mut sessions = Sessions::default();
    sessions.next = next;
    for (id, session) in rows {
        if id.0 >= next || !sessions.restore(id, session) {
            return Err(CheckpointError::SessionsInconsistent);
        }
    }
    Ok(sessions)
}

fn collect_chunks(rows: BTreeMap<ChunkHandle, ChunkRecord>) -> ChunkTable {
    let mut chunks = ChunkTable::default();
    for (handle, record) in rows {
        chunks.restore(handle, record);
    }
    chunks
}

fn check_servers(state: &State) -> Result<(), CheckpointError> {
    let Servers {
        servers,
        directories,
        next,
    } = &state.servers;
    let drawn = servers.keys().next_back().is_none_or(|last| last.0 < *next);
    let owned = directories
        .values()
        .all(|directory| servers.contains_key(&directory.server));
    (drawn && owned)
        .then_some(())
        .ok_or(CheckpointError::ServersInconsistent)
}

fn check_pending(state: &State) -> Result<(), CheckpointError> {
    let wrong = state.pending.iter().find(|(id, pending)| {
        state.sessions.session(pending.session).is_none()
            || state.namespace.node(**id).is_some()
            || id.0 >= state.namespace.next
    });
    wrong.map_or(Ok(()), |(&id, _)| {
        Err(CheckpointError::PendingInconsistent(id))
    })
}

fn check_references(state: &State) -> Result<(), CheckpointError> {
    let mut named: BTreeMap<ChunkHandle, u32> = BTreeMap::new();
    for (_, node) in state.namespace.nodes() {
        for (_, handle) in node.as_file().into_iter().flat_map(File::chunks) {
            *named.entry(handle).or_default() += 1;
        }
    }
    for (handle, record) in state.chunks.iter() {
        let (slots, references) = (named.remove(&handle).unwrap_or(0), record.references);
        if slots != references || slots == 0 {
            return Err(CheckpointError::ReferencesWrong {
                handle,
                slots,
                references,
            });
        }
    }
    match named.pop_first() {
        None => Ok(()),
        Some((handle, slots)) => Err(CheckpointError::ReferencesWrong {
            handle,
            slots,
            references: 0,
        }),
    }
}

fn put_table<'a, K: Field, V: Field + 'a>(
    out: &mut Encoder,
    rows: impl ExactSizeIterator<Item = (K, &'a V)>,
) {
    out.put(&(rows.len() as u64));
    for (key, row) in rows {
        out.put(&key).put(row);
    }
}

/// Takes a table: rows with ascending keys.
fn take_table<K: Field + Ord + Copy, V: Field>(
    input: &mut Decoder<'_>,
) -> Result<BTreeMap<K, V>, BodyError> {
    let count: u64 = input.take()?;
    let row_len_min = K::LEN_MIN + V::LEN_MIN;
    if count > (input.remaining() / row_len_min) as u64 {
        return Err(BodyError::Truncated);
    }
    let mut rows = BTreeMap::new();
    let mut last = None;
    for _ in 0..count {
        let key: K = input.take()?;
        if last.is_some_and(|last| key <= last) {
            return Err(BodyError::OutOfBounds);
        }
        last = Some(key);
        rows.insert(key, input.take()?);
    }
    Ok(rows)
}

impl Field for ServerRecord {
    const LEN_MIN: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.addresses).string(&self.rack);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let addresses: Addresses = input.take()?;
        Ok(Self {
            addresses,
            rack: input.string(LABEL_LEN_MAX)?.to_owned(),
        })
    }
}

impl Field for DirectoryRecord {
    const LEN_MIN: usize = 24;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server)
            .put(&self.start_number)
            .put(&self.start_nonce);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            start_number: input.take()?,
            start_nonce: input.take()?,
        })
    }
}

impl Field for Session {
    const LEN_MIN: usize = 42;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.nonce)
            .string(&self.client)
            .put(&self.opened_ms)
            .put(&self.lowest);
        put_table(
            out,
            self.answers
                .iter()
                .map(|(&number, answer)| (number, answer)),
        );
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            nonce: input.take()?,
            client: input.string(LABEL_LEN_MAX)?.to_owned(),
            opened_ms: input.take()?,
            lowest: input.take()?,
            answers: take_table(input)?,
        })
    }
}

impl Field for Answer {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::Done => out.put(&1_u8),
            Self::Id(id) => out.put(&2_u8).put(id),
            Self::Refused(refusal) => out.put(&3_u8).put(refusal),
            Self::Pending { file, replicas } => out.put(&4_u8).put(file).put(replicas),
            Self::File(file) => out.put(&5_u8).put(file),
            Self::Removed { files, bytes } => out.put(&6_u8).put(files).put(bytes),
            Self::Restored(path) => out.put(&7_u8).put(path),
            Self::Emptied { entries, bytes } => out.put(&8_u8).put(entries).put(bytes),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Done,
            2 => Self::Id(input.take()?),
            3 => Self::Refused(input.take()?),
            4 => Self::Pending {
                file: input.take()?,
                replicas: take_replicas(input)?,
            },
            5 => Self::File(input.take()?),
            6 => Self::Removed {
                files: input.take()?,
                bytes: input.take()?,
            },
            7 => Self::Restored(input.take()?),
            8 => Self::Emptied {
                entries: input.take()?,
                bytes: input.take()?,
            },
            _ => return Err(BodyError::UnknownValue),
        })
    }
}

impl Field for PublishedFile {
    const LEN_MIN: usize = 34;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file)
            .put(&self.size)
            .put(&self.modified_ms)
            .put(&self.replicas)
            .put(&self.chunks);
        put_crc(out, self.crc);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file: input.take()?,
            size: input.take()?,
            modified_ms: input.take()?,
            replicas: take_replicas(input)?,
            chunks: input.take()?,
            crc: take_crc(input)?,
        })
    }
}

fn put_crc(out: &mut Encoder, crc: Option<u32>) {
    out.put(&crc.is_some()).put(&crc.unwrap_or(0));
}

fn take_crc(input: &mut Decoder<'_>) -> Result<Option<u32>, BodyError> {
    match (input.take::<bool>()?, input.take::<u32>()?) {
        (true, crc) => Ok(Some(crc)),
        (false, 0) => Ok(None),
        (false, _) => Err(BodyError::OutOfBounds),
    }
}

impl Field for PendingFile {
    const LEN_MIN: usize = 25;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.replicas)
            .put(&self.level)
            .put(&self.chunk_size)
            .put(&self.created_ms)
            .put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            session: input.take()?,
            replicas: take_replicas(input)?,
            level: input.take()?,
            chunk_size: take_chunk_size(input)?,
            created_ms: input.take()?,
            path: input.take()?,
        })
    }
}

const NODE_FILE: u8 = 1;
const NODE_FOLDER: u8 = 2;

impl Field for Node {
    const LEN_MIN: usize = 19;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.parent)
            .put(&self.modified_ms)
            .string(&self.name);
        match &self.content {
            Content::Folder(_) => out.put(&NODE_FOLDER),
            Content::File(file) => out.put(&NODE_FILE).put(file),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (parent, modified_ms) = (input.take()?, input.take()?);
        let name = input.string(LABEL_LEN_MAX)?;
        let is_name = Path::parse(&format!("/{name}")).is_ok_and(|path| path.names().count() <= 1);
        if !is_name {
            return Err(BodyError::OutOfBounds);
        }
        let content = match input.take::<u8>()? {
            // The rows of the children tell where they are.
            NODE_FOLDER => Content::Folder(BTreeMap::new()),
            NODE_FILE => Content::File(input.take()?),
            _ => return Err(BodyError::UnknownValue),
        };
        Ok(Self {
            parent,
            modified_ms,
            name: name.into(),
            content,
        })
    }
}

impl Field for File {
    const LEN_MIN: usize = 22;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.size)
            .put(&self.chunk_size)
            .put(&self.replicas);
        put_crc(out, self.crc);
        out.list(&self.slots);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            size: input.take()?,
            chunk_size: take_chunk_size(input)?,
            replicas: take_replicas(input)?,
            crc: take_crc(input)?,
            slots: input.list(SLOTS_MAX)?,
        })
    }
}

impl Field for Trashed {
    const LEN_MIN: usize = 11;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.deleted_ms).put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            deleted_ms: input.take()?,
            path: input.take()?,
        })
    }
}

impl Field for ChunkRecord {
    const LEN_MIN: usize = 23;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.references)
            .put(&self.file)
            .put(&self.index)
            .put(&self.replicas);
        put_optional(out, self.sealed.as_ref());
        put_optional(out, self.active.as_ref());
        out.list(&self.losses);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            references: input.take()?,
            file: input.take()?,
            index: input.take()?,
            replicas: take_replicas(input)?,
            sealed: take_optional(input)?,
            active: take_optional(input)?,
            losses: input.list(LOSSES_MAX)?,
        })
    }
}

fn put_optional<F: Field>(out: &mut Encoder, value: Option<&F>) {
    out.put(&value.is_some());
    if let Some(value) = value {
        out.put(value);
    }
}

fn take_optional<F: Field>(input: &mut Decoder<'_>) -> Result<Option<F>, BodyError> {
    input.take::<bool>()?.then(|| input.take()).transpose()
}

impl Field for Sealed {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version).put(&self.len).put(&self.crc);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            len: input.take()?,
            crc: input.take()?,
        })
    }
}

impl Field for Loss {
    const LEN_MIN: usize = 25;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.serial)
            .put(&self.cause)
            .put(&self.time_ms);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            serial: input.take()?,
            cause: input.take()?,
            time_ms: input.take()?,
        })
    }
}

#[cfg(test)]
mod tests;
