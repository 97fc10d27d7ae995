//! Whole trees, and many files at a time.
//!
//! A *walk* finds files, lazily: of a tree only the folders on the way to where it is are in
//! memory, and a few pages of names. What it finds goes through a short queue to a *pool*, which
//! has up to [`TreeOptions::files_max`] transfers under way: they share the client's session, its
//! connections and its streams. One file that fails is told, and the rest goes on; what shows that
//! the cluster serves nobody ends the whole.
//!
//! What is found locally is looked at and never followed: a symbolic link is no way out of the
//! tree, neither up nor down.

mod get;
mod local;
mod pool;
mod put;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use get::get_tree;
pub(crate) use local::LocalType;
pub(crate) use put::put_tree;

use tokio::sync::Semaphore;

use crate::error::Error;
use crate::get::{GetOptions, GetReport};
use crate::progress::Progress;
use crate::put::{PutOptions, PutReport};

/// Files on their way at a time, unless asked otherwise. The more there are, the more of them share
/// each sync of a disk; a few clients at a time still find a buffer each in every chunkserver.
pub const FILES_DEFAULT: usize = 32;

/// A local file or folder, and the path in the cluster of its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutItem {
    /// What is to be copied.
    pub source: PathBuf,
    /// What the copy is to be called.
    pub target: String,
}

/// A file or folder in the cluster, and the local path of its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetItem {
    /// What is to be copied.
    pub source: String,
    /// What the copy is to be called.
    pub target: PathBuf,
}

/// How many files are to be transferred.
#[derive(Clone)]
#[non_exhaustive]
pub struct TreeOptions<T> {
    /// Files on their way at a time; so many streams, and no fewer than one large file takes, are
    /// shared by all of them.
    pub files_max: usize,
    /// Folders are taken with all that is in them, and symbolic links and special files are
    /// skipped. Else an item that is a folder fails, and what it is else is found out by opening
    /// it.
    pub folders: bool,
    /// How each file is transferred; but its `progress` is told of the whole.
    pub each: T,
}

impl<T: Default> Default for TreeOptions<T> {
    fn default() -> Self {
        Self {
            files_max: FILES_DEFAULT,
            folders: true,
            each: T::default(),
        }
    }
}

/// What became of a file or folder; told while the others go on.
#[derive(Debug)]
pub enum TreeEvent<R> {
    /// A file was transferred.
    Done {
        /// Which of the items it belongs to.
        item: usize,
        /// As of a file by itself.
        report: R,
    },
    /// A file, or a folder with all below it, was not.
    Failed {
        /// Which of the items it belongs to.
        item: usize,
        /// The path that the error is about: in the cluster, or a local one that was never tried.
        path: String,
        /// Why.
        error: Error,
    },
}

/// What a transfer of many files came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeSums {
    /// Files that were transferred.
    pub files: u64,
    /// Folders that are there now.
    pub folders: u64,
    /// Files and folders that failed, skipped ones not counted.
    pub failed: u64,
    /// Symbolic links and special files.
    pub skipped: u64,
    /// Bytes of the files that were transferred.
    pub bytes: u64,
    /// And their chunks.
    pub chunks: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// What is added up of a file.
trait Report: Send + 'static {
    fn bytes(&self) -> u64;
    fn chunks(&self) -> u64;
}

impl Report for PutReport {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn chunks(&self) -> u64 {
        self.node.chunks.into()
    }
}

impl Report for GetReport {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn chunks(&self) -> u64 {
        self.node.chunks.into()
    }
}

/// The options of one transfer, as far as what it shares with the others goes.
pub(crate) trait Each: Clone + Send + Sync + 'static {
    fn progress(&mut self) -> &mut Option<Arc<dyn Progress>>;
    fn streams(&mut self) -> &mut Option<Arc<Semaphore>>;
    /// Streams that have their turn in time, if there is a limit.
    fn turns(&self) -> usize;
}

impl Each for PutOptions {
    fn progress(&mut self) -> &mut Option<Arc<dyn Progress>> {
        &mut self.progress
    }

    fn streams(&mut self) -> &mut Option<Arc<Semaphore>> {
        &mut self.streams
    }

    fn turns(&self) -> usize {
        let limit = self.limit.as_ref();
        limit.map_or(usize::MAX, |it| it.limit().write_streams_max())
    }
}

impl Each for GetOptions {
    fn progress(&mut self) -> &mut Option<Arc<dyn Progress>> {
        &mut self.progress
    }

    fn streams(&mut self) -> &mut Option<Arc<Semaphore>> {
        &mut self.streams
    }

    fn turns(&self) -> usize {
        let limit = self.limit.as_ref();
        limit.map_or(usize::MAX, |it| it.limit().read_streams_max())
    }
}

/// The progress of a whole, to which each file adds its part.
struct Whole {
    told: Arc<dyn Progress>,
    total: AtomicU64,
    done: AtomicU64,
}

impl Whole {
    /// Takes the place of the progress that the caller gave.
    fn of(told: Option<Arc<dyn Progress>>) -> Option<Arc<Self>> {
        told.map(|told| {
            Arc::new(Self {
                told,
                total: AtomicU64::new(0),
                done: AtomicU64::new(0),
            })
        })
    }
}

/// One file's part of it.
struct Share {
    whole: Arc<Whole>,
    total: AtomicU64,
    done: AtomicU64,
}

impl Share {
    fn of(whole: &Arc<Whole>) -> Arc<dyn Progress> {
        Arc::new(Self {
            whole: whole.clone(),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
        })
    }
}

/// Moves a part to `now`, and the sum with it; what the sum is then.
fn add(sum: &AtomicU64, part: &AtomicU64, now: u64) -> u64 {
    let before = part.swap(now, Ordering::Relaxed);
    // Wraps where a part goes back, and comes out right.
    let change = now.wrapping_sub(before);
    sum.fetch_add(change, Ordering::Relaxed)
        .wrapping_add(change)
}

impl Progress for Share {
    fn total(&self, bytes: u64) {
        let total = add(&self.whole.total, &self.total, bytes);
        self.whole.told.total(total);
    }

    fn done(&self, bytes: u64) {
        let done = add(&self.whole.done, &self.done, bytes);
        self.whole.told.done(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Last {
        total: AtomicU64,
        done: AtomicU64,
    }

    impl Progress for Last {
        fn total(&self, bytes: u64) {
            self.total.store(bytes, Ordering::Relaxed);
        }

        fn done(&self, bytes: u64) {
            self.done.store(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn files_add_up_also_when_one_goes_back() {
        let last = Arc::new(Last::default());
        let whole = Whole::of(Some(last.clone())).expect("one");
        let (first, second) = (Share::of(&whole), Share::of(&whole));
        first.total(10);
        second.total(20);
        first.done(10);
        second.done(15);
        second.done(5);
        assert_eq!(last.total.load(Ordering::Relaxed), 30);
        assert_eq!(last.done.load(Ordering::Relaxed), 15);
    }
}
