//! The journal of a directory: begun when it is needed first, one thread that writes and syncs it
//! (`spec/journal.md` section 5.3).
//!
//! Everything that waits goes into one sync, whichever chunks it is of; when that is done, the actors
//! hear how far the journal reaches, and acks, promises and beginnings of many chunks go out. Only those
//! that wait for it are woken.

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, spawn_local};

use super::inbox::{Inbox, Input, Progress, lock};
use crate::core::brief_work::BriefWork;
use crate::store::journal::writer::{JournalEvent, JournalWriter};
use crate::store::journal::{JournalLimits, Log};
use crate::store::{Directory, StoreError};

/// Lanes and flushes of open chunks that wait for one directory's disk at a time. A runtime has 512
/// blocking threads, so a disk that hangs leaves the others theirs.
const AT_DISK_MAX: usize = 128;

/// One directory's journal, as its chunks' actors see it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) progress: Arc<Progress>,
    /// Of the directory's disk.
    pub(super) brief_work: Mutex<BriefWork>,
    at_disk: AtDisk,
    listeners: Arc<Listeners>,
}

/// Turns at a directory's disk.
#[derive(Debug)]
struct AtDisk(Arc<Semaphore>);

impl Default for AtDisk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_DISK_MAX)))
    }
}

/// The actors of a directory's chunks.
#[derive(Debug, Default)]
struct Listeners(Mutex<Vec<Weak<Inbox>>>);

impl Journal {
    /// An actor that is to hear of the journal.
    pub(super) fn listen(&self, inbox: &Arc<Inbox>) {
        let mut listeners = lock(&self.listeners.0);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(inbox));
    }

    /// Has work that waits for the disk done on a thread that serves nobody, when there is a turn at it.
    pub(super) fn at_disk(&self, work: impl FnOnce() + Send + 'static) {
        let turns = &self.at_disk.0;
        let begin = |turn| {
            spawn_blocking(move || {
                let _turn = turn;
                work();
            });
        };
        match Arc::clone(turns).try_acquire_owned() {
            Ok(turn) => begin(Some(turn)),
            Err(_) => {
                let turns = Arc::clone(turns);
                spawn_local(async move { begin(turns.acquire_owned().await.ok()) });
            }
        }
    }

    /// Begins the journal, if that was not done in this start. Blocks.
    ///
    /// # Errors
    /// Those of [`Directory::start_journal`].
    pub(super) fn begin(&self, directory: &Arc<Directory>) -> Result<(), StoreError> {
        let (progress, listeners) = (Arc::clone(&self.progress), Arc::clone(&self.listeners));
        // The directory owns the journal's thread, which must not be the one to let go of it.
        let weak = Arc::downgrade(directory);
        let notify = move |event| match event {
            JournalEvent::Stable(sequence) => {
                progress.raise(sequence);
                listeners.each(|inbox| inbox.journal_moved());
            }
            JournalEvent::Failed(error) => {
                let (weak, listeners) = (Weak::clone(&weak), Arc::clone(&listeners));
                let telling = std::thread::Builder::new().name("journal-failed".to_owned());
                let tell = move || {
                    if let Some(directory) = weak.upgrade() {
                        let error = directory.journal_failed(error);
                        let dir = directory.root().display();
                        tracing::error!(%dir, %error, "THE JOURNAL OF A DIRECTORY HAS FAILED");
                    }
                    listeners.each(|inbox| drop(inbox.push(Input::JournalFailed)));
                };
                // Without a thread the next entry that is offered tells it.
                let _ = telling.spawn(tell);
            }
        };
        directory.start_journal(JournalLimits::default(), |appender| {
            let writer = JournalWriter::start(appender, notify)?;
            Ok(Arc::new(writer) as Arc<dyn Log>)
        })
    }
}

impl Listeners {
    fn each(&self, tell: impl Fn(&Inbox)) {
        for listener in lock(&self.0).iter() {
            if let Some(inbox) = listener.upgrade() {
                tell(&inbox);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;

    /// Each chunk of a disk that hung kept a blocking thread or two, until there was none for those of the
    /// others.
    #[test]
    fn a_disk_that_hangs_leaves_threads_to_the_others() {
        let [hanging, other] = [Journal::default(), Journal::default()];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(AT_DISK_MAX + 1)
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (hangs, answers) = std::sync::mpsc::channel::<()>();
            let answers = Arc::new(Mutex::new(answers));
            let (done, mut all_done) = tokio::sync::mpsc::unbounded_channel();
            for _ in 0..2 * AT_DISK_MAX {
                let (answers, done) = (Arc::clone(&answers), done.clone());
                hanging.at_disk(move || {
                    let _ = lock(&answers).recv();
                    let _ = done.send(());
                });
            }
            let (told, hears) = oneshot::channel();
            other.at_disk(move || {
                let _ = told.send(());
            });
            let heard = timeout(Duration::from_secs(30), hears).await;
            assert_eq!(heard, Ok(Ok(())));
            drop(hangs);
            for _ in 0..2 * AT_DISK_MAX {
                all_done.recv().await.expect("each has its turn");
            }
        });
    }
}
