//! The numbers of a session's requests (`spec/messages.md` section 4).
//!
//! A number is outstanding from when it is drawn until its request has an answer that the caller
//! took, or is given up. The lowest outstanding one travels with each request, so that the master
//! can forget the answers below.

use std::collections::BTreeSet;

use sarsen_protocol::id::{RequestId, SessionId};

/// What was numbered within one session.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    last: u64,
    outstanding: BTreeSet<u64>,
}

impl Numbers {
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
}
