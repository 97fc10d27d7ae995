//! Questions whose answer takes a walk over the whole namespace, for guests of the HTTP port.
//!
//! The master's thread does nothing else during such a walk, and nobody knows who the guests are. So of
//! each kind one is asked at a time, and all guests together take a small part of the thread: the next
//! begins only a multiple of the time later that the last one took. How full the cluster is, which every
//! scrape asks, is kept meanwhile and given to whoever asks.
//!
//! A question that was asked is worked on whether or not its guest is still there, so it is asked by a
//! task of its own: guests that leave and come again would otherwise have as many under way as they like.
//!
//! Who holds the cluster's key asks over a control connection, and by none of this.

use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{Capacity, CapacityReply, ErrorBody, Fsck, FsckFinding};
use sarsen_protocol::size::PAGE_LEN_MAX;
use sarsen_protocol::status::Status;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::{Instant, sleep};

use crate::inputs::Questions;

/// How many times as long as the last walk it is until the next one.
const REST: u32 = 9;

/// How long an answer is kept at least.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// Findings, or names, that are asked of the master's thread at a time.
pub(crate) const PAGE_LEN: u32 = 10_000;
const _: () = assert!(PAGE_LEN as usize == PAGE_LEN_MAX);

/// Pages of one check: they are in memory at once.
const PAGES_MAX: usize = 10;

/// What is wrong in a part of the namespace.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) files: u64,
    pub(crate) chunks: u64,
    pub(crate) findings: Vec<FsckFinding>,
    /// There are others, which were not asked for.
    pub(crate) more: bool,
}

/// An answer, and until when it is given out.
#[derive(Debug)]
struct Kept {
    capacity: CapacityReply,
    until: Instant,
}

/// Asks such questions; clones share their turns and what is kept.
#[derive(Clone, Debug)]
pub(crate) struct Walks {
    questions: Questions,
    kept: Arc<Mutex<Option<Kept>>>,
    kept_for: Duration,
    checks: Arc<Semaphore>,
}

type Answer<T> = Result<T, (Status, ErrorBody)>;

impl Walks {
    /// Walks that are asked for by `questions`.
    pub(crate) fn new(questions: Questions) -> Self {
        Self {
            questions,
            kept: Arc::default(),
            kept_for: KEPT_FOR,
            checks: Arc::new(Semaphore::new(1)),
        }
    }

    /// How full the cluster is, or was a little while ago.
    pub(crate) async fn capacity(&self) -> Answer<CapacityReply> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.capacity);
        }
        let (questions, kept_for) = (self.questions.clone(), self.kept_for);
        let asked = tokio::spawn(async move {
            let began = Instant::now();
            let capacity = questions.ask(Capacity).await?;
            let rest = began.elapsed().saturating_mul(REST);
            *kept = Some(Kept {
                capacity,
                until: Instant::now() + rest.max(kept_for),
            });
            Ok(capacity)
        });
        asked.await.unwrap_or_else(|_| Err(ending()))
    }

    /// What is wrong with `path` and below it, when it is this guest's turn.
    pub(crate) async fn check(&self, path: String) -> Answer<Checked> {
        let turn = Arc::clone(&self.checks).acquire_owned().await;
        let turn = turn.map_err(|_| ending())?;
        let questions = self.questions.clone();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let began = Instant::now();
            let checked = check(&questions, path).await;
            let rest = began.elapsed().saturating_mul(REST);
            // The guest may have left.
            let _ = answer.send(checked);
            sleep(rest).await;
            drop(turn);
        });
        answered.await.unwrap_or_else(|_| Err(ending()))
    }
}

fn ending() -> (Status, ErrorBody) {
    (Status::ShuttingDown, ErrorBody::new("the master is ending"))
}

async fn check(questions: &Questions, path: String) -> Answer<Checked> {
    let mut page = Fsck {
        path,
        after: ChunkHandle::NONE,
        limit: PAGE_LEN,
    };
    let mut checked = Checked::default();
    for _ in 0..PAGES_MAX {
        let reply = questions.ask(page.clone()).await?;
        // The first page alone tells what is looked at.
        checked.files = checked.files.max(reply.files);
        checked.chunks = checked.chunks.max(reply.chunks);
        checked.findings.extend(reply.findings);
        checked.more = reply.more;
        if !reply.more {
            break;
        }
        page.after = reply.next;
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::ServerId;
    use sarsen_protocol::message::{AnyMessage, Finding, FsckReply};
    use tokio::sync::mpsc::Receiver;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::inputs::{self, Input};

    fn walks() -> (Walks, Receiver<Input>) {
        let (inputs, taken) = inputs::channel();
        let walks = Walks {
            kept_for: Duration::from_hours(1),
            ..Walks::new(Questions(inputs))
        };
        (walks, taken)
    }

    async fn next(taken: &mut Receiver<Input>) -> (AnyMessage, oneshot::Sender<inputs::Answer>) {
        match taken.recv().await {
            Some(Input::Question { message, answer }) => (message, answer),
            other => panic!("{other:?}"),
        }
    }

    /// Lets the tasks of this thread run until they wait.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    fn capacity() -> CapacityReply {
        CapacityReply {
            total: 4,
            free: 3,
            used: 2,
            trash: 1,
        }
    }

    /// Each scrape of `/metrics` and each look at the status page had the master's thread walk over all
    /// names and chunks, however many came, and from whomever.
    #[tokio::test]
    async fn guests_share_one_answer_also_when_who_asked_has_left() {
        let (walks, mut taken) = walks();
        let guest = |walks: &Walks| -> JoinHandle<_> {
            let walks = walks.clone();
            tokio::spawn(async move { walks.capacity().await })
        };
        let first = guest(&walks);
        let (message, answer) = next(&mut taken).await;
        assert_eq!(message, AnyMessage::Capacity(Capacity));
        first.abort();
        let others = [guest(&walks), guest(&walks)];
        settle().await;
        assert!(taken.try_recv().is_err(), "one question under way");
        answer.send(Ok(capacity().into())).unwrap();
        settle().await;
        for other in others {
            assert!(other.is_finished(), "it has no question of its own");
            assert_eq!(other.await.unwrap(), Ok(capacity()));
        }
        assert_eq!(walks.capacity().await, Ok(capacity()));
        assert!(taken.try_recv().is_err(), "it is kept");
    }

    /// A check over HTTP asked for page after page as long as there were findings, held all of them, and any
    /// number of guests did so at once.
    #[tokio::test]
    async fn one_check_at_a_time_and_it_has_an_end() {
        let (walks, mut taken) = walks();
        let guest = |path: &str| {
            let (walks, path) = (walks.clone(), path.to_owned());
            tokio::spawn(async move { walks.check(path).await })
        };
        let (first, second) = (guest("/a"), guest("/b"));
        for page in 0..10 {
            let (message, answer) = next(&mut taken).await;
            let AnyMessage::Fsck(asked) = message else {
                panic!("{message:?}");
            };
            assert_eq!((&*asked.path, asked.after), ("/a", ChunkHandle(page)));
            settle().await;
            assert!(taken.try_recv().is_err(), "the second waits for its turn");
            answer.send(Ok(reply(page).into())).unwrap();
        }
        let checked = first.await.unwrap().unwrap();
        assert_eq!((checked.files, checked.chunks), (5, 7));
        assert_eq!((checked.findings.len(), checked.more), (10, true));

        let (message, answer) = next(&mut taken).await;
        assert!(matches!(message, AnyMessage::Fsck(asked) if asked.path == "/b"));
        let last = FsckReply {
            more: false,
            ..reply(0)
        };
        answer.send(Ok(last.into())).unwrap();
        assert!(!second.await.unwrap().unwrap().more);
    }

    fn reply(page: u64) -> FsckReply {
        let finding = FsckFinding {
            finding: Finding::Missing,
            handle: ChunkHandle(page + 1),
            path: "/a/b".into(),
            want: 3,
            have: 0,
            server: ServerId::NONE,
        };
        FsckReply {
            files: if page == 0 { 5 } else { 0 },
            chunks: if page == 0 { 7 } else { 0 },
            findings: vec![finding],
            next: ChunkHandle(page + 1),
            more: true,
        }
    }
}
