//! Many values that come due by themselves, of which few change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;
use std::time::Duration;

/// What is to be looked at when a time has come.
pub trait Due {
    /// When that is next.
    fn due(&self) -> Option<Duration>;
}

/// Values by their keys, and by when they come due.
///
/// Who changes a value doesn't say when it comes due then: what was lent to be changed is asked
/// again before anything is told of times. So what a change or a look costs does not grow with how
/// many others there are, and no change can be forgotten.
#[derive(Clone, Debug)]
pub struct Timed<K, V> {
    values: BTreeMap<K, V>,
    /// Under which time each key stands in `order`.
    times: BTreeMap<K, Duration>,
    order: BTreeSet<(Duration, K)>,
    /// Lent to be changed since they were asked.
    lent: BTreeSet<K>,
}

impl<K: Copy + Ord, V: Due> Timed<K, V> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            values: BTreeMap::new(),
            times: BTreeMap::new(),
            order: BTreeSet::new(),
            lent: BTreeSet::new(),
        }
    }

    /// A value.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    /// A value, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.values.get_mut(key)?;
        self.lent.insert(*key);
        Some(value)
    }

    /// A value, made if there is none, to be changed.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.lent.insert(key);
        self.values.entry(key).or_insert_with(make)
    }

    /// Whether there is one.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// All keys, rising.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.values.keys()
    }

    /// The highest key in a range.
    pub fn last_key_in(&self, range: impl RangeBounds<K>) -> Option<K> {
        self.values.range(range).next_back().map(|(key, _)| *key)
    }

    /// Puts a value in, in place of the one that is there.
    pub fn insert(&mut self, key: K, value: V) {
        self.lent.insert(key);
        self.values.insert(key, value);
    }

    /// Takes a value away.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.lent.insert(*key);
        self.values.remove(key)
    }

    /// When the first of them comes due.
    pub fn next_due(&mut self) -> Option<Duration> {
        self.settle();
        self.order.first().map(|(at, _)| *at)
    }

    /// Those that have come due, the longest ago first.
    pub fn due(&mut self, now: Duration) -> Vec<K> {
        self.settle();
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, key)| *key).collect()
    }

    /// Asks those that were lent.
    fn settle(&mut self) {
        for key in std::mem::take(&mut self.lent) {
            #[cfg(test)]
            looks::count();
            let due = self.values.get(&key).and_then(Due::due);
            let before = match due {
                Some(at) => self.times.insert(key, at),
                None => self.times.remove(&key),
            };
            if before != due {
                before.map(|at| self.order.remove(&(at, key)));
                self.order.extend(due.map(|at| (at, key)));
            }
        }
    }
}

impl<K: Copy + Ord, V: Due> Default for Timed<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// How often something was looked at, for tests of what that grows with.
#[cfg(test)]
pub(in crate::core) mod looks {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::core) fn count() {
        COUNT.set(COUNT.get() + 1);
    }

    /// How often while this was done.
    pub(in crate::core) fn of(what: impl FnOnce()) -> usize {
        COUNT.set(0);
        what();
        COUNT.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Due in so many seconds.
    #[derive(Clone, Debug)]
    struct At(Option<u64>);

    impl Due for At {
        fn due(&self) -> Option<Duration> {
            self.0.map(Duration::from_secs)
        }
    }

    #[test]
    fn what_was_changed_is_told_as_it_is_now() {
        let mut timed = Timed::new();
        assert_eq!(timed.next_due(), None);
        for (key, at) in [(1_u8, Some(5)), (2, None), (3, Some(4)), (4, Some(4))] {
            timed.insert(key, At(at));
        }
        let seconds = Duration::from_secs;
        assert_eq!(timed.next_due(), Some(seconds(4)));
        assert!(timed.due(seconds(3)).is_empty());
        assert_eq!(timed.due(seconds(5)), [3, 4, 1]);
        timed.get_mut(&3).expect("there").0 = None;
        timed.get_or_insert_with(2, || At(None)).0 = Some(1);
        timed.get_or_insert_with(6, || At(Some(2)));
        timed.insert(4, At(Some(9)));
        assert_eq!(timed.due(seconds(9)), [2, 6, 1, 4]);
        assert!(timed.remove(&2).is_some() && timed.remove(&2).is_none());
        assert_eq!(timed.next_due(), Some(seconds(2)));
        assert_eq!(timed.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 6]);
        assert!(timed.contains_key(&6) && timed.get(&2).is_none());
    }

    #[test]
    fn only_what_was_lent_is_asked() {
        let mut timed = Timed::new();
        for key in 0..100_000_u64 {
            timed.insert(key, At(Some(1_000_000 - key)));
        }
        let all = looks::of(|| assert_eq!(timed.next_due(), Some(Duration::from_secs(900_001))));
        assert_eq!(all, 100_000);
        timed.get_mut(&7).expect("there").0 = Some(3);
        let one = looks::of(|| {
            for _ in 0..10 {
                assert_eq!(timed.next_due(), Some(Duration::from_secs(3)));
                assert_eq!(timed.due(Duration::from_secs(3)), [7]);
            }
        });
        assert_eq!(one, 1);
    }
}
