//! The ids of a chunk that is copied: what `chunkd/src/net/ids.rs` does, but for waiting for the disk
//! and for the peer.

use sarsen_chunkd::core::read_stream::{ReplicaFacts, check_ids};
use sarsen_chunkd::core::tickets;
use sarsen_chunkd::net::chunkserver::status_of;
use sarsen_chunkd::store::StoreError;
use sarsen_protocol::deframe::{Frame, error_frame, frame as frame_of};
use sarsen_protocol::message::{ChunkIds, ChunkIdsReply, ErrorBody, Kind};
use sarsen_protocol::size::ID_ROWS_TOLD_MAX;
use sarsen_protocol::status::Status;

use super::Process;
use crate::net::ConnId;
use crate::world::World;

impl Process {
    /// A peer that copies a chunk asks for its ids.
    pub(super) fn tell_ids(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let Ok(asked) = frame.message::<ChunkIds>() else {
            return self.drop_accepted(world, conn);
        };
        let mut replies = Vec::new();
        let read = self.read_ids(world, &asked, &mut replies);
        if self.is_dead() {
            return;
        }
        for reply in replies {
            world.send(self.node, conn, frame_of(&reply, request_id));
        }
        if let Err((status, error)) = read {
            world.line(|| format!("{:?} tells no ids: {status} {}", self.node, error.text));
            let refused = error_frame(Kind::ChunkIdsReply, request_id, status, &error);
            world.send(self.node, conn, refused);
        }
    }

    fn read_ids(
        &self,
        world: &World,
        asked: &ChunkIds,
        replies: &mut Vec<ChunkIdsReply>,
    ) -> Result<(), (Status, ErrorBody)> {
        let refused = |status: Status, text: String| {
            let error = ErrorBody {
                server: self.server.me(),
                ..ErrorBody::new(text)
            };
            (status, error)
        };
        let by_store = |error: StoreError| refused(status_of(&error), error.to_string());
        let unknown = || refused(Status::ChunkUnknown, "no such chunk is here".to_owned());
        let keys = self.server.ticket_keys();
        keys.check_copy(&asked.ticket, asked.handle, asked.version, world.unix_ms())
            .map_err(|error| refused(tickets::status_of(error), error.to_string()))?;
        let directory = self.server.directory_of(asked.handle).ok_or_else(unknown)?;
        let entry = directory.entry(asked.handle).ok_or_else(unknown)?;
        let facts = ReplicaFacts {
            version: entry.version,
            serial: entry.serial,
            length: entry.length,
            state: entry.state,
        };
        check_ids(asked.version, &facts)?;
        let chunk = directory.open_for_read(asked.handle).map_err(by_store)?;
        let mut first_row = 0;
        loop {
            let rows = directory.read_ids(&chunk, first_row, ID_ROWS_TOLD_MAX);
            let reply = ChunkIdsReply {
                table_length: chunk.id_table_length,
                table_crc32: chunk.id_table_crc32,
                first_row,
                rows: rows.map_err(by_store)?,
            };
            first_row += u32::try_from(reply.rows.len()).unwrap_or(0);
            let is_last = reply.is_last();
            replies.push(reply);
            if is_last {
                return Ok(());
            }
        }
    }
}
