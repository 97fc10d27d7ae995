//! The states of one open chunk, serial by serial (`spec/journal.md` sections 3 and 4).
//!
//! Pure bookkeeping: it says where the bytes of each state are and what their CRCs are, and touches
//! none. Two states are kept whole, the committed and the applied one, and what leads from the one
//! to the other, so that any serial from the commit mark on can be asked for or gone back to.
//!
//! The order of calls for a mutation: [`State::plan`]; the caller reads, writes, and makes the
//! journal's word; [`State::apply`]. A start calls [`State::apply`] with what the journal says. What
//! was forgotten is told by [`State::begin`].
//!
//! Invariants: a mutation is told a place only in which no byte lies of a state that may be asked
//! for, gone back to, or rebuilt; serials go one by one; what is committed is never taken back.

use std::collections::VecDeque;

use sarsen_protocol::crc::combine_blocks;
use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::id_row::{IdRow, IdRowKind};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::journal::body::{Block, Mutation, MutationKind, Place};
use super::error::{ApplyError, SerialError};
use super::ids::{IdChange, IdTable};
use super::plan::{Incoming, Plan};
use super::slots::Slots;

/// The bytes of a state: how many, where each block of them is, and its CRC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    length: u32,
    /// As many as the length takes.
    blocks: Vec<Block>,
}

impl Content {
    /// A state of so many bytes; `None` if `blocks` are not as many as they take.
    #[must_use]
    pub fn new(length: u32, blocks: Vec<Block>) -> Option<Self> {
        let fits = blocks.len() == length.div_ceil(BLOCK_LEN) as usize;
        fits.then_some(Self { length, blocks })
    }

    /// Bytes of data.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// The blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// One block.
    #[must_use]
    pub fn block(&self, index: usize) -> Option<Block> {
        self.blocks.get(index).copied()
    }

    /// Whether a block is in the patch file.
    #[must_use]
    pub fn is_patched(&self) -> bool {
        self.slots().next().is_some()
    }

    /// The CRC of all the data.
    #[must_use]
    pub fn data_crc32(&self) -> u32 {
        let crcs: Vec<u32> = self.blocks.iter().map(|block| block.crc32).collect();
        // There are as many as the length takes, so they combine.
        combine_blocks(&crcs, self.length).unwrap_or_default()
    }

    /// The slots that it names.
    fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().filter_map(|block| slot_of(*block))
    }

    fn redo(&mut self, step: &Step) {
        self.length = step.length;
        for change in &step.blocks {
            match self.blocks.get_mut(change.index) {
                Some(block) => *block = change.after,
                None => self.blocks.push(change.after),
            }
        }
    }

    fn undo(&mut self, step: &Step) {
        self.length = step.length_before;
        for change in step.blocks.iter().rev() {
            match (self.blocks.get_mut(change.index), change.before) {
                (Some(block), Some(before)) => *block = before,
                _ => self.blocks.truncate(change.index),
            }
        }
    }
}

/// Bytes of a block in a chunk of so many.
fn block_len(index: usize, length: u32) -> u32 {
    let start = u32::try_from(index).unwrap_or(u32::MAX);
    let start = start.saturating_mul(BLOCK_LEN);
    length.saturating_sub(start).min(BLOCK_LEN)
}

const fn slot_of(block: Block) -> Option<u32> {
    match block.place {
        Place::OwnRoom => None,
        Place::Slot(slot) => Some(slot),
    }
}

/// What one mutation changed.
#[derive(Clone, Debug)]
struct Step {
    length_before: u32,
    length: u32,
    blocks: Vec<BlockChange>,
    id: Option<IdChange>,
}

#[derive(Clone, Copy, Debug)]
struct BlockChange {
    index: usize,
    before: Option<Block>,
    after: Block,
}

impl BlockChange {
    /// The slot that was written, and the one whose block was replaced.
    fn slots(&self) -> (Option<u32>, Option<u32>) {
        let (before, after) = (self.before.and_then(slot_of), slot_of(self.after));
        match self.before.map(|before| before.place) == Some(self.after.place) {
            true => (None, None),
            false => (after, before),
        }
    }
}

/// The states of an open chunk from the commit mark on.
#[derive(Clone, Debug)]
pub struct State {
    chunk_size: u32,
    version: ChunkVersion,
    begin_serial: Serial,
    /// The last mutation applied.
    serial: Serial,
    commit_mark: Serial,
    applied: Content,
    committed: Content,
    ids: IdTable,
    slots: Slots,
    /// Of each serial above the commit mark what it changed, in order.
    steps: VecDeque<Step>,
}

impl State {
    /// A chunk that is as a sealed file, a checkpoint or nothing at all says: all of it is
    /// committed and in its place.
    #[must_use]
    pub fn at_rest(chunk_size: u32, version: ChunkVersion, serial: Serial, of: Resting) -> Self {
        Self {
            chunk_size,
            version,
            begin_serial: of.begin_serial,
            serial,
            commit_mark: serial,
            slots: Slots::naming(of.content.slots()),
            committed: of.content.clone(),
            applied: of.content,
            ids: of.ids,
            steps: VecDeque::new(),
        }
    }

    /// The last version that was begun.
    #[must_use]
    pub const fn version(&self) -> ChunkVersion {
        self.version
    }

    /// Where it began.
    #[must_use]
    pub const fn begin_serial(&self) -> Serial {
        self.begin_serial
    }

    /// The last mutation applied.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        self.serial
    }

    /// The last mutation known to be committed.
    #[must_use]
    pub const fn commit_mark(&self) -> Serial {
        self.commit_mark
    }

    /// The newest state.
    #[must_use]
    pub const fn applied(&self) -> &Content {
        &self.applied
    }

    /// The state at the commit mark, which readers are given.
    #[must_use]
    pub const fn committed(&self) -> &Content {
        &self.committed
    }

    /// The ids of the newest state.
    #[must_use]
    pub const fn ids(&self) -> &IdTable {
        &self.ids
    }

    /// A checkpoint at `serial` is stable, and with it the blocks of that state in their places:
    /// what only the states before it name is free.
    ///
    /// # Errors
    /// [`SerialError::NotCommitted`]: what may yet be gone back from is no checkpoint.
    pub fn checkpoint_is_stable(&mut self, serial: Serial) -> Result<(), SerialError> {
        if serial > self.commit_mark {
            return Err(SerialError::NotCommitted {
                committed: self.commit_mark,
                asked: serial,
            });
        }
        self.slots.checkpoint_is_stable(serial);
        Ok(())
    }

    /// The `begun` of `version` is stable, and with it those before: what only the mutations that
    /// they forgot name is free.
    pub fn begun_is_stable(&mut self, version: ChunkVersion) {
        self.slots.begun_is_stable(version);
    }

    /// A read of a state begins: its slots are not used again before [`Self::end_read`].
    pub fn begin_read(&mut self, content: &Content) {
        content.slots().for_each(|slot| self.slots.begin_read(slot));
    }

    /// A read of that state has ended, and nothing of it is on its way any more.
    pub fn end_read(&mut self, content: &Content) {
        content.slots().for_each(|slot| self.slots.end_read(slot));
    }

    /// Whether nothing names a slot and nobody reads it.
    #[must_use]
    pub fn slot_is_free(&self, slot: u32) -> bool {
        self.slots.is_free(slot)
    }

    /// The state at a serial from the commit mark to the last one applied.
    #[must_use]
    pub fn content_at(&self, serial: Serial) -> Option<Content> {
        let steps = self.steps_above(serial).ok()?;
        let mut content = self.applied.clone();
        self.last_steps(steps).for_each(|step| content.undo(step));
        Some(content)
    }

    /// The blocks of every state that may be asked for, each with its index and its bytes there: those that
    /// are applied, and what each mutation above the commit mark has replaced.
    pub fn blocks_of_all(&self) -> impl Iterator<Item = (usize, Block, u32)> {
        let of = |length| move |(index, block)| (index, block, block_len(index, length));
        let applied = self.applied.blocks.iter().copied().enumerate();
        let replaced = self.steps.iter().flat_map(move |step| {
            let before = step.blocks.iter();
            let before = before.filter_map(|change| Some((change.index, change.before?)));
            before.map(of(step.length_before))
        });
        applied.map(of(self.applied.length)).chain(replaced)
    }

    /// The ids at a serial from the commit mark to the last one applied.
    #[must_use]
    pub fn ids_at(&self, serial: Serial) -> Option<IdTable> {
        let steps = self.steps_above(serial).ok()?;
        let mut ids = self.ids.clone();
        self.last_steps(steps)
            .filter_map(|step| step.id.as_ref())
            .for_each(|id| ids.undo(id));
        Some(ids)
    }

    /// What has to be read and written for a mutation of the next serial. Changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`], but for those that only a journal's word can have.
    pub fn plan(&self, incoming: &Incoming<'_>) -> Result<Plan, ApplyError> {
        Plan::new(&self.applied, self.chunk_size, &self.slots, incoming)
    }

    /// What was read and written for a mutation that the journal holds, to be done again.
    ///
    /// # Errors
    /// [`ApplyError`]: the mutation is not one of this state.
    pub fn plan_again(&self, mutation: &Mutation) -> Result<Plan, ApplyError> {
        self.block_changes(mutation)?;
        Ok(Plan::again(&self.applied, mutation))
    }

    /// Whether a mutation of that serial is the next.
    ///
    /// # Errors
    /// [`ApplyError::OtherSerial`].
    pub fn follows(&self, serial: Serial) -> Result<(), ApplyError> {
        match self.serial.0.checked_add(1) == Some(serial.0) {
            true => Ok(()),
            false => Err(ApplyError::OtherSerial {
                applied: self.serial,
                given: serial,
            }),
        }
    }

    /// A mutation's bytes are written: it is the newest state now.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is changed then.
    pub fn apply(&mut self, serial: Serial, mutation: &Mutation) -> Result<(), ApplyError> {
        self.follows(serial)?;
        let blocks = self.block_changes(mutation)?;
        let id = match &mutation.request {
            Some(request) => Some(self.ids.apply(request, row_of(request, mutation))?),
            None => None,
        };
        for change in &blocks {
            let (written, replaced) = change.slots();
            if let Some(slot) = written {
                self.slots.claim(slot);
            }
            if let Some(slot) = replaced {
                self.slots.replace(slot, serial);
            }
        }
        let step = Step {
            length_before: self.applied.length,
            length: self.applied.length.max(mutation.end()),
            blocks,
            id,
        };
        self.applied.redo(&step);
        self.steps.push_back(step);
        self.serial = serial;
        Ok(())
    }

    /// Everything up to `mark` is committed: it is what readers see, and is never taken back.
    ///
    /// A mark below the one that is known changes nothing.
    ///
    /// # Errors
    /// [`SerialError::NotApplied`].
    pub fn commit_to(&mut self, mark: Serial) -> Result<(), SerialError> {
        if mark > self.serial {
            return Err(SerialError::NotApplied {
                applied: self.serial,
                asked: mark,
            });
        }
        while self.commit_mark < mark {
            let Some(step) = self.steps.pop_front() else {
                break;
            };
            self.committed.redo(&step);
            self.commit_mark.0 += 1;
        }
        Ok(())
    }

    /// A version begins at `serial`; what is above is forgotten, with its ids.
    ///
    /// Slots that only the forgotten mutations name are free when the caller has told
    /// [`Self::begun_is_stable`].
    ///
    /// # Errors
    /// [`SerialError`]; nothing is changed then.
    pub fn begin(&mut self, version: ChunkVersion, serial: Serial) -> Result<(), SerialError> {
        if version <= self.version {
            return Err(SerialError::OldVersion);
        }
        for _ in 0..self.steps_above(serial)? {
            let Some(step) = self.steps.pop_back() else {
                break;
            };
            self.forget(&step, version);
        }
        self.version = version;
        self.begin_serial = serial;
        self.serial = serial;
        Ok(())
    }

    fn forget(&mut self, step: &Step, by: ChunkVersion) {
        self.applied.undo(step);
        if let Some(id) = &step.id {
            self.ids.undo(id);
        }
        for change in &step.blocks {
            let (written, replaced) = change.slots();
            if let Some(slot) = written {
                self.slots.forget(slot, by);
            }
            if let Some(slot) = replaced {
                self.slots.restore(slot);
            }
        }
    }

    /// How many steps lie above a serial.
    fn steps_above(&self, serial: Serial) -> Result<usize, SerialError> {
        if serial < self.commit_mark {
            return Err(SerialError::Committed {
                committed: self.commit_mark,
                asked: serial,
            });
        }
        let above = self.serial.0.checked_sub(serial.0);
        above
            .and_then(|above| usize::try_from(above).ok())
            .ok_or(SerialError::NotApplied {
                applied: self.serial,
                asked: serial,
            })
    }

    /// The last `count` steps, latest first.
    fn last_steps(&self, count: usize) -> impl Iterator<Item = &Step> {
        self.steps.iter().rev().take(count)
    }

    /// What a mutation makes of the blocks, if it puts them where it may.
    fn block_changes(&self, mutation: &Mutation) -> Result<Vec<BlockChange>, ApplyError> {
        let length = self.applied.length;
        let end = mutation.offset.checked_add(mutation.length);
        if mutation.length == 0 || end.is_none_or(|end| end > self.chunk_size) {
            return Err(ApplyError::OutOfBounds);
        }
        if mutation.kind == MutationKind::Append && mutation.offset != length {
            return Err(ApplyError::NotAtTheEnd);
        }
        let first = (mutation.offset.min(length) / BLOCK_LEN) as usize;
        let count = (mutation.end().div_ceil(BLOCK_LEN) as usize).saturating_sub(first);
        let has_gap = mutation.offset > length;
        if has_gap != mutation.has_gap || mutation.blocks.len() != count {
            return Err(ApplyError::OtherBlocks);
        }
        let mut claimed = Vec::new();
        let mut changes = Vec::with_capacity(count);
        for (index, &after) in (first..).zip(&mutation.blocks) {
            let before = self.applied.block(index);
            let start = u32::try_from(index).unwrap_or(u32::MAX) * BLOCK_LEN;
            let is_patched = mutation.offset.max(start) < length && mutation.end() > start;
            let is_allowed = match (is_patched, after.place) {
                (true, Place::Slot(slot)) => {
                    let is_free = self.slots.is_free(slot) && !claimed.contains(&slot);
                    claimed.push(slot);
                    is_free
                }
                (true, Place::OwnRoom) => false,
                (false, place) => place == before.map_or(Place::OwnRoom, |before| before.place),
            };
            if !is_allowed {
                return Err(ApplyError::OtherBlocks);
            }
            changes.push(BlockChange {
                index,
                before,
                after,
            });
        }
        Ok(changes)
    }
}

/// What a chunk is when nothing of it is under way.
#[derive(Clone, Debug, Default)]
pub struct Resting {
    /// Where the version began.
    pub begin_serial: Serial,
    /// Its bytes.
    pub content: Content,
    /// Its ids.
    pub ids: IdTable,
}

fn row_of(request: &sarsen_protocol::id::RequestId, mutation: &Mutation) -> IdRow {
    IdRow {
        session: request.session,
        number: request.number,
        kind: match mutation.kind {
            MutationKind::Write => IdRowKind::Write,
            MutationKind::Append => IdRowKind::Append,
        },
        offset: mutation.offset,
        length: mutation.length,
        crc32: mutation.crc32,
    }
}
