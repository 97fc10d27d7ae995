//! What peers may have kept of one kind, all of them together.
//!
//! Who got room has it for as long as its peer is slow, as long as there is enough: where others wait for some
//! it has to go after a while ([`Bound::has_to_go`]). So who waits does not wait for a peer without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Bytes, or frames.
#[derive(Debug)]
pub(super) struct Bound {
    most: u32,
    room: Arc<Semaphore>,
    /// How many wait for room, and that one came.
    waiting: AtomicUsize,
    came: Notify,
}

/// What of the memory of one of the data plane's threads is bounded so, in bytes. Each has a bound of its own: a
/// thread that hangs on a disk gives nothing back, and does not use what it is given.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Answers to cut reads, from before they are made until they are sent.
    pub(super) cut_answers: Bound,
    /// Clients' frames of mutations that are received in parts, until their chunk takes them. What comes
    /// from a member waits for nobody's: the chain behind it would.
    pub(super) client_frames: Bound,
}

impl Bounds {
    pub(super) fn new(bytes_max: u32) -> Self {
        Self {
            cut_answers: Bound::new(bytes_max),
            client_frames: Bound::new(bytes_max),
        }
    }
}

impl Bound {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            room: Arc::new(Semaphore::new(most as usize)),
            waiting: AtomicUsize::new(0),
            came: Notify::new(),
        }
    }

    /// Room for so much, if there is some.
    pub(super) fn try_take(&self, amount: u32) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room);
        room.try_acquire_many_owned(amount.min(self.most)).ok()
    }

    /// Room for so much; for who wants more than there is at all, all of it. None is never given: it is not
    /// closed.
    pub(super) async fn take(&self, amount: u32) -> Option<OwnedSemaphorePermit> {
        if let Some(taken) = self.try_take(amount) {
            return Some(taken);
        }
        let _waiting = Waiting::new(self);
        let room = Arc::clone(&self.room);
        room.acquire_many_owned(amount.min(self.most)).await.ok()
    }

    /// Returns when who has had room for `patience` has to give it back, because others wait for some.
    pub(super) async fn has_to_go(&self, patience: Duration) {
        sleep(patience).await;
        self.wanted().await;
    }

    /// Returns when somebody waits for room.
    async fn wanted(&self) {
        loop {
            // Made first: who comes behind the look wakes it.
            let came = self.came.notified();
            if self.waiting.load(Ordering::SeqCst) > 0 {
                return;
            }
            came.await;
        }
    }
}

/// One that waits, also if it is given up on.
struct Waiting<'a>(&'a Bound);

impl<'a> Waiting<'a> {
    fn new(bound: &'a Bound) -> Self {
        bound.waiting.fetch_add(1, Ordering::SeqCst);
        bound.came.notify_waiters();
        Self(bound)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Room for a frame was held over a send that a slow reader held up, which was left only after half a
    /// minute.
    #[test]
    fn who_holds_room_hears_of_who_waits_for_some() {
        let bound = Bound::new(10);
        let some = poll(pin!(bound.take(3))).expect("room");
        let all_else = poll(pin!(bound.take(7))).expect("room");
        let mut wanted = pin!(bound.wanted());
        assert!(poll(wanted.as_mut()).is_none());
        {
            let mut waits = pin!(bound.take(4));
            assert!(poll(waits.as_mut()).is_none());
            assert!(poll(wanted.as_mut()).is_some());
            drop(some);
            assert!(poll(waits.as_mut()).is_none(), "it is too little");
            drop(all_else);
            assert!(poll(waits.as_mut()).is_some());
        }
        assert!(
            poll(pin!(bound.wanted())).is_none(),
            "nobody waits any more"
        );
        assert!(poll(pin!(bound.take(11))).is_some(), "nothing else has any");
    }
}
