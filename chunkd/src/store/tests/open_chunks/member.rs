//! A directory with open chunks beside what they ought to be: every state that a chunk had, and
//! what of it was told to be stable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, FileId, RequestId, Serial, SessionId};
use sarsen_protocol::id_row::{ID_ROW_LEN, IdRow, IdRowKind, encode_table};
use sarsen_protocol::message::{ChunkState, PreparedSeal};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::super::chunk_file::ChunkFile;
use super::super::super::journal::body::MutationKind;
use super::super::super::journal::{
    AppendError, Appender, Class, Entry, Extent, JournalError, JournalLimits, Log, Refused,
};
use super::super::super::open_chunk::{
    IdTable, Incoming, OpenChunk, OpenChunkError, Ordered, Told,
};
use super::super::super::recover::sealed_ids;
use super::super::super::region::Tree;
use super::super::super::{BeginOrder, Directory, InventoryEntry, Trim};
use super::super::scenario::{ADOPTION, START, Sample, piece_crcs};

pub(super) const EPOCH: Epoch = Epoch {
    number: 4,
    incarnation: 0xabc,
};

/// So small that a handful of entries fill a segment.
const LIMITS: JournalLimits = JournalLimits {
    segment_len: 80 * 1024,
    grow_step: 16 * 1024,
};

/// A record as some program may write it: a header, a payload, and a CRC at its end. All have the
/// same CRC, and so have all blocks of them.
pub(super) const RECORD: u32 = 512;

pub(super) fn record(seed: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    bytes.extend((0..u64::from(RECORD) - 36).map(|at| (at * 7 + seed).to_le_bytes()[0]));
    let crc = crc32(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

pub(super) fn records(seed: u64, count: usize) -> Vec<u8> {
    (seed * 1000..).take(count).flat_map(record).collect()
}

/// Entries that wait until the test has them written.
#[derive(Debug)]
pub(super) struct Gather(Mutex<Gathered>);

#[derive(Debug)]
struct Gathered {
    appender: Appender,
    entries: Vec<Entry>,
    last: u64,
    refuses: bool,
}

impl Log for Gather {
    fn offer(&self, entry: Entry, _: Class) -> Result<u64, Refused> {
        if let Err(error) = entry.check() {
            let error = AppendError::Invalid(error);
            return Err(Refused { error, entry });
        }
        let mut gathered = self.0.lock().unwrap();
        if gathered.refuses {
            let error = AppendError::Full;
            return Err(Refused { error, entry });
        }
        gathered.entries.push(entry);
        gathered.last += 1;
        Ok(gathered.last)
    }

    // It is written when the test says so.
    fn hurry(&self) {}

    fn extent(&self) -> Extent {
        Extent::of(&self.0.lock().unwrap().appender)
    }

    fn remove_oldest(&self, first_sequence: u64) {
        let mut gathered = self.0.lock().unwrap();
        assert_eq!(gathered.appender.segments().next(), Some(first_sequence));
        // What fails here, every later write tells.
        let _ = gathered.appender.remove_oldest();
    }

    // Its disk is never full.
    fn look_for_room(&self) {}
}

impl Gather {
    /// As the journal's thread does when nothing waits.
    pub(super) fn mark(&self) {
        self.0.lock().unwrap().appender.mark().unwrap();
    }

    /// The last sequence that was given out.
    pub(super) fn offered(&self) -> u64 {
        self.0.lock().unwrap().last
    }

    /// Whether it takes nothing, for all its room is taken.
    pub(super) fn refuse(&self, refuses: bool) {
        self.0.lock().unwrap().refuses = refuses;
    }

    fn write(&self) -> Result<u64, JournalError> {
        let mut gathered = self.0.lock().unwrap();
        let batch = std::mem::take(&mut gathered.entries);
        match batch.is_empty() {
            true => Ok(gathered.appender.stable()),
            false => gathered.appender.append(&batch),
        }
    }
}

/// What is done to a chunk.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Bytes at the end.
    Append(Vec<u8>),
    /// The same for many mutations in one batch.
    Appends(Vec<Vec<u8>>),
    /// Bytes at an offset.
    Write(u32, Vec<u8>),
    /// What waits for a sync is synced, and the journal is written.
    Sync,
    /// The journal is written, for another chunk's sake.
    Journal,
    /// All but so many mutations are committed, if they are stable.
    Commit(u64),
    Checkpoint,
    /// The journal is trimmed to its last segment, as far as that may be.
    Trim,
    /// A new version, at so many serials below the last one or at the commit mark.
    Change(u64),
    /// A new version, with a sealed form of all bytes or of the first.
    Prepare(Option<u32>),
    /// The preparation becomes the chunk.
    Settle,
    /// The chunk that was sealed is opened again, with a serial that is higher than its own.
    Reopen,
}

/// What a chunk was, and what was told of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Of each version the states of its history, by serial.
    pub(super) chains: BTreeMap<ChunkVersion, BTreeMap<Serial, Vec<u8>>>,
    /// The last version that was begun, be it stable or not.
    pub(super) version: ChunkVersion,
    pub(super) serial: Serial,
    /// Told to be begun, and told to be stable in it.
    pub(super) told_begun: ChunkVersion,
    pub(super) told_stable: Serial,
    pub(super) told_promised: ChunkVersion,
    /// The ids of each state of `chains`.
    pub(super) ids: BTreeMap<ChunkVersion, BTreeMap<Serial, IdTable>>,
    /// What was prepared in a version, be it told or not.
    pub(super) preparations: BTreeMap<ChunkVersion, Preparation>,
    /// The last that was told to be prepared, ordered to be settled, told to be settled.
    pub(super) told_prepared: ChunkVersion,
    pub(super) settling: ChunkVersion,
    pub(super) told_settled: ChunkVersion,
    requests: u64,
    /// How many more than four requests are outstanding.
    pub(super) outstanding: u64,
}

/// A sealed form as it ought to be.
#[derive(Clone, Debug)]
pub(super) struct Preparation {
    pub(super) serial: Serial,
    pub(super) bytes: Vec<u8>,
    pub(super) ids: IdTable,
}

/// Rows of sessions below are left out of sealed forms: the session that mutates stays.
const SESSIONS_END: SessionId = SessionId(3);

impl Model {
    fn chain(&mut self) -> &mut BTreeMap<Serial, Vec<u8>> {
        self.chains.get_mut(&self.version).unwrap()
    }

    fn newest(&self) -> &Vec<u8> {
        &self.chains[&self.version][&self.serial]
    }

    fn begin(&mut self, version: ChunkVersion, serial: Serial, bytes: Option<Vec<u8>>) {
        let before = self.chains.get(&self.version).cloned().unwrap_or_default();
        let mut chain: BTreeMap<_, _> = before
            .range(..=serial)
            .map(|(s, b)| (*s, b.clone()))
            .collect();
        if let Some(bytes) = bytes {
            chain = [(serial, bytes)].into_iter().collect();
        }
        let ids = self.ids.get(&self.version).cloned().unwrap_or_default();
        let mut ids: BTreeMap<_, _> = ids.into_iter().filter(|(s, _)| *s <= serial).collect();
        if chain.len() == 1 {
            let last = ids.pop_last().map(|(_, ids)| ids).unwrap_or_default();
            ids = [(serial, last)].into_iter().collect();
        }
        self.ids.insert(version, ids);
        self.chains.insert(version, chain);
        (self.version, self.serial) = (version, serial);
    }
}

/// A start of the directory.
pub(super) struct Member {
    pub(super) directory: Directory,
    pub(super) log: Arc<Gather>,
}

impl Member {
    /// Opens the tree's directory and begins its journal.
    pub(super) fn start(tree: &Arc<dyn Tree>) -> Option<Self> {
        let directory = Directory::open_tree(Arc::clone(tree), &START).ok()?;
        directory.adopt(ADOPTION).ok()?;
        Self::begin(directory)
    }

    /// Begins the journal of a start.
    pub(super) fn begin(directory: Directory) -> Option<Self> {
        let mut log = None;
        let started = directory.start_journal(LIMITS, |appender| {
            let made = Arc::new(Gather(Mutex::new(Gathered {
                last: appender.stable(),
                appender,
                entries: Vec::new(),
                refuses: false,
            })));
            log = Some(Arc::clone(&made));
            Ok(made)
        });
        started.ok()?;
        Some(Self {
            directory,
            log: log?,
        })
    }

    /// Has the journal written and tells the chunks.
    pub(super) fn write(&self) -> bool {
        match self.log.write() {
            Ok(stable) => {
                self.directory.journal_is_stable(stable);
                true
            }
            Err(error) => {
                let _ = self.directory.journal_failed(error);
                false
            }
        }
    }

    /// A version begins from a sealed chunk, or makes one.
    pub(super) fn open(
        &self,
        handle: ChunkHandle,
        model: &mut Model,
        version: u64,
        base: Option<&Sample>,
    ) -> Option<()> {
        let version = ChunkVersion(version);
        if base.is_some() {
            self.directory.promise(handle, version, EPOCH).ok()?;
            self.write().then_some(())?;
            model.told_promised = version;
        }
        let serial = Serial(7);
        let bytes = base.map_or(Vec::new(), |sample| sample.bytes.clone());
        model.begin(version, serial, Some(bytes));
        let create = base.is_none().then_some((FileId(5), 2));
        self.directory
            .begin(&BeginOrder {
                handle,
                version,
                serial,
                memory: false,
                create,
            })
            .ok()?;
        self.write().then_some(())?;
        (model.told_begun, model.told_stable) = (version, serial);
        Some(())
    }

    /// Does one thing to a chunk and to its model; none after an error.
    pub(super) fn run(&self, handle: ChunkHandle, model: &mut Model, op: &Op) -> Option<()> {
        match op {
            Op::Settle => return self.settle(handle, model),
            Op::Reopen => return self.reopen(handle, model),
            Op::Trim => return self.trim(),
            _ => {}
        }
        let chunk = self.directory.open_chunk(handle)?;
        let failed = |error: OpenChunkError| self.directory.open_chunk_failed(handle, &error);
        match op {
            Op::Append(bytes) => self.append(&chunk, model, std::slice::from_ref(bytes)),
            Op::Appends(all) => self.append(&chunk, model, all),
            Op::Write(offset, bytes) => {
                self.mutate(&chunk, model, MutationKind::Write, &[(*offset, bytes)])
            }
            Op::Sync => {
                chunk.flush().map_err(failed).ok()?;
                self.write().then_some(())?;
                model.told_stable = model.told_stable.max(chunk.stable_serial());
                Some(())
            }
            Op::Journal => self.write().then_some(()),
            Op::Commit(behind) => {
                let mark = Serial(chunk.stable_serial().0.saturating_sub(*behind));
                chunk.commit_to(mark).ok()
            }
            Op::Checkpoint => {
                chunk.checkpoint().map_err(failed).ok()?;
                self.write().then_some(())
            }
            Op::Change(below) => self.change(&chunk, model, *below),
            Op::Prepare(length) => {
                self.change(&chunk, model, 0)?;
                self.prepare(&chunk, model, *length)
            }
            Op::Settle | Op::Reopen | Op::Trim => None,
        }
    }

    fn prepare(
        &self,
        chunk: &Arc<OpenChunk>,
        model: &mut Model,
        length: Option<u32>,
    ) -> Option<()> {
        let mut bytes = model.newest().clone();
        bytes.truncate(length.map_or(usize::MAX, |length| length as usize));
        let ids = model.ids[&model.version][&model.serial].sealed(SESSIONS_END);
        let serial = model.serial;
        let crc = crc32(&bytes);
        let preparation = Preparation { serial, bytes, ids };
        model.preparations.insert(model.version, preparation);
        let prepared = chunk.prepare_seal(model.version, length, SESSIONS_END);
        let handle = chunk.handle();
        let (told, sequence) = prepared
            .map_err(|error| self.directory.open_chunk_failed(handle, &error))
            .ok()?;
        let expected = (model.version, serial, crc);
        assert_eq!((told.version, told.serial, told.crc32), expected);
        self.write().then_some(())?;
        let again = chunk.prepare_seal(model.version, length, SESSIONS_END);
        assert_eq!(again.unwrap(), (told, sequence), "asked again");
        model.told_prepared = model.version;
        Some(())
    }

    /// As it is ordered, and once more.
    pub(super) fn settle(&self, handle: ChunkHandle, model: &mut Model) -> Option<()> {
        let version = model.version;
        let bytes = &model.preparations[&version].bytes;
        let (length, crc) = (u32::try_from(bytes.len()).unwrap(), crc32(bytes));
        model.settling = version;
        let settle = || {
            let settled = self.directory.settle(handle, version, length, crc);
            settled.map_err(|error| self.directory.open_chunk_failed(handle, &error))
        };
        settle().ok()?;
        self.write().then_some(())?;
        model.told_settled = version;
        assert_eq!(settle(), Ok(0), "asked again");
        Some(())
    }

    fn reopen(&self, handle: ChunkHandle, model: &mut Model) -> Option<()> {
        let version = ChunkVersion(model.version.0 + 10);
        self.directory.promise(handle, version, EPOCH).ok()?;
        self.write().then_some(())?;
        model.told_promised = version;
        let serial = Serial(model.serial.0 + 5);
        let Preparation { bytes, ids, .. } = model.preparations[&model.version].clone();
        model.begin(version, serial, Some(bytes));
        model.ids.insert(version, [(serial, ids)].into());
        let order = BeginOrder {
            handle,
            version,
            serial,
            memory: false,
            create: None,
        };
        self.directory.begin(&order).ok()?;
        self.write().then_some(())?;
        (model.told_begun, model.told_stable) = (version, serial);
        Some(())
    }

    /// Until nothing more may go, which takes a round for each segment.
    fn trim(&self) -> Option<()> {
        // What can't go stands behind what could, in the end, and would go round.
        for _ in 0..12 {
            if self.directory.trim(1).ok()? == Trim::Nothing {
                break;
            }
            self.write().then_some(())?;
        }
        Some(())
    }

    fn append(&self, chunk: &Arc<OpenChunk>, model: &mut Model, all: &[Vec<u8>]) -> Option<()> {
        let mut end = model.newest().len();
        let each = all.iter().map(|bytes| {
            let offset = u32::try_from(end).unwrap();
            end += bytes.len();
            (offset, &bytes[..])
        });
        let each: Vec<(u32, &[u8])> = each.collect();
        self.mutate(chunk, model, MutationKind::Append, &each)
    }

    /// Applies mutations in one batch.
    fn mutate(
        &self,
        chunk: &Arc<OpenChunk>,
        model: &mut Model,
        kind: MutationKind,
        each: &[(u32, &[u8])],
    ) -> Option<()> {
        let first = Serial(model.serial.0 + 1);
        let pieces = each
            .iter()
            .map(|(offset, bytes)| piece_crcs(*offset, bytes));
        let pieces: Vec<Vec<u32>> = pieces.collect();
        let (mut batch, mut serial) = (Vec::new(), model.serial);
        for (&(offset, bytes), pieces) in each.iter().zip(&pieces) {
            model.requests += 1;
            let request = RequestId {
                session: SessionId(3),
                number: model.requests,
                lowest_outstanding: model.requests.saturating_sub(4 + model.outstanding).max(1),
            };
            let incoming = Incoming {
                request: Some(request),
                kind,
                offset,
                length: u32::try_from(bytes.len()).unwrap(),
                pieces,
            };
            // It may come back after a crash from the moment on that it is tried.
            let mut newest = model.chain()[&serial].clone();
            let end = offset as usize + bytes.len();
            newest.resize(newest.len().max(end), 0);
            newest[offset as usize..end].copy_from_slice(bytes);
            let ids = model.ids.get_mut(&model.version).unwrap();
            let mut table = ids[&serial].clone();
            let row = IdRow {
                session: request.session,
                number: request.number,
                kind: match kind {
                    MutationKind::Write => IdRowKind::Write,
                    MutationKind::Append => IdRowKind::Append,
                },
                offset,
                length: incoming.length,
                crc32: crc32(bytes),
            };
            table.apply(&request, row).unwrap();
            serial.0 += 1;
            ids.insert(serial, table);
            model.chain().insert(serial, newest);
            batch.push(Ordered { incoming, bytes });
        }
        let applied = chunk.apply(model.version, first, &batch);
        let handle = chunk.handle();
        applied
            .map_err(|error| self.directory.open_chunk_failed(handle, &error))
            .ok()?;
        model.serial = serial;
        Some(())
    }

    fn change(&self, chunk: &Arc<OpenChunk>, model: &mut Model, below: u64) -> Option<()> {
        let version = ChunkVersion(model.version.0 + 10);
        let handle = chunk.handle();
        let promised = chunk.promise(version, EPOCH);
        promised
            .map_err(|error| self.directory.open_chunk_failed(handle, &error))
            .ok()?;
        self.write().then_some(())?;
        model.told_promised = version;
        let told = chunk.told();
        // What was applied is stable with the promise.
        assert_eq!((told.version, told.serial), (model.version, model.serial));
        assert_eq!(chunk.stable_serial(), told.serial);
        let serial = Serial(told.serial.0.saturating_sub(below).max(told.commit_mark.0));
        model.begin(version, serial, None);
        chunk.begin(version, serial, false).ok()?;
        self.write().then_some(())?;
        (model.told_begun, model.told_stable) = (version, serial);
        // The lowest of the members' serials: whatever was acknowledged lies below it.
        Some(())
    }
}

/// The bytes of a state of a chunk, each block of which has its CRC.
pub(super) fn bytes_at(chunk: &OpenChunk, serial: Serial) -> Vec<u8> {
    let (content, places) = chunk.state_at(serial).unwrap();
    let mut bytes = Vec::new();
    for (index, &block) in (0..).zip(content.blocks()) {
        let len = (content.length() - index * BLOCK_LEN).min(BLOCK_LEN);
        bytes.extend(places.read_block(index as usize, block, len).unwrap());
    }
    assert_eq!(crc32(&bytes), content.data_crc32());
    bytes
}

/// How a start finds a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// In order.
    None,
    /// It may be marked, but not wrong.
    Allowed,
}

/// A sealed chunk is the base, or what a settling that was ordered made.
fn check_sealed(
    directory: &Directory,
    model: &Model,
    base: Option<&Sample>,
    entry: &InventoryEntry,
    story: &str,
) {
    let made = model.preparations.get(&entry.version);
    let made = made.filter(|_| entry.version <= model.settling);
    let (bytes, ids) = match (made, base) {
        (Some(made), _) => (&made.bytes, made.ids.clone()),
        (None, Some(base)) if base.version == entry.version => (&base.bytes, IdTable::default()),
        _ => panic!("{story}: never was sealed as {entry:?}"),
    };
    let opened = directory.open_for_read(entry.handle).unwrap();
    let mut read = vec![0; opened.length as usize];
    assert_eq!(opened.read_at(&mut read, 0).unwrap(), read.len(), "{story}");
    assert!(read == *bytes, "{story}: bytes of {entry:?}");
    for (crc, block) in opened
        .block_crcs
        .iter()
        .zip(read.chunks(BLOCK_LEN as usize))
    {
        assert_eq!(*crc, crc32(block), "{story}");
    }
    let (tree, owner) = (&*directory.tree, directory.owner());
    let file = ChunkFile::open(tree, entry.handle, owner, true).unwrap();
    assert_eq!(sealed_ids(&file).unwrap(), ids, "{story}: ids");
}

/// What is told to be prepared is told and right, and nothing else is told.
fn check_prepared(told: &Told, model: &Model, entry: &InventoryEntry, story: &str) {
    assert_eq!(entry.is_prepared, told.prepared.is_some(), "{story}");
    if !told.prepared.is_some() {
        assert_ne!(told.version, model.told_prepared, "{story}: {told:?}");
        return;
    }
    let made = model.preparations.get(&told.version);
    let made = made.unwrap_or_else(|| panic!("{story}: never prepared {told:?}"));
    let expected = PreparedSeal {
        version: told.version,
        serial: made.serial,
        length: u32::try_from(made.bytes.len()).unwrap(),
        crc32: crc32(&made.bytes),
        id_table_length: u32::try_from(made.ids.len() * ID_ROW_LEN).unwrap(),
        id_table_crc32: crc32(&encode_table(&made.ids.rows())),
    };
    assert_eq!(told.prepared, expected, "{story}");
    let entered = (entry.version, entry.serial, entry.length, entry.crc32);
    let expected = (told.version, made.serial, expected.length, expected.crc32);
    assert_eq!(entered, expected, "{story}");
}

/// A chunk comes back in a state that it had, at least as new as what was told.
pub(super) fn check(
    directory: &Directory,
    handle: ChunkHandle,
    model: &Model,
    base: Option<&Sample>,
    marks: Marks,
    story: &str,
) {
    let Some(entry) = directory.entry(handle) else {
        let was_never_told = base.is_none() && !model.told_begun.is_some();
        assert!(was_never_told, "{story}: {handle} is gone");
        return;
    };
    let is_marked = entry.flags.poisoned || entry.flags.corrupt;
    let Some(chunk) = directory.open_chunk(handle) else {
        let is_sealed = entry.state == ChunkState::Sealed;
        let was_told = model.told_begun.is_some();
        let is_right = match is_marked {
            true => marks == Marks::Allowed || (!was_told && entry.state == ChunkState::Open),
            false => is_sealed && model.told_begun <= entry.version,
        };
        assert!(is_right, "{story}: {entry:?}, told {:?}", model.told_begun);
        if is_sealed && !is_marked {
            check_sealed(directory, model, base, &entry, story);
        }
        return;
    };
    assert!(
        chunk.told().version > model.told_settled,
        "{story}: was settled"
    );
    check_prepared(&chunk.told(), model, &entry, story);
    assert!(!is_marked || marks == Marks::Allowed, "{story}: {entry:?}");
    let told = chunk.told();
    assert!(told.version >= model.told_begun, "{story}: {told:?}");
    assert!(
        told.promised_version >= model.told_promised,
        "{story}: {told:?}"
    );
    if told.version == model.told_begun {
        assert!(
            told.serial >= model.told_stable,
            "{story}: {told:?} of {:?}",
            model.told_stable
        );
    }
    let chain = model.chains.get(&told.version);
    let chain = chain.unwrap_or_else(|| panic!("{story}: never was at {told:?}"));
    for serial in (told.commit_mark.0..=told.serial.0).map(Serial) {
        let expected = chain.get(&serial);
        let expected = expected.unwrap_or_else(|| panic!("{story}: never was at {serial:?}"));
        assert!(
            bytes_at(&chunk, serial) == *expected,
            "{story}: bytes at {serial:?} of {told:?}"
        );
    }
    assert_eq!(
        chunk.ids(),
        model.ids[&told.version][&told.serial],
        "{story}: ids of {told:?}"
    );
    let refused = chunk.apply(told.version, Serial(told.serial.0 + 1), &[]);
    assert!(
        matches!(
            refused,
            Err(OpenChunkError::NotActive { .. } | OpenChunkError::Promised { .. })
        ),
        "{story}: a version of an earlier start takes nothing: {refused:?}"
    );
}
