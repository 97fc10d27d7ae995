//! The id table of a sealed chunk, to who copies it (`spec/messages.md` section 14.4).
//!
//! The rows are not looked at here: the asker compares the whole table with its CRC. One frame is in
//! memory at a time, whatever the table's length.

use std::sync::Arc;

use sarsen_protocol::deframe::frame;
use sarsen_protocol::id_row::ID_ROW_LEN;
use sarsen_protocol::message::{ChunkIds, ChunkIdsReply, ErrorBody, Kind};
use sarsen_protocol::size::ID_ROWS_TOLD_MAX;

use super::chunkserver::wall_clock;
use super::link::{Head, Link, LinkError};
use super::plane::Thread;
use super::read;
use super::turns::Member;
use crate::core::read_stream::{self, Refusal, ReplicaFacts};
use crate::core::tickets;
use crate::store::{Directory, ReadableChunk, StoreError};

/// Answers one `ChunkIds`.
///
/// # Errors
/// When the connection is of no use any more; a question that can't be answered is told to the peer.
pub(super) async fn serve(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    head: &Head,
) -> Result<(), LinkError> {
    let asked: ChunkIds = head.message()?;
    let request_id = head.header.request_id;
    let counters = &thread.chunkserver.counters;
    let _counted = counters.read_streams.count();
    let answered = match open(thread, &asked).await {
        Ok((directory, chunk)) => {
            let sending = Sending {
                thread,
                link,
                member,
                request_id,
                directory,
                chunk,
            };
            sending.run().await?
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = answered {
        read::refuse(thread, link, Kind::ChunkIdsReply, request_id, refusal).await?;
    }
    Ok(())
}

async fn open(
    thread: &Thread,
    asked: &ChunkIds,
) -> Result<(Arc<Directory>, Arc<ReadableChunk>), Refusal> {
    let keys = thread.chunkserver.ticket_keys();
    keys.check_copy(&asked.ticket, asked.handle, asked.version, wall_clock())
        .map_err(|error| (tickets::status_of(error), ErrorBody::new(error.to_string())))?;
    let decide = |facts: &ReplicaFacts| read_stream::check_ids(asked.version, facts);
    let (directory, chunk, ()) = read::find(thread, asked.handle, decide).await?;
    Ok((directory, chunk))
}

/// One table on its way out.
struct Sending<'a> {
    thread: &'a Thread,
    link: &'a Link,
    member: &'a Arc<Member>,
    request_id: u64,
    directory: Arc<Directory>,
    chunk: Arc<ReadableChunk>,
}

impl Sending<'_> {
    /// Sends the rows; a refusal is what ends them early, and is still to be sent.
    async fn run(&self) -> Result<Result<(), Refusal>, LinkError> {
        let counters = &self.thread.chunkserver.counters;
        let mut first_row = 0;
        loop {
            let rows = match self.read(first_row).await {
                Ok(rows) => rows,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let reply = ChunkIdsReply {
                table_length: self.chunk.id_table_length,
                table_crc32: self.chunk.id_table_crc32,
                first_row,
                rows,
            };
            let (is_last, bytes) = (reply.is_last(), frame(&reply, self.request_id));
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let _turn = self.member.turn(len, &counters.turns_held).await;
            self.link.send(bytes).await?;
            if is_last {
                return Ok(Ok(()));
            }
            first_row = first_row.saturating_add(u32::try_from(reply.rows.len()).unwrap_or(0));
        }
    }

    /// The rows of the next frame.
    async fn read(&self, first_row: u32) -> Result<Vec<[u8; ID_ROW_LEN]>, Refusal> {
        let (directory, chunk) = (Arc::clone(&self.directory), Arc::clone(&self.chunk));
        let reading = move || directory.read_ids(&chunk, first_row, ID_ROWS_TOLD_MAX);
        let chunkserver = &self.thread.chunkserver;
        let read = chunkserver.at_disk(&self.directory, reading).await?;
        let handle = self.chunk.handle;
        read.map_err(|error| {
            if matches!(error, StoreError::Io { .. }) {
                let server = &self.thread.chunkserver;
                server.doubt(&self.directory, handle, self.chunk.version);
            }
            read::refused_by_store(self.thread, handle, &error)
        })
    }
}
