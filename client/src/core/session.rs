//! The numbers of a session's requests (`spec/messages.md` section 4).
//!
//! A number is outstanding from when it is drawn until its request has an answer that the caller
//! took, or is given up. The lowest outstanding one travels with each request, so that the master
//! can forget the answers below.

use std::collections::BTreeSet;

use sarsen_protocol::id::{RequestId, SessionId};

/// Numbers from the lowest that is outstanding to the highest: far below what a master refuses
/// (65,536), and no more than this many answers does it have to keep for us.
pub const SPAN_MAX: u64 = 4_096;

/// What was numbered within one session.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    last: u64,
    outstanding: BTreeSet<u64>,
}

impl Numbers {
    /// Whether another number may be drawn: one that is tried again for a while must not be left so
    /// far behind by the others that the master refuses them.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let lowest = self.outstanding.first().copied();
        lowest.is_none_or(|lowest| self.last - lowest + 1 < SPAN_MAX)
    }

    /// Draws a number, which is outstanding until [`Numbers::end`].
    pub fn begin(&mut self) -> u64 {
        self.last += 1;
        self.outstanding.insert(self.last);
        self.last
    }

    /// The id under which an outstanding number is sent now.
    #[must_use]
    pub fn id(&self, session: SessionId, number: u64) -> RequestId {
        let lowest = self.outstanding.first().copied();
        RequestId {
            session,
            number,
            lowest_outstanding: lowest.unwrap_or(number),
        }
    }

    /// Nobody asks about this number any more.
    pub fn end(&mut self, number: u64) {
        self.outstanding.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_outstanding_number_travels() {
        let mut numbers = Numbers::default();
        let session = SessionId(7);
        let (first, second) = (numbers.begin(), numbers.begin());
        assert_eq!(numbers.id(session, second).lowest_outstanding, first);
        numbers.end(first);
        assert_eq!(numbers.id(session, second).lowest_outstanding, second);
        assert_eq!(numbers.begin(), 3);
    }
    /// A tree of many files has hundreds of requests under way.
    #[test]
    fn numbers_stay_near_the_lowest_that_is_outstanding() {
        let mut numbers = Numbers::default();
        while numbers.has_room() {
            numbers.begin();
        }
        assert_eq!(numbers.outstanding.len() as u64, SPAN_MAX);
        (2..=SPAN_MAX).for_each(|number| numbers.end(number));
        assert!(!numbers.has_room(), "the first still waits");
        numbers.end(1);
        assert!(numbers.has_room());
    }
}
