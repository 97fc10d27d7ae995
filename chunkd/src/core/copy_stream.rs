//! The receiver's end of what a copy is made of: one `Read`, and behind it one `ChunkIds`
//! (`spec/messages.md` section 10).
//!
//! [`CopyStream::request`] asks a source for the whole chunk; [`CopyStream::handle_data`] takes
//! what comes, in order, and says where it stops being the chunk that was ordered. What passed is
//! the source's word against its own CRCs; whether it is the chunk of the master's log is for the
//! store to say in the end, which compares length and CRC of the whole.
//!
//! [`CopyStream::ids_request`] then asks for the ids, and [`CopyStream::handle_ids`] puts the table
//! together: 16 MiB at most, which grows by what has come. It is compared with its CRC by who stores it.
//!
//! Left out on purpose: going on at another source in the middle. A copy is given up with its
//! source, and the next one begins anew.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::id_row::ID_ROW_LEN;
use sarsen_protocol::message::{
    ChunkIds, ChunkIdsReply, ChunkState, CopyChunk, Read, ReadData, Want,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Ticket;
use thiserror::Error;

use super::pieces::first_damaged;

/// Why a source is given up for what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CopyFault {
    /// Of another chunk, version, length or state.
    #[error("the source sent another chunk than the one that was ordered")]
    OtherChunk,
    /// Of another committed state than the frames before.
    #[error("the source sent two different states of the chunk")]
    OtherState,
    /// The frame does not follow the one before.
    #[error("the source sent bytes of {offset} where those of {wanted} were due")]
    OutOfOrder {
        /// Where its payload begins.
        offset: u32,
        /// Where it was to begin.
        wanted: u32,
    },
    /// The stream ends before the chunk, or goes on behind its end.
    #[error("the source ended its stream at {reached}")]
    WrongEnd {
        /// How far it came.
        reached: u32,
    },
    /// Rows of another table than the frames before.
    #[error("the source sent rows of two different tables of ids")]
    OtherTable,
    /// The rows do not follow those before, or come before the data has.
    #[error("the source sent ids from row {first_row} on where those from {wanted} on were due")]
    IdsOutOfOrder {
        /// The first of them.
        first_row: u32,
        /// The one that was due.
        wanted: u32,
    },
    /// A piece does not match its CRC.
    #[error("the bytes at {offset} do not match their CRC")]
    Damaged {
        /// Where the piece begins in the chunk.
        offset: u32,
    },
}

impl CopyFault {
    /// What the master is told.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Damaged { .. } => Status::DamagedInTransit,
            _ => Status::ChainBroken,
        }
    }
}

/// The frames of a copy that are still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStream {
    handle: ChunkHandle,
    version: ChunkVersion,
    length: u32,
    ticket: Ticket,
    reached: u32,
    serial: Option<Serial>,
    has_data: bool,
    ids: Option<IdTableBytes>,
    is_over: bool,
}

/// The id table, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdTableBytes {
    /// Its rows, one behind the other.
    pub bytes: Vec<u8>,
    /// What the source says that their CRC is.
    pub crc32: u32,
    length: u32,
}

impl CopyStream {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(order: &CopyChunk) -> Self {
        Self {
            handle: order.handle,
            version: order.version,
            length: order.length,
            ticket: order.ticket,
            reached: 0,
            serial: None,
            has_data: false,
            ids: None,
            is_over: false,
        }
    }

    /// What a source is asked for.
    #[must_use]
    pub fn request(&self) -> Read {
        Read {
            ticket: self.ticket,
            handle: self.handle,
            version: self.version,
            serial: Serial::NONE,
            want: Want::Sealed,
            offset: 0,
            // Of a chunk without bytes too, one is the least that can be asked for.
            length: self.length.max(1),
        }
    }

    /// A frame came whole; its form was checked against its payload. The payload may be stored
    /// then, at its offset.
    ///
    /// # Errors
    /// Why the source is to be given up.
    pub fn handle_data(&mut self, data: &ReadData, payload: &[u8]) -> Result<(), CopyFault> {
        let is_ordered = data.handle == self.handle
            && data.version == self.version
            && data.chunk_length == self.length
            && data.state == ChunkState::Sealed;
        if !is_ordered {
            return Err(CopyFault::OtherChunk);
        }
        if self.serial.is_some_and(|serial| serial != data.serial) {
            return Err(CopyFault::OtherState);
        }
        if self.has_data || data.offset != self.reached {
            return Err(CopyFault::OutOfOrder {
                offset: data.offset,
                wanted: self.reached,
            });
        }
        if let Some(offset) = first_damaged(data.offset, payload, &data.crcs) {
            return Err(CopyFault::Damaged { offset });
        }
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.reached = self.reached.saturating_add(len);
        if data.last != (self.reached == self.length) {
            let reached = self.reached;
            return Err(CopyFault::WrongEnd { reached });
        }
        self.serial = Some(data.serial);
        self.has_data = data.last;
        Ok(())
    }

    /// What the source is asked for when [`Self::has_data`].
    #[must_use]
    pub fn ids_request(&self) -> ChunkIds {
        ChunkIds {
            ticket: self.ticket,
            handle: self.handle,
            version: self.version,
        }
    }

    /// Rows of the id table came, in a body of good form. The table, when it is whole.
    ///
    /// # Errors
    /// Why the source is to be given up.
    pub fn handle_ids(&mut self, reply: &ChunkIdsReply) -> Result<Option<IdTableBytes>, CopyFault> {
        let of_this = IdTableBytes {
            bytes: Vec::new(),
            crc32: reply.table_crc32,
            length: reply.table_length,
        };
        let table = self.ids.get_or_insert(of_this);
        if (table.crc32, table.length) != (reply.table_crc32, reply.table_length) {
            return Err(CopyFault::OtherTable);
        }
        let wanted = u32::try_from(table.bytes.len() / ID_ROW_LEN).unwrap_or(u32::MAX);
        if !self.has_data || self.is_over || reply.first_row != wanted {
            let first_row = reply.first_row;
            return Err(CopyFault::IdsOutOfOrder { first_row, wanted });
        }
        table.bytes.extend_from_slice(reply.rows.as_flattened());
        self.is_over = reply.is_last();
        Ok(self.ids.take_if(|_| self.is_over))
    }

    /// Whether all data has come.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.has_data
    }

    /// Whether everything has come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The serial of the state that came.
    #[must_use]
    pub fn serial(&self) -> Serial {
        self.serial.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::crc::crc32;
    use sarsen_protocol::id::{Epoch, FileId, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::Crcs;
    use sarsen_protocol::size::BLOCK_LEN;
    use sarsen_protocol::ticket::{Claims, Rights};

    const LENGTH: u32 = 2 * BLOCK_LEN + 100;

    fn order(length: u32) -> CopyChunk {
        let claims = Claims {
            rights: Rights::COPY,
            key_id: 1,
            handle: ChunkHandle(1),
            version: ChunkVersion(5),
            expiry: 1,
            file_id: FileId(1),
            session: SessionId::NONE,
            epoch: 1,
            chain_crc: 0,
        };
        CopyChunk {
            epoch: Epoch::NONE,
            handle: ChunkHandle(1),
            version: ChunkVersion(5),
            void_up_to: ChunkVersion(5),
            file_id: FileId(1),
            index: 0,
            length,
            crc32: 0,
            ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
            sources: Vec::new(),
        }
    }

    fn bytes(len: u32) -> Vec<u8> {
        (0..len).map(|n| n.to_le_bytes()[0]).collect()
    }

    fn data(offset: u32, payload: &[u8], last: bool) -> ReadData {
        let crcs: Vec<u32> = payload.chunks(BLOCK_LEN as usize).map(crc32).collect();
        ReadData {
            handle: ChunkHandle(1),
            version: ChunkVersion(5),
            serial: Serial(9),
            chunk_length: LENGTH,
            offset,
            state: ChunkState::Sealed,
            last,
            crcs: Crcs::new(&crcs).expect("few"),
        }
    }

    #[test]
    fn a_chunk_comes_whole_and_in_order() {
        let mut stream = CopyStream::new(&order(LENGTH));
        let read = stream.request();
        assert_eq!(
            (read.offset, read.length, read.want),
            (0, LENGTH, Want::Sealed)
        );
        let (first, rest) = (bytes(2 * BLOCK_LEN), bytes(100));
        assert_eq!(stream.handle_data(&data(0, &first, false), &first), Ok(()));
        assert!(!stream.has_data());
        let last = data(2 * BLOCK_LEN, &rest, true);
        assert_eq!(stream.handle_data(&last, &rest), Ok(()));
        assert!(
            stream.has_data() && !stream.is_over(),
            "the ids are missing"
        );
        assert_eq!(stream.serial(), Serial(9));
        assert!(
            stream.handle_data(&last, &rest).is_err(),
            "nothing behind the end"
        );

        let mut empty = CopyStream::new(&order(0));
        assert_eq!(empty.request().length, 1);
        let nothing = ReadData {
            chunk_length: 0,
            ..data(0, &[], true)
        };
        assert_eq!(empty.handle_data(&nothing, &[]), Ok(()));
        assert!(empty.has_data());
    }

    /// A copy whose data has come.
    fn with_data() -> CopyStream {
        let mut stream = CopyStream::new(&order(0));
        let nothing = ReadData {
            chunk_length: 0,
            ..data(0, &[], true)
        };
        stream.handle_data(&nothing, &[]).expect("taken");
        stream
    }

    fn ids(table_rows: u32, first_row: u32, rows: u8) -> ChunkIdsReply {
        ChunkIdsReply {
            table_length: table_rows * 32,
            table_crc32: 77,
            first_row,
            rows: (1..=rows).map(|row| [row; ID_ROW_LEN]).collect(),
        }
    }

    #[test]
    fn the_ids_come_behind_the_data_in_as_many_frames_as_they_take() {
        let mut stream = with_data();
        let asked = stream.ids_request();
        assert_eq!(
            (asked.handle, asked.version),
            (ChunkHandle(1), ChunkVersion(5))
        );
        assert_eq!(stream.handle_ids(&ids(3, 0, 2)), Ok(None));
        assert!(!stream.is_over());
        let table = stream
            .handle_ids(&ids(3, 2, 1))
            .expect("taken")
            .expect("whole");
        let rows: Vec<u8> = [1, 2, 1]
            .into_iter()
            .flat_map(|row| [row; ID_ROW_LEN])
            .collect();
        assert_eq!((table.bytes, table.crc32), (rows, 77));
        assert!(stream.is_over());

        let mut none = with_data();
        let table = none
            .handle_ids(&ids(0, 0, 0))
            .expect("taken")
            .expect("whole");
        assert_eq!(table.bytes, [0; 0]);
        assert!(none.is_over());
    }

    #[test]
    fn ids_that_are_not_one_table_behind_the_data_are_named() {
        let out_of_order = |first_row, wanted| Err(CopyFault::IdsOutOfOrder { first_row, wanted });
        let mut early = CopyStream::new(&order(LENGTH));
        assert_eq!(early.handle_ids(&ids(1, 0, 1)), out_of_order(0, 0));

        let mut stream = with_data();
        assert_eq!(stream.handle_ids(&ids(3, 1, 1)), out_of_order(1, 0));
        assert_eq!(stream.handle_ids(&ids(3, 0, 1)), Ok(None));
        assert_eq!(stream.handle_ids(&ids(3, 0, 1)), out_of_order(0, 1));
        assert_eq!(stream.handle_ids(&ids(3, 2, 1)), out_of_order(2, 1));
        assert_eq!(stream.handle_ids(&ids(4, 1, 1)), Err(CopyFault::OtherTable));
        let other = ChunkIdsReply {
            table_crc32: 78,
            ..ids(3, 1, 1)
        };
        assert_eq!(stream.handle_ids(&other), Err(CopyFault::OtherTable));
        assert!(stream.handle_ids(&ids(3, 1, 2)).expect("taken").is_some());
        assert_eq!(
            stream.handle_ids(&ids(3, 0, 1)),
            out_of_order(0, 0),
            "it is over"
        );
    }

    #[test]
    fn what_is_not_the_chunk_is_named() {
        let first = bytes(BLOCK_LEN);
        let whole = bytes(LENGTH);
        let spoil = |change: fn(&mut ReadData), payload: &[u8]| {
            let mut stream = CopyStream::new(&order(LENGTH));
            let mut frame = data(0, payload, payload.len() == LENGTH as usize);
            change(&mut frame);
            stream.handle_data(&frame, payload).expect_err("refused")
        };
        let others: [fn(&mut ReadData); 4] = [
            |frame| frame.handle = ChunkHandle(2),
            |frame| frame.version = ChunkVersion(6),
            |frame| frame.chunk_length += 1,
            |frame| frame.state = ChunkState::Open,
        ];
        for other in others {
            assert_eq!(spoil(other, &first), CopyFault::OtherChunk);
        }
        let (offset, wanted) = (BLOCK_LEN, 0);
        let late = spoil(|frame| frame.offset = BLOCK_LEN, &first);
        assert_eq!(late, CopyFault::OutOfOrder { offset, wanted });
        let reached = BLOCK_LEN;
        let early = spoil(|frame| frame.last = true, &first);
        assert_eq!(early, CopyFault::WrongEnd { reached });
        let reached = LENGTH;
        let open_end = spoil(|frame| frame.last = false, &whole);
        assert_eq!(open_end, CopyFault::WrongEnd { reached });

        let mut stream = CopyStream::new(&order(LENGTH));
        let mut rotten = first.clone();
        rotten[7] ^= 1;
        let damaged = stream.handle_data(&data(0, &first, false), &rotten);
        assert_eq!(damaged, Err(CopyFault::Damaged { offset: 0 }));
        assert_eq!(stream.handle_data(&data(0, &first, false), &first), Ok(()));
        let mut other = data(BLOCK_LEN, &first, false);
        other.serial = Serial(10);
        assert_eq!(
            stream.handle_data(&other, &first),
            Err(CopyFault::OtherState)
        );
        assert_eq!(CopyFault::OtherState.status(), Status::ChainBroken);
        assert_eq!(
            CopyFault::Damaged { offset: 0 }.status(),
            Status::DamagedInTransit
        );
    }
}
