//! The way to the master: one control connection, dialled again when it is lost.
//!
//! [`Master::run`] sends a request until it is answered, as [`RequestRetry`] decides. Requests of
//! many tasks share the connection; the first that finds it gone dials, the others wait for it, and
//! fail as it does: each waits for one dial at a time, and no longer than its request may take.

use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sarsen_edge::address::HostPort;
use sarsen_edge::connection::{CallError, ConnectError, Connection};
use sarsen_edge::key;
use sarsen_edge::random_u64;
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::{ClusterId, StartNonce};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Kind, Request, Role, Start, Stat};
use sarsen_protocol::status::Status;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::core::retry::{Failure, GiveUp, RequestRetry, Step};
use crate::error::Error;

/// How long one try may stay unanswered before the connection counts as lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// How long one dial may take.
const DIAL_TIME_MAX: Duration = Duration::from_secs(5);

/// What it takes to say hello to a server of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) key: SecretKey,
    pub(crate) identity: Identity,
}

/// Why a request has no answer that its caller can use.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The session is unknown, and the request was surely not done.
    SessionUnknown,
    /// The master answered with a status that the caller wanted to see itself.
    HandedBack {
        status: Status,
        text: String,
        retry_after: Duration,
    },
    /// It failed for good.
    Failed(Error),
}

/// The masters of a cluster, one of which is connected to.
#[derive(Debug)]
pub(crate) struct Master {
    addresses: Vec<HostPort>,
    /// As given; without one it is looked for on this machine.
    key: Option<SecretKey>,
    timeout: Duration,
    clock: Clock,
    seed: AtomicU64,
    /// Who this is among those that a chunkserver serves (`spec/wire.md` section 12.4).
    nonce: StartNonce,
    link: Mutex<Link>,
    /// Set by the first hello.
    credentials: OnceLock<Credentials>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    /// Counts the dials: which of the addresses is next.
    dials: usize,
    /// How the last dial failed, for those who waited for it.
    failure: Option<ConnectError>,
}

impl Master {
    pub(crate) fn new(
        addresses: Vec<HostPort>,
        key: Option<SecretKey>,
        timeout: Duration,
        clock: Clock,
    ) -> Self {
        Self {
            addresses,
            key,
            timeout,
            clock,
            seed: AtomicU64::new(random_u64()),
            nonce: StartNonce(random_u64()),
            link: Mutex::default(),
            credentials: OnceLock::new(),
        }
    }

    /// How to say hello to chunkservers; `None` before the first hello to a master.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.get()
    }

    /// A number for jitter, another one each time.
    pub(crate) fn draw_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    /// The life of a request that begins now.
    pub(crate) fn begin(&self) -> RequestRetry {
        RequestRetry::new(self.clock.now(), self.timeout, self.draw_seed())
    }

    /// Makes a connection, or finds that there is one.
    pub(crate) async fn connect(&self) -> Result<(), Error> {
        let mut retry = self.begin();
        loop {
            let cause = match self.connection(retry.deadline()).await {
                Ok(_) => return Ok(()),
                Err(cause) => cause,
            };
            if !is_passing(&cause) {
                return Err(cause);
            }
            match retry.handle_failure(self.clock.now(), Failure::NotSent) {
                Step::Again { after, .. } => sleep(after).await,
                Step::NewSession | Step::GiveUp(_) => return Err(self.no_master(Some(cause))),
            }
        }
    }

    /// Asks until there is an answer, or the time is over.
    pub(crate) async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, Error> {
        match self.run(request, &mut self.begin(), &[]).await {
            Ok(reply) => Ok(reply),
            Err(Unanswered::Failed(error)) => Err(error),
            Err(Unanswered::SessionUnknown | Unanswered::HandedBack { .. }) => {
                Err(Error::SessionLost)
            }
        }
    }

    /// Asks as [`Master::call`] does, within the life of `retry`; a status in `handed_back` is for
    /// the caller to decide about.
    pub(crate) async fn run<R: Request>(
        &self,
        request: &R,
        retry: &mut RequestRetry,
        handed_back: &[Status],
    ) -> Result<R::Reply, Unanswered> {
        loop {
            let error = match self.try_once(request, retry.deadline()).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let failure = match &error {
                Attempt::NotSent(cause) if is_passing(cause) => Failure::NotSent,
                Attempt::NotSent(_) | Attempt::Broken(_) => {
                    let failed = failed_for_good(R::KIND, retry.is_unanswered(), error);
                    return Err(Unanswered::Failed(failed));
                }
                Attempt::Lost { .. } => Failure::NotAnswered,
                Attempt::Answered {
                    status,
                    text,
                    retry_after,
                    ..
                } => {
                    if handed_back.contains(status) {
                        return Err(Unanswered::HandedBack {
                            status: *status,
                            text: text.clone(),
                            retry_after: *retry_after,
                        });
                    }
                    Failure::Answered {
                        status: *status,
                        retry_after: *retry_after,
                    }
                }
            };
            match retry.handle_failure(self.clock.now(), failure) {
                Step::Again { after, redial } => {
                    // Only the one that answered so: another task may have dialled meanwhile.
                    if let Attempt::Answered { connection, .. } = &error
                        && redial
                    {
                        connection.close();
                    }
                    sleep(after).await;
                }
                Step::NewSession => return Err(Unanswered::SessionUnknown),
                Step::GiveUp(why) => {
                    let why = outcome(why, R::KIND, retry.is_unanswered(), &error);
                    return Err(Unanswered::Failed(self.given_up(why, error)));
                }
            }
        }
    }

    /// One try, on the connection that there is or a new one.
    async fn try_once<R: Request>(
        &self,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Reply, Attempt> {
        let connection = self.connection(deadline).await;
        let connection = connection.map_err(Attempt::NotSent)?;
        let left = deadline.saturating_sub(self.clock.now());
        let time_max = left.min(ANSWER_TIME_MAX);
        let mut is_up = false;
        let answer = timeout(time_max, async {
            let mut answer = pin!(connection.call(request));
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = sleep(time_max * 3 / 4) => {}
            }
            // It may work on the request, or be gone: who is there answers what needs nobody else.
            let mut question = pin!(answers(&connection));
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                up = &mut question => is_up = up,
            }
            answer.await
        });
        match answer.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(CallError::Status { status, error })) => Err(Attempt::Answered {
                status,
                text: match error.text.is_empty() {
                    true => status.meaning().to_owned(),
                    false => error.text,
                },
                retry_after: Duration::from_millis(error.retry_after.into()),
                connection,
            }),
            Ok(Err(CallError::Protocol(cause))) => {
                connection.close();
                Err(Attempt::Broken(cause.into()))
            }
            Ok(Err(_)) => Err(Attempt::Lost { is_up: false }),
            Err(_) => {
                connection.close();
                Err(Attempt::Lost { is_up })
            }
        }
    }

    /// The connection that there is, or a new one to the next address, within the time until `deadline`.
    async fn connection(&self, deadline: Duration) -> Result<Connection, Error> {
        let left = || deadline.saturating_sub(self.clock.now());
        let (mut link, has_waited) = match self.link.try_lock() {
            Ok(link) => (link, false),
            // Another task dials.
            Err(_) => match timeout(left(), self.link.lock()).await {
                Ok(link) => (link, true),
                Err(_) => return Err(timed_out(self.names().join(", "))),
            },
        };
        if let Some(connection) = link.connection.as_ref().filter(|it| !it.is_closed()) {
            return Ok(connection.clone());
        }
        // It would take as long once more, and those behind would wait for that.
        if has_waited && let Some(failure) = link.failure.as_ref().and_then(copy) {
            return Err(Error::Connect(failure));
        }
        let turn = link.dials.checked_rem(self.addresses.len());
        let address = turn.and_then(|turn| self.addresses.get(turn));
        let address = address.ok_or(Error::NoMasterNamed)?;
        link.dials += 1;
        link.failure = None;
        let dialled = timeout(left(), self.dial(address)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(timed_out(address.to_string())));
        if let Err(Error::Connect(failure)) = &dialled {
            link.failure = copy(failure);
        }
        let connection = dialled?;
        link.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn dial(&self, address: &HostPort) -> Result<Connection, Error> {
        let key = self.key_for(address).await?;
        let identity = Identity {
            role: Role::Client,
            cluster_id: self
                .credentials()
                .map_or(ClusterId::NONE, |known| known.identity.cluster_id),
            start: Start {
                start_nonce: self.nonce,
                ..Start::default()
            },
        };
        // The master asks a client nothing, so what comes in is not listened to.
        let (connection, _incoming) =
            Connection::dial(&address.to_string(), identity, &key, DIAL_TIME_MAX)
                .await
                .map_err(|error| match error.is_passing() {
                    true => Error::Connect(error),
                    false => Error::Hello(error),
                })?;
        tracing::debug!(%address, "connected to a master");
        self.credentials.get_or_init(|| Credentials {
            key,
            identity: Identity {
                cluster_id: connection.peer().identity.cluster_id,
                ..identity
            },
        });
        Ok(connection)
    }

    /// The key that was given, or what a master at `address` left on this machine.
    async fn key_for(&self, address: &HostPort) -> Result<SecretKey, Error> {
        let known = self.key.as_ref();
        if let Some(key) = known.or(self.credentials().map(|known| &known.key)) {
            return Ok(key.clone());
        }
        let address = address.clone();
        let found = tokio::task::spawn_blocking(move || {
            let addresses = address.resolve().map_err(|cause| {
                let addr = address.to_string();
                Error::Connect(ConnectError::Io { addr, cause })
            })?;
            Ok(key::obtain(None, &addresses)?)
        });
        found.await?
    }

    /// Sends what is queued and ends the connection.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.link.lock().await.connection.take() {
            connection.close();
        }
    }

    fn names(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    fn no_master(&self, cause: Option<Error>) -> Error {
        Error::NoMaster {
            masters: self.names(),
            waited: self.timeout,
            cause: cause.map(Box::new),
        }
    }

    fn given_up(&self, why: GiveUp, last: Attempt) -> Error {
        match (why, last) {
            (GiveUp::OutcomeUnknown, Attempt::Lost { is_up: true }) => Error::ChangeLate {
                waited: self.timeout,
            },
            (GiveUp::OutcomeUnknown, _) => Error::OutcomeUnknown { source: None },
            (GiveUp::OutOfTime, Attempt::Answered { status, text, .. }) => Error::NotNow {
                status,
                text,
                waited: self.timeout,
            },
            (GiveUp::OutOfTime, Attempt::NotSent(cause)) => self.no_master(Some(cause)),
            (GiveUp::OutOfTime, Attempt::Lost { is_up: true }) => Error::MasterLate {
                waited: self.timeout,
            },
            (GiveUp::OutOfTime, Attempt::Lost { is_up: false }) => self.no_master(None),
            (_, last) => last.into_error(),
        }
    }
}

/// What is known when a request's time is over. Of a change that was sent and never answered that is
/// not that no master was there: it may have been done.
fn outcome(why: GiveUp, asked: Kind, is_unanswered: bool, last: &Attempt) -> GiveUp {
    let is_open = is_unanswered && matches!(last, Attempt::NotSent(_) | Attempt::Lost { .. });
    match why {
        GiveUp::OutOfTime if is_open && is_change(asked) => GiveUp::OutcomeUnknown,
        why => why,
    }
}

/// What a try that is not worth another one leaves of a request. A change may have been done by the one
/// before that was not answered, or by the one whose answer can't be read.
fn failed_for_good(asked: Kind, is_unanswered: bool, last: Attempt) -> Error {
    let may_be_done = is_unanswered || matches!(last, Attempt::Broken(_));
    match last.into_error() {
        cause if may_be_done && is_change(asked) => Error::OutcomeUnknown {
            source: Some(Box::new(cause)),
        },
        cause => cause,
    }
}

/// Whether it changes what the user sees, and has a request id (`spec/messages.md` section 4).
const fn is_change(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::MakeFolder
            | Kind::MakeFile
            | Kind::Publish
            | Kind::Rename
            | Kind::Remove
            | Kind::RestoreTrash
            | Kind::EmptyTrash
            | Kind::Truncate
            | Kind::AcceptLoss
    )
}

/// How one try ended.
#[derive(Debug)]
enum Attempt {
    NotSent(Error),
    Lost {
        /// Whether the master answered something else meanwhile.
        is_up: bool,
    },
    Broken(Error),
    Answered {
        status: Status,
        text: String,
        retry_after: Duration,
        connection: Connection,
    },
}

impl Attempt {
    fn into_error(self) -> Error {
        match self {
            Self::NotSent(error) | Self::Broken(error) => error,
            Self::Lost { .. } => Error::OutcomeUnknown { source: None },
            Self::Answered { status, text, .. } => Error::Refused { status, text },
        }
    }
}

/// Whether a master answers at all, whatever it says.
async fn answers(connection: &Connection) -> bool {
    let path = "/".to_owned();
    let answer = connection.call(&Stat { path }).await;
    matches!(answer, Ok(_) | Err(CallError::Status { .. }))
}

fn timed_out(addr: String) -> Error {
    Error::Connect(ConnectError::Timeout { addr })
}

/// A failure once more, for another who waited for it; `None` for what an answer said, which is soon
/// heard again.
fn copy(failure: &ConnectError) -> Option<ConnectError> {
    match failure {
        ConnectError::Timeout { addr } => Some(ConnectError::Timeout { addr: addr.clone() }),
        ConnectError::Io { addr, cause } => Some(ConnectError::Io {
            addr: addr.clone(),
            cause: match cause.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => cause.kind().into(),
            },
        }),
        _ => None,
    }
}

/// Whether a dial that failed so may work later: a master that starts has yet to leave its key.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect(_) | Error::Key(key::KeyError::NotFound { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_edge::exit;
    use tokio::net::TcpListener;

    /// A master that was gone right after a publication had reached it: the upload ended with "no
    /// master", and whoever repeated it met the file that it had made.
    #[test]
    fn a_change_that_was_never_answered_may_have_been_done() {
        let told = |asked, is_unanswered, last: &Attempt| {
            outcome(GiveUp::OutOfTime, asked, is_unanswered, last)
        };
        let no_key = || Attempt::NotSent(Error::NoMasterNamed);
        for last in [no_key(), Attempt::Lost { is_up: false }] {
            assert_eq!(told(Kind::Publish, true, &last), GiveUp::OutcomeUnknown);
            assert_eq!(told(Kind::Stat, true, &last), GiveUp::OutOfTime);
        }
        assert_eq!(told(Kind::Remove, false, &no_key()), GiveUp::OutOfTime);
    }

    /// A publication was sent and its connection lost, and the next dial met another cluster, or the answer was no
    /// message: that was told as if nothing had been done.
    #[test]
    fn a_change_that_fails_for_good_after_it_was_sent_may_have_been_done() {
        let other = || Attempt::NotSent(Error::NoMasterNamed);
        let broken = || Attempt::Broken(Error::BadListing);
        let is_unknown = |asked, is_unanswered, last| {
            let error = failed_for_good(asked, is_unanswered, last);
            matches!(error, Error::OutcomeUnknown { source: Some(_) })
        };
        assert!(is_unknown(Kind::Publish, true, other()));
        assert!(
            !is_unknown(Kind::Publish, false, other()),
            "nothing was sent"
        );
        assert!(is_unknown(Kind::Remove, false, broken()));
        assert!(!is_unknown(Kind::Stat, true, other()));
        assert!(!is_unknown(Kind::Stat, true, broken()));
        let text = exit::lines("sarsen", &failed_for_good(Kind::Publish, true, other()));
        let first = text.lines().next().unwrap();
        assert!(
            first.ends_with("done or not: no master is named"),
            "{first}"
        );
    }

    /// A master that takes connections and says nothing, and a client of it.
    async fn silent() -> (TcpListener, Master) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let key = SecretKey::new([7; 32]);
        let masters = vec![address.parse().unwrap()];
        let master = Master::new(masters, Some(key), LONG, Clock::start());
        (listener, master)
    }

    /// A `truncate` that waited for chunkservers ended with "the connection was lost", which it was not.
    #[tokio::test]
    async fn a_change_that_a_master_is_late_with_is_no_lost_connection() {
        let (_listener, master) = silent().await;
        let told = |is_up| {
            let last = Attempt::Lost { is_up };
            let why = outcome(GiveUp::OutOfTime, Kind::Truncate, true, &last);
            master.given_up(why, last)
        };
        assert!(matches!(told(true), Error::ChangeLate { waited: LONG }));
        assert!(matches!(told(false), Error::OutcomeUnknown { .. }));
    }

    /// More than a test takes.
    const LONG: Duration = Duration::from_secs(60);

    const SHORT: Duration = Duration::from_millis(20);

    fn is_late(error: &Error) -> bool {
        matches!(error, Error::Connect(ConnectError::Timeout { .. }))
    }

    /// With `--timeout 1s` a master that said nothing was waited for five seconds: a dial took as long as
    /// any may, however little time its request had.
    #[tokio::test]
    async fn a_dial_takes_no_longer_than_its_request_may() {
        let (_listener, master) = silent().await;
        let deadline = master.clock.now() + SHORT;
        tokio::select! {
            dialled = master.connection(deadline) => assert!(is_late(&dialled.unwrap_err())),
            () = sleep(DIAL_TIME_MAX - Duration::from_secs(1)) => panic!("as long as any dial"),
        }
    }

    /// So long was waited for another's dial, too.
    #[tokio::test]
    async fn a_dial_is_waited_for_no_longer_than_the_request_may() {
        let (_listener, master) = silent().await;
        let deadline = master.clock.now() + SHORT;
        tokio::select! {
            biased;
            _ = master.connection(LONG) => panic!("it has more time than the other"),
            waited = master.connection(deadline) => assert!(is_late(&waited.unwrap_err())),
        }
    }

    /// A hundred requests that found no master dialled one after the other, each when those before it had
    /// failed, and each for as long as a dial may take.
    #[tokio::test]
    async fn who_waited_for_a_dial_does_not_dial_after_it_failed() {
        let (listener, master) = silent().await;
        let hang_up = async {
            drop(listener.accept().await.unwrap());
        };
        let (first, second, third, ()) = tokio::join!(
            master.connection(LONG),
            master.connection(LONG),
            master.connection(LONG),
            hang_up
        );
        for failed in [first, second, third] {
            let error = failed.unwrap_err();
            assert!(matches!(error, Error::Connect(_)), "{error}");
        }
        assert_eq!(master.link.lock().await.dials, 1);
        // Who comes later has not waited, and finds out for himself.
        let hang_up = async {
            drop(listener.accept().await.unwrap());
        };
        let (later, ()) = tokio::join!(master.connection(LONG), hang_up);
        assert!(later.is_err());
        assert_eq!(master.link.lock().await.dials, 2);
    }
}
