//! Which frames answer a read (`spec/wire.md` section 12.2, `spec/messages.md` section 13).
//!
//! [`ReadStream::new`] decides whether this replica may answer; then each
//! [`ReadStream::next_part`] is one `ReadData` frame, in the order of offsets.
//!
//! A cut read ([`cut`]) is answered with one frame. Who asks for the ids ([`check_ids`]) gets the table
//! as the file has it.
//!
//! Left out on purpose: the ticket ([`super::tickets`]), and the bytes, which are not looked at.

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, ErrorBody, Read, ReadCut, Want};
use sarsen_protocol::size::{BLOCK_LEN, PAYLOAD_LEN_MAX};
use sarsen_protocol::status::Status;

/// What a replica is, as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    /// Bytes of data.
    pub length: u32,
    /// Where it is in its life.
    pub state: ChunkState,
}

/// Why a replica can't answer, with what it has.
pub type Refusal = (Status, ErrorBody);

/// The part of a read that one frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In the chunk; a multiple of a block, but for a cut.
    pub offset: u32,
    /// Bytes; 0 only if the read begins at or beyond the chunk's end.
    pub len: u32,
    /// Whether the stream ends here.
    pub last: bool,
}

/// The frames of one read that are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadStream {
    offset: u32,
    end: u32,
    is_over: bool,
}

impl ReadStream {
    /// The answer of a replica.
    ///
    /// # Errors
    /// The status, with what the replica has, if it can't answer.
    pub fn new(read: &Read, replica: &ReplicaFacts) -> Result<Self, Refusal> {
        check(read.version, read.serial, read.want, replica)?;
        // A piece is a whole block as far as the chunk goes: a CRC of less is not stored.
        let wanted = read.offset.saturating_add(read.length);
        let end = wanted.next_multiple_of(BLOCK_LEN).min(replica.length);
        Ok(Self {
            offset: read.offset,
            end,
            is_over: false,
        })
    }

    /// The next frame; `None` after the last.
    pub fn next_part(&mut self) -> Option<Part> {
        if self.is_over {
            return None;
        }
        // Parts begin at block edges and a mebibyte is a multiple of a block, so each ends at
        // one too, but for the last, which may end with the chunk.
        let len = self.end.saturating_sub(self.offset).min(PAYLOAD_LEN_MAX);
        let offset = self.offset;
        self.offset = offset.saturating_add(len);
        self.is_over = self.offset >= self.end;
        Some(Part {
            offset,
            len,
            last: self.is_over,
        })
    }
}

/// Whether this replica has the ids that a copy of `version` asks for.
///
/// # Errors
/// As [`ReadStream::new`].
pub fn check_ids(version: ChunkVersion, replica: &ReplicaFacts) -> Result<(), Refusal> {
    check(version, Serial::NONE, Want::Sealed, replica)
}

/// Whether this replica may answer a read.
fn check(
    version: ChunkVersion,
    serial: Serial,
    want: Want,
    replica: &ReplicaFacts,
) -> Result<(), Refusal> {
    let refuse = |status: Status, text: &str| {
        let mut error = ErrorBody::new(text);
        (error.version, error.serial) = (replica.version, replica.serial);
        Err((status, error))
    };
    match (replica.state, want) {
        (ChunkState::Pending, _) => {
            return refuse(
                Status::ChunkUnknown,
                "nobody reads a chunk before it is sealed",
            );
        }
        (ChunkState::Open, Want::Sealed) => {
            return refuse(Status::ChunkOpen, "the chunk is not sealed");
        }
        (ChunkState::Sealed, Want::Sealed) if replica.version != version => {
            return refuse(Status::Moved, "the chunk has another version");
        }
        // Who has seen an open state asks the master, and goes on under the version of the seal.
        (ChunkState::Sealed, _) if replica.version > version => {
            return refuse(Status::Moved, "the chunk was sealed in a higher version");
        }
        _ if (replica.version, replica.serial) < (version, serial) => {
            return refuse(Status::Behind, "this replica is older than what is wanted");
        }
        _ => {}
    }
    Ok(())
}

/// The part of a block that answers a cut read; of no bytes if it begins at or beyond the chunk's
/// end.
///
/// # Errors
/// As [`ReadStream::new`].
pub fn cut(read: &ReadCut, replica: &ReplicaFacts) -> Result<Part, Refusal> {
    check(read.version, read.serial, read.want, replica)?;
    let left = replica.length.saturating_sub(read.offset);
    Ok(Part {
        offset: read.offset,
        len: read.length.min(left),
        last: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::{ChunkHandle, FileId, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::ticket::{Claims, Rights, Ticket};

    const MIB: u32 = 1024 * 1024;

    fn read(offset: u32, length: u32, want: Want) -> Read {
        let claims = Claims {
            rights: Rights::READ,
            key_id: 1,
            handle: ChunkHandle(1),
            version: ChunkVersion(5),
            expiry: 1,
            file_id: FileId(1),
            session: SessionId::NONE,
            epoch: 1,
            chain_crc: 0,
        };
        Read {
            ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
            handle: ChunkHandle(1),
            version: ChunkVersion(5),
            serial: Serial::NONE,
            want,
            offset,
            length,
        }
    }

    fn replica(version: u64, length: u32, state: ChunkState) -> ReplicaFacts {
        ReplicaFacts {
            version: ChunkVersion(version),
            serial: Serial(7),
            length,
            state,
        }
    }

    fn parts(offset: u32, length: u32, chunk: u32) -> Vec<(u32, u32, bool)> {
        let replica = replica(5, chunk, ChunkState::Sealed);
        let mut stream = ReadStream::new(&read(offset, length, Want::Sealed), &replica).unwrap();
        std::iter::from_fn(|| stream.next_part())
            .map(|part| (part.offset, part.len, part.last))
            .collect()
    }

    #[test]
    fn parts_cover_the_range_as_far_as_the_chunk_goes() {
        assert_eq!(parts(0, 64 * MIB, 10), [(0, 10, true)]);
        assert_eq!(parts(0, MIB, 2 * MIB), [(0, MIB, true)]);
        assert_eq!(
            parts(65_536, 2 * MIB + 1, 64 * MIB),
            [
                (65_536, MIB, false),
                (65_536 + MIB, MIB, false),
                (65_536 + 2 * MIB, 65_536, true)
            ]
        );
        assert_eq!(parts(0, 1, MIB), [(0, 65_536, true)], "whole blocks");
        assert_eq!(parts(0, 1, 0), [(0, 0, true)]);
        assert_eq!(parts(65_536, 1, 65_536), [(65_536, 0, true)]);
        assert_eq!(parts(131_072, 1, 65_536), [(131_072, 0, true)]);
        assert_eq!(parts(0, 64 * MIB, 64 * MIB).len(), 64);
    }

    #[test]
    fn a_cut_is_what_was_asked_for_as_far_as_the_chunk_goes() {
        let cut = |offset, length, version| {
            let whole = read(0, 1, Want::Sealed);
            let read = ReadCut {
                ticket: whole.ticket,
                handle: whole.handle,
                version: whole.version,
                serial: whole.serial,
                want: whole.want,
                offset,
                length,
            };
            super::cut(&read, &replica(version, 70_000, ChunkState::Sealed))
        };
        let part = |offset, len| {
            let last = true;
            Ok(Part { offset, len, last })
        };
        assert_eq!(cut(5, 4096, 5), part(5, 4096));
        assert_eq!(cut(69_000, 4096, 5), part(69_000, 1000));
        assert_eq!(cut(70_000, 1, 5), part(70_000, 0));
        assert_eq!(cut(90_000, 1, 5), part(90_000, 0));
        let refused = cut(5, 4096, 6).expect_err("another version");
        assert_eq!(refused.0, Status::Moved);
    }

    #[test]
    fn a_replica_that_is_not_what_is_wanted_says_what_it_has() {
        for (state, version, want, expected) in [
            (ChunkState::Pending, 5, Want::Sealed, Status::ChunkUnknown),
            (ChunkState::Pending, 5, Want::Plain, Status::ChunkUnknown),
            (ChunkState::Open, 5, Want::Sealed, Status::ChunkOpen),
            (ChunkState::Sealed, 4, Want::Sealed, Status::Moved),
            (ChunkState::Sealed, 6, Want::Sealed, Status::Moved),
            (ChunkState::Sealed, 4, Want::Plain, Status::Behind),
            (ChunkState::Sealed, 6, Want::Plain, Status::Moved),
            (ChunkState::Open, 4, Want::Plain, Status::Behind),
        ] {
            let refused = ReadStream::new(&read(0, 1, want), &replica(version, MIB, state));
            let (status, error) = refused.expect_err("refused");
            assert_eq!(status, expected, "{state:?} {version} {want:?}");
            assert_eq!((error.version.0, error.serial.0), (version, 7));
        }
        for version in [5, 6] {
            let open = replica(version, MIB, ChunkState::Open);
            assert!(ReadStream::new(&read(0, 1, Want::Plain), &open).is_ok());
        }
    }
}
