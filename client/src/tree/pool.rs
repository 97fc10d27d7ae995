//! The pool: so many transfers at a time, of what a walk finds.

use std::sync::Arc;

use sarsen_protocol::status::Status;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::{Each, Report, Share, TreeEvent, TreeOptions, TreeSums, Whole};
use crate::client::Shared;
use crate::error::Error;
use crate::put::STREAMS_DEFAULT;

/// What a walk may find before the pool has taken it.
const FOUND_AHEAD: usize = 64;

/// What a walk has found.
pub(super) enum Found<J> {
    /// A file to be transferred.
    File {
        item: usize,
        /// What it is called when it fails.
        path: String,
        job: J,
    },
    /// A folder is there now.
    Folder,
    /// Something can't be transferred.
    Failed {
        item: usize,
        path: String,
        error: Error,
    },
}

/// Where a walk puts what it finds.
#[derive(Debug)]
pub(super) struct Finds<J> {
    sender: mpsc::Sender<Found<J>>,
}

/// The pool takes nothing more.
#[derive(Debug)]
pub(super) struct Stopped;

impl<J> Finds<J> {
    pub(super) async fn put(&self, found: Found<J>) -> Result<(), Stopped> {
        self.sender.send(found).await.map_err(|_| Stopped)
    }

    pub(super) async fn fail(
        &self,
        item: usize,
        path: impl Into<String>,
        error: impl Into<Error>,
    ) -> Result<(), Stopped> {
        let (path, error) = (path.into(), error.into());
        self.put(Found::Failed { item, path, error }).await
    }
}

/// How a transfer of many files is carried out.
pub(super) struct Pool<'a, R, O> {
    shared: Arc<Shared>,
    files_max: usize,
    each: O,
    on_event: &'a mut (dyn FnMut(TreeEvent<R>) + Send),
}

/// Ends a walk that nobody waits for.
struct Walking(AbortHandle);

impl Drop for Walking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How one transfer ended.
struct Ended<R> {
    item: usize,
    path: String,
    result: Result<R, Error>,
}

impl<'a, R: Report, O: Each> Pool<'a, R, O> {
    /// A pool whose transfers share their streams: so many as there are files on their way, and no
    /// fewer than one large file takes, unless a limit has too few turns for them.
    pub(super) fn new(
        shared: &Arc<Shared>,
        options: TreeOptions<O>,
        on_event: &'a mut (dyn FnMut(TreeEvent<R>) + Send),
    ) -> Self {
        let TreeOptions {
            files_max,
            mut each,
            folders: _,
        } = options;
        let streams = files_max.max(STREAMS_DEFAULT).min(each.turns());
        *each.streams() = Some(Arc::new(Semaphore::new(streams)));
        Self {
            shared: shared.clone(),
            files_max,
            each,
            on_event,
        }
    }

    /// Runs `walk` to its end and `transfer` for each file that it finds.
    pub(super) async fn run<J, W, F>(
        mut self,
        walk: impl FnOnce(Finds<J>) -> W,
        transfer: impl Fn(Arc<Shared>, J, O) -> F,
    ) -> TreeSums
    where
        J: Send + 'static,
        W: Future<Output = Result<(), Stopped>> + Send + 'static,
        F: Future<Output = Result<R, Error>> + Send + 'static,
    {
        let began = self.shared.clock.now();
        let whole = Whole::of(self.each.progress().take());
        let (sender, mut queue) = mpsc::channel(FOUND_AHEAD);
        let walking = tokio::spawn(walk(Finds { sender }));
        let _walking = Walking(walking.abort_handle());
        let mut sums = TreeSums::default();
        let mut tasks: JoinSet<Ended<R>> = JoinSet::new();
        let mut open = true;
        loop {
            tokio::select! {
                found = queue.recv(), if open && tasks.len() < self.files_max.max(1) => match found {
                    None => open = false,
                    Some(Found::Folder) => sums.folders += 1,
                    Some(Found::Failed { item, path, error }) => {
                        open &= !self.fail(&mut sums, item, path, error);
                    }
                    Some(Found::File { item, path, job }) => {
                        let mut each = self.each.clone();
                        *each.progress() = whole.as_ref().map(Share::of);
                        let transferring = transfer(self.shared.clone(), job, each);
                        tasks.spawn(async move {
                            let result = transferring.await;
                            Ended { item, path, result }
                        });
                    }
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok(Ended { item, result: Ok(report), .. }) => {
                        sums.files += 1;
                        sums.bytes += report.bytes();
                        sums.chunks += report.chunks();
                        if let Some(whole) = &whole {
                            whole.told.files(sums.files);
                        }
                        (self.on_event)(TreeEvent::Done { item, report });
                    }
                    Ok(Ended { item, path, result: Err(error) }) => {
                        open &= !self.fail(&mut sums, item, path, error);
                    }
                    Err(error) => open &= !self.fail(&mut sums, 0, String::new(), error.into()),
                },
                else => break,
            }
            if !open {
                queue.close();
            }
        }
        sums.elapsed = self.shared.clock.now().saturating_sub(began);
        sums
    }

    /// Tells what failed; whether nothing else is worth a try.
    fn fail(&mut self, sums: &mut TreeSums, item: usize, path: String, error: Error) -> bool {
        match &error {
            Error::Skipped { .. } => sums.skipped += 1,
            _ => sums.failed += 1,
        }
        let ends_all = serves_nobody(&error);
        (self.on_event)(TreeEvent::Failed { item, path, error });
        ends_all
    }
}

/// Whether an error says that the cluster serves nobody, as far as this client can tell: others
/// would only wait for the same as long as this one did.
const fn serves_nobody(error: &Error) -> bool {
    match error {
        Error::NoMasterNamed
        | Error::MasterAddress { .. }
        | Error::Key(_)
        | Error::Hello(_)
        | Error::Connect(_)
        | Error::NoMaster { .. }
        | Error::NotNow { .. } => true,
        Error::Refused { status, .. } => matches!(status, Status::ReadOnly),
        _ => false,
    }
}
