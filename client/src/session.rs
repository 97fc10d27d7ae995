//! A client's session: what makes its changes be done once (`spec/messages.md` section 4).
//!
//! Opened by the first change, kept alive in the background as long as the client lives, closed
//! at its end. Requests are numbered within it; the lowest number that still waits for its
//! answer travels with each, so that the master can forget the answers below.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sarsen_edge::random;
use sarsen_protocol::id::{RequestId, SessionId};
use sarsen_protocol::message::{
    CloseSession, KeepSession, Kind, OpenSession, Request, SessionOpened,
};
use sarsen_protocol::status::Status;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::client::check_chunk_size;
use crate::core::session::Numbers;
use crate::error::Error;
use crate::master::{Master, Unanswered};

/// How long a client that ends waits for its session to be closed.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of a host's name that are told to the master.
const HOST_LEN_MAX: usize = 200;

/// The session that a client has by now.
#[derive(Debug)]
pub(crate) struct Sessions {
    master: Arc<Master>,
    current: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    pub(crate) fn new(master: Arc<Master>) -> Self {
        Self {
            master,
            current: tokio::sync::Mutex::default(),
        }
    }

    /// The session, opened if there is none.
    pub(crate) async fn current(&self) -> Result<Arc<Session>, Error> {
        match self.open(&[]).await {
            Ok(session) => Ok(session),
            Err(Unanswered::Failed(error)) => Err(error),
            Err(Unanswered::SessionUnknown | Unanswered::HandedBack { .. }) => {
                Err(Error::SessionLost)
            }
        }
    }

    /// The session, opened if there is none; `None` if the master takes no changes for now, or none is
    /// open after `time_max`.
    pub(crate) async fn current_within(
        &self,
        time_max: Duration,
    ) -> Result<Option<Arc<Session>>, Error> {
        let opened = timeout(time_max, self.open(&[Status::SafeMode, Status::ReadOnly]));
        match opened.await {
            Ok(Ok(session)) => Ok(Some(session)),
            Ok(Err(Unanswered::HandedBack { .. })) | Err(_) => Ok(None),
            // The request's own time may end a little before.
            Ok(Err(Unanswered::Failed(
                Error::NotNow { .. } | Error::MasterLate { .. } | Error::NoMaster { .. },
            ))) => Ok(None),
            Ok(Err(Unanswered::Failed(error))) => Err(error),
            Ok(Err(Unanswered::SessionUnknown)) => Err(Error::SessionLost),
        }
    }

    /// The session, opened if there is none; a status in `handed_back` is for the caller.
    async fn open(&self, handed_back: &[Status]) -> Result<Arc<Session>, Unanswered> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref() {
            return Ok(session.clone());
        }
        let request = OpenSession {
            nonce: random(),
            name: client_name(),
        };
        let mut retry = self.master.begin();
        let opened = self.master.run(&request, &mut retry, handed_back).await?;
        check_chunk_size(Kind::SessionOpened, opened.chunk_size).map_err(Unanswered::Failed)?;
        tracing::debug!(session = %opened.session, "opened a session");
        let session = Session::new(opened, self.master.clone());
        *current = Some(session.clone());
        Ok(session)
    }

    /// Bytes of a whole chunk.
    pub(crate) async fn chunk_size(&self) -> Result<u32, Error> {
        Ok(self.current().await?.chunk_size)
    }

    /// Sends a change, which is done once however often it is sent.
    ///
    /// `make` is given the request's id; it is called again only if the master does not know the
    /// session any more and has surely not done the change.
    pub(crate) async fn mutate<R: Request>(
        &self,
        make: impl Fn(RequestId) -> R,
    ) -> Result<R::Reply, Error> {
        Ok(self.mutate_first(make).await?.0)
    }

    /// As [`Sessions::mutate`]; tells the session too, for what belongs to it from now on.
    pub(crate) async fn mutate_first<R: Request>(
        &self,
        make: impl Fn(RequestId) -> R,
    ) -> Result<(R::Reply, Arc<Session>), Error> {
        let mut retry = self.master.begin();
        loop {
            let session = self.current().await?;
            let number = session.begin().await;
            match self.master.run(&make(number.id()), &mut retry, &[]).await {
                Ok(reply) => return Ok((reply, session)),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::SessionUnknown | Unanswered::HandedBack { .. }) => {
                    self.forget(&session).await;
                }
            }
        }
    }

    /// Sends a change that means something in `session` only, as one of its pending files.
    pub(crate) async fn mutate_in<R: Request>(
        &self,
        session: &Arc<Session>,
        make: impl Fn(RequestId) -> R,
    ) -> Result<R::Reply, Error> {
        let number = session.begin().await;
        let mut retry = self.master.begin();
        match self.master.run(&make(number.id()), &mut retry, &[]).await {
            Ok(reply) => Ok(reply),
            Err(Unanswered::Failed(error)) => Err(error),
            Err(Unanswered::SessionUnknown | Unanswered::HandedBack { .. }) => {
                self.forget(session).await;
                Err(Error::SessionLost)
            }
        }
    }

    /// The next change opens another session.
    pub(crate) async fn forget(&self, session: &Arc<Session>) {
        let mut current = self.current.lock().await;
        current.take_if(|it| Arc::ptr_eq(it, session));
    }

    /// Closes the session if there is one; what the master doesn't hear of in time, expires.
    pub(crate) async fn close(&self) {
        if let Some(session) = self.current.lock().await.take() {
            let request = CloseSession {
                session: session.id,
            };
            if let Ok(Err(error)) = timeout(CLOSE_TIME_MAX, self.master.call(&request)).await {
                tracing::debug!(%error, "the session was not closed and will expire");
            }
        }
    }
}

/// A session at the master.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The fewest copies that the cluster takes.
    pub(crate) min_replicas: u8,
    /// Bytes of a whole chunk.
    pub(crate) chunk_size: u32,
    /// Milliseconds of silence after which a chunkserver hangs.
    pub(crate) suspect_after: u32,
    numbers: Mutex<Numbers>,
    /// Told when an answer came.
    answered: Notify,
    keeper: AbortHandle,
}

impl Session {
    fn new(opened: SessionOpened, master: Arc<Master>) -> Arc<Self> {
        Arc::new_cyclic(|session: &Weak<Self>| {
            let keeping = keep(session.clone(), master, &opened);
            Self {
                id: opened.session,
                min_replicas: opened.min_replicas,
                chunk_size: opened.chunk_size,
                suspect_after: opened.suspect_after,
                numbers: Mutex::default(),
                answered: Notify::new(),
                keeper: tokio::spawn(keeping).abort_handle(),
            }
        })
    }

    /// Numbers a request, once it is near enough to the lowest that is outstanding: the master
    /// keeps the answers to all between. The number is outstanding until it is dropped.
    async fn begin(self: &Arc<Self>) -> Outstanding {
        loop {
            // Made before the look, so that no answer after it is missed.
            let answered = self.answered.notified();
            if let Some(number) = self.try_begin() {
                return number;
            }
            answered.await;
        }
    }

    /// The same, if it is near enough by now.
    pub(crate) fn try_begin(self: &Arc<Self>) -> Option<Outstanding> {
        let number = {
            let mut numbers = self.numbers();
            numbers.has_room().then(|| numbers.begin())?
        };
        let session = self.clone();
        Some(Outstanding { session, number })
    }

    /// Ends when an answer has come since this was called: another number may be near enough then.
    pub(crate) fn answered(&self) -> Notified<'_> {
        self.answered.notified()
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // A panic can't leave the set half changed.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A request's number while its answer is waited for.
#[derive(Debug)]
pub(crate) struct Outstanding {
    session: Arc<Session>,
    number: u64,
}

impl Outstanding {
    /// The id under which it is sent now.
    pub(crate) fn id(&self) -> RequestId {
        self.session.numbers().id(self.session.id, self.number)
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.session.numbers().end(self.number);
        self.session.answered.notify_waiters();
    }
}

/// Keeps a session, three times in the time that it lives without being kept.
fn keep(
    session: Weak<Session>,
    master: Arc<Master>,
    opened: &SessionOpened,
) -> impl Future<Output = ()> + use<> {
    let period = Duration::from_millis(u64::from(opened.expiry.max(30)) / 3);
    let request = KeepSession {
        session: opened.session,
    };
    async move {
        loop {
            sleep(period).await;
            if session.strong_count() == 0 {
                return;
            }
            if let Err(error) = master.call(&request).await {
                // The next change will be told so too, and decide what to do about it.
                tracing::warn!(%error, session = %request.session, "the session was not kept");
            }
        }
    }
}

/// What the master shows people of this client.
fn client_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut host = host.trim().to_owned();
    host.truncate(host.floor_char_boundary(HOST_LEN_MAX));
    format!("sarsen {}@{host}", std::process::id())
}
