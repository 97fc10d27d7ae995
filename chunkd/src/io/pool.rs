//! The buffers that bytes of chunks pass through: few, large, page-aligned, and used again.
//!
//! Memory is bounded twice. The process has [`Pool::new`]'s number of buffers and no more; a
//! stream has at most [`STREAM_BUFFERS_MAX`] of them at a time, and waits for one to come back
//! when it wants another. Waiting can't go round in a circle between servers that forward to each
//! other: each stream keeps one buffer for itself from its beginning to its seal ([`Pool::join`]),
//! so it always moves on, and only a stream that begins can be refused. While one waits to begin,
//! those that wait for their own senders are told ([`StreamBuffers::wanted_by_others`]): a sender of
//! a byte a second, or of none, must not keep the others out.
//!
//! Fresh memory is slow at its first touch, so buffers are kept, not freed.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memmap2::MmapMut;
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// Bytes in front of a buffer's payload, of which the frame's header and body take the last.
pub const HEAD_ROOM: usize = 4096;

/// Bytes of payload that a buffer holds: what a frame may carry.
pub const PAYLOAD_ROOM: usize = PAYLOAD_LEN_MAX as usize;

/// Buffers that one stream may have at a time.
pub const STREAM_BUFFERS_MAX: usize = 8;

/// Buffers of a process unless its caller wants others: 96 MiB.
pub const BUFFERS_DEFAULT: usize = 96;

/// All buffers of a process.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Memory that was used before and is free now.
    free: Mutex<Vec<MmapMut>>,
    /// A permit a buffer that may still be handed out.
    room: Arc<Semaphore>,
    /// Streams that wait to begin.
    joining: watch::Sender<usize>,
}

/// One stream's right to buffers.
#[derive(Debug)]
pub struct StreamBuffers {
    pool: Pool,
    /// A permit for the buffer that no other stream can take.
    own: Arc<Semaphore>,
    /// A permit each that the stream may still have at the same time.
    window: Arc<Semaphore>,
    /// The room in the pool that `own` stands for: kept by the stream, and by the buffer that it
    /// was used for, which may outlive the stream in a request that the kernel still has.
    reserved: Arc<OwnedSemaphorePermit>,
}

/// Room for one frame: its head, then its payload at a page's edge. Goes back on drop.
#[derive(Debug)]
pub struct Buffer {
    /// `None` only while being dropped.
    memory: Option<MmapMut>,
    head_len: usize,
    payload_len: usize,
    pool: Pool,
    /// What ends with the frame.
    companion: Option<Box<dyn Any + Send + Sync>>,
    _window: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
    _reserved: Option<Arc<OwnedSemaphorePermit>>,
}

impl Pool {
    /// A pool of at most `buffers_max` buffers; none is made before it is wanted.
    #[must_use]
    pub fn new(buffers_max: usize) -> Self {
        let room = Arc::new(Semaphore::new(buffers_max));
        Self {
            shared: Arc::new(Shared {
                free: Mutex::default(),
                room,
                joining: watch::Sender::new(0),
            }),
        }
    }

    /// Takes a stream in and sets one buffer apart for it; waits while there is none.
    pub async fn join(&self) -> StreamBuffers {
        let reserved = match Arc::clone(&self.shared.room).try_acquire_owned() {
            Ok(reserved) => reserved,
            Err(_) => {
                let _counted = Joining::new(&self.shared.joining);
                acquire(&self.shared.room).await
            }
        };
        StreamBuffers {
            pool: self.clone(),
            own: Arc::new(Semaphore::new(1)),
            window: Arc::new(Semaphore::new(STREAM_BUFFERS_MAX)),
            reserved: Arc::new(reserved),
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<MmapMut>> {
        self.shared
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamBuffers {
    /// The next buffer; waits while the stream, or the process, has as many as it may.
    ///
    /// # Errors
    /// When the system has no memory.
    pub async fn next(&self) -> std::io::Result<Buffer> {
        let window = acquire(&self.window).await;
        let (room, reserved) = tokio::select! {
            biased;
            own = acquire(&self.own) => (own, Some(Arc::clone(&self.reserved))),
            shared = acquire(&self.pool.shared.room) => (shared, None),
        };
        let used_before = self.pool.free().pop();
        let memory = match used_before {
            Some(memory) => memory,
            None => MmapMut::map_anon(HEAD_ROOM + PAYLOAD_ROOM)?,
        };
        Ok(Buffer {
            memory: Some(memory),
            head_len: 0,
            payload_len: 0,
            pool: self.pool.clone(),
            companion: None,
            _window: window,
            _room: room,
            _reserved: reserved,
        })
    }
}

impl StreamBuffers {
    /// Returns when other streams have waited to begin for as long as `patience`.
    pub async fn wanted_by_others(&self, patience: Duration) {
        let mut joining = self.pool.shared.joining.subscribe();
        loop {
            // The sender lives in the pool.
            let _ = joining.wait_for(|&joining| joining > 0).await;
            let nobody = joining.wait_for(|&joining| joining == 0);
            if timeout(patience, nobody).await.is_err() {
                return;
            }
        }
    }
}

/// A stream that waits to begin.
struct Joining<'a>(&'a watch::Sender<usize>);

impl<'a> Joining<'a> {
    fn new(joining: &'a watch::Sender<usize>) -> Self {
        joining.send_modify(|joining| *joining += 1);
        Self(joining)
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|joining| *joining -= 1);
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    permit.expect("no semaphore of a pool is ever closed")
}

impl Buffer {
    /// Puts the head in and sets how long the payload will be.
    ///
    /// # Panics
    /// If either is longer than there is room: frames were compared with their limits before.
    pub fn prepare(&mut self, head: &[u8], payload_len: usize) {
        assert!(head.len() <= HEAD_ROOM && payload_len <= PAYLOAD_ROOM);
        (self.head_len, self.payload_len) = (head.len(), payload_len);
        let begin = HEAD_ROOM - head.len();
        self.memory_mut()[begin..HEAD_ROOM].copy_from_slice(head);
    }

    /// Drops something with the buffer.
    pub fn accompany(&mut self, companion: impl Any + Send + Sync) {
        self.companion = Some(Box::new(companion));
    }

    /// The payload's bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.memory()[HEAD_ROOM..HEAD_ROOM + self.payload_len]
    }

    /// Where the payload is received into.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = HEAD_ROOM + self.payload_len;
        &mut self.memory_mut()[HEAD_ROOM..end]
    }

    /// The whole frame: head and payload.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.memory()[HEAD_ROOM - self.head_len..HEAD_ROOM + self.payload_len]
    }

    fn memory(&self) -> &MmapMut {
        self.memory.as_ref().expect("taken only by drop")
    }

    fn memory_mut(&mut self) -> &mut MmapMut {
        self.memory.as_mut().expect("taken only by drop")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.free().push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn now<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_stream_always_gets_its_own_buffer_and_never_more_than_its_share() {
        let pool = Pool::new(STREAM_BUFFERS_MAX + 1);
        let first = now(pool.join()).expect("room");
        let second = now(pool.join()).expect("room");
        let mut held = Vec::new();
        while let Some(buffer) = now(first.next()) {
            held.push(buffer.expect("memory"));
        }
        assert_eq!(held.len(), STREAM_BUFFERS_MAX);
        assert!(
            now(pool.join()).is_none(),
            "nothing is left for a third stream"
        );
        let own = now(second.next()).expect("its own").expect("memory");
        assert!(now(second.next()).is_none());
        drop(own);
        assert!(now(second.next()).is_some());
        drop(held);
        assert!(now(pool.join()).is_some());
    }

    /// A stream that ends while io_uring still has its buffer gave its room back at once, and so
    /// one buffer more than the pool's number could be made for each stream that was cut off.
    #[test]
    fn a_buffer_that_outlives_its_stream_still_takes_the_room() {
        let pool = Pool::new(1);
        let stream = now(pool.join()).expect("room");
        let buffer = now(stream.next()).expect("its own").expect("memory");
        drop(stream);
        assert!(now(pool.join()).is_none());
        drop(buffer);
        assert!(now(pool.join()).is_some());
    }

    #[test]
    fn head_and_payload_lie_together_and_the_payload_at_a_page() {
        let streams = now(Pool::new(2).join()).expect("room");
        let mut buffer = now(streams.next()).expect("room").expect("memory");
        buffer.prepare(b"head", 3);
        buffer.payload_mut().copy_from_slice(b"pay");
        assert_eq!(buffer.frame(), b"headpay");
        assert_eq!(buffer.payload().as_ptr().align_offset(4096), 0);
    }
}
