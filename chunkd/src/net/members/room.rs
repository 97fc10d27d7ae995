//! The memory that reads of open chunks take: [`FRAMES_MAX`] frames, of a mebibyte at most.
//!
//! A frame has room from before its bytes are read until they are sent, or, if nobody waits for a disk any
//! more, until that has answered. Neither a disk that hangs nor a
//! reader that takes nothing keeps the others out: of one directory at most [`DISK_FRAMES_MAX`] wait for
//! its disk, and who is slow has to go when others wait ([`Room::wanted`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sarsen_protocol::id::DirectoryId;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::inbox::lock;

/// Frames of open chunks that are on their way at a time.
const FRAMES_MAX: usize = 64;

/// Of these, how many may wait for one directory's disk.
const DISK_FRAMES_MAX: usize = 16;

/// Room for the frames of a chunkserver.
#[derive(Debug)]
pub(super) struct Room {
    frames: Arc<Semaphore>,
    disks: Mutex<HashMap<DirectoryId, Arc<Semaphore>>>,
    /// How many wait for room, and that one came.
    waiting: AtomicUsize,
    came: Notify,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            frames: Arc::new(Semaphore::new(FRAMES_MAX)),
            disks: Mutex::default(),
            waiting: AtomicUsize::new(0),
            came: Notify::new(),
        }
    }
}

impl Room {
    /// A turn at a directory's disk. None is never given: it is not closed.
    pub(super) async fn at_disk(&self, directory: DirectoryId) -> Option<OwnedSemaphorePermit> {
        let disk = Arc::clone(
            lock(&self.disks)
                .entry(directory)
                .or_insert_with(|| Arc::new(Semaphore::new(DISK_FRAMES_MAX))),
        );
        disk.acquire_owned().await.ok()
    }

    /// Room for a frame. None is never given, as of [`Self::at_disk`].
    pub(super) async fn for_frame(&self) -> Option<OwnedSemaphorePermit> {
        let frames = Arc::clone(&self.frames);
        if let Ok(room) = Arc::clone(&frames).try_acquire_owned() {
            return Some(room);
        }
        let _waiting = Waiting::new(self);
        frames.acquire_owned().await.ok()
    }

    /// Returns when somebody waits for room.
    pub(super) async fn wanted(&self) {
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
struct Waiting<'a>(&'a Room);

impl<'a> Waiting<'a> {
    fn new(room: &'a Room) -> Self {
        room.waiting.fetch_add(1, Ordering::SeqCst);
        room.came.notify_waiters();
        Self(room)
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
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// The room was one number for the process, held over a read that hangs: one disk stopped the reads
    /// of all open chunks.
    #[test]
    fn a_disk_that_hangs_leaves_room_for_the_others() {
        let room = Room::default();
        let (hangs, other) = (DirectoryId([1; 16]), DirectoryId([2; 16]));
        let mut held = Vec::new();
        while let Some(turn) = poll(pin!(room.at_disk(hangs))) {
            held.push((turn, poll(pin!(room.for_frame())).expect("room")));
        }
        assert_eq!(held.len(), DISK_FRAMES_MAX);
        assert!(poll(pin!(room.at_disk(other))).is_some());
        assert!(poll(pin!(room.for_frame())).is_some());
    }

    /// And over a send that a slow reader holds up, which was left only after half a minute.
    #[test]
    fn who_holds_room_hears_of_who_waits_for_some() {
        let room = Room::default();
        let mut held: Vec<_> = (0..FRAMES_MAX)
            .map(|_| poll(pin!(room.for_frame())).expect("room"))
            .collect();
        let mut wanted = pin!(room.wanted());
        assert!(poll(wanted.as_mut()).is_none());
        {
            let mut waits = pin!(room.for_frame());
            assert!(poll(waits.as_mut()).is_none());
            assert!(poll(wanted.as_mut()).is_some());
            held.pop();
            assert!(poll(waits.as_mut()).is_some());
        }
        assert!(poll(pin!(room.wanted())).is_none(), "nobody waits any more");
    }
}
