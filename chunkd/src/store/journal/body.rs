//! What the entries say (`spec/journal.md` section 6): fields in, bytes out, and back.
//!
//! A decoded body is within the page's bounds; whether it fits the chunk that it is about is for
//! whoever applies it.

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{ChunkVersion, Epoch, FileId, RequestId, Serial};
use sarsen_protocol::id_row::IdRow;
use sarsen_protocol::size::{BLOCK_LEN, BLOCKS_PER_CHUNK_MAX, CHUNK_LEN_MAX, blocks_in, pieces_in};

use super::error::FormatError;

/// Mutations of one `applied` entry at most.
pub const MUTATIONS_MAX: usize = 160;

/// Id rows of one `checkpoint` entry at most.
pub const ENTRY_ID_ROWS_MAX: usize = 32_768;

/// Slots of a patch file.
pub const SLOTS_MAX: u32 = 4096;

const BLOCKS_MAX: usize = BLOCKS_PER_CHUNK_MAX as usize;

pub(super) const PROMISED: u16 = 1;
pub(super) const BEGUN: u16 = 2;
pub(super) const APPLIED: u16 = 3;
pub(super) const PREPARED: u16 = 4;
pub(super) const SETTLED: u16 = 5;
pub(super) const CHECKPOINT: u16 = 6;
pub(super) const DROPPED: u16 = 7;

const FLAG_GAP: u8 = 1;
const FLAG_BYTES: u8 = 2;

/// Where a block is: in its own room of the chunk file, or in a slot of the patch file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the chunk file.
    #[default]
    OwnRoom,
    /// In this slot, from 0 to [`SLOTS_MAX`] - 1.
    Slot(u32),
}

/// A block of a state: where it is, and the CRC of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Where it is.
    pub place: Place,
    /// CRC of all its bytes.
    pub crc32: u32,
}

/// What an open chunk was before it was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Nothing: it was made open.
    #[default]
    Made,
    /// A sealed chunk, which the file still is.
    Sealed {
        /// Its version.
        version: ChunkVersion,
        /// Its bytes.
        length: u32,
        /// Their CRC.
        data_crc32: u32,
    },
    /// An open chunk of a version before.
    Open,
}

impl Base {
    /// Whether what was done in a version was done before the chunk was sealed that this is.
    pub fn is_of_an_earlier_life(&self, version: ChunkVersion) -> bool {
        matches!(self, Self::Sealed { version: sealed, .. } if version <= *sealed)
    }
}

/// A replica promises to obey nothing older (kind 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// What it promised.
    pub promised_version: ChunkVersion,
    /// The epoch of the order.
    pub epoch: Epoch,
}

/// A version begins, and what is above its serial is forgotten (kind 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where the version begins.
    pub serial: Serial,
    /// Whether it allows acknowledgements from memory.
    pub memory: bool,
    /// What it was before.
    pub base: Base,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place there.
    pub index: u32,
}

/// How a mutation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MutationKind {
    /// At an offset that the client told.
    Write,
    /// At the end, as it was then.
    Append,
}

/// One mutation of an `applied` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// The request that asked for it, if one did.
    pub request: Option<RequestId>,
    /// How it came.
    pub kind: MutationKind,
    /// Whether zeros were written in front of it, from the length before on.
    pub has_gap: bool,
    /// Whether its bytes are in the entry.
    pub has_bytes: bool,
    /// Where its bytes begin.
    pub offset: u32,
    /// How many there are; not 0.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
    /// Each block touched, in order, those of the gap too, as it is afterwards.
    pub blocks: Vec<Block>,
}

/// Mutations of one chunk, with serials that follow each other (kind 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The serial of the first; not 0.
    pub first_serial: Serial,
    /// As far as the member knew that mutations are committed.
    pub commit_mark: Serial,
    /// At least one.
    pub mutations: Vec<Mutation>,
    /// The bytes of those that have them here, one behind the other.
    pub bytes: Vec<u8>,
}

/// Where the sealed form of a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealForm {
    /// It will be the chunk file as it is.
    InPlace,
    /// In the `.sealing` file.
    Sealing,
}

/// A sealed form is ready (kind 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The last serial in it.
    pub serial: Serial,
    /// Bytes of data.
    pub length: u32,
    /// Their CRC.
    pub data_crc32: u32,
    /// CRC of the CRC page.
    pub crc_page_crc32: u32,
    /// Bytes of the id table.
    pub id_table_length: u32,
    /// Their CRC.
    pub id_table_crc32: u32,
    /// Rows of sessions below this were dropped.
    pub sessions_end: u64,
    /// Where it is.
    pub form: SealForm,
}

/// A state at a committed serial, all of which is in its place (kind 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The serial.
    pub serial: Serial,
    /// Where the version began.
    pub begin_serial: Serial,
    /// What was promised.
    pub promised_version: ChunkVersion,
    /// Whether the version allows acknowledgements from memory.
    pub memory: bool,
    /// What the chunk was before the version.
    pub base: Base,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place there.
    pub index: u32,
    /// Bytes of data.
    pub length: u32,
    /// Each block that they take.
    pub blocks: Vec<Block>,
    /// Rows of the id table.
    pub ids: Vec<IdRow>,
    /// Whether the next entry goes on with the rows.
    pub more: bool,
}

/// The fields of an entry, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Kind 1.
    Promised(Promised),
    /// Kind 2.
    Begun(Begun),
    /// Kind 3.
    Applied(Applied),
    /// Kind 4.
    Prepared(Prepared),
    /// Kind 5: the chunk is sealed; entries before mean nothing.
    Settled,
    /// Kind 6.
    Checkpoint(Checkpoint),
    /// Kind 7: the chunk was deleted by order; entries before mean nothing.
    Dropped,
}

impl Body {
    /// The number of the entry's kind.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Promised(_) => PROMISED,
            Self::Begun(_) => BEGUN,
            Self::Applied(_) => APPLIED,
            Self::Prepared(_) => PREPARED,
            Self::Settled => SETTLED,
            Self::Checkpoint(_) => CHECKPOINT,
            Self::Dropped => DROPPED,
        }
    }

    /// The fields' bytes. What breaks the page's bounds is not decoded again.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = match self {
            Self::Applied(applied) => Encoder::with_capacity(applied.encoded_len()),
            _ => Encoder::new(),
        };
        match self {
            Self::Promised(promised) => {
                out.put(&promised.promised_version).put(&promised.epoch);
            }
            Self::Begun(begun) => {
                out.put(&begun.serial).put(&begun.memory);
                put_base(&mut out, begun.base, begun.file_id, begun.index);
            }
            Self::Applied(applied) => {
                out.put(&applied.first_serial)
                    .put(&applied.commit_mark)
                    .list(&applied.mutations)
                    .raw(&applied.bytes);
            }
            Self::Prepared(prepared) => {
                out.put(&prepared.serial)
                    .put(&prepared.length)
                    .put(&prepared.data_crc32)
                    .put(&prepared.crc_page_crc32)
                    .put(&prepared.id_table_length)
                    .put(&prepared.id_table_crc32)
                    .put(&prepared.sessions_end)
                    .put(&prepared.form);
            }
            Self::Checkpoint(checkpoint) => put_checkpoint(&mut out, checkpoint),
            Self::Settled | Self::Dropped => {}
        }
        out.into_bytes()
    }

    /// Reads the fields of an entry of this kind.
    ///
    /// # Errors
    /// [`FormatError::UnknownKind`], [`FormatError::Body`].
    pub fn decode(kind: u16, body: &[u8]) -> Result<Self, FormatError> {
        let mut input = Decoder::new(body);
        let decoded = match kind {
            PROMISED => Self::Promised(Promised {
                promised_version: input.take()?,
                epoch: input.take()?,
            }),
            BEGUN => Self::Begun(take_begun(&mut input)?),
            APPLIED => Self::Applied(take_applied(&mut input)?),
            PREPARED => Self::Prepared(take_prepared(&mut input)?),
            SETTLED => Self::Settled,
            CHECKPOINT => Self::Checkpoint(take_checkpoint(&mut input)?),
            DROPPED => Self::Dropped,
            _ => return Err(FormatError::UnknownKind),
        };
        input.finish()?;
        Ok(decoded)
    }
}

impl Mutation {
    /// Where its bytes end.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }

    /// The number of the first block that it touches, the gap's included.
    #[must_use]
    pub fn first_block(&self) -> usize {
        (blocks_in(self.end()) as usize).saturating_sub(self.blocks.len())
    }

    fn check(&self) -> Result<(), BodyError> {
        let end = u64::from(self.offset) + u64::from(self.length);
        if self.length == 0 || end > u64::from(CHUNK_LEN_MAX) {
            return Err(BodyError::OutOfBounds);
        }
        let own = pieces_in(self.offset, self.length) as usize;
        let most = if self.has_gap {
            blocks_in(self.end()) as usize
        } else {
            own
        };
        match (own..=most).contains(&self.blocks.len()) {
            true => Ok(()),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

impl Applied {
    /// The serial of the last mutation.
    #[must_use]
    pub const fn last_serial(&self) -> Serial {
        let count = self.mutations.len() as u64;
        Serial(self.first_serial.0.saturating_add(count).saturating_sub(1))
    }

    /// Bytes of its body.
    fn encoded_len(&self) -> usize {
        let blocks: usize = self.mutations.iter().map(|it| it.blocks.len()).sum();
        let rows = self.mutations.len() * Mutation::LEN_MIN + blocks * Block::LEN_MIN;
        8 + 8 + 4 + rows + self.bytes.len()
    }
}

impl Field for Place {
    const LEN_MIN: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&match self {
            Self::OwnRoom => 0,
            Self::Slot(slot) => slot.saturating_add(1),
        });
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u32>()?.checked_sub(1) {
            None => Ok(Self::OwnRoom),
            Some(slot) if slot < SLOTS_MAX => Ok(Self::Slot(slot)),
            Some(_) => Err(BodyError::OutOfBounds),
        }
    }
}

impl Field for Block {
    const LEN_MIN: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.place).put(&self.crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            place: input.take()?,
            crc32: input.take()?,
        })
    }
}

impl Field for MutationKind {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&match self {
            Self::Write => 1_u8,
            Self::Append => 2,
        });
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u8>()? {
            1 => Ok(Self::Write),
            2 => Ok(Self::Append),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

impl Field for SealForm {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&match self {
            Self::InPlace => 1_u8,
            Self::Sealing => 2,
        });
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u8>()? {
            1 => Ok(Self::InPlace),
            2 => Ok(Self::Sealing),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

impl Field for Mutation {
    const LEN_MIN: usize = 24 + 4 + 12 + 4;

    fn encode(&self, out: &mut Encoder) {
        match &self.request {
            Some(request) => out.put(request),
            None => out.reserved(RequestId::LEN_MIN),
        };
        let flags = u8::from(self.has_gap) * FLAG_GAP + u8::from(self.has_bytes) * FLAG_BYTES;
        out.put(&self.kind)
            .put(&flags)
            .reserved(2)
            .put(&self.offset)
            .put(&self.length)
            .put(&self.crc32)
            .list(&self.blocks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let request = take_request(input)?;
        let kind = input.take()?;
        let flags = input.take::<u8>()?;
        if flags & !(FLAG_GAP | FLAG_BYTES) != 0 {
            return Err(BodyError::UnknownValue);
        }
        input.reserved(2)?;
        let mutation = Self {
            request,
            kind,
            has_gap: flags & FLAG_GAP != 0,
            has_bytes: flags & FLAG_BYTES != 0,
            offset: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            blocks: input.list(BLOCKS_MAX)?,
        };
        mutation.check().map(|()| mutation)
    }
}

/// A request, or zeros for none.
fn take_request(input: &mut Decoder<'_>) -> Result<Option<RequestId>, BodyError> {
    let bytes = input.raw(RequestId::LEN_MIN)?;
    match bytes.iter().all(|&byte| byte == 0) {
        true => Ok(None),
        false => Decoder::new(bytes).take().map(Some),
    }
}

fn put_base(out: &mut Encoder, base: Base, file_id: FileId, index: u32) {
    let from: u8 = match base {
        Base::Made => 1,
        Base::Sealed { .. } => 2,
        Base::Open => 3,
    };
    out.put(&from).put(&file_id).put(&index);
    if let Base::Sealed {
        version,
        length,
        data_crc32,
    } = base
    {
        out.put(&version).put(&length).put(&data_crc32);
    }
}

fn take_base(input: &mut Decoder<'_>) -> Result<(Base, FileId, u32), BodyError> {
    let from = input.take::<u8>()?;
    if !(1..=3).contains(&from) {
        return Err(BodyError::UnknownValue);
    }
    let (file_id, index) = (input.take()?, input.take()?);
    let base = match from {
        1 => Base::Made,
        2 => Base::Sealed {
            version: input.take()?,
            length: take_length(input)?,
            data_crc32: input.take()?,
        },
        _ => Base::Open,
    };
    Ok((base, file_id, index))
}

/// Bytes of a chunk.
fn take_length(input: &mut Decoder<'_>) -> Result<u32, BodyError> {
    match input.take()? {
        length if length <= CHUNK_LEN_MAX => Ok(length),
        _ => Err(BodyError::OutOfBounds),
    }
}

fn take_begun(input: &mut Decoder<'_>) -> Result<Begun, BodyError> {
    let (serial, memory) = (input.take()?, input.take()?);
    let (base, file_id, index) = take_base(input)?;
    Ok(Begun {
        serial,
        memory,
        base,
        file_id,
        index,
    })
}

fn take_applied(input: &mut Decoder<'_>) -> Result<Applied, BodyError> {
    let first_serial: Serial = input.take()?;
    let commit_mark = input.take()?;
    let mutations: Vec<Mutation> = input.list(MUTATIONS_MAX)?;
    let count = mutations.len() as u64;
    if count == 0 || first_serial.0 == 0 || first_serial.0.checked_add(count - 1).is_none() {
        return Err(BodyError::OutOfBounds);
    }
    let here = mutations.iter().filter(|mutation| mutation.has_bytes);
    let len = here.fold(0_usize, |len, mutation| {
        len.saturating_add(mutation.length as usize)
    });
    Ok(Applied {
        first_serial,
        commit_mark,
        mutations,
        bytes: input.raw(len)?.to_vec(),
    })
}

fn take_prepared(input: &mut Decoder<'_>) -> Result<Prepared, BodyError> {
    Ok(Prepared {
        serial: input.take()?,
        length: take_length(input)?,
        data_crc32: input.take()?,
        crc_page_crc32: input.take()?,
        id_table_length: input.take()?,
        id_table_crc32: input.take()?,
        sessions_end: input.take()?,
        form: input.take()?,
    })
}

fn put_checkpoint(out: &mut Encoder, checkpoint: &Checkpoint) {
    out.put(&checkpoint.serial)
        .put(&checkpoint.begin_serial)
        .put(&checkpoint.promised_version)
        .put(&checkpoint.memory);
    put_base(out, checkpoint.base, checkpoint.file_id, checkpoint.index);
    out.put(&checkpoint.length)
        .list(&checkpoint.blocks)
        .list(&checkpoint.ids)
        .put(&checkpoint.more);
}

fn take_checkpoint(input: &mut Decoder<'_>) -> Result<Checkpoint, BodyError> {
    let (serial, begin_serial) = (input.take()?, input.take()?);
    let (promised_version, memory) = (input.take()?, input.take()?);
    let (base, file_id, index) = take_base(input)?;
    let length = take_length(input)?;
    let blocks: Vec<Block> = input.list(BLOCKS_MAX)?;
    if blocks.len() != length.div_ceil(BLOCK_LEN) as usize {
        return Err(BodyError::OutOfBounds);
    }
    Ok(Checkpoint {
        serial,
        begin_serial,
        promised_version,
        memory,
        base,
        file_id,
        index,
        length,
        blocks,
        ids: input.list(ENTRY_ID_ROWS_MAX)?,
        more: input.take()?,
    })
}
