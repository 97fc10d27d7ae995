//! The task behind a [`Writer`](super::Writer).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sarsen_protocol::id::{ChunkVersion, FileId, RequestId, Serial, SessionId};
use sarsen_protocol::message::{
    ChunkOpened, FindRequests, Level, Locate, LocatedChunk, OpenChunk, RequestsFound, Slot,
};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Change, Command, Job, WriteOptions, Written};
use crate::client::Shared;
use crate::core::mutation::frames::{Names, parts, put_header};
use crate::core::mutation::{Action, Done, Find, FindId, Mutations, Outcome, Plan, StreamId, What};
use crate::core::seen::State;
use crate::error::{Error, StreamError};
use crate::master::Unanswered;
use crate::net::{Ended, Heard, MutationJob, Sending, mutate};
use crate::session::{Outstanding, Session};

/// Events and commands that are taken at a time, so that what comes together is sent together.
const TAKEN_MAX: usize = 512;

/// What a task of the driver tells.
enum Event {
    /// Asked within this session.
    Answered(SessionId, Answer),
    Heard(StreamId, Heard),
    Ended(StreamId, Ended),
    Renewed(Result<Arc<Session>, Error>),
}

/// What somebody was asked.
enum Answer {
    Opened(Slot, Result<ChunkOpened, Failed>),
    Located(u32, Result<Option<LocatedChunk>, Failed>),
    Found(FindId, Result<RequestsFound, Option<Status>>),
}

/// Why the master gave no answer that can be used.
struct Failed {
    status: Option<Status>,
    retry_after: Duration,
    error: StreamError,
}

/// A change under way.
struct Entry {
    job: Job,
    number: Outstanding,
    /// Whether its bytes went to a primary.
    is_sent: bool,
}

/// A stream with a primary.
struct Stream {
    names: Names,
    frames: mpsc::UnboundedSender<Sending>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    file_id: FileId,
    options: WriteOptions,
    session: Arc<Session>,
    machine: Mutations,
    /// What is under way, by number.
    entries: BTreeMap<u64, Entry>,
    /// What has no number yet.
    waiting: VecDeque<Job>,
    /// What goes before that, once another session is open.
    renewed: Vec<Job>,
    is_renewing: bool,
    streams: HashMap<StreamId, Stream>,
    tasks: JoinSet<()>,
    commands: mpsc::UnboundedReceiver<Command>,
    told: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    flushes: Vec<oneshot::Sender<u64>>,
    /// Nothing more is begun.
    has_stopped: bool,
    /// Since the last flush.
    failed: u64,
    last_failure: Option<StreamError>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: Arc<Session>,
        file_id: FileId,
        options: WriteOptions,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let (told, events) = mpsc::unbounded_channel();
        Self {
            machine: machine(&shared, &session, options),
            shared,
            file_id,
            options,
            session,
            entries: BTreeMap::new(),
            waiting: VecDeque::new(),
            renewed: Vec::new(),
            is_renewing: false,
            streams: HashMap::new(),
            tasks: JoinSet::new(),
            commands,
            told,
            events,
            flushes: Vec::new(),
            has_stopped: false,
            failed: 0,
            last_failure: None,
        }
    }

    /// Does what the machine says, until the writer is dropped.
    pub(super) async fn run(mut self) {
        let clock = self.shared.clock;
        let (mut events, mut commands) = (Vec::new(), Vec::new());
        loop {
            // Before the look, so that no number that comes free meanwhile is missed.
            let session = self.session.clone();
            let answered = session.answered();
            self.number_what_waits();
            while let Some(action) = self.machine.poll(clock.now()) {
                self.act(action);
            }
            self.answer_flushes();
            while self.tasks.try_join_next().is_some() {}
            let wake_at = self.machine.wake_at(clock.now());
            let wants_number = !self.waiting.is_empty() && !self.is_renewing;
            tokio::select! {
                // What came counts before what is late: this task may have been late itself.
                biased;
                _ = self.events.recv_many(&mut events, TAKEN_MAX) => {
                    events.drain(..).for_each(|event| self.handle(event));
                }
                taken = self.commands.recv_many(&mut commands, TAKEN_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    commands.drain(..).for_each(|command| self.take(command));
                }
                () = answered, if wants_number => {}
                () = clock.wait_until(wake_at) => {}
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Job(job) if self.has_stopped => self.answer(job, Err(Error::NotTried)),
            Command::Job(job) => self.waiting.push_back(job),
            Command::Flush(reply) => self.flushes.push(reply),
        }
    }

    fn answer_flushes(&mut self) {
        let is_idle = self.entries.is_empty() && self.waiting.is_empty() && self.renewed.is_empty();
        if is_idle && !self.flushes.is_empty() {
            answer_all(&mut self.flushes, &mut self.failed);
        }
    }

    /// Numbers jobs in their order, as far as the session's window goes.
    fn number_what_waits(&mut self) {
        while !self.is_renewing
            && !self.waiting.is_empty()
            && let Some(number) = self.session.try_begin()
            && let Some(mut job) = self.waiting.pop_front()
        {
            if matches!(job.change, Change::Record) {
                // Only what goes under a second number may still be with the stream of the first.
                let record = std::mem::take(&mut job.bytes).try_into_mut();
                let mut record = record.unwrap_or_else(|sent| BytesMut::from(&sent[..]));
                put_header(number.id(), &mut record);
                job.bytes = record.freeze();
            }
            // No job is longer than a record may be.
            let len = u32::try_from(job.bytes.len()).unwrap_or(u32::MAX);
            let what = match job.change {
                Change::Record => What::Append { len },
                Change::Write { index, offset } => What::Write { index, offset, len },
            };
            let name = number.id().number;
            self.machine.add(name, what);
            let entry = Entry {
                job,
                number,
                is_sent: false,
            };
            self.entries.insert(name, entry);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open { slot, failed } => self.ask_to_open(slot, failed),
            Action::Locate { index } => self.locate(index),
            Action::Find(find) => self.find(*find),
            Action::Connect { stream, opened } => self.connect(stream, *opened),
            Action::Write {
                stream,
                number,
                serial,
            } => self.send_write(stream, number, serial),
            Action::Append { stream, numbers } => self.send_records(stream, &numbers),
            Action::Close { stream } => {
                self.streams.remove(&stream);
            }
            Action::End { number, outcome } => self.end(number, outcome),
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.shared.clock.now();
        match event {
            // What an earlier session was told is of no use to this one.
            Event::Answered(session, answer) if session == self.session.id => {
                self.handle_answer(now, answer);
            }
            Event::Answered(..) => {}
            Event::Heard(stream, heard) => {
                let handled = match heard {
                    Heard::Opened => self.machine.handle_stream_opened(now, stream),
                    Heard::Ack(ack) => self.machine.handle_ack(now, stream, &ack),
                    Heard::Appended(appended) => {
                        self.machine.handle_appended(now, stream, &appended)
                    }
                };
                if let Err(fault) = handled {
                    tracing::warn!(%fault, "a primary was left");
                }
            }
            Event::Ended(stream, ended) => {
                tracing::info!(error = %ended.error, "a stream with a primary ended");
                self.machine
                    .handle_stream_ended(now, stream, ended.status, ended.retry_after);
                self.last_failure = Some(ended.error);
            }
            Event::Renewed(Ok(session)) => {
                self.session = session;
                self.is_renewing = false;
                for job in self.renewed.drain(..).rev() {
                    self.waiting.push_front(job);
                }
            }
            Event::Renewed(Err(error)) => {
                tracing::warn!(%error, "no other session was opened");
                self.is_renewing = false;
                self.last_failure = Some(no_master(error));
                let renewed = std::mem::take(&mut self.renewed).into_iter();
                for job in renewed.chain(std::mem::take(&mut self.waiting)) {
                    let error = self.not_written();
                    self.answer(job, Err(error));
                }
            }
        }
    }

    fn handle_answer(&mut self, now: Duration, answer: Answer) {
        match answer {
            Answer::Opened(slot, Ok(opened)) => self.machine.handle_opened(now, slot, opened),
            Answer::Opened(slot, Err(failed)) => {
                let (status, retry_after) = self.note(failed);
                self.machine
                    .handle_open_failed(now, slot, status, retry_after);
            }
            Answer::Located(index, Ok(chunk)) => self.machine.handle_located(now, index, chunk),
            Answer::Located(index, Err(failed)) => {
                let (_, retry_after) = self.note(failed);
                self.machine.handle_locate_failed(now, index, retry_after);
            }
            Answer::Found(id, Ok(found)) => self.machine.handle_found(now, id, &found),
            Answer::Found(id, Err(status)) => {
                self.machine.handle_find_failed(now, id, status);
            }
        }
    }

    fn note(&mut self, failed: Failed) -> (Option<Status>, Duration) {
        tracing::info!(error = %failed.error, "the master was asked in vain");
        self.last_failure = Some(failed.error);
        (failed.status, failed.retry_after)
    }

    fn ask_to_open(&mut self, slot: Slot, failed: ChunkVersion) {
        let request = OpenChunk {
            session: self.session.id,
            file_id: self.file_id,
            slot,
            failed,
            memory: self.options.level == Level::Memory,
            lock_token: 0,
        };
        let shared = self.shared.clone();
        self.ask_beside(async move {
            let mut retry = shared.master.begin();
            let opened = shared.master.run(&request, &mut retry, Status::ALL).await;
            let failed = |unanswered| match unanswered {
                Unanswered::Failed(Error::MasterLate { .. }) => Failed {
                    status: None,
                    retry_after: Duration::ZERO,
                    error: StreamError::NotOpenedYet { slot },
                },
                unanswered => of_the_master(unanswered),
            };
            Answer::Opened(slot, opened.map_err(failed))
        });
    }

    fn locate(&mut self, index: u32) {
        let request = Locate {
            path: String::new(),
            file_id: self.file_id,
            first_index: index,
            count: 1,
        };
        let shared = self.shared.clone();
        self.ask_beside(async move {
            let mut retry = shared.master.begin();
            let located = shared.master.run(&request, &mut retry, Status::ALL).await;
            let located = match located.map_err(of_the_master) {
                Ok(reply) => Ok(reply.chunks.into_iter().find(|it| it.index == index)),
                Err(failed) if failed.status == Some(Status::NotFound) => Ok(None),
                Err(failed) => Err(failed),
            };
            Answer::Located(index, located)
        });
    }

    fn find(&mut self, find: Find) {
        let request = FindRequests {
            ticket: find.ticket,
            handle: find.handle,
            version: find.version,
            session: self.session.id,
            numbers: find.numbers,
        };
        let shared = self.shared.clone();
        self.ask_beside(async move {
            let time_max = shared.links.suspect_after();
            let (server, addr) = (find.replica.server, find.replica.control_addr);
            let found = shared
                .controls
                .call(server, &addr, &request, time_max)
                .await;
            let found = found.map_err(|error| {
                tracing::info!(%error, "a holder could not say");
                match error {
                    StreamError::Status { status, .. } => Some(status),
                    _ => None,
                }
            });
            Answer::Found(find.id, found)
        });
    }

    fn connect(&mut self, stream: StreamId, opened: ChunkOpened) {
        let (frames, queue) = mpsc::unbounded_channel();
        let names = Names {
            handle: opened.handle,
            version: opened.version,
            level: self.options.level,
        };
        let known = Stream { names, frames };
        self.streams.insert(stream, known);
        let job = MutationJob {
            file_id: self.file_id,
            opened,
            level: self.options.level,
        };
        let (shared, told) = (self.shared.clone(), self.told.clone());
        self.tasks.spawn(async move {
            // The driver may have ended.
            let heard = |heard| drop(told.send(Event::Heard(stream, heard)));
            if let Err(ended) = run_stream(&shared, &job, queue, &heard).await {
                drop(told.send(Event::Ended(stream, ended)));
            }
        });
    }

    fn send_write(&mut self, stream: StreamId, number: u64, serial: Serial) {
        let entry = self.entries.get_mut(&number);
        let (Some(to), Some(entry)) = (self.streams.get(&stream), entry) else {
            return;
        };
        entry.is_sent = true;
        let Change::Write { offset, .. } = entry.job.change else {
            return;
        };
        // A write is at most a payload.
        let id = entry.number.id();
        if let Some(data) = to.names.write(id, serial, offset, &entry.job.bytes) {
            // A stream that has just ended tells so itself.
            let _ = to
                .frames
                .send(Sending::Write(data, entry.job.bytes.clone()));
        }
    }

    fn send_records(&mut self, stream: StreamId, numbers: &[u64]) {
        let Some(to) = self.streams.get(&stream) else {
            return;
        };
        let mut records: Vec<(RequestId, Bytes)> = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(number) {
                entry.is_sent = true;
                records.push((entry.number.id(), entry.job.bytes.clone()));
            }
        }
        let Some((id, first)) = records.first() else {
            return;
        };
        if first.len() > PAYLOAD_LEN_MAX as usize {
            for (part, range) in parts(first.len()) {
                let bytes = first.slice(range);
                let message = to.names.append_part(*id, part, &bytes);
                let _ = to.frames.send(Sending::Append(message, vec![bytes]));
            }
            return;
        }
        let items = records.iter().map(|(id, bytes)| (id.number, &bytes[..]));
        let message = to.names.append(id.session, id.lowest_outstanding, items);
        let payload = records.into_iter().map(|(_, bytes)| bytes).collect();
        let _ = to.frames.send(Sending::Append(message, payload));
    }

    fn end(&mut self, number: u64, outcome: Outcome) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        let result = match outcome {
            Outcome::Done(done) => Ok(self.written(&done)),
            Outcome::Refused(Status::NotFound) => Err(Error::FileGone),
            Outcome::Refused(Status::IsAFolder) => Err(Error::FolderHasNoBytes),
            Outcome::Refused(status) => Err(self.refused(status)),
            Outcome::NotNow => Err(self.not_written()),
            Outcome::InDoubt => Err(Error::WriteInDoubt {
                waited: self.shared.timeout,
                cause: self.last_failure.take().map(Box::new),
            }),
            Outcome::ChunkGone => Err(Error::ChunkGone),
            Outcome::SessionOver { sent } => {
                self.renew();
                if !sent && self.has_stopped {
                    return self.answer(entry.job, Err(Error::NotTried));
                }
                if !sent {
                    // It goes on under another number.
                    self.renewed.push(entry.job);
                    return;
                }
                Err(Error::OutcomeUnknown { source: None })
            }
        };
        self.answer(entry.job, result);
    }

    fn answer(&mut self, job: Job, result: Result<Written, Error>) {
        let is_failed = result.is_err();
        self.failed += u64::from(is_failed);
        // Who gave it may not wait for it.
        let _ = job.reply.send(result);
        if is_failed && self.options.stop_at_failure && !self.has_stopped {
            self.stop();
        }
    }

    /// Begins nothing more. What was sent is waited for; what was not, the machine may still have sent
    /// by [`Driver::act`], and finds that there is nothing to send.
    fn stop(&mut self) {
        self.has_stopped = true;
        let unsent = self.entries.extract_if(.., |_, entry| !entry.is_sent);
        let mut jobs: Vec<Job> = unsent.map(|(_, entry)| entry.job).collect();
        jobs.append(&mut self.renewed);
        jobs.extend(self.waiting.drain(..));
        for job in jobs {
            self.answer(job, Err(Error::NotTried));
        }
    }

    /// Opens another session for what comes from now on.
    fn renew(&mut self) {
        if !std::mem::replace(&mut self.is_renewing, true) {
            let (shared, over) = (self.shared.clone(), self.session.clone());
            self.spawn(async move {
                shared.sessions.forget(&over).await;
                Event::Renewed(shared.sessions.current().await)
            });
        }
    }

    fn written(&self, done: &Done) -> Written {
        // A reader of this client sees what it wrote. Of what was found in a sealed chunk no serial
        // is known, and none is needed: that version has it.
        let (version, serial) = (done.version, done.serial);
        self.shared
            .note_seen(done.handle, State { version, serial });
        let start = u64::from(done.index) * u64::from(self.session.chunk_size);
        Written {
            offset: start + u64::from(done.offset),
            index: done.index,
            level: done.level,
            copies: done.copies,
        }
    }

    fn refused(&self, status: Status) -> Error {
        let text = match &self.last_failure {
            Some(StreamError::NotOpened { status: last, text }) if *last == status => text.clone(),
            Some(StreamError::Status {
                status: last, text, ..
            }) if *last == status => text.clone(),
            _ => status.meaning().to_owned(),
        };
        Error::Refused { status, text }
    }

    fn not_written(&mut self) -> Error {
        let waited = self.shared.timeout;
        match self.last_failure.take() {
            Some(StreamError::NotOpened { status, text }) => Error::NotNow {
                status,
                text,
                waited,
            },
            Some(StreamError::NoMaster { cause }) => *cause,
            cause => Error::NotWritten {
                waited,
                cause: cause.map(Box::new),
            },
        }
    }

    fn ask_beside(&mut self, asking: impl Future<Output = Answer> + Send + 'static) {
        let session = self.session.id;
        self.spawn(async move { Event::Answered(session, asking.await) });
    }

    fn spawn(&mut self, task: impl Future<Output = Event> + Send + 'static) {
        let told = self.told.clone();
        self.tasks.spawn(async move {
            // The driver may have ended.
            let _ = told.send(task.await);
        });
    }
}

fn machine(shared: &Shared, session: &Session, options: WriteOptions) -> Mutations {
    shared.links.learn(session.suspect_after);
    Mutations::new(Plan {
        level: options.level,
        ordered: options.ordered,
        patience: shared.timeout,
        suspect_after: shared.links.suspect_after(),
        seed: shared.master.draw_seed(),
    })
}

async fn run_stream(
    shared: &Shared,
    job: &MutationJob,
    queue: mpsc::UnboundedReceiver<Sending>,
    heard: &(impl Fn(Heard) + Sync),
) -> Result<(), Ended> {
    let suspect_after = shared.links.suspect_after();
    // A chain has at least one member, as it was decoded.
    let Some(primary) = job.opened.chain.first() else {
        return Ok(());
    };
    let taken = shared
        .links
        .take(primary.server, &primary.data_addr, suspect_after);
    let link = taken.await.map_err(|error| Ended {
        status: None,
        retry_after: Duration::ZERO,
        error,
    })?;
    mutate(link, job, queue, heard).await
}

fn of_the_master(unanswered: Unanswered) -> Failed {
    match unanswered {
        Unanswered::HandedBack {
            status,
            text,
            retry_after,
        } => Failed {
            status: Some(status),
            retry_after,
            error: StreamError::NotOpened { status, text },
        },
        Unanswered::SessionUnknown => Failed {
            status: Some(Status::SessionUnknown),
            retry_after: Duration::ZERO,
            error: no_master(Error::SessionLost),
        },
        Unanswered::Failed(error) => Failed {
            status: None,
            retry_after: Duration::ZERO,
            error: no_master(error),
        },
    }
}

fn no_master(error: Error) -> StreamError {
    let cause = Box::new(error);
    StreamError::NoMaster { cause }
}

/// Tells who flushed how many have failed, and counts anew. Who asked may have gone: with nobody to hear it
/// the count stays for the next.
fn answer_all(flushes: &mut Vec<oneshot::Sender<u64>>, failed: &mut u64) {
    let mut is_heard = false;
    for reply in flushes.drain(..) {
        is_heard |= reply.send(*failed).is_ok();
    }
    if is_heard {
        *failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count went to whoever had asked first, be it that he had given up: the next flush said that
    /// all was well.
    #[test]
    fn failures_are_told_to_somebody_who_hears_them() {
        let mut failed = 3;
        let ((gone, _), (here, mut heard)) = (oneshot::channel(), oneshot::channel());
        answer_all(&mut vec![gone], &mut failed);
        assert_eq!(failed, 3);
        answer_all(&mut vec![here], &mut failed);
        assert_eq!((heard.try_recv(), failed), (Ok(3), 0));
    }
}
