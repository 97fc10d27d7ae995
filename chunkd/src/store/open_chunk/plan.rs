//! What has to be read and written for a mutation (`spec/journal.md` section 4).
//!
//! A plan is made of the applied state and changes nothing. Whoever carries it out reads the old
//! block of each that is patched, **compares it with its CRC**, builds the new one, writes, and
//! makes the journal's [`Mutation`] with [`Plan::mutation`]; [`State::apply`] takes that.
//!
//! [`State::apply`]: super::state::State::apply

use std::ops::Range;

use sarsen_protocol::crc::{combine, zeros};
use sarsen_protocol::id::RequestId;
use sarsen_protocol::size::{BLOCK_LEN, pieces_in};

use super::super::journal::body::{Block, Mutation, MutationKind, Place};
use super::error::ApplyError;
use super::slots::Slots;
use super::state::Content;

/// A mutation that has its serial and no place yet.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    /// The request, if one asked.
    pub request: Option<RequestId>,
    /// Whether it is an append; its offset is the length then.
    pub kind: MutationKind,
    /// Where its bytes begin.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
    /// The CRC of each piece: the bytes are cut at the edges of blocks.
    pub pieces: &'a [u32],
}

/// What is done to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Bytes go behind the block's own, or into a room in which there are none yet. The CRC is known.
    Behind {
        /// CRC of the block afterwards.
        crc32: u32,
    },
    /// The block is read, compared with `old`, and written whole elsewhere.
    Patched {
        /// Where it is, and its CRC.
        old: Block,
        /// How many bytes it has.
        old_len: u32,
    },
}

/// One block of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBlock {
    /// Its number in the chunk.
    pub index: usize,
    /// Where it will be.
    pub place: Place,
    /// How.
    pub way: Way,
    /// Bytes of the block that are written as zeros: the gap's.
    pub zeros: Range<u32>,
    /// Bytes of the block that the mutation's go to; empty if only the gap touches it.
    pub bytes: Range<u32>,
    /// Where in the mutation's bytes those of this block begin.
    pub source: u32,
    /// How many bytes the block has afterwards.
    pub len: u32,
}

/// What has to be done for a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each block touched, in order, those of the gap too.
    pub blocks: Vec<PlannedBlock>,
    request: Option<RequestId>,
    kind: MutationKind,
    has_gap: bool,
    offset: u32,
    length: u32,
    crc32: u32,
}

impl Plan {
    pub(super) fn new(
        content: &Content,
        chunk_size: u32,
        slots: &Slots,
        incoming: &Incoming<'_>,
    ) -> Result<Self, ApplyError> {
        let (offset, length) = (incoming.offset, incoming.length);
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= chunk_size && length > 0)
            .ok_or(ApplyError::OutOfBounds)?;
        if incoming.kind == MutationKind::Append && offset != content.length() {
            return Err(ApplyError::NotAtTheEnd);
        }
        if incoming.pieces.len() != pieces_in(offset, length) as usize {
            return Err(ApplyError::PieceCount);
        }
        let from = offset.min(content.length());
        let mut picked = Vec::new();
        let mut blocks = Vec::new();
        for index in from / BLOCK_LEN..end.div_ceil(BLOCK_LEN) {
            let touched = Touched::new(content.length(), offset..end, index);
            blocks.push(touched.plan(content, slots, &mut picked, incoming)?);
        }
        Ok(Self {
            crc32: crc_of(incoming),
            blocks,
            request: incoming.request,
            kind: incoming.kind,
            has_gap: offset > content.length(),
            offset,
            length,
        })
    }

    /// What was done for a mutation of the journal, to be done again. Its blocks must be those that
    /// it touches in this state.
    pub(super) fn again(content: &Content, mutation: &Mutation) -> Self {
        let own = mutation.offset..mutation.end();
        let blocks = (0_u32..).zip(&mutation.blocks).map(|(number, after)| {
            let first = u32::try_from(mutation.first_block()).unwrap_or(u32::MAX);
            let touched = Touched::new(content.length(), own.clone(), first + number);
            let old = content.block(touched.index);
            let way = match touched.patched(old) {
                Some(way) => way,
                None => Way::Behind { crc32: after.crc32 },
            };
            touched.at(after.place, way)
        });
        Self {
            blocks: blocks.collect(),
            request: mutation.request,
            kind: mutation.kind,
            has_gap: mutation.has_gap,
            offset: mutation.offset,
            length: mutation.length,
            crc32: mutation.crc32,
        }
    }

    /// How many bytes the mutation has.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Where its bytes end.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }

    /// The highest slot that it writes, if it patches a block.
    #[must_use]
    pub fn highest_slot(&self) -> Option<u32> {
        let slots = self.blocks.iter().filter_map(|block| match block.place {
            Place::OwnRoom => None,
            Place::Slot(slot) => Some(slot),
        });
        slots.max()
    }

    /// The journal's word on it, when all is written: `crcs` are those of the patched blocks, in
    /// order, and `has_bytes` tells whether the mutation's bytes go into the journal.
    ///
    /// `None` if there are not as many CRCs as patched blocks.
    #[must_use]
    pub fn mutation(&self, crcs: &[u32], has_bytes: bool) -> Option<Mutation> {
        let mut crcs = crcs.iter().copied();
        let blocks = self.blocks.iter().map(|block| {
            let crc32 = match block.way {
                Way::Behind { crc32 } => crc32,
                Way::Patched { .. } => crcs.next()?,
            };
            Some(Block {
                place: block.place,
                crc32,
            })
        });
        let blocks: Vec<Block> = blocks.collect::<Option<_>>()?;
        crcs.next().is_none().then_some(Mutation {
            request: self.request,
            kind: self.kind,
            has_gap: self.has_gap,
            has_bytes,
            offset: self.offset,
            length: self.length,
            crc32: self.crc32,
            blocks,
        })
    }
}

/// What a mutation touches of one block, in bytes of the block.
struct Touched {
    index: usize,
    /// Bytes that it has.
    old_len: u32,
    zeros: Range<u32>,
    bytes: Range<u32>,
    source: u32,
}

impl Touched {
    /// Of the block `index` of a chunk of `length` bytes, whose bytes `own` are written.
    fn new(length: u32, own: Range<u32>, index: u32) -> Self {
        let start = index * BLOCK_LEN;
        let in_block = |position: u32| position.saturating_sub(start).min(BLOCK_LEN);
        let zeros = match own.start > length {
            true => in_block(length)..in_block(own.start),
            false => 0..0,
        };
        Self {
            index: index as usize,
            old_len: in_block(length),
            zeros,
            bytes: in_block(own.start)..in_block(own.end),
            source: start.saturating_sub(own.start),
        }
    }

    /// How the block is patched, if bytes that it has are written over.
    fn patched(&self, old: Option<Block>) -> Option<Way> {
        let is_over = !self.bytes.is_empty() && self.bytes.start < self.old_len;
        old.filter(|_| is_over).map(|old| Way::Patched {
            old,
            old_len: self.old_len,
        })
    }

    fn plan(
        self,
        content: &Content,
        slots: &Slots,
        picked: &mut Vec<u32>,
        incoming: &Incoming<'_>,
    ) -> Result<PlannedBlock, ApplyError> {
        let old = content.block(self.index);
        if let Some(way) = self.patched(old) {
            let slot = slots.pick(picked).ok_or(ApplyError::NoSlot)?;
            picked.push(slot);
            return Ok(self.at(Place::Slot(slot), way));
        }
        let crc32 = self.crc_behind(old, incoming);
        let place = old.map_or(Place::OwnRoom, |old| old.place);
        Ok(self.at(place, Way::Behind { crc32 }))
    }

    fn at(self, place: Place, way: Way) -> PlannedBlock {
        PlannedBlock {
            index: self.index,
            place,
            way,
            len: self.old_len.max(self.zeros.end).max(self.bytes.end),
            zeros: self.zeros,
            bytes: self.bytes,
            source: self.source,
        }
    }

    /// The block's CRC when zeros and bytes have followed what it has.
    fn crc_behind(&self, old: Option<Block>, incoming: &Incoming<'_>) -> u32 {
        let before = old.map_or(0, |old| old.crc32);
        let gap = u64::from(self.zeros.end - self.zeros.start);
        let with_gap = match gap {
            0 => before,
            _ => combine(before, zeros(gap), gap),
        };
        let first_piece = (incoming.offset / BLOCK_LEN) as usize;
        let piece = self.index.checked_sub(first_piece);
        match piece.and_then(|piece| incoming.pieces.get(piece)) {
            Some(&piece) => combine(with_gap, piece, self.bytes.len() as u64),
            None => with_gap,
        }
    }
}

/// CRC of all the mutation's bytes, of those of its pieces.
fn crc_of(incoming: &Incoming<'_>) -> u32 {
    let lens = sarsen_protocol::size::piece_lens(incoming.offset, incoming.length);
    if let [only] = incoming.pieces {
        return *only;
    }
    let pieces = incoming.pieces.iter().zip(lens);
    pieces.fold(0, |crc, (&piece, len)| combine(crc, piece, u64::from(len)))
}
