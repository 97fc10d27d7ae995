//! The journal of a directory: begun when it is needed first, one thread that writes and syncs it
//! (`spec/journal.md` section 5.3).
//!
//! Everything that waits goes into one sync, whichever chunks it is of; when that is done, the actors
//! hear how far the journal reaches, and acks, promises and beginnings of many chunks go out. Only those
//! that wait for it are woken.

use std::sync::{Arc, Mutex, Weak};

use super::inbox::{Inbox, Input, Progress, lock};
use crate::core::brief_work::BriefWork;
use crate::store::journal::writer::{JournalEvent, JournalWriter};
use crate::store::journal::{JournalLimits, Log};
use crate::store::{Directory, StoreError};

/// One directory's journal, as its chunks' actors see it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) progress: Arc<Progress>,
    /// Of the directory's disk.
    pub(super) brief_work: Mutex<BriefWork>,
    listeners: Arc<Listeners>,
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
