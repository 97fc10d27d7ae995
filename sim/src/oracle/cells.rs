//! Places of a file that clients write and read, and whether what they read can have happened.
//!
//! A *cell* is some bytes at a fixed place, always written whole, never the same value twice. It
//! behaves rightly if every write and read can be thought to happen at one moment between its
//! beginning and its end, each read giving what was written last (it is *linearizable*). A write
//! whose answer never came may have happened at any time since it began, or not at all. A plain read
//! may give what was there some time before it began: it begins so much earlier.
//!
//! With values that are written once this needs no search (Gibbons and Korach, "Testing shared
//! memories", 1997). A write and the reads of its value are a *cluster*. From the end of the first of
//! them to the beginning of the last the cell held that value for sure, if the one lies before the
//! other: the cluster's *firm* span. Otherwise all of it fits into one moment between that last
//! beginning and that first end: its *loose* span. The history is right exactly if no read ended
//! before its write began, no two firm spans share time, and no loose span lies within a firm one.
//!
//! Zero is what is there before anybody wrote, and again behind every cut of the file. While there
//! was no cut, zero is a value like the others. Otherwise it may have been written more than once,
//! and only two things are looked for: that no cut, and no read of zero, lies within a firm span, and
//! that each read of zero has a cut (or the beginning) which no write was surely behind and before
//! that read.
//!
//! Where acks from memory may be lost, as the master's log says, the history begins anew: any value
//! may be there that no cut, and no write that was acknowledged at `disk`, was surely behind. Where a
//! person accepted a loss any value may be there that anybody ever began to write, and that no write was surely
//! behind that is in the copy that was gone on with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_client::core::mutation::Done;

/// What is in a cell; zero before anybody wrote.
pub type Value = u64;

/// Names a cut of the file.
pub type CutId = u64;

/// From when to when something was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: Duration,
    /// [`Duration::MAX`] if it is not known to be over.
    to: Duration,
}

/// A write, and the reads of its value.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    write: Span,
    /// The earliest end, and the latest beginning, of the write and its reads.
    first_end: Duration,
    last_begin: Duration,
    is_read: bool,
    /// Acknowledged at `disk`: how.
    kept: Option<Done>,
    /// It may be in the copy that was taken when a loss was accepted, whatever its client is told.
    is_accepted: bool,
}

impl Cluster {
    const fn new(from: Duration) -> Self {
        let to = Duration::MAX;
        Self {
            write: Span { from, to },
            first_end: to,
            last_begin: from,
            is_read: false,
            kept: None,
            is_accepted: false,
        }
    }

    fn ends(&mut self, at: Duration) {
        self.write.to = at;
        self.first_end = self.first_end.min(at);
    }

    fn is_read(&mut self, from: Duration, to: Duration) {
        self.first_end = self.first_end.min(to);
        self.last_begin = self.last_begin.max(from);
        self.is_read = true;
    }

    /// What was never read and may never have happened.
    fn is_nothing(&self) -> bool {
        !self.is_read && self.write.to == Duration::MAX
    }

    /// From when to when its value was there for sure, if there is such a time.
    fn firm(&self) -> Option<Span> {
        let (from, to) = (self.first_end, self.last_begin);
        (from < to).then_some(Span { from, to })
    }
}

/// All that happened to one cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    clusters: BTreeMap<Value, Cluster>,
    /// All that anybody ever began to write.
    ever: BTreeSet<Value>,
    zeros: Vec<Span>,
    cuts: BTreeMap<CutId, Span>,
    /// What was there at the beginning was surely written over.
    is_begun: bool,
}

impl Cell {
    /// A write begins; it may be read, or never be heard of, from now on.
    pub fn writes(&mut self, value: Value, from: Duration) {
        self.clusters.insert(value, Cluster::new(from));
        self.ever.insert(value);
    }

    /// A write was acknowledged; how, if it is on disk everywhere.
    pub fn acked(&mut self, value: Value, at: Duration, kept: Option<Done>) {
        if let Some(cluster) = self.clusters.get_mut(&value) {
            cluster.ends(at);
            cluster.kept = cluster.kept.or(kept);
        }
    }

    /// Acks from memory may be lost by now, all of them or some.
    pub fn loses(&mut self, at: Duration) {
        let kept: Vec<Duration> = (self.clusters.values())
            .filter(|it| it.kept.is_some())
            .map(|it| it.write.from)
            .collect();
        let cut = self.cuts.values().filter(|it| it.to < Duration::MAX);
        let behind = kept.iter().copied().chain(cut.map(|it| it.from)).max();
        self.is_begun |= !kept.is_empty();
        self.zeros.clear();
        self.clusters
            .retain(|_, it| behind.is_none_or(|behind| it.first_end >= behind));
        for cluster in self.clusters.values_mut() {
            *cluster = Cluster::new(at);
        }
    }

    /// A person accepted the loss of what was written by now: some copy is what was left, and these writes are
    /// in it.
    pub fn loses_all(&mut self, at: Duration, is_in_copy: impl Fn(&Done) -> bool) {
        let kept = (self.clusters.values()).filter(|it| it.kept.as_ref().is_some_and(&is_in_copy));
        let behind = kept.map(|it| it.write.from).max();
        self.is_begun = behind.is_some();
        self.zeros.clear();
        let of_a_copy = Cluster {
            is_accepted: true,
            ..Cluster::new(at)
        };
        let mut left = self.ever.clone();
        left.retain(|value| {
            let first_end = self.clusters.get(value).map(|it| it.first_end);
            behind.is_none_or(|behind| first_end.is_none_or(|it| it >= behind))
        });
        self.clusters = left.iter().map(|&value| (value, of_a_copy)).collect();
    }

    /// A write was surely not done.
    ///
    /// # Errors
    /// It was read all the same.
    pub fn not_done(&mut self, value: Value) -> Result<(), String> {
        if self.clusters.get(&value).is_some_and(|it| it.is_accepted) {
            return Ok(());
        }
        match self.clusters.remove(&value) {
            Some(cluster) if cluster.is_read => {
                Err(format!("{value:#x} was read, and its writing was refused"))
            }
            _ => Ok(()),
        }
    }

    /// The file is about to be cut in front of the cell, which may be zero again from now on.
    pub fn cuts(&mut self, cut: CutId, from: Duration) {
        let to = Duration::MAX;
        self.cuts.insert(cut, Span { from, to });
    }

    /// The file was cut.
    pub fn was_cut(&mut self, cut: CutId, at: Duration) {
        if let Some(span) = self.cuts.get_mut(&cut) {
            span.to = at;
        }
    }

    /// The file was surely not cut.
    pub fn not_cut(&mut self, cut: CutId) {
        self.cuts.remove(&cut);
    }

    /// A read that was answered.
    ///
    /// # Errors
    /// Nobody had begun to write what was read.
    pub fn read(&mut self, value: Value, from: Duration, to: Duration) -> Result<(), String> {
        if value == 0 {
            self.zeros.push(Span { from, to });
            return Ok(());
        }
        let Some(cluster) = self.clusters.get_mut(&value) else {
            return Err(format!(
                "{value:#x} was read, and nobody wrote it, or it was gone"
            ));
        };
        if to < cluster.write.from {
            return Err(format!("{value:#x} was read before it was written"));
        }
        cluster.is_read(from, to);
        Ok(())
    }

    /// When the writing of a value began; none of zero, which may come again.
    #[must_use]
    pub fn began(&self, value: Value) -> Option<Duration> {
        self.clusters.get(&value).map(|cluster| cluster.write.from)
    }

    /// Whether a value was there before the writing of one began that began at `began`; zero was,
    /// as long as the file was never cut.
    #[must_use]
    pub fn is_older(&self, value: Value, began: Duration) -> bool {
        match value {
            0 => self.cuts.is_empty(),
            value => (self.clusters.get(&value)).is_some_and(|it| it.first_end < began),
        }
    }

    /// Whether all of it can have happened.
    ///
    /// # Errors
    /// What can't.
    pub fn check(&self) -> Result<(), String> {
        let mut all: Vec<(Value, Cluster)> = Vec::with_capacity(self.clusters.len() + 1);
        if self.cuts.is_empty() {
            all.push((0, self.zero()));
        }
        all.extend(
            self.clusters
                .iter()
                .map(|(&value, &cluster)| (value, cluster)),
        );
        if self.cuts.is_empty()
            && self.is_begun
            && let Some(read) = self.zeros.first()
        {
            return Err(format!(
                "zero was read {read:?}, and something was written before"
            ));
        }
        let firm = firm_spans(&all)?;
        let within = |span: Span| {
            // The spans don't overlap: the one that could hold it is the last that begins before.
            let at = firm.partition_point(|(_, it)| it.from < span.from);
            let before = at.checked_sub(1).and_then(|at| firm.get(at));
            before.filter(|(_, around)| span.to < around.to)
        };
        for (value, loose) in all.iter().filter(|(_, it)| it.firm().is_none()) {
            let span = Span {
                from: loose.last_begin,
                to: loose.first_end,
            };
            if !loose.is_nothing()
                && let Some((other, around)) = within(span)
            {
                return Err(format!(
                    "{other:#x} was there {around:?}, and {value:#x} came and went within, {span:?}"
                ));
            }
        }
        if self.cuts.is_empty() {
            return Ok(());
        }
        for span in self.cuts.values().chain(&self.zeros) {
            if let Some((other, around)) = within(*span) {
                return Err(format!(
                    "{other:#x} was there {around:?}, and the file was cut before it, {span:?}"
                ));
            }
        }
        self.zeros
            .iter()
            .try_for_each(|zero| self.check_zero(*zero))
    }

    /// Zero as a value that was there at the beginning, and never again.
    fn zero(&self) -> Cluster {
        let mut zero = Cluster::new(Duration::ZERO);
        zero.ends(Duration::ZERO);
        for read in &self.zeros {
            zero.is_read(read.from, read.to);
        }
        zero
    }

    /// Whether there is a cut that this read may have seen.
    fn check_zero(&self, read: Span) -> Result<(), String> {
        let beginning = Span {
            from: Duration::ZERO,
            to: Duration::ZERO,
        };
        let is_over = |cut: &Span| {
            let mut written = self.clusters.values();
            written.any(|it| it.write.from > cut.to && it.first_end < read.from)
        };
        let beginning = (!self.is_begun).then_some(&beginning);
        let mut cuts = self.cuts.values().chain(beginning);
        match cuts.any(|cut| cut.from <= read.to && !is_over(cut)) {
            true => Ok(()),
            false => Err(format!(
                "zero was read {read:?}, and something was written behind every cut"
            )),
        }
    }
}

/// When each value was there for sure, in the order of time.
fn firm_spans(all: &[(Value, Cluster)]) -> Result<Vec<(Value, Span)>, String> {
    let firm = all
        .iter()
        .filter_map(|(value, it)| Some((*value, it.firm()?)));
    let mut firm: Vec<(Value, Span)> = firm.collect();
    firm.sort_by_key(|(_, span)| span.from);
    for pair in firm.windows(2) {
        if let [(one, a), (other, b)] = pair
            && b.from < a.to
        {
            return Err(format!(
                "{one:#x} was there {a:?}, and so was {other:#x}, {b:?}"
            ));
        }
    }
    Ok(firm)
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
    use sarsen_protocol::message::Level;

    use super::*;

    /// Acknowledged in a version.
    fn done(version: u64) -> Done {
        Done {
            index: 0,
            handle: ChunkHandle(1),
            version: ChunkVersion(version),
            serial: Serial(1),
            offset: 0,
            level: Level::Disk,
            copies: 2,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cell(writes: &[(Value, u64, u64)], reads: &[(Value, u64, u64)]) -> Result<(), String> {
        let mut cell = Cell::default();
        for &(value, from, to) in writes {
            cell.writes(value, at(from));
            // A write that ends at 0 has no end.
            if to > 0 {
                cell.acked(value, at(to), None);
            }
        }
        for &(value, from, to) in reads {
            cell.read(value, at(from), at(to))?;
        }
        cell.check()
    }

    #[test]
    fn a_read_gives_what_was_written_last() {
        assert_eq!(cell(&[(1, 1, 2), (2, 3, 4)], &[(2, 5, 6)]), Ok(()));
        assert!(cell(&[(1, 1, 2), (2, 3, 4)], &[(1, 5, 6)]).is_err());
        assert!(
            cell(&[(1, 1, 2)], &[(0, 5, 6)]).is_err(),
            "the write is lost"
        );
        assert!(
            cell(&[(1, 1, 2)], &[(7, 5, 6)]).is_err(),
            "nobody wrote that"
        );
        assert!(
            cell(&[(1, 5, 6)], &[(1, 1, 2)]).is_err(),
            "it wasn't written yet"
        );
    }

    #[test]
    fn of_two_writes_at_once_either_may_be_the_last_and_all_see_the_same() {
        let writes = [(1, 1, 4), (2, 2, 3)];
        assert_eq!(cell(&writes, &[(1, 5, 6)]), Ok(()));
        assert_eq!(cell(&writes, &[(2, 5, 6)]), Ok(()));
        assert!(cell(&writes, &[(2, 5, 6), (1, 7, 8)]).is_err());
        // While both are under way readers may see one and then the other.
        let writes = [(1, 1, 9), (2, 2, 8)];
        assert_eq!(cell(&writes, &[(1, 3, 4), (2, 5, 6)]), Ok(()));
        assert!(cell(&writes, &[(1, 3, 4), (2, 5, 6), (1, 7, 8)]).is_err());
    }

    #[test]
    fn a_write_without_an_answer_may_come_late_or_never_but_only_once() {
        let writes = [(1, 1, 2), (2, 3, 0)];
        assert_eq!(cell(&writes, &[(1, 5, 6)]), Ok(()));
        assert_eq!(cell(&writes, &[(1, 5, 6), (2, 7, 8)]), Ok(()));
        assert!(cell(&writes, &[(2, 5, 6), (1, 7, 8)]).is_err());
    }

    #[test]
    fn a_write_that_comes_and_goes_while_another_value_is_seen_to_stay_is_found() {
        // 1 is read before and after 2 was written and acknowledged, and nobody read 2.
        assert!(cell(&[(1, 1, 2), (2, 5, 6)], &[(1, 3, 4), (1, 7, 8)]).is_err());
        // If the reads meet the write, it may have come behind them.
        assert_eq!(
            cell(&[(1, 1, 2), (2, 5, 8)], &[(1, 3, 4), (1, 7, 9)]),
            Ok(())
        );
    }

    /// A file that was cut: from the second cut on zero is no value that was written once.
    fn cut_cell(
        writes: &[(Value, u64, u64)],
        cuts: &[(u64, u64)],
        reads: &[(Value, u64, u64)],
    ) -> Result<(), String> {
        let mut cell = Cell::default();
        for &(value, from, to) in writes {
            cell.writes(value, at(from));
            if to > 0 {
                cell.acked(value, at(to), None);
            }
        }
        for &(from, to) in cuts {
            cell.cuts(from, at(from));
            if to > 0 {
                cell.was_cut(from, at(to));
            }
        }
        for &(value, from, to) in reads {
            cell.read(value, at(from), at(to))?;
        }
        cell.check()
    }

    #[test]
    fn behind_a_cut_there_is_zero_until_something_is_written() {
        let writes = [(1, 1, 2), (2, 7, 8)];
        let cuts = [(4, 5)];
        let read = |reads: &[_]| cut_cell(&writes, &cuts, reads);
        assert_eq!(read(&[(0, 0, 1), (1, 3, 3), (0, 6, 6), (2, 9, 9)]), Ok(()));
        assert!(read(&[(1, 6, 6)]).is_err(), "the cut is undone");
        assert!(read(&[(0, 9, 9)]).is_err(), "the second write is lost");
        assert!(read(&[(0, 3, 3)]).is_err(), "so is the first");
        // A cut without an answer may have been done, or not, or yet be.
        let read = |reads: &[_]| cut_cell(&writes, &[(4, 0)], reads);
        assert_eq!(read(&[(1, 6, 6), (0, 9, 9)]), Ok(()));
        assert_eq!(read(&[(0, 6, 6), (2, 9, 9)]), Ok(()));
        // What is there before and after was not cut in between.
        assert!(read(&[(1, 3, 3), (0, 4, 4), (1, 5, 5)]).is_err());
    }

    #[test]
    fn behind_a_loss_what_was_on_disk_is_there_or_something_newer() {
        let mut cell = Cell::default();
        for (value, from, is_kept) in [(1, 1, false), (2, 3, true), (3, 5, false), (4, 7, false)] {
            cell.writes(value, at(from));
            cell.acked(value, at(from + 1), is_kept.then(|| done(1)));
        }
        cell.read(4, at(9), at(9)).expect("was written");
        cell.loses(at(10));
        for value in [2, 3, 4] {
            let mut cell = cell.clone();
            assert_eq!(cell.read(value, at(11), at(12)), Ok(()));
            assert_eq!(cell.check(), Ok(()));
        }
        assert!(
            cell.clone().read(1, at(11), at(12)).is_err(),
            "2 was behind it"
        );
        let mut zero = cell.clone();
        assert_eq!(zero.read(0, at(11), at(12)), Ok(()));
        assert!(zero.check().is_err(), "2 was behind it");
        // What is there once stays.
        cell.read(3, at(11), at(12)).expect("may be");
        cell.read(4, at(13), at(14)).expect("may come yet");
        cell.read(3, at(15), at(16)).expect("written");
        assert!(cell.check().is_err());
    }

    /// Compared with a search through all orders, on many small histories.
    #[test]
    fn the_answer_is_that_of_a_search() {
        let mut random = crate::random::Random::new(5);
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..3_000 {
            let mut ops = Vec::new();
            for value in 1..=3 {
                let from = random.between(1, 12);
                let to = from + random.between(1, 6);
                ops.push((true, value, from, to));
            }
            for _ in 0..3 {
                let from = random.between(1, 14);
                ops.push((false, random.below(4), from, from + random.between(1, 6)));
            }
            let found = {
                let mut cell = Cell::default();
                for &(_, value, from, to) in ops.iter().filter(|op| op.0) {
                    cell.writes(value, at(from));
                    cell.acked(value, at(to), None);
                }
                let mut reads = ops.iter().filter(|op| !op.0);
                let read =
                    reads.try_for_each(|&(_, value, from, to)| cell.read(value, at(from), at(to)));
                read.and_then(|()| cell.check()).is_ok()
            };
            assert_eq!(found, can_be_ordered(&ops, 0), "{ops:?}");
            match found {
                true => right += 1,
                false => wrong += 1,
            }
        }
        assert!(right > 200 && wrong > 200, "{right} right, {wrong} wrong");
    }

    /// The copy that a person took was older than a cut, and had a write that was refused since.
    #[test]
    fn where_a_loss_was_accepted_anything_may_be_there_that_was_ever_written() {
        let mut cell = Cell::default();
        cell.writes(1, at(1));
        cell.acked(1, at(2), Some(done(1)));
        cell.cuts(7, at(3));
        cell.was_cut(7, at(4));
        cell.writes(2, at(5));
        assert_eq!(cell.not_done(2), Ok(()));
        cell.writes(3, at(6));
        cell.acked(3, at(7), Some(done(5)));
        let mut kept = cell.clone();
        assert_eq!(kept.read(1, at(8), at(9)), Ok(()));
        assert!(kept.check().is_err());
        for value in [0, 1, 2, 3] {
            let mut cell = cell.clone();
            cell.loses_all(at(10), |_| false);
            assert_eq!(cell.read(value, at(11), at(12)), Ok(()));
            assert_eq!(cell.not_done(2), Ok(()));
            assert_eq!(cell.check(), Ok(()), "{value}");
        }
        cell.loses_all(at(10), |_| false);
        assert!(cell.read(4, at(11), at(12)).is_err());
    }

    /// What came behind a write that is in the copy may be gone; what was before it is.
    #[test]
    fn where_a_loss_was_accepted_what_is_in_the_copy_is_not_undone() {
        let mut cell = Cell::default();
        for value in 1..=3 {
            cell.writes(value, at(2 * value));
            cell.acked(value, at(2 * value + 1), Some(done(value)));
        }
        let read = |value| {
            let mut cell = cell.clone();
            cell.loses_all(at(10), |done| done.version <= ChunkVersion(2));
            let read = cell.read(value, at(11), at(12));
            read.and_then(|()| cell.check())
        };
        assert!(read(0).is_err() && read(1).is_err());
        assert_eq!((read(2), read(3)), (Ok(()), Ok(())));
    }

    /// Whether there is an order: an op may come first if no other ended before it began.
    fn can_be_ordered(ops: &[(bool, Value, u64, u64)], holds: Value) -> bool {
        if ops.is_empty() {
            return true;
        }
        (0..ops.len()).any(|n| {
            let (is_write, value, from, _) = ops[n];
            let is_first = ops.iter().all(|&(.., to)| to >= from);
            let rest = || {
                let mut rest = ops.to_vec();
                rest.remove(n);
                rest
            };
            is_first
                && (is_write || value == holds)
                && can_be_ordered(&rest(), if is_write { value } else { holds })
        })
    }
}
