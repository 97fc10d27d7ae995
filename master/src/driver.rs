//! The thread that owns the machine: feeds it what happens, and does what it wants done.
//!
//! ```text
//! connections, HTTP ── Input ──►┌─────────┐── replies, orders ──► connections
//!                               │ machine │
//! log thread ── LogEvent ──────►└─────────┘── entries ──► log thread
//! ```
//!
//! Reads are answered at once. A mutation's reply waits, inside the machine, until its entry is on
//! stable storage. When the log fails, the process ends: nothing that it would still say could be
//! relied on.

use std::collections::{HashMap, hash_map};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sarsen_edge::connection::Connection;
use sarsen_edge::daemon::Drain;
use sarsen_protocol::id::ClusterId;
use sarsen_protocol::message::{AnyMessage, Kind, Role};
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::core::action::{Action, Alarm, Failure};
use crate::core::command::Entry;
use crate::core::event::{ConnectionId, Now, OrderFailure, OrderId, Token};
use crate::core::machine::Machine;
use crate::inputs::{Answer, Input};
use crate::oplog::{
    AppendError, CheckpointWriter, Folder, LogEvent, LogWriter, OplogError, Position, prune,
};
use crate::start::to_log;

/// Inputs that are taken before the actions that they gave rise to are carried out.
const BATCH_MAX: usize = 256;

/// The connection that questions from inside this process seem to come over.
const INSIDE: ConnectionId = ConnectionId(0);

/// How long the master waits, when it is to end, for entries on their way to the disk.
const LAST_FLUSH_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// How long the master waits, when it is to end, for its last replies to be sent.
const LAST_SEND_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            elapsed: self.started.elapsed(),
            unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Everything that the machine's thread holds.
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) clock: Clock,
    pub(crate) log: LogWriter,
    pub(crate) log_events: mpsc::UnboundedReceiver<LogEvent>,
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) cluster: ClusterId,
    /// What the log has on stable storage.
    pub(crate) flushed: Position,
    /// The last entry that was handed to the log.
    pub(crate) appended: u64,
    pub(crate) connections: HashMap<ConnectionId, Connection>,
    /// Which message each unanswered request is.
    pub(crate) asked: HashMap<Token, Kind>,
    pub(crate) questions: HashMap<u64, oneshot::Sender<Answer>>,
    pub(crate) last_question: u64,
    pub(crate) is_saving: Arc<AtomicBool>,
}

impl Driver {
    /// Runs until the process is asked to drain, or the log fails.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut drain: Drain,
    ) -> Result<(), OplogError> {
        self.machine.handle_connected(INSIDE, Role::Client);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            self.act();
            // Looked at here, so that a stream of inputs can't keep it from its turn; once a round,
            // so that it can't keep the inputs from theirs.
            if self.clock.now().elapsed >= self.machine.next_timeout() {
                self.time_out(&mut inputs);
            }
            let now = self.clock.now();
            let due = self.machine.next_timeout().saturating_sub(now.elapsed);
            tokio::select! {
                biased;
                () = drain.asked() => break,
                event = self.log_events.recv() => self.handle_log(event)?,
                count = inputs.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|input| self.handle(input));
                }
                () = sleep(due) => {}
            }
        }
        self.end().await
    }

    /// What has come by now has come in time, however long this thread was busy or stopped: nobody is
    /// blamed for an answer that lies here.
    fn time_out(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        for _ in 0..inputs.len() {
            if let Ok(input) = inputs.try_recv() {
                self.handle(input);
            }
        }
        self.machine.handle_timeout(self.clock.now());
        self.act();
    }

    /// Lets what is on its way to the disk get there and be answered, then says goodbye.
    async fn end(&mut self) -> Result<(), OplogError> {
        self.act();
        while self.flushed.index < self.appended {
            match timeout(LAST_FLUSH_TIME_MAX, self.log_events.recv()).await {
                Ok(event) => self.handle_log(event)?,
                Err(_) => break,
            }
            self.act();
        }
        for connection in self.connections.values() {
            connection.goodbye(Status::ShuttingDown, "the master is ending");
        }
        // The last replies are in the connections' queues, which end with the process.
        let sent = async {
            for connection in self.connections.values() {
                connection.sent().await;
            }
        };
        // A peer that doesn't read has had its time.
        let _ = timeout(LAST_SEND_TIME_MAX, sent).await;
        Ok(())
    }

    fn handle_log(&mut self, event: Option<LogEvent>) -> Result<(), OplogError> {
        match event {
            Some(LogEvent::Flushed(position)) => {
                self.flushed = position;
                self.machine
                    .handle_flushed(position.index, self.clock.now());
                Ok(())
            }
            Some(LogEvent::Failed(error)) => Err(error),
            // Its thread is gone without a word, which only a panic can do.
            None => Err(OplogError::Failed),
        }
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Opened(connection) => {
                let id = ConnectionId(connection.id());
                let role = connection.peer().identity.role;
                self.connections.insert(id, connection);
                self.machine.handle_connected(id, role);
            }
            Input::Request {
                connection,
                request,
                message,
            } => {
                let token = Token {
                    connection: ConnectionId(connection),
                    request,
                };
                self.request(token, message, now);
            }
            Input::Closed { connection } => {
                let id = ConnectionId(connection);
                self.connections.remove(&id);
                self.asked.retain(|token, _| token.connection != id);
                self.machine.handle_disconnected(id, now);
            }
            Input::OrderDone {
                connection,
                order,
                answer,
            } => {
                let connection = ConnectionId(connection);
                let answer = answer.map_err(|(status, error)| OrderFailure {
                    status,
                    server: error.server,
                });
                self.machine
                    .handle_order_reply(connection, order, answer, now);
            }
            Input::Question { message, answer } => {
                self.last_question += 1;
                let request = self.last_question;
                self.questions.insert(request, answer);
                let token = Token {
                    connection: INSIDE,
                    request,
                };
                self.machine.handle_request(token, message, now);
            }
        }
    }

    /// Takes a peer's request.
    ///
    /// A number that is still in use would let one reply answer another question.
    fn request(&mut self, token: Token, message: AnyMessage, now: Now) {
        match self.asked.entry(token) {
            hash_map::Entry::Vacant(free) => {
                free.insert(message.kind());
                self.machine.handle_request(token, message, now);
            }
            hash_map::Entry::Occupied(_) => {
                let text = format!("request {} is not answered yet", token.request);
                self.close(token.connection, Status::ProtocolError, &text);
            }
        }
    }

    /// Does what the machine wants done.
    fn act(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Append(entry) => self.append(&entry),
                Action::Reply { to, reply } => self.reply(to, reply),
                Action::Order {
                    connection,
                    order,
                    message,
                } => {
                    self.order(connection, order, &message);
                }
                Action::Close {
                    connection,
                    failure,
                } => {
                    self.close(connection, failure.status, &failure.text);
                }
                Action::TakeCheckpoint { index, body } => self.save(index, body),
                Action::Alarm(alarm) => sound(&alarm),
            }
        }
    }

    /// Hands an entry to the log.
    ///
    /// # Panics
    /// If the log counts otherwise than the machine, or can't hold the entry: from then on a
    /// flush would acknowledge another change than the one that is stable.
    fn append(&mut self, entry: &Entry) {
        match self.log.append(to_log(entry)) {
            Ok(index) => {
                assert_eq!(index, entry.index, "the log counts as the machine does");
                self.appended = index;
            }
            // The log's own event, which ends the master, is on its way.
            Err(AppendError::Failed) => tracing::error!(index = entry.index, "not logged"),
            Err(error) => panic!("entry {}: {error}", entry.index),
        }
    }

    fn reply(&mut self, to: Token, reply: Result<AnyMessage, Failure>) {
        let reply = reply.map_err(|failure| (failure.status, failure.to_body()));
        if to.connection == INSIDE {
            if let Some(answer) = self.questions.remove(&to.request) {
                // Whoever asked may have gone.
                let _ = answer.send(reply);
            }
            return;
        }
        let kind = self.asked.remove(&to);
        if let (Some(kind), Some(connection)) = (kind, self.connections.get(&to.connection)) {
            connection.reply(to.request, kind, reply);
        }
    }

    /// Says why, and that is the last that goes over a connection.
    fn close(&mut self, id: ConnectionId, status: Status, text: &str) {
        if let Some(connection) = self.connections.remove(&id) {
            connection.goodbye(status, text);
        }
    }

    /// Sends an order. Its answer comes back as an input; if its connection ends first, that does.
    fn order(&self, to: ConnectionId, order: OrderId, message: &AnyMessage) {
        if let Some(connection) = self.connections.get(&to) {
            connection.order(order.0, message);
        }
    }

    /// Writes a checkpoint beside the work; one at a time.
    fn save(&self, index: u64, body: Vec<u8>) {
        assert_eq!(
            index, self.flushed.index,
            "the state is that of the last flush"
        );
        if self.is_saving.swap(true, Ordering::Relaxed) {
            tracing::info!(index, "no checkpoint: the last one is still being written");
            return;
        }
        let (folder, position, cluster) = (self.folder.clone(), self.flushed, self.cluster);
        let (saving, unix_ms) = (Saving(self.is_saving.clone()), self.clock.now().unix_ms);
        tokio::task::spawn_blocking(move || {
            let _saving = saving;
            let saved = (|| {
                let mut writer =
                    CheckpointWriter::begin(folder.clone(), cluster, position, unix_ms)?;
                writer.write_all(&body).map_err(|source| OplogError::Io {
                    name: "checkpoint".into(),
                    operation: "writing",
                    source,
                })?;
                writer.finish()?;
                prune(&*folder)
            })();
            match saved {
                Ok(removed) => tracing::info!(index, removed, "a checkpoint is written"),
                // The log still has everything; the next one is tried as usual.
                Err(error) => tracing::error!(%error, index, "no checkpoint"),
            }
        });
    }
}

/// A checkpoint is being written; no more when this is dropped, be it by a panic.
struct Saving(Arc<AtomicBool>);

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Tells of proof that the log was lost in part.
fn sound(alarm: &Alarm) {
    tracing::error!(
        ?alarm,
        "a part of the operation log is lost: nothing is changed or deleted any more; start from \
         a newer copy of --dir"
    );
}

#[cfg(test)]
mod tests {
    use sarsen_edge::settings::Settings;
    use sarsen_protocol::message::{KeepSession, OpenSession, Stat, Usage};

    use super::*;
    use crate::inputs::{Answer, channel};
    use crate::{server, start};

    impl Driver {
        /// Does what is to be done until nothing is on its way to the disk.
        async fn settle(&mut self) {
            self.act();
            while self.flushed.index < self.appended {
                let event = self.log_events.recv().await;
                self.handle_log(event).expect("a log");
                self.act();
            }
        }
    }

    fn question(message: impl Into<AnyMessage>) -> (Input, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let message = message.into();
        (Input::Question { message, answer }, answered)
    }

    /// After a stall its timers came first, and what had come meanwhile was late: members were blamed for
    /// answers that lay here, and sessions ended that had been kept.
    #[tokio::test]
    async fn what_has_come_has_come_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let started = start::start(start::open(dir.path()).unwrap(), None).unwrap();
        let mut driver = server::driver(started, &Settings::default(), Clock::start()).unwrap();
        let (sender, mut inputs) = channel();
        driver.machine.handle_connected(INSIDE, Role::Client);
        driver.settle().await;
        driver.time_out(&mut inputs);
        let open = OpenSession {
            nonce: [1; 16],
            name: "test".to_owned(),
        };
        let (open, opened) = question(open);
        driver.handle(open);
        driver.settle().await;
        let Ok(AnyMessage::SessionOpened(opened)) = opened.await.expect("an answer") else {
            panic!("no session");
        };
        let stall = std::time::Duration::from_secs(400 * 24 * 3600);
        let Some(earlier) = driver.clock.started.checked_sub(stall) else {
            return; // The machine has only just started.
        };
        driver.clock.started = earlier;
        let (keep, kept) = question(KeepSession {
            session: opened.session,
        });
        sender.try_send(keep).expect("room");
        driver.time_out(&mut inputs);
        driver.settle().await;
        assert!(kept.await.expect("an answer").is_ok());
    }

    /// Two questions of different kinds under one number: the reply to the first was taken for a
    /// reply to the second, which it can't be, and the master ended with all its peers.
    #[test]
    fn a_request_number_that_is_in_use_is_not_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let started = start::start(start::open(dir.path()).unwrap(), None).unwrap();
        let settings = Settings::default();
        let mut driver = server::driver(started, &settings, Clock::start()).unwrap();
        let path = || "/".to_owned();
        let questions = [Stat { path: path() }.into(), Usage { path: path() }.into()];
        for message in questions {
            driver.handle(Input::Request {
                connection: 1,
                request: 5,
                message,
            });
        }
        let actions = std::iter::from_fn(|| driver.machine.poll_action());
        let replies = actions.filter(|one| matches!(one, Action::Reply { .. }));
        assert_eq!(replies.count(), 1);
        assert_eq!(driver.asked.into_values().collect::<Vec<_>>(), [Kind::Stat]);
    }
}
