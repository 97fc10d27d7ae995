//! A bounded cache of opened chunks: the *clock* policy.
//!
//! A hand goes round over the places; a place that was used since the hand last passed is spared
//! once. Hits cost a hash lookup and a store; there is no list to relink. Values are handed out
//! as `Arc`, so a value that leaves the cache lives on for whoever uses it. Whoever makes it leave
//! gets it, to drop it when no lock is held: that may close, and so at last free, a file.

use std::collections::HashMap;
use std::sync::Arc;

use sarsen_protocol::id::ChunkHandle;

/// At most `capacity` values, by handle.
#[derive(Debug)]
pub(super) struct Cache<V> {
    places: Vec<Place<V>>,
    by_handle: HashMap<ChunkHandle, usize>,
    hand: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Place<V> {
    handle: ChunkHandle,
    value: Arc<V>,
    used: bool,
}

impl<V> Cache<V> {
    /// An empty cache; it holds at least one value.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            places: Vec::new(),
            by_handle: HashMap::new(),
            hand: 0,
            capacity,
        }
    }

    /// The value of `handle`, if it is here.
    pub(super) fn find(&mut self, handle: ChunkHandle) -> Option<Arc<V>> {
        let place = self.places.get_mut(*self.by_handle.get(&handle)?)?;
        place.used = true;
        Some(Arc::clone(&place.value))
    }

    /// Puts a value in, in place of the handle's old one or of one that was not used for long;
    /// which that was.
    #[must_use]
    pub(super) fn put(&mut self, handle: ChunkHandle, value: Arc<V>) -> Option<Arc<V>> {
        let old = self.remove(handle);
        let place = Place {
            handle,
            value,
            used: false,
        };
        if self.places.len() < self.capacity {
            self.by_handle.insert(handle, self.places.len());
            self.places.push(place);
            return old;
        }
        let index = self.next_victim();
        let victim = self.places.get_mut(index)?;
        self.by_handle.remove(&victim.handle);
        self.by_handle.insert(handle, index);
        Some(std::mem::replace(victim, place).value)
    }

    /// Takes the handle's value out.
    #[must_use]
    pub(super) fn remove(&mut self, handle: ChunkHandle) -> Option<Arc<V>> {
        let index = self.by_handle.remove(&handle)?;
        let removed = self.places.swap_remove(index);
        if let Some(moved) = self.places.get(index) {
            self.by_handle.insert(moved.handle, index);
        }
        Some(removed.value)
    }

    /// Moves the hand to the first place that was not used since it passed, and beyond.
    fn next_victim(&mut self) -> usize {
        loop {
            let index = self.hand % self.places.len().max(1);
            self.hand = index + 1;
            match self.places.get_mut(index) {
                Some(place) if place.used => place.used = false,
                _ => return index,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut cache = Cache::new(3);
        for n in 1..=3 {
            assert_eq!(cache.put(ChunkHandle(n), Arc::new(n)), None);
        }
        assert_eq!(cache.find(ChunkHandle(1)).as_deref(), Some(&1));
        assert_eq!(cache.put(ChunkHandle(4), Arc::new(4)).as_deref(), Some(&2));
        let here: Vec<_> = (1..=4)
            .filter(|&n| cache.find(ChunkHandle(n)).is_some())
            .collect();
        assert_eq!(here, [1, 3, 4]);
    }

    #[test]
    fn removing_keeps_the_others_findable() {
        let mut cache = Cache::new(3);
        for n in 1..=3 {
            assert_eq!(cache.put(ChunkHandle(n), Arc::new(n)), None);
        }
        assert_eq!(cache.remove(ChunkHandle(1)).as_deref(), Some(&1));
        assert_eq!(cache.remove(ChunkHandle(9)), None);
        assert_eq!(cache.put(ChunkHandle(2), Arc::new(20)).as_deref(), Some(&2));
        for (n, expected) in [(1, None), (2, Some(20)), (3, Some(3))] {
            assert_eq!(
                cache.find(ChunkHandle(n)).as_deref().copied(),
                expected,
                "{n}"
            );
        }
    }
}
