//! Writes to local files: what [`crate::core::local_write`] decides, on the client's clock and
//! threads.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::fstatfs;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

use crate::clock::Clock;
use crate::core::local_write::{LocalWrites, Place};

/// What filesystems are called (`statfs(2)`) that keep what is written in this machine's memory and
/// on its disks: tmpfs, ramfs, ext2 to ext4, XFS, Btrfs, F2FS, overlayfs. Another one may ask another
/// machine, or a program, and wait for it for ever.
const IN_THIS_MACHINE: [u64; 7] = [
    0x0102_1994,
    0x8584_58f6,
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x794c_7630,
];

/// The writes of one client. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    decided: Arc<Mutex<LocalWrites>>,
    clock: Clock,
}

impl Writes {
    /// For files that are written on the runtime that this is called on, if any.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            decided: Arc::new(Mutex::new(LocalWrites::new(threads_to_spare()))),
            clock,
        }
    }

    /// Whether writes to a file wait for nothing but this machine.
    pub(crate) fn are_local(file: &File) -> bool {
        fstatfs(file).is_ok_and(|it| {
            u64::try_from(it.f_type).is_ok_and(|kind| IN_THIS_MACHINE.contains(&kind))
        })
    }

    /// Does a write, on this thread or on one that may wait; of a file of which writes
    /// [`Self::are_local`] or not.
    pub(crate) async fn run(
        &self,
        are_local: bool,
        write: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<io::Result<()>, JoinError> {
        let began = self.clock.now();
        if are_local && self.begin(began) == Place::Here {
            let written = write();
            self.end(Place::Here, began);
            return Ok(written);
        }
        let writes = self.clone();
        spawn_blocking(move || {
            let began = writes.clock.now();
            let written = write();
            writes.end(Place::Elsewhere, began);
            written
        })
        .await
    }

    fn begin(&self, now: Duration) -> Place {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.begin(now)
    }

    fn end(&self, place: Place, began: Duration) {
        let now = self.clock.now();
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.end(place, began, now);
    }
}

/// The runtime's threads but one; none of a runtime that has a single one.
fn threads_to_spare() -> usize {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            runtime.metrics().num_workers().saturating_sub(1)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Writes on the thread that calls, or on one that may wait; which.
    async fn thread_of(writes: &Writes, are_local: bool) -> thread::ThreadId {
        let (told, thread) = mpsc::channel();
        let write = move || {
            told.send(thread::current().id()).unwrap();
            Ok(())
        };
        writes.run(are_local, write).await.unwrap().unwrap();
        thread.recv().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_takes_no_time_is_written_where_it_came() {
        let writes = Writes::new(Clock::start());
        let task = async move {
            let here = thread::current().id();
            // A thread that had to wait for its processor writes elsewhere for a while.
            while thread_of(&writes, true).await != here {}
            assert_ne!(
                thread_of(&writes, false).await,
                here,
                "another machine's file"
            );
        };
        tokio::spawn(task).await.unwrap();
    }

    #[tokio::test]
    async fn a_runtime_with_one_thread_keeps_it() {
        let writes = Writes::new(Clock::start());
        assert_ne!(thread_of(&writes, true).await, thread::current().id());
    }

    /// All of the runtime's threads could wait for a file that hangs, and nothing else went on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_hangs_leaves_a_thread_for_the_others() {
        let writes = Writes::new(Clock::start());
        let mut hanging = Vec::new();
        let mut releases = Vec::new();
        for _ in 0..4 {
            let (release, released) = mpsc::channel::<()>();
            let (began, begins) = mpsc::channel();
            let writes = writes.clone();
            hanging.push(tokio::spawn(async move {
                let write = move || {
                    began.send(()).unwrap();
                    let _ = released.recv();
                    Ok(())
                };
                writes.run(true, write).await.unwrap().unwrap();
            }));
            releases.push(release);
            // This test's own thread is none of the runtime's.
            begins.recv_timeout(PATIENCE).expect("a thread is free");
        }
        let (told, tells) = mpsc::channel();
        tokio::spawn(async move { told.send(()).unwrap() });
        tells.recv_timeout(PATIENCE).expect("a thread is free");
        drop(releases);
        for hangs in hanging {
            hangs.await.unwrap();
        }
    }

    #[test]
    fn what_a_program_makes_up_is_not_local() {
        let file = tempfile::tempfile().unwrap();
        assert!(
            Writes::are_local(&file),
            "a temporary folder of another kind"
        );
        assert!(!Writes::are_local(&File::open("/proc/version").unwrap()));
    }
}
