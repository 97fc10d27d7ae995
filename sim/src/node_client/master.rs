//! The way to the master, and the session: what `client/src/{master,session}.rs` do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sarsen_client::core::retry::{Failure, GiveUp, RequestRetry, Step};
use sarsen_client::core::session::Numbers;
use sarsen_protocol::deframe::{Frame, frame};
use sarsen_protocol::id::{RequestId, SessionId};
use sarsen_protocol::message::{KeepSession, OpenSession, Plane, Request};
use sarsen_protocol::status::Status;

use super::Client;
use super::tasks::Received;
use crate::net::{ConnId, DIAL_MAX};
use crate::node_master::ADDRESS;
use crate::observation::Observation;
use crate::oracle::op::OpId;

/// How long one try may stay unanswered before the connection counts as lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// The control connection.
#[derive(Debug, Default)]
pub(super) struct MasterLink {
    conn: Option<ConnId>,
    is_dialling: bool,
    last_request: u64,
    /// Answers that came, by number.
    answers: BTreeMap<u64, Frame>,
    session: Option<Rc<Session>>,
    is_opening: bool,
    suspect_after: Option<Duration>,
}

/// A session at the master.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The fewest copies that the cluster takes.
    pub min_replicas: u8,
    numbers: RefCell<Numbers>,
}

/// Silence after which a chunkserver hangs, until a master has told the cluster's own.
const SUSPECT_AFTER_DEFAULT: Duration = Duration::from_secs(3);

/// Why a request has no answer that its caller can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The session is unknown, and the request was surely not done.
    SessionUnknown,
    /// The master answered with a status that the caller wanted to see itself.
    HandedBack(Status, Duration),
    /// The answer is final.
    Refused(Status),
    /// It was never sent, or every try was answered with another time.
    NotNow,
    /// It may have been done, or not.
    Unknown,
}

/// How one try ended.
enum Attempt {
    NotSent,
    Lost,
    Answered(ConnId, Status, Duration),
}

impl Client {
    /// The life of a request that begins now.
    #[must_use]
    pub fn begin(&self) -> RequestRetry {
        let seed = self.chance(|random| random.next());
        RequestRetry::new(self.now(), self.timeout, seed)
    }

    /// Asks until there is an answer, or the time is over.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, Unanswered> {
        self.run(request, &mut self.begin(), &[]).await
    }

    /// Asks within the life of `retry`; a status in `handed_back` is for the
    /// caller to decide about.
    pub async fn run<R: Request>(
        &self,
        request: &R,
        retry: &mut RequestRetry,
        handed_back: &[Status],
    ) -> Result<R::Reply, Unanswered> {
        let mut was_sent = false;
        loop {
            let attempt = match self.try_once(request, retry.deadline()).await {
                Ok(reply) => return Ok(reply),
                Err(attempt) => attempt,
            };
            let failure = match attempt {
                Attempt::NotSent => Failure::NotSent,
                Attempt::Lost => {
                    was_sent = true;
                    Failure::NotAnswered
                }
                Attempt::Answered(_, status, retry_after) => {
                    if handed_back.contains(&status) {
                        return Err(Unanswered::HandedBack(status, retry_after));
                    }
                    Failure::Answered {
                        status,
                        retry_after,
                    }
                }
            };
            match (retry.handle_failure(self.now(), failure), attempt) {
                (Step::Again { after, redial }, attempt) => {
                    if let Attempt::Answered(conn, ..) = attempt
                        && redial
                    {
                        self.hang_up(conn);
                    }
                    self.sleep(after).await;
                }
                (Step::NewSession, _) => return Err(Unanswered::SessionUnknown),
                (Step::GiveUp(GiveUp::OutcomeUnknown), _) => return Err(Unanswered::Unknown),
                (Step::GiveUp(GiveUp::OutOfTime), _) => {
                    return Err(match was_sent {
                        true => Unanswered::Unknown,
                        false => Unanswered::NotNow,
                    });
                }
                (Step::GiveUp(GiveUp::Refused), Attempt::Answered(_, status, _)) => {
                    return Err(Unanswered::Refused(status));
                }
                (Step::GiveUp(GiveUp::Refused), _) => return Err(Unanswered::Unknown),
            }
        }
    }

    /// Asks once, whatever comes of it.
    pub async fn say_once<R: Request>(&self, request: &R) {
        let deadline = self.now() + ANSWER_TIME_MAX;
        let _ = self.try_once(request, deadline).await;
    }

    /// One try, on the connection that there is or a new one.
    async fn try_once<R: Request>(
        &self,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Reply, Attempt> {
        let Some(conn) = self.connection().await else {
            return Err(Attempt::NotSent);
        };
        let id = {
            let mut master = self.master.borrow_mut();
            master.last_request += 1;
            master.last_request
        };
        self.world.send(self.node, conn, frame(request, id));
        let left = deadline.saturating_sub(self.now());
        let until = self.now() + left.min(ANSWER_TIME_MAX);
        let is_over = || {
            let master = self.master.borrow();
            master.answers.contains_key(&id) || master.conn != Some(conn)
        };
        let in_time = self.until(Some(until), is_over).await;
        let answer = self.master.borrow_mut().answers.remove(&id);
        let Some(answer) = answer else {
            if !in_time {
                self.lose_master(conn);
            }
            return Err(Attempt::Lost);
        };
        if answer.header.status.is_ok() {
            return answer.message().map_err(|_| {
                self.world.fail(format!(
                    "an answer breaks the protocol: {:?}",
                    answer.header
                ));
                Attempt::Lost
            });
        }
        let retry_after = answer.error().map_or(0, |error| error.retry_after);
        let retry_after = Duration::from_millis(retry_after.into());
        Err(Attempt::Answered(conn, answer.header.status, retry_after))
    }

    fn lose_master(&self, conn: ConnId) {
        self.hang_up(conn);
        self.master.borrow_mut().conn.take_if(|it| *it == conn);
    }

    /// The connection that there is, or a new one.
    async fn connection(&self) -> Option<ConnId> {
        self.until(None, || !self.master.borrow().is_dialling).await;
        if let Some(conn) = self.master.borrow().conn {
            return Some(conn);
        }
        let _turn = Turn::take(self, |master| &mut master.is_dialling);
        let (conn, _) = self.dial(ADDRESS, Plane::Control, DIAL_MAX).await.ok()?;
        self.master.borrow_mut().conn = Some(conn);
        Some(conn)
    }

    /// Takes what the master sends, for as long as the client lives.
    pub async fn listen(self: Rc<Self>) {
        loop {
            self.until(None, || self.master.borrow().conn.is_some())
                .await;
            let conn = self.master.borrow().conn;
            let Some(conn) = conn else { continue };
            let received = {
                let is_other = || self.master.borrow().conn != Some(conn);
                let has_mail = || {
                    self.mail
                        .borrow()
                        .get(&conn)
                        .is_none_or(|mail| mail.has_ended || !mail.frames.is_empty())
                };
                self.until(None, || is_other() || has_mail()).await;
                match is_other() {
                    true => continue,
                    false => self.receive(conn, None).await,
                }
            };
            match received {
                Received::Frame(frame) if frame.header.kind.is_reply() => {
                    let id = frame.header.request_id;
                    self.master.borrow_mut().answers.insert(id, frame);
                    self.progressed();
                }
                _ => self.lose_master(conn),
            }
        }
    }

    /// Takes the cluster's `suspect_after` from what a master told.
    pub fn learn(&self, suspect_after: u32) {
        let time = Duration::from_millis(suspect_after.max(1).into());
        self.master.borrow_mut().suspect_after = Some(time);
    }

    /// Silence after which a chunkserver hangs.
    #[must_use]
    pub fn suspect_after(&self) -> Duration {
        self.master
            .borrow()
            .suspect_after
            .unwrap_or(SUSPECT_AFTER_DEFAULT)
    }

    // The session.

    /// The session, opened if there is none.
    pub(super) async fn session(self: &Rc<Self>) -> Result<Rc<Session>, Unanswered> {
        self.until(None, || !self.master.borrow().is_opening).await;
        if let Some(session) = &self.master.borrow().session {
            return Ok(Rc::clone(session));
        }
        let _turn = Turn::take(self, |master| &mut master.is_opening);
        let request = OpenSession {
            nonce: self.chance(|random| random.bytes16()),
            name: "sim".to_owned(),
        };
        let opened = self.call(&request).await;
        let opened = opened?;
        self.learn(opened.suspect_after);
        let session = Rc::new(Session {
            id: opened.session,
            min_replicas: opened.min_replicas,
            numbers: RefCell::default(),
        });
        self.master.borrow_mut().session = Some(Rc::clone(&session));
        let period = Duration::from_millis(u64::from(opened.expiry.max(30)) / 3);
        self.spawn(Rc::clone(self).keep(Rc::clone(&session), period));
        Ok(session)
    }

    /// Keeps a session while it is the client's.
    async fn keep(self: Rc<Self>, session: Rc<Session>, period: Duration) {
        let request = KeepSession {
            session: session.id,
        };
        loop {
            self.sleep(period).await;
            let is_current = |it: &Rc<Session>| Rc::ptr_eq(it, &session);
            if !self
                .master
                .borrow()
                .session
                .as_ref()
                .is_some_and(is_current)
            {
                return;
            }
            // The next change will be told so too, and decide what to do about it.
            let _ = self.call(&request).await;
        }
    }

    /// Sends a change, which is done once however often it is sent; tells the session too.
    pub async fn mutate<R: Request>(
        self: &Rc<Self>,
        op: OpId,
        make: impl Fn(RequestId) -> R,
    ) -> Result<(R::Reply, Rc<Session>), Unanswered> {
        let mut retry = self.begin();
        loop {
            let session = self.session().await?;
            let number = self.number(op, &session).await;
            let request = make(number.id());
            match self.run(&request, &mut retry, &[]).await {
                Ok(reply) => return Ok((reply, session)),
                Err(Unanswered::SessionUnknown) => self.forget(&session),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Sends a change that means something in `session` only.
    pub async fn mutate_in<R: Request>(
        self: &Rc<Self>,
        op: OpId,
        session: &Rc<Session>,
        make: impl Fn(RequestId) -> R,
    ) -> Result<R::Reply, Unanswered> {
        let number = self.number(op, session).await;
        let request = make(number.id());
        let answer = self.call(&request).await;
        if answer
            .as_ref()
            .is_err_and(|failed| *failed == Unanswered::SessionUnknown)
        {
            self.forget(session);
        }
        answer
    }

    /// The next change opens another session.
    pub(super) fn forget(&self, session: &Rc<Session>) {
        let mut master = self.master.borrow_mut();
        master.session.take_if(|it| Rc::ptr_eq(it, session));
    }

    /// A number for a mutation, if the lowest that is outstanding is near enough.
    pub(super) fn try_number(&self, session: &Rc<Session>) -> Option<Outstanding> {
        let mut numbers = session.numbers.borrow_mut();
        numbers.has_room().then(|| Outstanding {
            session: Rc::clone(session),
            number: numbers.begin(),
        })
    }

    /// Asks a chunkserver one thing over its control plane; its status, if it refused.
    pub(super) async fn ask_chunkserver<R: Request>(
        &self,
        address: &str,
        request: &R,
    ) -> Result<R::Reply, Option<Status>> {
        let time_max = self.suspect_after();
        let dialled = self.dial(address, Plane::Control, time_max).await;
        let (conn, _) = dialled.map_err(|_| None)?;
        self.world.send(self.node, conn, frame(request, 1));
        let received = self.receive(conn, Some(self.now() + time_max)).await;
        self.hang_up(conn);
        let Received::Frame(answer) = received else {
            return Err(None);
        };
        match answer.header.status.is_ok() {
            true => answer.message().map_err(|_| None),
            false => Err(Some(answer.header.status)),
        }
    }

    /// Numbers a request, once it is near enough to the lowest that is outstanding.
    async fn number(&self, op: OpId, session: &Rc<Session>) -> Outstanding {
        self.until(None, || session.numbers.borrow().has_room())
            .await;
        let number = session.numbers.borrow_mut().begin();
        let outstanding = Outstanding {
            session: Rc::clone(session),
            number,
        };
        let request = outstanding.id();
        self.world
            .observe(&Observation::Requests { id: op, request });
        outstanding
    }
}

/// The right to do what only one does at a time; given back on drop.
struct Turn<'a> {
    client: &'a Client,
    is_taken: fn(&mut MasterLink) -> &mut bool,
}

impl<'a> Turn<'a> {
    fn take(client: &'a Client, is_taken: fn(&mut MasterLink) -> &mut bool) -> Self {
        *is_taken(&mut client.master.borrow_mut()) = true;
        Self { client, is_taken }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *(self.is_taken)(&mut self.client.master.borrow_mut()) = false;
        self.client.progressed();
    }
}

/// A request's number while its answer is waited for.
pub(super) struct Outstanding {
    session: Rc<Session>,
    number: u64,
}

impl Outstanding {
    pub(super) fn id(&self) -> RequestId {
        self.session
            .numbers
            .borrow()
            .id(self.session.id, self.number)
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.session.numbers.borrow_mut().end(self.number);
    }
}
