//! The memory that reads of open chunks take: [`FRAMES_MAX`] frames, of a mebibyte at most.
//!
//! A frame has room from before its bytes are read until they are sent, or, if nobody waits for a disk any
//! more, until that has answered. Neither a disk that hangs nor a
//! reader that takes nothing keeps the others out: of one directory at most [`DISK_FRAMES_MAX`] wait for
//! its disk, and who is slow has to go when others wait ([`Room::has_to_go`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sarsen_protocol::id::DirectoryId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::bound::Bound;
use super::inbox::lock;

/// Frames of open chunks that are on their way at a time.
const FRAMES_MAX: u32 = 64;

/// Of these, how many may wait for one directory's disk.
const DISK_FRAMES_MAX: usize = 16;

/// Room for the frames of a chunkserver.
#[derive(Debug)]
pub(super) struct Room {
    frames: Bound,
    disks: Mutex<HashMap<DirectoryId, Arc<Semaphore>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            frames: Bound::new(FRAMES_MAX),
            disks: Mutex::default(),
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
        self.frames.take(1).await
    }

    /// Returns when who has had room for `patience` has to give it back.
    pub(super) async fn has_to_go(&self, patience: Duration) {
        self.frames.has_to_go(patience).await;
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
}
