//! What was appended to one file, and whether what a reader of records was given fits to it.
//!
//! What has to hold (`spec/records.md` section 3, `spec/replication.md` sections 9 and 11): whoever
//! reads gets every record that was acknowledged before the reading began, at the offset that was
//! told, and no record twice; of those that are in doubt any, at most once; none that was surely
//! not done, and none that nobody appended. A record that was acknowledged before another was sent
//! lies before it. Only what was acknowledged from memory, or is in a chunk of which a loss was
//! accepted, may be gone, and only where the master's log says so (section 15, point 12).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use sarsen_protocol::id::SessionId;
use sarsen_protocol::record::RECORD_HEADER_LEN;

use super::content::Content;

/// Names a record; its bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId {
    /// Who appended it.
    pub session: SessionId,
    /// As which of its requests.
    pub number: u64,
}

impl RecordId {
    /// What is appended under this id: so many bytes.
    #[must_use]
    pub fn payload(self, len: u32) -> Content {
        let seed = self.session.0.rotate_left(32) ^ self.number;
        Content::new(seed, len as usize)
    }
}

/// How an append ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is under way, or was never answered.
    InDoubt,
    /// It was told where the record lies.
    Acked {
        offset: u64,
        at: Duration,
        may_be_lost: bool,
    },
    /// It was told that nothing was done.
    NotDone,
}

#[derive(Clone, Copy, Debug)]
struct Append {
    len: u32,
    began: Duration,
    end: End,
}

/// What was appended to one file.
#[derive(Clone, Debug, Default)]
pub struct Appends {
    appends: BTreeMap<RecordId, Append>,
}

impl Appends {
    /// An append of so many bytes begins.
    pub fn begins(&mut self, id: RecordId, len: u32, began: Duration) {
        let end = End::InDoubt;
        self.appends.insert(id, Append { len, began, end });
    }

    /// An append was acknowledged.
    ///
    /// # Errors
    /// It lies before one that was acknowledged before it was sent, or where another one is.
    pub fn acked(&mut self, id: RecordId, offset: u64, at: Duration) -> Result<(), String> {
        let Some(append) = self.appends.get_mut(&id) else {
            return Err(format!("{id:?} was acknowledged, and never sent"));
        };
        append.end = End::Acked {
            offset,
            at,
            may_be_lost: false,
        };
        let began = append.began;
        for (other, append) in self.appends.iter().filter(|(it, _)| **it != id) {
            let End::Acked {
                offset: theirs,
                at: ended,
                may_be_lost: false,
            } = append.end
            else {
                continue;
            };
            if theirs == offset {
                return Err(format!("{id:?} and {other:?} are both at {offset}"));
            }
            if ended < began && theirs > offset {
                return Err(format!(
                    "{id:?} at {offset} was sent after {other:?} at {theirs} was acknowledged"
                ));
            }
        }
        Ok(())
    }

    /// An append was surely not done.
    pub fn not_done(&mut self, id: RecordId) {
        if let Some(append) = self.appends.get_mut(&id) {
            append.end = End::NotDone;
        }
    }

    /// What was acknowledged of this may be gone: its version lost all that knew of it.
    pub fn may_be_lost(&mut self, id: RecordId) {
        if let Some(append) = self.appends.get_mut(&id)
            && let End::Acked { may_be_lost, .. } = &mut append.end
        {
            *may_be_lost = true;
        }
    }

    /// Whether what was acknowledged of this may be gone.
    #[must_use]
    pub fn is_lost(&self, id: RecordId) -> bool {
        let end = self.appends.get(&id).map(|append| append.end);
        matches!(end, Some(End::Acked { may_be_lost, .. }) if may_be_lost)
    }

    /// Something else was written to a range, acknowledged at that time if it was: what had begun by then and
    /// lies there, or may, can be gone. Whether there is such.
    pub fn may_be_written_over(&mut self, range: &Range<u64>, acked: Option<Duration>) -> bool {
        let mut any = false;
        for append in self.appends.values_mut() {
            if acked.is_some_and(|acked| append.began > acked) {
                continue;
            }
            any |= match &mut append.end {
                End::NotDone => false,
                End::InDoubt => true,
                End::Acked {
                    offset,
                    may_be_lost,
                    ..
                } => {
                    let end = *offset + RECORD_HEADER_LEN as u64 + u64::from(append.len);
                    let is_there = *offset < range.end && end > range.start;
                    *may_be_lost |= is_there;
                    is_there
                }
            };
        }
        any
    }

    /// Whether these are the bytes that were appended under the id.
    #[must_use]
    pub fn is_payload(&self, id: RecordId, payload: &[u8]) -> bool {
        let append = self.appends.get(&id);
        append.is_some_and(|it| id.payload(it.len).bytes()[..] == *payload)
    }

    /// A reader has passed by all that is in front of a place, and was given these records.
    ///
    /// # Errors
    /// Something acknowledged is there and was not given, be it that it came later.
    pub fn passed(&self, end: u64, given: &BTreeSet<RecordId>) -> Result<(), String> {
        for (id, append) in &self.appends {
            if let End::Acked {
                offset,
                may_be_lost: false,
                ..
            } = append.end
                && offset < end
                && !given.contains(id)
            {
                return Err(format!(
                    "{id:?} is at {offset}, and a reader has passed {end} without it"
                ));
            }
        }
        Ok(())
    }

    /// A reader was given these records, in this order, from a reading that began then. Where a loss was
    /// accepted what had been taken back may lie again, if it was sent before.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn read(
        &self,
        records: &[(u64, RecordId)],
        began: Duration,
        may_be_back: impl Fn(u64, Duration) -> bool,
    ) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut last = None;
        for &(offset, id) in records {
            if last.is_some_and(|last| offset <= last) {
                return Err(format!("{id:?} at {offset} comes behind {last:?}"));
            }
            last = Some(offset);
            let append = self.appends.get(&id);
            let end = append.map(|append| append.end);
            let is_told = matches!(end, Some(End::Acked { offset: told, .. }) if told == offset);
            if !is_told && append.is_some_and(|append| may_be_back(offset, append.began)) {
                continue;
            }
            if !seen.insert(id) {
                return Err(format!("{id:?} is there twice, again at {offset}"));
            }
            match end {
                None => return Err(format!("{id:?} at {offset} was never appended")),
                Some(End::NotDone) => {
                    return Err(format!("{id:?} at {offset} was refused"));
                }
                Some(End::Acked { offset: told, .. }) if told != offset => {
                    return Err(format!("{id:?} is at {offset}, told was {told}"));
                }
                Some(End::Acked { .. } | End::InDoubt) => {}
            }
        }
        for (id, append) in &self.appends {
            if let End::Acked {
                offset,
                at,
                may_be_lost: false,
            } = append.end
                && at < began
                && !seen.contains(id)
            {
                return Err(format!("{id:?}, acknowledged at {offset}, is gone"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn id(number: u64) -> RecordId {
        let session = SessionId(3);
        RecordId { session, number }
    }

    fn read(appends: &Appends, records: &[(u64, u64)], began: u64) -> Result<(), String> {
        let records: Vec<_> = records.iter().map(|&(at, it)| (at, id(it))).collect();
        appends.read(&records, at(began), |_, _| false)
    }

    /// 1 and 2 acknowledged, 3 in doubt, 4 refused.
    fn appends() -> Appends {
        let mut appends = Appends::default();
        (1..=4).for_each(|number| appends.begins(id(number), 100, at(number)));
        appends.acked(id(1), 0, at(2)).expect("right");
        appends.acked(id(2), 100, at(5)).expect("right");
        appends.not_done(id(4));
        appends
    }

    #[test]
    fn whoever_reads_gets_what_was_acknowledged_and_perhaps_what_is_in_doubt() {
        let mut appends = appends();
        assert_eq!(read(&appends, &[(0, 1), (100, 2)], 9), Ok(()));
        assert_eq!(read(&appends, &[(0, 1), (100, 2), (200, 3)], 9), Ok(()));
        assert_eq!(read(&appends, &[(0, 1)], 4), Ok(()), "2 came later");
        assert!(read(&appends, &[(0, 1)], 9).is_err(), "2 is gone");
        appends.may_be_lost(id(2));
        assert_eq!(read(&appends, &[(0, 1)], 9), Ok(()));
        assert!(read(&appends, &[(0, 1), (104, 2)], 9).is_err());
    }

    #[test]
    fn what_is_written_over_may_be_gone() {
        let mut appends = Appends::default();
        (1..=2).for_each(|number| appends.begins(id(number), 100, at(number)));
        appends.acked(id(1), 0, at(2)).expect("right");
        appends.acked(id(2), 132, at(3)).expect("right");
        assert!(
            !appends.may_be_written_over(&(132..200), Some(at(1))),
            "later"
        );
        assert!(!appends.may_be_written_over(&(264..300), None), "elsewhere");
        assert!(read(&appends, &[(0, 1)], 9).is_err());
        assert!(appends.may_be_written_over(&(263..300), Some(at(2))));
        assert_eq!(read(&appends, &[(0, 1)], 9), Ok(()));
        assert!(read(&appends, &[(132, 2)], 9).is_err(), "1 is not there");
        appends.begins(id(3), 100, at(4));
        assert!(appends.may_be_written_over(&(900..999), None), "3 may be");
        assert!(!appends.may_be_written_over(&(900..999), Some(at(3))));
    }

    /// A copy that was left behind had an append that was taken back, and done again elsewhere since.
    #[test]
    fn where_a_loss_was_accepted_what_was_taken_back_may_lie_again() {
        let appends = appends();
        let records = [(0, id(1)), (100, id(2)), (900, id(2)), (950, id(4))];
        let read = |records: &[_], lost_at: u64| {
            let may_be_back = |offset, began| offset >= 900 && began < at(lost_at);
            appends.read(records, at(9), may_be_back)
        };
        assert!(appends.read(&records, at(9), |_, _| false).is_err());
        assert_eq!(read(&records, 5), Ok(()));
        assert!(read(&records, 4).is_err(), "4 was sent later");
        let twice = [(0, id(1)), (100, id(2)), (500, id(2))];
        assert!(read(&twice, 5).is_err());
    }

    #[test]
    fn nothing_is_there_twice_or_elsewhere_or_out_of_nothing() {
        let appends = appends();
        let wrong: [&[(u64, u64)]; 5] = [
            &[(0, 1), (100, 2), (200, 2)],
            &[(0, 1), (104, 2)],
            &[(0, 1), (100, 2), (200, 4)],
            &[(0, 1), (100, 2), (200, 5)],
            &[(100, 2), (0, 1)],
        ];
        for records in wrong {
            assert!(read(&appends, records, 9).is_err(), "{records:?}");
        }
    }

    /// Two chunks of a file took records at a time, and a reader had passed by the first of them.
    #[test]
    fn nothing_comes_where_a_reader_has_passed() {
        let appends = appends();
        let given = |numbers: &[u64]| numbers.iter().map(|&it| id(it)).collect();
        assert_eq!(appends.passed(200, &given(&[1, 2])), Ok(()));
        assert_eq!(appends.passed(100, &given(&[1])), Ok(()));
        assert!(appends.passed(101, &given(&[1])).is_err());
    }

    #[test]
    fn a_record_lies_behind_what_was_acknowledged_before_it_was_sent() {
        let mut appends = appends();
        appends.begins(id(5), 100, at(6));
        assert!(appends.clone().acked(id(5), 50, at(7)).is_err());
        assert!(
            appends.clone().acked(id(5), 100, at(7)).is_err(),
            "2 is there"
        );
        assert_eq!(appends.acked(id(5), 250, at(7)), Ok(()));
        // Sent before 2 was acknowledged: any order.
        assert_eq!(appends.acked(id(3), 50, at(8)), Ok(()));
    }

    #[test]
    fn bytes_follow_from_the_id() {
        let appends = appends();
        let payload = id(1).payload(100);
        assert!(appends.is_payload(id(1), payload.bytes()));
        assert!(!appends.is_payload(id(2), payload.bytes()));
        assert!(!appends.is_payload(id(1), &payload.bytes()[1..]));
    }
}
