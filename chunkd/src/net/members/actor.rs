//! The task of one open chunk: drives its [`Worker`] on the threads that there are, and carries its
//! actions to the peers.
//!
//! ```text
//!   orders, questions, reads ──┐                      ┌──► the lane: blocking threads, one action
//!   clients, the hop before ───┤──► inbox ──► worker ──┼──► the next hop's outbox   after the other
//!   the next hop, the store ───┘                      └──► each stream's outbox
//! ```
//!
//! All that waits in the inbox is fed, then the machine takes one turn, then its actions are carried
//! out: so mutations of many clients become one batch, and a batch costs a wake-up, not a record.
//! Whatever waits for a disk is on a blocking thread, one at a time for the lane and one for a flush; the
//! task itself waits for its inbox and for time only. A disk that hangs holds up the chunks that lie on
//! it. Appends, which go to the page cache, are done here as long as they are brief
//! ([`crate::core::brief_work`]): a thread that is woken and wakes this one again takes longer. A disk
//! that hangs under one holds up this thread too, with all that it serves, and no other.
//!
//! A turn that comes late, because this thread was held up, judges no neighbour by what it has not read yet.
//! Nothing is decided here: what the machine wants of the store and what it is told of that is the
//! worker's.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{ErrorBody, Hop, WriteOpen};
use sarsen_protocol::status::Status;
use tokio::task::{AbortHandle, spawn_blocking, spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::super::health::Fitness;
use super::super::plane::Thread;
use super::frames::{onward_frame, reply_frame};
use super::inbox::{Answerer, Inbox, Input, Outbox, Port, Progress, ReadAsked, lock};
use super::lane::{self, Failure, Outcome};
use super::worker::{LaneDone, LaneWork, Worker};
use super::{Busy, Place, hop, journal};
use crate::core::member::RequestId;
use crate::core::mutation::{Action, Frame, StreamId};
use crate::store::Directory;

/// So long behind its time a turn reads first what came meanwhile, before it judges who was silent.
const LATE_MIN: Duration = Duration::from_millis(20);

/// The number of the next hop's stream on its connection, which carries no other.
const NEXT_REQUEST_ID: u64 = 1;

/// One open chunk at work.
pub(in super::super) struct Actor {
    handle: ChunkHandle,
    place: Arc<Place>,
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    worker: Worker,
    /// Since when the process measures.
    began: Instant,
    streams: HashMap<StreamId, Arc<Port>>,
    /// Who was told something in this turn.
    told: Vec<Arc<Port>>,
    next: Option<Next>,
    answerers: HashMap<RequestId, Answerer>,
    last_request: RequestId,
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
        place: Arc<Place>,
        worker: Worker,
        began: std::time::Instant,
    ) -> Self {
        Self {
            handle,
            inbox: Arc::clone(&place.inbox),
            progress: Arc::clone(&place.journal.progress),
            place,
            worker,
            began: Instant::from_std(began),
            streams: HashMap::new(),
            told: Vec::new(),
            next: None,
            answerers: HashMap::new(),
            last_request: 0,
        }
    }

    /// Runs until the chunk is at rest, or for as long as its thread does.
    pub(in super::super) async fn run(mut self, thread: Rc<Thread>) {
        let mut inputs = Vec::new();
        let mut has_caught_up = false;
        loop {
            self.inbox.take(&mut inputs);
            for input in inputs.drain(..) {
                self.feed(input);
            }
            self.worker
                .handle_journal(self.now(), self.progress.stable());
            if self.worker.is_overtaken() {
                return thread.chunkserver.members.forget(self.handle, &self.place);
            }
            if !has_caught_up && self.is_late() {
                // What the neighbours have sent meanwhile lies in their sockets. Who receives it is woken
                // before this goes on.
                has_caught_up = true;
                yield_now().await;
                continue;
            }
            has_caught_up = false;
            self.take_turn(&thread);
            self.start_work(&thread);
            self.publish(&thread);
            if self.worker.is_stirred() || self.worker.has_more_to_see(self.progress.stable()) {
                continue;
            }
            if self.is_at_rest() && self.inbox.close_if_empty() {
                return thread.chunkserver.members.forget(self.handle, &self.place);
            }
            let inbox = Arc::clone(&self.inbox);
            match self.worker.deadline() {
                Some(due) => tokio::select! {
                    biased;
                    () = inbox.ready() => {}
                    () = sleep_until(self.began + due) => {}
                },
                None => inbox.ready().await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether this thread was kept from the turn that is due.
    fn is_late(&self) -> bool {
        let due = self.worker.deadline();
        due.is_some_and(|due| self.now() >= due + LATE_MIN)
    }

    fn feed(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Order(order, answerer) => {
                let to = self.expect_answer(answerer);
                self.worker.machine().handle_order(now, to, order);
            }
            Input::Newest(newest, answerer) => {
                let to = self.expect_answer(answerer);
                self.worker.machine().handle_newest(now, to, &newest);
            }
            Input::LeaseExtended(version, until) => {
                self.worker
                    .machine()
                    .handle_lease_extended(now, version, until);
            }
            Input::Read(asked) => self.read(now, *asked),
            Input::Open(stream, open, port) => {
                self.streams.insert(stream, port);
                self.worker.machine().handle_open(now, stream, *open);
            }
            Input::Came(stream, came, len, _room) => {
                // What the actor has taken may be followed by more.
                if let Some(port) = self.streams.get(&stream) {
                    port.taken(len);
                }
                came.tell(self.worker.machine(), now, stream);
            }
            Input::WaitsForRoom(stream, waits) => {
                self.worker.machine().handle_room_wait(now, stream, waits);
            }
            Input::Gone(stream) => {
                self.streams.remove(&stream);
                self.worker.machine().handle_stream_gone(now, stream);
            }
            Input::Next(version, said) => said.tell(self.worker.machine(), now, version),
            Input::LaneDone(done) => self.worker.handle_lane_done(now, done),
            Input::Flushed(outcome) => self.worker.handle_flushed(now, outcome),
            Input::LookAgain => self.worker.handle_changed(),
            Input::JournalFailed => self.worker.handle_journal_failed(now),
            Input::ReadFailed(status) => self.worker.machine().handle_read_failed(status),
        }
    }

    fn expect_answer(&mut self, answerer: Answerer) -> RequestId {
        self.last_request += 1;
        self.answerers.insert(self.last_request, answerer);
        self.last_request
    }

    fn read(&self, now: Duration, asked: ReadAsked) {
        let answer = self.worker.read(now, asked.version, asked.serial);
        // Who asked may have gone.
        let _ = asked.answer.send(answer);
    }

    // Turns.

    fn take_turn(&mut self, thread: &Rc<Thread>) {
        self.worker.take_turn(self.now());
        while let Some(action) = self.worker.poll_action() {
            self.act(thread, action);
        }
        // Once for all that the turn has to say to one peer.
        if let Some(next) = &self.next {
            next.outbox.flush();
        }
        for port in self.told.drain(..) {
            port.outbox.flush();
        }
    }

    fn act(&mut self, thread: &Rc<Thread>, action: Action) {
        match action {
            Action::DialNext { hop, open } => self.dial_next(thread, hop, *open),
            Action::SendNext(frame) => self.send_next(thread, &frame),
            Action::CloseNext(version) => {
                self.next.take_if(|next| next.version == version);
            }
            Action::Send { stream, reply } => {
                if let Some(port) = self.streams.get(&stream) {
                    let frame = reply_frame(&reply, port.request_id);
                    port.outbox.put(&frame, &[]);
                    self.told.push(Arc::clone(port));
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
            // Those for the store are the worker's.
            _ => {}
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
        let (head, payload) = onward_frame(frame, NEXT_REQUEST_ID);
        let len: usize = payload.iter().map(Bytes::len).sum();
        thread.chunkserver.counters.bytes_forwarded.add(len as u64);
        next.outbox.put(&head, payload);
    }

    // The store.

    /// Does what is brief, and starts on blocking threads what else is due on the disk.
    fn start_work(&mut self, thread: &Thread) {
        let now = self.now();
        let directory = Arc::clone(self.worker.directory());
        if let Some(work) = self.worker.start_lane(now) {
            match self.begin_brief(thread, &work) {
                Some(busy) => self.do_work(work, busy),
                None => {
                    let directory = Arc::clone(&directory);
                    let journal = Arc::clone(&self.place.journal);
                    let report = LaneReport::new(&self.inbox);
                    let work = move || run_lane(work, &directory, &journal, report);
                    self.place.journal.at_disk(work);
                }
            }
        }
        if self.worker.start_flush(now) {
            let handle = self.handle;
            let report = FlushReport::new(&self.inbox);
            self.place.journal.at_disk(move || {
                let mut report = report;
                report.outcome = lane::flush(&directory, handle);
            });
        }
    }

    /// Begins work on this thread, if it is brief.
    fn begin_brief(&self, thread: &Thread, work: &LaneWork) -> Option<Busy> {
        let (bytes, rows) = work.appended()?;
        let chunkserver = &thread.chunkserver;
        let health = chunkserver.health(self.worker.directory().identity().directory_id)?;
        if health.fitness(std::time::Instant::now()) != Fitness::Good {
            return None;
        }
        let busy = chunkserver.members.enter_brief()?;
        let begins = lock(&self.place.journal.brief_work).begin(self.now(), bytes, rows);
        begins.then_some(busy)
    }

    /// Does on this thread what is brief.
    fn do_work(&mut self, mut work: LaneWork, busy: Busy) {
        let (began, cpu) = (self.now(), own_cpu());
        let done = catch_unwind(AssertUnwindSafe(|| {
            let has_failed = work.append();
            (work.done(), has_failed)
        }));
        let now = self.now();
        // What the processor took the disk has no part in.
        let waited = now.saturating_sub(began);
        let waited = waited.saturating_sub(own_cpu().saturating_sub(cpu));
        lock(&self.place.journal.brief_work).end(now, waited);
        drop(busy);
        let (done, has_failed) = done.unwrap_or_else(|_| (LaneDone::panicked(), true));
        if has_failed {
            let (directory, handle) = (Arc::clone(self.worker.directory()), self.handle);
            spawn_blocking(move || lane::mark_failed(&directory, handle));
        }
        self.worker.handle_lane_done(now, done);
    }

    // Rest.

    /// Says to others what they may want to know without asking.
    fn publish(&mut self, thread: &Thread) {
        self.place
            .is_open
            .store(self.worker.is_open(), Ordering::Release);
        *lock(&self.place.lease) = self.worker.replica().wanted_lease();
        if self.worker.has_changed() {
            let directory = self.worker.directory();
            thread.chunkserver.changed(directory, self.handle);
        }
        self.inbox.want_journal(self.worker.waits_for_journal());
    }

    /// The chunk is as if nobody had ever asked for it.
    fn is_at_rest(&self) -> bool {
        self.answerers.is_empty() && self.streams.is_empty() && self.worker.is_at_rest()
    }
}

impl Drop for Actor {
    /// However it ends: nobody is to wait for answers that don't come.
    fn drop(&mut self) {
        let waiting = self.inbox.close();
        // `is_open` stays as it was published: after a panic the chunk is no sealed one.
        *lock(&self.place.lease) = None;
        for port in self.streams.values() {
            port.outbox.end();
        }
        let (status, text) = match self.worker.is_overtaken() {
            true => (Status::ChunkUnknown, "the chunk was deleted or replaced"),
            false => (Status::Internal, "the chunk's work has ended"),
        };
        let mut answerers: Vec<_> = self.answerers.drain().map(|(_, it)| it).collect();
        for input in waiting {
            match input {
                Input::Order(_, answerer) | Input::Newest(_, answerer) => answerers.push(answerer),
                Input::Open(_, _, port) => port.outbox.end(),
                // Nobody waits for more than that the stream, the read or the chunk ends.
                _ => {}
            }
        }
        for answerer in answerers {
            answerer(Err((status, ErrorBody::new(text))));
        }
    }
}

/// Tells the actor what became of the lane's work, be it a panic.
struct LaneReport {
    inbox: Arc<Inbox>,
    done: Option<LaneDone>,
}

impl LaneReport {
    fn new(inbox: &Arc<Inbox>) -> Self {
        Self {
            inbox: Arc::clone(inbox),
            done: Some(LaneDone::panicked()),
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
            outcome: Outcome::Failed(Failure::internal("the store has panicked")),
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

/// Processor time of this thread.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// Carries out what waits, up to the first that has to be tried again.
fn run_lane(
    mut work: LaneWork,
    directory: &Arc<Directory>,
    journal: &journal::Journal,
    mut report: LaneReport,
) {
    while work.step(|| journal.begin(directory)) {}
    report.done = Some(work.done());
}
