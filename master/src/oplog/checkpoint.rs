//! Checkpoints: the whole state after one entry, in a file of checked pieces
//! (`spec/oplog.md` section 8).
//!
//! The state streams in through [`CheckpointWriter`] and out through [`CheckpointReader`], so it
//! is never in memory a second time. A checkpoint appears under its name only when it is whole and
//! synced. [`prune`] then removes what it made needless.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::io::Errno;
use sarsen_protocol::crc::{crc32, extend};
use sarsen_protocol::id::ClusterId;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{Chain, Position, own_crc};
use super::error::{FormatError, OplogError};
use super::folder::{File, Folder, settle};
use super::names::{Listing, TEMPORARY, checkpoint_name, segment_name};
use super::segment::FORMAT_VERSION;

/// Bytes of a checkpoint's header; the first piece follows.
pub const CHECKPOINT_HEADER_LEN: usize = 128;

/// Bytes of the body in every piece but the last.
pub const PIECE_LEN: usize = 1024 * 1024;

/// Bytes before a piece's payload: its length and its CRC.
const PIECE_HEAD_LEN: usize = 8;

/// Checkpoints that [`prune`] leaves: the newest, and one to fall back to.
const CHECKPOINTS_KEPT: usize = 2;

const MAGIC: [u8; 4] = *b"SCKP";

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The last entry whose effect is in the body; it must be synced.
    pub position: Position,
    /// When the checkpoint was begun, milliseconds since 1970.
    pub time_ms: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Bytes of the body.
    pub body_len: u64,
    /// CRC of the body.
    pub body_crc: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    version: U16,
    flags: U16,
    body_crc: U32,
    body_len: U64,
    last_index: U64,
    last_term: U64,
    time: U64,
    chain: [u8; 16],
    cluster: [u8; 16],
    reserved: [u8; 48],
}

const _: () = assert!(size_of::<RawHeader>() == CHECKPOINT_HEADER_LEN);

impl CheckpointHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHECKPOINT_HEADER_LEN] {
        let mut raw = RawHeader {
            header_crc: U32::ZERO,
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            flags: U16::ZERO,
            body_crc: U32::new(self.body_crc),
            body_len: U64::new(self.body_len),
            last_index: U64::new(self.position.index),
            last_term: U64::new(self.position.term),
            time: U64::new(self.time_ms),
            chain: self.position.chain.0,
            cluster: self.cluster.0,
            reserved: [0; 48],
        };
        raw.header_crc = U32::new(own_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// Reads a header off the front of `bytes`.
    ///
    /// # Errors
    /// The first check of `spec/oplog.md` section 8 that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
        if raw.magic != MAGIC {
            return Err(FormatError::MagicWrong);
        }
        if raw.header_crc.get() != own_crc(raw.as_bytes()) {
            return Err(FormatError::HeaderCrcWrong);
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(FormatError::VersionUnknown);
        }
        if raw.flags.get() != 0 {
            return Err(FormatError::FlagsUnknown);
        }
        if raw.reserved != [0; 48] {
            return Err(FormatError::ReservedNotZero);
        }
        let (index, term) = (raw.last_index.get(), raw.last_term.get());
        if index == 0 {
            return Err(FormatError::IndexWrong);
        }
        Ok(Self {
            position: Position {
                index,
                term,
                chain: Chain(raw.chain),
            },
            time_ms: raw.time.get(),
            cluster: ClusterId(raw.cluster),
            body_len: raw.body_len.get(),
            body_crc: raw.body_crc.get(),
        })
    }
}

/// Appends a piece with this payload, which is 1 byte to [`PIECE_LEN`] long.
pub fn encode_piece(out: &mut Vec<u8>, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("a piece is at most 1 MiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Reads a piece off the front of `bytes` and gives its payload.
///
/// # Errors
/// The first check of `spec/oplog.md` section 8 that fails.
pub fn decode_piece(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (len, rest) = U32::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
    let (crc, rest) = U32::read_from_prefix(rest).map_err(|_| FormatError::Truncated)?;
    let len = len.get() as usize;
    if len == 0 || len > PIECE_LEN {
        return Err(FormatError::PieceLenWrong);
    }
    let payload = rest.get(..len).ok_or(FormatError::Truncated)?;
    match crc32(payload) == crc.get() {
        true => Ok(payload),
        false => Err(FormatError::PieceCrcWrong),
    }
}

/// Takes a state as a stream of bytes and makes it a checkpoint.
///
/// Call [`CheckpointWriter::begin`], write the whole body, [`CheckpointWriter::finish`]. One that is
/// dropped before that takes its temporary file with it, which may hold the last room of a full
/// disk; what a crash leaves, the next start removes.
pub struct CheckpointWriter {
    folder: Arc<dyn Folder>,
    name: String,
    temporary: String,
    file: Box<dyn File>,
    /// Where the next piece goes.
    offset: u64,
    /// Body bytes of the piece under construction.
    piece: Vec<u8>,
    header: CheckpointHeader,
    /// Nothing is left under the temporary name.
    is_settled: bool,
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if !self.is_settled
            && let Err(error) = self.folder.remove(&self.temporary)
        {
            tracing::warn!(name = self.temporary, %error, "an unfinished checkpoint stays");
        }
    }
}

impl CheckpointWriter {
    /// Begins the checkpoint of the state after `position`.
    ///
    /// # Panics
    /// If `position` is before the first entry.
    ///
    /// # Errors
    /// [`OplogError::Io`], [`OplogError::NoSpace`]. The log is not harmed by any error here.
    pub fn begin(
        folder: Arc<dyn Folder>,
        cluster: ClusterId,
        position: Position,
        time_ms: u64,
    ) -> Result<Self, OplogError> {
        assert!(position.index > 0, "a checkpoint is made after an entry");
        let name = checkpoint_name(position.index);
        let temporary = format!("{name}{TEMPORARY}");
        let file = folder
            .create(&temporary)
            .map_err(OplogError::io("creating", &temporary))?;
        let header = CheckpointHeader {
            position,
            time_ms,
            cluster,
            body_len: 0,
            body_crc: 0,
        };
        let offset = CHECKPOINT_HEADER_LEN as u64;
        Ok(Self {
            folder,
            name,
            temporary,
            file,
            offset,
            piece: Vec::new(),
            header,
            is_settled: false,
        })
    }

    /// Makes the checkpoint durable under its name.
    ///
    /// # Errors
    /// [`OplogError::Io`], [`OplogError::NoSpace`].
    pub fn finish(mut self) -> Result<CheckpointHeader, OplogError> {
        self.write_piece()
            .map_err(OplogError::io("writing", &self.temporary))?;
        let header = self.header.encode();
        self.file
            .write_at(0, &header)
            .map_err(OplogError::io("writing", &self.temporary))?;
        self.file
            .sync()
            .map_err(OplogError::io("syncing", &self.temporary))?;
        settle(&*self.folder, &self.temporary, &self.name)?;
        self.is_settled = true;
        Ok(self.header)
    }

    fn write_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let mut encoded = Vec::with_capacity(PIECE_HEAD_LEN + self.piece.len());
        encode_piece(&mut encoded, &self.piece);
        self.file.write_at(self.offset, &encoded)?;
        self.offset += encoded.len() as u64;
        self.header.body_len += self.piece.len() as u64;
        self.header.body_crc = extend(self.header.body_crc, &self.piece);
        self.piece.clear();
        Ok(())
    }
}

impl Write for CheckpointWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_LEN - self.piece.len());
        self.piece
            .extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.piece.len() == PIECE_LEN {
            self.write_piece()?;
        }
        Ok(taken)
    }

    /// Does nothing: a checkpoint is durable when it is finished, not before.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a checkpoint's body back as a stream of bytes, each piece checked before any of it is
/// given out. What doesn't check is an error of the kind `InvalidData`.
pub struct CheckpointReader {
    file: Box<dyn File>,
    header: CheckpointHeader,
    /// Where the next piece begins.
    offset: u64,
    /// Body bytes in the pieces from there on.
    left: u64,
    /// CRC of the body so far.
    crc: u32,
    /// The piece that is being given out, its head included, and how far it was.
    piece: Vec<u8>,
    given: usize,
}

impl CheckpointReader {
    /// Opens the checkpoint whose last entry is `last_index`.
    ///
    /// # Errors
    /// The system's, or `InvalidData` with a [`FormatError`] if the header or the file's length is
    /// not right.
    pub(super) fn open(folder: &dyn Folder, last_index: u64) -> io::Result<Self> {
        let file = folder.open(&checkpoint_name(last_index))?;
        let size = file.size()?;
        let mut bytes = [0; CHECKPOINT_HEADER_LEN];
        file.read_at(0, &mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => invalid(FormatError::Truncated),
                _ => error,
            })?;
        let header = CheckpointHeader::decode(&bytes).map_err(invalid)?;
        if header.position.index != last_index {
            return Err(invalid(FormatError::IndexWrong));
        }
        let heads = header.body_len.div_ceil(PIECE_LEN as u64) * PIECE_HEAD_LEN as u64;
        let expected = u128::from(header.body_len) + u128::from(heads) + bytes.len() as u128;
        if u128::from(size) != expected {
            let short = u128::from(size) < expected;
            let error = if short {
                FormatError::Truncated
            } else {
                FormatError::TrailingBytes
            };
            return Err(invalid(error));
        }
        let (offset, left) = (CHECKPOINT_HEADER_LEN as u64, header.body_len);
        Ok(Self {
            file,
            header,
            offset,
            left,
            crc: 0,
            piece: Vec::new(),
            given: 0,
        })
    }

    /// What the checkpoint says of itself.
    #[must_use]
    pub const fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// Reads and checks the next piece; false behind the last.
    fn load_piece(&mut self) -> io::Result<bool> {
        self.given = 0;
        self.piece.clear();
        if self.left == 0 {
            return match self.crc == self.header.body_crc {
                true => Ok(false),
                false => Err(invalid(FormatError::BodyCrcWrong)),
            };
        }
        let payload_len = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(PIECE_LEN);
        self.piece.resize(PIECE_HEAD_LEN + payload_len, 0);
        self.file.read_at(self.offset, &mut self.piece)?;
        let payload = decode_piece(&self.piece).map_err(invalid)?;
        if payload.len() != payload_len {
            return Err(invalid(FormatError::PieceLenWrong));
        }
        self.crc = extend(self.crc, payload);
        self.left -= payload_len as u64;
        self.offset += self.piece.len() as u64;
        self.given = PIECE_HEAD_LEN;
        Ok(true)
    }
}

impl Read for CheckpointReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.given == self.piece.len() && !self.load_piece()? {
            return Ok(0);
        }
        let mut rest = self.piece.get(self.given..).unwrap_or_default();
        let len = rest.read(buffer)?;
        self.given += len;
        Ok(len)
    }
}

fn invalid(error: FormatError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What is wrong with the checkpoint of `last_index`, read from beginning to end: nothing, or what
/// it breaks.
///
/// # Errors
/// It could not be looked at, for a reason that is not the medium's; whether it is damaged isn't known.
pub(super) fn verify(
    folder: &dyn Folder,
    last_index: u64,
) -> Result<Result<CheckpointHeader, FormatError>, OplogError> {
    let read_all = || {
        let mut reader = CheckpointReader::open(folder, last_index)?;
        io::copy(&mut reader, &mut io::sink())?;
        Ok(reader.header)
    };
    read_all().map(Ok).or_else(|error: io::Error| {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<FormatError>())
        {
            Some(&format) => Ok(Err(format)),
            None if is_of_the_medium(&error) => Ok(Err(FormatError::Unreadable)),
            None => Err(OplogError::io("reading", &checkpoint_name(last_index))(
                error,
            )),
        }
    })
}

/// Whether a disk said that it doesn't have the bytes, or a file system that its own are spoiled: they will
/// not be there at the next try either.
fn is_of_the_medium(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::NODATA | Errno::BADMSG | Errno::UCLEAN)
    )
}

/// Removes what the newest checkpoints make needless: all but two of them, and the segments whose
/// every entry the older of the two covers. To be called after a checkpoint is finished; gives the
/// number of files removed.
///
/// # Errors
/// [`OplogError::Io`]. Nothing that is needed is ever gone; what stayed goes the next time.
pub fn prune(folder: &dyn Folder) -> Result<usize, OplogError> {
    let listing = Listing::of(
        folder
            .names()
            .map_err(OplogError::io("listing", "directory"))?,
    );
    let Some(older) = listing.checkpoints.len().checked_sub(CHECKPOINTS_KEPT) else {
        return Ok(0);
    };
    let (needless, kept) = listing.checkpoints.split_at(older);
    let covered = kept.first().copied().unwrap_or_default();
    // A segment ends where the next begins; the last one stays whatever it holds.
    let covered_segments = listing.segments.windows(2).filter_map(|pair| match pair {
        [first_index, next] if *next <= covered.saturating_add(1) => {
            Some(segment_name(*first_index))
        }
        _ => None,
    });
    let names = needless
        .iter()
        .map(|&last_index| checkpoint_name(last_index));
    let mut removed = 0;
    for name in names.chain(covered_segments) {
        folder
            .remove(&name)
            .map_err(OplogError::io("removing", &name))?;
        removed += 1;
    }
    if removed > 0 {
        folder
            .sync()
            .map_err(OplogError::io("syncing", "directory"))?;
    }
    Ok(removed)
}
