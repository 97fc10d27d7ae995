//! Buffers of one payload each, used again and again.
//!
//! Memory that a process touches for the first time costs more than copying into it does, so a
//! buffer goes back to its pool when it is dropped. The pool keeps no more than were in use at a
//! time.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

use sarsen_protocol::size::PAYLOAD_LEN_MAX;

/// Bytes of each buffer.
pub(crate) const BUFFER_LEN: usize = PAYLOAD_LEN_MAX as usize;

/// Where buffers come from and go to. Clones are the same pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// An empty buffer; its bytes are whatever its last user left.
    pub(crate) fn take(&self) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        Buffer {
            bytes: free.pop().unwrap_or_else(|| vec![0; BUFFER_LEN]),
            used: 0..0,
            pool: self.clone(),
        }
    }
}

/// Up to [`BUFFER_LEN`] bytes, of which a range is in use.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    used: Range<usize>,
    pool: Buffers,
}

impl Buffer {
    /// The whole room.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Says which bytes of the room are in use.
    ///
    /// # Panics
    /// Later, if the range is not within the room, which is our bug.
    pub(crate) fn set_used(&mut self, used: Range<usize>) {
        self.used = used;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.used.clone()]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let pool = Buffers::default();
        let mut first = pool.take();
        first.room()[..3].copy_from_slice(b"abc");
        first.set_used(1..3);
        assert_eq!(&*first, b"bc");
        drop(first);
        let again = pool.take();
        assert!(again.is_empty());
        assert!(pool.free.lock().unwrap().is_empty());
    }
}
