//! The task of one open chunk: feeds its machine, and carries out what that wants.
//!
//! ```text
//!   orders, questions, reads ──┐                      ┌──► the lane: blocking threads, one action
//!   clients, the hop before ───┤──► inbox ──► machine ─┼──► the next hop's outbox   after the other
//!   the next hop, the store ───┘                      └──► each stream's outbox
//! ```
//!
//! All that waits in the inbox is fed, then the machine takes one turn, then its actions are carried
//! out: so mutations of many clients become one batch, and a batch costs a wake-up, not a record.
//! Whatever may wait for a disk is on a blocking thread, one at a time for the lane and one for a
//! flush; the task itself waits for its inbox and for time only. A disk that hangs holds up the chunks
//! that lie on it, and no other.
//!
//! Commit marks are told to the store from here: that takes a lock which is never held over I/O, and
//! a read that was let in finds at least what the machine knows to be committed.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{error_frame, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{Hop, Kind, Message as _, WriteOpen, WriteOpened};
use sarsen_protocol::status::Status;
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::super::plane::Thread;
use super::inbox::{
    Answerer, Inbox, Input, LaneDone, Outbox, Port, Progress, ReadAsked, Readable, internal, lock,
};
use super::lane::{self, Failure, Lane, Outcome};
use super::{Place, hop, journal};
use crate::core::member::{Done, RequestId, State};
use crate::core::mutation::{Action, Frame, Replica, Reply, StreamId};
use crate::store::Directory;
use crate::store::open_chunk::OpenChunk;

/// How long what is not in the journal may wait for its sync when nobody asks for it.
const FLUSH_DELAY: Duration = Duration::from_millis(500);

/// Bytes that may wait for a sync which nobody has asked for.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// When a flush is tried again that the journal had no room for, and an action that found no place.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// The number of the next hop's stream on its connection, which carries no other.
const NEXT_REQUEST_ID: u64 = 1;

/// One open chunk at work.
pub(in super::super) struct Actor {
    handle: ChunkHandle,
    directory: Arc<Directory>,
    place: Arc<Place>,
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    replica: Replica,
    chunk: Option<Arc<OpenChunk>>,
    /// Since when the process measures.
    began: Instant,
    streams: HashMap<StreamId, Arc<Port>>,
    next: Option<Next>,
    answerers: HashMap<RequestId, Answerer>,
    last_request: RequestId,
    work: Work,
    flush: Flush,
    /// What inventories were told last.
    told: (State, ChunkVersion, bool),
    /// The machine was told something since its last turn.
    is_stirred: bool,
    /// Somebody else has deleted or replaced what the machine speaks of.
    is_overtaken: bool,
}

/// The lane, and what waits for it.
struct Work {
    /// None while a blocking thread has it.
    lane: Option<Lane>,
    queue: VecDeque<Action>,
    /// A step that is done when the journal has come so far.
    awaiting: Option<(u64, Done)>,
    /// The first action of the queue found no place: when it is tried again.
    again: Option<(u64, Instant)>,
    /// How far the journal was when it was looked at last.
    seen: u64,
}

/// What has to be synced before the journal may have it.
#[derive(Default)]
struct Flush {
    is_running: bool,
    is_wanted: bool,
    /// Something is applied that waits for a flush, and so many bytes of mutations since then.
    is_needed: bool,
    bytes: u64,
    due: Option<Instant>,
    /// The last mutation that went to the lane.
    ordered: Serial,
    /// The machine wants to hear when this is stable. It may be ahead of what is applied.
    goal: Option<Serial>,
}

/// The way to the next hop.
struct Next {
    version: ChunkVersion,
    outbox: Arc<Outbox>,
    task: AbortHandle,
}

impl Drop for Next {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor {
    pub(super) fn new(
        handle: ChunkHandle,
        directory: Arc<Directory>,
        place: Arc<Place>,
        replica: Replica,
        began: std::time::Instant,
    ) -> Self {
        let lane = Lane::new(Arc::clone(&directory), handle);
        let chunk = directory.open_chunk(handle);
        let told = told_of(&replica, chunk.as_deref());
        Self {
            handle,
            chunk,
            directory,
            inbox: Arc::clone(&place.inbox),
            progress: Arc::clone(&place.journal.progress),
            place,
            replica,
            began: Instant::from_std(began),
            streams: HashMap::new(),
            next: None,
            answerers: HashMap::new(),
            last_request: 0,
            work: Work {
                lane: Some(lane),
                queue: VecDeque::new(),
                awaiting: None,
                again: None,
                seen: 0,
            },
            flush: Flush::default(),
            told,
            is_stirred: true,
            is_overtaken: false,
        }
    }

    /// Runs until the chunk is at rest, or for as long as its thread does.
    pub(in super::super) async fn run(mut self, thread: Rc<Thread>) {
        let mut inputs = Vec::new();
        loop {
            self.inbox.take(&mut inputs);
            for input in inputs.drain(..) {
                self.feed(input);
            }
            if self.is_overtaken {
                return thread.chunkserver.members.forget(self.handle, &self.place);
            }
            self.look_at_journal();
            self.take_turn(&thread);
            self.start_work();
            self.publish(&thread);
            if self.is_stirred || self.has_more_to_see() {
                continue;
            }
            if self.is_at_rest() && self.inbox.close_if_empty() {
                return thread.chunkserver.members.forget(self.handle, &self.place);
            }
            let inbox = Arc::clone(&self.inbox);
            match self.deadline() {
                Some(due) => tokio::select! {
                    biased;
                    () = inbox.ready() => {}
                    () = sleep_until(due) => {}
                },
                None => inbox.ready().await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn feed(&mut self, input: Input) {
        let now = self.now();
        self.is_stirred = true;
        let replica = &mut self.replica;
        match input {
            Input::Order(order, answerer) => {
                let to = self.expect_answer(answerer);
                self.replica.handle_order(now, to, order);
            }
            Input::Newest(newest, answerer) => {
                let to = self.expect_answer(answerer);
                self.replica.handle_newest(now, to, &newest);
            }
            Input::LeaseExtended(version, until) => {
                replica.handle_lease_extended(now, version, until);
            }
            Input::Read(asked) => self.read(now, *asked),
            Input::Open(stream, open, port) => {
                self.streams.insert(stream, port);
                replica.handle_open(now, stream, *open);
            }
            Input::Batch(stream, batch, payload) => {
                self.taken(stream, &payload);
                self.replica.handle_batch(now, stream, batch, payload);
            }
            Input::Mark(stream, mark) => replica.handle_mark(now, stream, &mark),
            Input::Write(stream, write, payload) => {
                self.taken(stream, &payload);
                self.replica.handle_write(now, stream, write, payload);
            }
            Input::Append(stream, append, payload) => {
                self.taken(stream, &payload);
                self.replica.handle_append(now, stream, append, payload);
            }
            Input::Gone(stream) => {
                self.streams.remove(&stream);
                replica.handle_stream_gone(now, stream);
            }
            Input::NextOpened(version) => replica.handle_next_opened(now, version),
            Input::NextAck(version, ack) => replica.handle_next_ack(now, version, &ack),
            Input::NextMarked(version, marked) => {
                replica.handle_next_marked(now, version, &marked);
            }
            Input::NextFailed(version, status, error) => {
                replica.handle_next_failed(now, version, status, error);
            }
            Input::NextGone(version, text) => {
                tracing::debug!(handle = %self.handle, text, "the next hop is gone");
                replica.handle_next_gone(now, version);
            }
            Input::LaneDone(done) => self.lane_done(now, done),
            Input::Flushed(outcome) => {
                self.flush.is_running = false;
                match outcome {
                    Outcome::Flushed { needs_flush: true } => {
                        self.flush.is_needed = true;
                        self.flush.due = Some(Instant::now() + RETRY_DELAY);
                    }
                    Outcome::Failed(failure) => self.failed(now, &failure),
                    _ => {}
                }
            }
            Input::LookAgain => self.is_overtaken = self.is_overtaken(),
            Input::JournalFailed => {
                let failure = Failure {
                    status: Status::Poisoned,
                    ..internal("the journal of the directory has failed")
                };
                self.failed(now, &failure);
            }
        }
    }

    /// Whether the directory has something else under the handle than the machine speaks of. While a
    /// step of the machine's own is under way that is so for a moment.
    fn is_overtaken(&self) -> bool {
        if self.work.lane.is_none() || self.work.awaiting.is_some() || !self.work.queue.is_empty() {
            return false;
        }
        let member = self.replica.member();
        match (self.directory.open_chunk(self.handle), &self.chunk) {
            (Some(now), Some(held)) => !Arc::ptr_eq(&now, held),
            (None, None) => {
                let entry = self.directory.entry(self.handle);
                let is_same = |version| version == member.has().0;
                match member.state() {
                    State::Sealed => !entry.is_some_and(|entry| is_same(entry.version)),
                    _ => false,
                }
            }
            // What the lane itself has begun or settled it has said.
            _ => true,
        }
    }

    /// What the actor has taken may be followed by more.
    fn taken(&self, stream: StreamId, payload: &Bytes) {
        if let Some(port) = self.streams.get(&stream) {
            port.taken(payload.len());
        }
    }

    fn expect_answer(&mut self, answerer: Answerer) -> RequestId {
        self.last_request += 1;
        self.answerers.insert(self.last_request, answerer);
        self.last_request
    }

    fn read(&self, now: Duration, asked: ReadAsked) {
        let answer = match (self.replica.member().sealed(), &self.chunk) {
            (Some(_), _) => Ok(Readable::Sealed),
            (None, Some(chunk)) => self
                .replica
                .check_read(now, asked.version, asked.serial)
                .map(|_| Readable::Open(chunk.snapshot())),
            (None, None) => self
                .replica
                .check_read(now, asked.version, asked.serial)
                .map(|_| Readable::Sealed),
        };
        // Who asked may have gone.
        let _ = asked.answer.send(answer);
    }

    fn failed(&mut self, now: Duration, failure: &Failure) {
        tracing::warn!(handle = %self.handle, status = %failure.status, text = failure.text,
            "an open chunk's work has failed");
        let Failure {
            status,
            text,
            is_in_doubt,
        } = failure;
        self.replica.handle_failed(now, *status, text, *is_in_doubt);
        self.is_stirred = true;
    }

    // Turns.

    fn take_turn(&mut self, thread: &Rc<Thread>) {
        let now = self.now();
        if self.replica.poll_timeout().is_some_and(|due| due <= now) {
            self.replica.handle_timeout(now);
        }
        self.is_stirred = false;
        match &self.chunk {
            Some(chunk) => self.replica.take_turn(now, &**chunk),
            None => self.replica.take_turn(now, &()),
        }
        while let Some(action) = self.replica.poll_action() {
            self.act(thread, action);
        }
    }

    fn act(&mut self, thread: &Rc<Thread>, action: Action) {
        match action {
            Action::Commit(mark) => self.commit(mark),
            Action::Flush => self.want_flush(),
            Action::Apply(mutations) => {
                let len: usize = mutations.payload.iter().map(Bytes::len).sum();
                self.flush.bytes += len as u64;
                self.flush.ordered = mutations.last();
                self.work.queue.push_back(Action::Apply(mutations));
            }
            store if store.is_for_store() => self.work.queue.push_back(store),
            Action::DialNext { hop, open } => self.dial_next(thread, hop, *open),
            Action::SendNext(frame) => self.send_next(thread, &frame),
            Action::CloseNext(version) => {
                self.next.take_if(|next| next.version == version);
            }
            Action::Send { stream, reply } => {
                if let Some(port) = self.streams.get(&stream) {
                    let frame = frame_of(&reply, port.request_id);
                    port.outbox.put(&frame, &[]);
                }
            }
            Action::Take { stream, is_wanted } => {
                if let Some(port) = self.streams.get(&stream) {
                    port.want(is_wanted);
                }
            }
            Action::EndStream(stream) => {
                if let Some(port) = self.streams.remove(&stream) {
                    port.outbox.end();
                }
            }
            Action::Answer { to, answer } => {
                if let Some(answerer) = self.answerers.remove(&to) {
                    answerer(*answer);
                }
            }
            Action::Report(report) => thread.chunkserver.chain_trouble(report),
            // Those for the store were taken above.
            _ => {}
        }
    }

    /// Readers see it from now on.
    fn commit(&mut self, mark: Serial) {
        let committed = self.chunk.as_ref().map(|chunk| chunk.commit_to(mark));
        if let Some(Err(error)) = committed {
            let failure = Failure::from(&error);
            let now = self.now();
            self.failed(now, &failure);
        }
    }

    fn dial_next(&mut self, thread: &Rc<Thread>, hop: Hop, open: WriteOpen) {
        let version = open.version;
        let outbox = Arc::new(Outbox::default());
        outbox.put(&frame(&open, NEXT_REQUEST_ID), &[]);
        let way = hop::Way {
            hop,
            version,
            request_id: NEXT_REQUEST_ID,
            outbox: Arc::clone(&outbox),
            inbox: Arc::clone(&self.inbox),
        };
        let task = spawn_local(hop::run(Rc::clone(thread), way)).abort_handle();
        self.next = Some(Next {
            version,
            outbox,
            task,
        });
    }

    fn send_next(&self, thread: &Thread, frame: &Frame) {
        let Some(next) = &self.next else { return };
        let (kind, body, payload) = match frame {
            Frame::Batch(batch, payload) => (Kind::WriteBatch, batch.to_body(), payload.as_slice()),
            Frame::Mark(mark) => (Kind::Mark, mark.to_body(), &[][..]),
        };
        let len: usize = payload.iter().map(Bytes::len).sum();
        thread.chunkserver.counters.bytes_forwarded.add(len as u64);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let header = Header::new(kind, Status::Ok, NEXT_REQUEST_ID, &body, len);
        let head = [&header.encode()[..], &body].concat();
        next.outbox.put(&head, payload);
    }

    // The store.

    /// Starts on blocking threads what is due there.
    fn start_work(&mut self) {
        let now = Instant::now();
        let is_held = self
            .work
            .again
            .is_some_and(|(sequence, due)| self.work.seen < sequence && now < due);
        if !is_held
            && !self.work.queue.is_empty()
            && let Some(lane) = self.work.lane.take()
        {
            self.work.again = None;
            let queue = std::mem::take(&mut self.work.queue);
            let (directory, journal) =
                (Arc::clone(&self.directory), Arc::clone(&self.place.journal));
            let report = LaneReport::new(&self.inbox);
            spawn_blocking(move || run_lane(lane, queue, &directory, &journal, report));
        }
        let is_due =
            self.flush.due.is_some_and(|due| due <= now) || self.flush.bytes >= UNSYNCED_BYTES_MAX;
        if self.flush.is_needed && (self.flush.is_wanted || is_due) && !self.flush.is_running {
            // Who waits for what is not applied yet waits for another one.
            self.flush.is_running = true;
            self.flush.is_needed = false;
            self.flush.bytes = 0;
            self.flush.due = None;
            let (directory, handle) = (Arc::clone(&self.directory), self.handle);
            let report = FlushReport::new(&self.inbox);
            spawn_blocking(move || {
                let mut report = report;
                report.outcome = lane::flush(&directory, handle);
            });
        }
    }

    fn want_flush(&mut self) {
        self.flush.is_wanted = true;
        if let Some(chunk) = &self.chunk {
            // In the order of the lane: what is to be applied before counts.
            self.flush.goal = Some(chunk.told().serial.max(self.flush.ordered));
        }
        self.tell_stable();
    }

    /// Tells the machine how far all is stable, if it wants to know.
    fn tell_stable(&mut self) {
        let (Some(goal), Some(chunk)) = (self.flush.goal, &self.chunk) else {
            return;
        };
        let (version, serial) = chunk.stable();
        if serial >= goal {
            self.flush.goal = None;
            self.flush.is_wanted = false;
        }
        let now = self.now();
        self.replica.handle_stable(now, version, serial);
        self.is_stirred = true;
    }

    fn look_at_journal(&mut self) {
        let seen = self.progress.stable();
        if seen == self.work.seen {
            return;
        }
        self.work.seen = seen;
        if let Some(chunk) = &self.chunk {
            chunk.stable_to(seen);
        }
        self.end_step();
        self.tell_stable();
    }

    /// Tells the machine of a step that is stable.
    fn end_step(&mut self) {
        if let Some((_, done)) = self.work.awaiting.take_if(|(at, _)| *at <= self.work.seen) {
            // What was waited for in the version before is in the step, or forgotten.
            self.flush.goal = None;
            self.flush.is_wanted = false;
            self.flush.ordered = Serial::NONE;
            let now = self.now();
            self.replica.handle_done(now, done);
            self.is_stirred = true;
        }
    }

    fn lane_done(&mut self, now: Duration, done: LaneDone) {
        // What a chunk is may be another thing now: it was made, begun or settled.
        self.chunk = self.directory.open_chunk(self.handle);
        for action in done.rest.into_iter().rev() {
            self.work.queue.push_front(action);
        }
        for outcome in done.outcomes {
            self.heard(now, outcome);
        }
        self.work.lane = done.lane;
        if self.work.lane.is_none() {
            let lane = Lane::new(Arc::clone(&self.directory), self.handle);
            self.work.lane = Some(lane);
            self.failed(now, &internal("the store has panicked"));
        }
    }

    fn heard(&mut self, now: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Nothing | Outcome::Flushed { .. } => {}
            Outcome::Reserved(end) => self.replica.handle_reserved(now, end),
            Outcome::NotReserved(failure) => {
                self.replica
                    .handle_not_reserved(now, failure.status, &failure.text);
            }
            Outcome::Applied {
                version,
                serial,
                needs_flush,
            } => {
                self.replica.handle_applied(now, version, serial);
                if needs_flush {
                    self.flush.is_needed = true;
                    self.flush.due.get_or_insert(Instant::now() + FLUSH_DELAY);
                }
            }
            Outcome::NotApplied {
                version,
                serial,
                failure,
            } => {
                let Failure {
                    status,
                    text,
                    is_in_doubt,
                } = &failure;
                tracing::warn!(handle = %self.handle, %status, text, "a mutation is not applied");
                self.work
                    .queue
                    .retain(|action| !is_apply_of(action, version));
                self.replica
                    .handle_not_applied(now, version, serial, *status, text, *is_in_doubt);
            }
            Outcome::WhenStable { sequence, done } => {
                self.work.awaiting = Some((sequence, done));
                self.end_step();
            }
            Outcome::Again {
                action,
                sequence,
                applied: (version, serial),
            } => {
                // Only what comes further shows that the disk works.
                if serial > self.replica.member().has().1 {
                    self.replica.handle_applied(now, version, serial);
                }
                if self.replica.member().state() != State::Active {
                    return self.give_up_places(now, version, serial);
                }
                self.work.queue.push_front(action);
                self.work.again = Some((sequence, Instant::now() + RETRY_DELAY));
            }
            Outcome::Failed(failure) => self.failed(now, &failure),
        }
    }

    /// Mutations that found no place are over with their version: none becomes free any more, and a
    /// promise would wait for them for ever.
    fn give_up_places(&mut self, now: Duration, version: ChunkVersion, applied: Serial) {
        self.work
            .queue
            .retain(|action| !is_apply_of(action, version));
        let first = Serial(applied.0.saturating_add(1));
        let text = "no place is free for a mutation";
        self.replica
            .handle_not_applied(now, version, first, Status::Overloaded, text, false);
    }

    // Rest.

    /// Says to others what they may want to know without asking.
    fn publish(&mut self, thread: &Thread) {
        let member = self.replica.member();
        let is_open = member.state() != State::Absent && member.sealed().is_none();
        self.place.is_open.store(is_open, Ordering::Release);
        *lock(&self.place.lease) = self.replica.wanted_lease();
        let told = told_of(&self.replica, self.chunk.as_deref());
        if told != self.told {
            self.told = told;
            thread.chunkserver.changed(&self.directory, self.handle);
        }
        let wants =
            self.work.awaiting.is_some() || self.work.again.is_some() || self.flush.goal.is_some();
        self.inbox.want_journal(wants);
    }

    /// The journal has come further since it was looked at, and somebody waits for it.
    fn has_more_to_see(&self) -> bool {
        let waits = self.work.awaiting.is_some() || self.flush.goal.is_some();
        waits && self.progress.stable() != self.work.seen
    }

    /// The chunk is as if nobody had ever asked for it.
    fn is_at_rest(&self) -> bool {
        let is_idle = self.replica.is_at_rest()
            && self.work.queue.is_empty()
            && self.work.lane.is_some()
            && self.work.awaiting.is_none()
            && !self.flush.is_running
            && self.answerers.is_empty()
            && self.streams.is_empty();
        let is_plain = match self.replica.member().state() {
            State::Absent => true,
            State::Sealed => {
                self.directory.open_chunk(self.handle).is_none()
                    && self.directory.promised_version(self.handle).is_none()
            }
            _ => false,
        };
        is_idle && is_plain
    }

    fn deadline(&self) -> Option<Instant> {
        let of_machine = self.replica.poll_timeout().map(|due| self.began + due);
        let flush = match self.flush.is_running {
            true => None,
            false => self.flush.due,
        };
        let again = self.work.again.map(|(_, due)| due);
        let again = again.filter(|_| self.work.lane.is_some());
        [of_machine, flush, again].into_iter().flatten().min()
    }
}

impl Drop for Actor {
    /// However it ends: nobody is to wait for answers that don't come.
    fn drop(&mut self) {
        self.inbox.close();
        // `is_open` stays as it was published: after a panic the chunk is no sealed one.
        *lock(&self.place.lease) = None;
        for port in self.streams.values() {
            port.outbox.end();
        }
    }
}

/// What changes an inventory's entry.
fn told_of(replica: &Replica, chunk: Option<&OpenChunk>) -> (State, ChunkVersion, bool) {
    let (member, was_changed) = (replica.member(), chunk.is_some_and(OpenChunk::was_changed));
    (member.state(), member.has().0, was_changed)
}

/// Tells the actor what became of the lane's work, be it a panic.
struct LaneReport {
    inbox: Arc<Inbox>,
    done: Option<LaneDone>,
}

impl LaneReport {
    fn new(inbox: &Arc<Inbox>) -> Self {
        let done = LaneDone {
            lane: None,
            outcomes: Vec::new(),
            rest: Vec::new(),
        };
        Self {
            inbox: Arc::clone(inbox),
            done: Some(done),
        }
    }
}

impl Drop for LaneReport {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The actor may have ended.
            let _ = self.inbox.push(Input::LaneDone(done));
        }
    }
}

/// Tells the actor what became of a flush, be it a panic.
struct FlushReport {
    inbox: Arc<Inbox>,
    outcome: Outcome,
}

impl FlushReport {
    fn new(inbox: &Arc<Inbox>) -> Self {
        Self {
            inbox: Arc::clone(inbox),
            outcome: Outcome::Failed(internal("the store has panicked")),
        }
    }
}

impl Drop for FlushReport {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Nothing);
        // The actor may have ended.
        let _ = self.inbox.push(Input::Flushed(outcome));
    }
}

/// Carries out what waits, up to the first that has to be tried again.
fn run_lane(
    lane: Lane,
    mut queue: VecDeque<Action>,
    directory: &Arc<Directory>,
    journal: &Arc<journal::Journal>,
    mut report: LaneReport,
) {
    let mut outcomes = Vec::new();
    while let Some(action) = queue.pop_front() {
        let outcome = match journal.ready_for(directory, &action) {
            Ok(()) => lane.carry_out(action),
            Err(error) => Outcome::Failed(Failure::from(&error.into())),
        };
        let is_stuck = matches!(outcome, Outcome::Again { .. });
        if let Outcome::NotApplied { version, .. } = outcome {
            // A serial is never skipped.
            queue.retain(|action| !is_apply_of(action, version));
        }
        outcomes.push(outcome);
        if is_stuck {
            break;
        }
    }
    report.done = Some(LaneDone {
        lane: Some(lane),
        outcomes,
        rest: queue.into(),
    });
}

fn is_apply_of(action: &Action, version: ChunkVersion) -> bool {
    matches!(action, Action::Apply(mutations) if mutations.version == version)
}

fn frame_of(reply: &Reply, request_id: u64) -> Vec<u8> {
    match reply {
        Reply::Opened => frame(&WriteOpened, request_id),
        Reply::Ack(ack) => frame(ack, request_id),
        Reply::Appended(appended) => frame(appended, request_id),
        Reply::Marked(marked) => frame(marked, request_id),
        Reply::Failed {
            kind,
            status,
            error,
        } => error_frame(*kind, request_id, *status, error),
    }
}
