//! Mutations of a file: what `client/src/writer/drive.rs` and `client/src/net/mutate.rs` do around
//! the shipped [`Mutations`].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_client::core::mutation::frames::{Names, parts, record, write_open};
use sarsen_client::core::mutation::{
    Action, Find, FindId, Mutations, Outcome as Ending, Plan, StreamId, What,
};
use sarsen_client::core::seen::State;
use sarsen_protocol::deframe::{Frame, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkVersion, FileId, RequestId, Serial, SessionId};
use sarsen_protocol::message::{
    Appended, ChunkOpened, FindRequests, Kind, Level, Locate, LocatedChunk, Message, OpenChunk,
    RequestsFound, Slot, WriteAck,
};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use sarsen_protocol::status::Status;

use super::Client;
use super::master::{Outstanding, Session, Unanswered};
use super::tasks::{Channel, Received};
use crate::net::ConnId;
use crate::observation::{ChangeOutcome, Observation};
use crate::oracle::op::{Change, Changes, Done, Outcome};
use crate::oracle::records::RecordId;

/// What a task of a writer did.
enum Told {
    Answered(SessionId, Answer),
    Heard(StreamId, Heard),
    Ended(StreamId, Option<Status>, Duration),
    Renewed(Result<Rc<Session>, Unanswered>),
}

enum Answer {
    Opened(Slot, Result<ChunkOpened, Failed>),
    Located(u32, Result<Option<LocatedChunk>, Failed>),
    Found(FindId, Result<RequestsFound, Option<Status>>),
}

enum Heard {
    Opened,
    Ack(WriteAck),
    Appended(Appended),
}

/// Why the master gave no answer that can be used.
struct Failed {
    status: Option<Status>,
    retry_after: Duration,
}

/// A mutation under way.
struct Entry {
    change: Change,
    /// The bytes that are sent; of a record with its header.
    bytes: Bytes,
    number: Outstanding,
}

/// A stream with a primary that was reached.
struct Stream {
    conn: ConnId,
    request_id: u64,
    names: Names,
}

type Streams = Rc<RefCell<BTreeMap<StreamId, Stream>>>;

/// The mutations of one file.
struct Writer {
    client: Rc<Client>,
    file: FileId,
    level: Level,
    session: Rc<Session>,
    machine: Mutations,
    entries: BTreeMap<u64, Entry>,
    /// What has no number yet, and from when on it may have one.
    waiting: VecDeque<(Duration, Change)>,
    is_renewing: bool,
    streams: Streams,
    told: Rc<Channel<Told>>,
    not_done: u32,
    in_doubt: u32,
}

/// Mutates a file; done if every mutation was.
pub async fn change(client: &Rc<Client>, file: FileId, changes: Changes) -> Outcome {
    let session = match client.session().await {
        Ok(session) => session,
        Err(Unanswered::Refused(status)) => return Outcome::Refused(status),
        Err(_) => return Outcome::NotNow,
    };
    let mut at = client.now();
    let waiting = changes.changes.into_iter().map(|(behind, change)| {
        at += behind;
        (at, change)
    });
    let mut writer = Writer {
        waiting: waiting.collect(),
        file,
        level: changes.level,
        machine: machine(client, changes.level, changes.ordered),
        session,
        entries: BTreeMap::new(),
        is_renewing: false,
        streams: Streams::default(),
        told: Channel::new(client),
        not_done: 0,
        in_doubt: 0,
        client: Rc::clone(client),
    };
    writer.run().await;
    writer.close_all();
    match (writer.in_doubt, writer.not_done) {
        (0, 0) => Outcome::Done(Done::Changed),
        (0, _) => Outcome::NotNow,
        _ => Outcome::Unknown,
    }
}

fn machine(client: &Client, level: Level, ordered: bool) -> Mutations {
    Mutations::new(Plan {
        level,
        ordered,
        patience: client.timeout,
        suspect_after: client.suspect_after(),
        seed: client.chance(|random| random.next()),
    })
}

impl Writer {
    /// Does what the machine says until nothing is left.
    async fn run(&mut self) {
        loop {
            let now = self.client.now();
            self.number_what_waits(now);
            while let Some(action) = self.machine.poll(now) {
                self.act(action);
            }
            if self.entries.is_empty() && self.waiting.is_empty() {
                return;
            }
            let next = self.waiting.front().map(|(at, _)| *at);
            let next = next.filter(|&at| at > now && !self.is_renewing);
            let wake_at = self.machine.wake_at(now).into_iter().chain(next).min();
            // What waits for a number is looked at again when an answer comes.
            if let Some(told) = self.told.receive(wake_at).await {
                self.handle(told);
            }
        }
    }

    fn close_all(&self) {
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        for stream in streams.values() {
            self.client.hang_up(stream.conn);
        }
    }

    fn number_what_waits(&mut self, now: Duration) {
        while !self.is_renewing
            && let Some((at, change)) = self.waiting.front().copied()
            && at <= now
            && let Some(number) = self.client.try_number(&self.session)
        {
            self.waiting.pop_front();
            let id = number.id();
            self.client.world.observe(&Observation::Numbered {
                reader: self.client.process(),
                file: self.file,
                id: (id.session, id.number),
                change: &change,
            });
            let (bytes, what) = made(id, &change);
            self.machine.add(id.number, what);
            let entry = Entry {
                change,
                bytes,
                number,
            };
            self.entries.insert(id.number, entry);
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
                let stream = self.streams.borrow_mut().remove(&stream);
                if let Some(stream) = stream {
                    self.client.hang_up(stream.conn);
                }
            }
            Action::End { number, outcome } => self.end(number, outcome),
        }
    }

    fn handle(&mut self, told: Told) {
        let now = self.client.now();
        match told {
            Told::Answered(session, answer) if session == self.session.id => {
                self.handle_answer(now, answer);
            }
            Told::Answered(..) => {}
            Told::Heard(stream, heard) => {
                let handled = match heard {
                    Heard::Opened => self.machine.handle_stream_opened(now, stream),
                    Heard::Ack(ack) => self.machine.handle_ack(now, stream, &ack),
                    Heard::Appended(appended) => {
                        self.machine.handle_appended(now, stream, &appended)
                    }
                };
                if let Err(fault) = handled {
                    let world = &self.client.world;
                    world.fail(format!("a primary answers what it could not have: {fault}"));
                }
            }
            Told::Ended(stream, status, retry_after) => {
                self.client.world.count("path: stream to a primary lost");
                self.machine
                    .handle_stream_ended(now, stream, status, retry_after);
            }
            Told::Renewed(Ok(session)) => {
                self.session = session;
                self.is_renewing = false;
            }
            Told::Renewed(Err(_)) => {
                self.is_renewing = false;
                self.not_done += u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
                self.waiting.clear();
            }
        }
    }

    fn handle_answer(&mut self, now: Duration, answer: Answer) {
        match answer {
            Answer::Opened(slot, Ok(opened)) => self.machine.handle_opened(now, slot, opened),
            Answer::Opened(slot, Err(failed)) => {
                self.machine
                    .handle_open_failed(now, slot, failed.status, failed.retry_after);
            }
            Answer::Located(index, Ok(chunk)) => self.machine.handle_located(now, index, chunk),
            Answer::Located(index, Err(failed)) => {
                self.machine
                    .handle_locate_failed(now, index, failed.retry_after);
            }
            Answer::Found(id, Ok(found)) => {
                self.client.world.count("path: holder asked for requests");
                self.machine.handle_found(now, id, &found);
            }
            Answer::Found(id, Err(status)) => {
                self.machine.handle_find_failed(now, id, status);
            }
        }
    }

    // Questions.

    fn ask_to_open(&self, slot: Slot, failed: ChunkVersion) {
        let request = OpenChunk {
            session: self.session.id,
            file_id: self.file,
            slot,
            failed,
            memory: self.level == Level::Memory,
            lock_token: 0,
        };
        let client = Rc::clone(&self.client);
        self.ask_beside(async move {
            let mut retry = client.begin();
            let opened = client.run(&request, &mut retry, Status::ALL).await;
            Answer::Opened(slot, opened.map_err(of_the_master))
        });
    }

    fn locate(&self, index: u32) {
        let request = Locate {
            path: String::new(),
            file_id: self.file,
            first_index: index,
            count: 1,
        };
        let client = Rc::clone(&self.client);
        self.ask_beside(async move {
            let mut retry = client.begin();
            let located = client.run(&request, &mut retry, Status::ALL).await;
            let located = match located.map_err(of_the_master) {
                Ok(reply) => Ok(reply.chunks.into_iter().find(|it| it.index == index)),
                Err(failed) if failed.status == Some(Status::NotFound) => Ok(None),
                Err(failed) => Err(failed),
            };
            Answer::Located(index, located)
        });
    }

    fn find(&self, find: Find) {
        let request = FindRequests {
            ticket: find.ticket,
            handle: find.handle,
            version: find.version,
            session: self.session.id,
            numbers: find.numbers,
        };
        let client = Rc::clone(&self.client);
        self.ask_beside(async move {
            let address = &find.replica.control_addr;
            let found = client.ask_chunkserver(address, &request).await;
            Answer::Found(find.id, found)
        });
    }

    fn ask_beside(&self, asking: impl Future<Output = Answer> + 'static) {
        let (told, session) = (Rc::clone(&self.told), self.session.id);
        self.client.spawn(async move {
            let answer = asking.await;
            told.send(Told::Answered(session, answer));
        });
    }

    // Streams.

    fn connect(&self, id: StreamId, opened: ChunkOpened) {
        let client = Rc::clone(&self.client);
        let (told, streams) = (Rc::clone(&self.told), Rc::clone(&self.streams));
        let (file, level) = (self.file, self.level);
        self.client.spawn(async move {
            // A chain has at least one member, as it was decoded.
            let Some(primary) = opened.chain.first() else {
                return;
            };
            let taken =
                client.take_link(primary.server, &primary.data_addr, client.suspect_after());
            let Some(mut link) = taken.await else {
                return told.send(Told::Ended(id, None, Duration::ZERO));
            };
            let (conn, request_id) = (link.conn, link.begin());
            let names = Names {
                handle: opened.handle,
                version: opened.version,
                level,
            };
            let open = write_open(file, &opened, level);
            client
                .world
                .send(client.node, conn, frame(&open, request_id));
            let stream = Stream {
                conn,
                request_id,
                names,
            };
            streams.borrow_mut().insert(id, stream);
            let (status, retry_after) = listen(&client, conn, request_id, id, &told).await;
            // A stream that was closed is not there any more.
            if streams.borrow_mut().remove(&id).is_some() {
                client.hang_up(conn);
                told.send(Told::Ended(id, status, retry_after));
            }
        });
    }

    fn send_write(&self, stream: StreamId, number: u64, serial: Serial) {
        let Some(Entry {
            change,
            bytes,
            number,
        }) = self.entries.get(&number)
        else {
            return;
        };
        let offset = match change {
            Change::Cells { layout, first, .. } => layout.offset(*first),
            Change::Zeros { offset, .. } => *offset,
            Change::Record { .. } => return,
        };
        if let Some(to) = self.streams.borrow().get(&stream)
            && let Some(data) = to.names.write(number.id(), serial, offset, bytes)
        {
            self.send(to, Kind::WriteData, &data.to_body(), bytes.clone());
        }
    }

    fn send_records(&self, stream: StreamId, numbers: &[u64]) {
        let streams = self.streams.borrow();
        let Some(to) = streams.get(&stream) else {
            return;
        };
        let entries = numbers.iter().filter_map(|it| self.entries.get(it));
        let records: Vec<(RequestId, Bytes)> = entries
            .map(|it| (it.number.id(), it.bytes.clone()))
            .collect();
        let Some((id, first)) = records.first() else {
            return;
        };
        if first.len() > PAYLOAD_LEN_MAX as usize {
            for (part, range) in parts(first.len()) {
                let bytes = first.slice(range);
                let message = to.names.append_part(*id, part, &bytes);
                self.send(to, Kind::Append, &message.to_body(), bytes);
            }
            return;
        }
        let items = records.iter().map(|(id, bytes)| (id.number, &bytes[..]));
        let message = to.names.append(id.session, id.lowest_outstanding, items);
        let payload: Vec<u8> = records
            .iter()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        self.send(to, Kind::Append, &message.to_body(), payload.into());
    }

    fn send(&self, to: &Stream, kind: Kind, body: &[u8], payload: Bytes) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header::new(kind, Status::Ok, to.request_id, body, len);
        let mut head = header.encode().to_vec();
        head.extend_from_slice(body);
        self.client
            .world
            .send_with(self.client.node, to.conn, head.into(), payload);
    }

    // Ends.

    fn end(&mut self, number: u64, ending: Ending) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        let world = &self.client.world;
        let outcome = match ending {
            Ending::Done(done) => {
                // A reader of this client sees what it wrote.
                let (version, serial) = (done.version, done.serial);
                self.client
                    .note_seen(done.handle, State { version, serial });
                if done.serial == Serial::NONE {
                    world.count("path: mutation found in a sealed chunk");
                }
                if let Change::Zeros { .. } = entry.change {
                    world.count("path: far slot of a file of records written");
                }
                ChangeOutcome::Done(done)
            }
            Ending::Refused(Status::RequestForgotten) => {
                world.fail(format!(
                    "{:?} is waited for, and was forgotten",
                    entry.number.id()
                ));
                ChangeOutcome::InDoubt
            }
            Ending::Refused(_) | Ending::NotNow => ChangeOutcome::NotDone,
            Ending::InDoubt => ChangeOutcome::InDoubt,
            Ending::ChunkGone => {
                world.count("path: mutation whose chunk is gone");
                ChangeOutcome::InDoubt
            }
            Ending::SessionOver { sent: true } => {
                self.renew();
                ChangeOutcome::InDoubt
            }
            Ending::SessionOver { sent: false } => {
                self.renew();
                // It goes on under another number.
                self.waiting.push_front((Duration::ZERO, entry.change));
                ChangeOutcome::NotDone
            }
        };
        self.client.world.line(|| {
            format!(
                "{:?}: {:?} ends: {ending:?}",
                self.client.node,
                entry.number.id()
            )
        });
        match outcome {
            ChangeOutcome::NotDone if !matches!(ending, Ending::SessionOver { .. }) => {
                self.not_done += 1;
            }
            ChangeOutcome::InDoubt => self.in_doubt += 1,
            _ => {}
        }
        let id = entry.number.id();
        self.client.world.observe(&Observation::Changed {
            reader: self.client.process(),
            id: (id.session, id.number),
            outcome,
        });
    }

    /// Opens another session for what comes from now on.
    fn renew(&mut self) {
        if !std::mem::replace(&mut self.is_renewing, true) {
            let (client, over) = (Rc::clone(&self.client), Rc::clone(&self.session));
            let told = Rc::clone(&self.told);
            self.client.spawn(async move {
                client.forget(&over);
                let session = client.session().await;
                told.send(Told::Renewed(session));
            });
        }
    }
}

/// A mutation as the machine knows it, and its bytes.
fn made(id: RequestId, change: &Change) -> (Bytes, What) {
    match *change {
        Change::Record { len } => {
            let named = RecordId {
                session: id.session,
                number: id.number,
            };
            let bytes = record(id, named.payload(len).bytes());
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            (bytes.into(), What::Append { len })
        }
        Change::Cells {
            layout,
            first,
            count,
            value,
        } => {
            let bytes = layout.bytes(first..first + count, value);
            let what = What::Write {
                index: layout.index(first),
                offset: layout.offset(first),
                len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            };
            (bytes.into(), what)
        }
        Change::Zeros { index, offset, len } => {
            let what = What::Write { index, offset, len };
            (vec![0; len as usize].into(), what)
        }
    }
}

/// Tells what comes on a stream until it ends: what the primary said last, and when to try again.
async fn listen(
    client: &Client,
    conn: ConnId,
    request_id: u64,
    id: StreamId,
    told: &Channel<Told>,
) -> (Option<Status>, Duration) {
    loop {
        let frame = match client.receive(conn, None).await {
            Received::Frame(frame) => frame,
            Received::Ended | Received::Nothing => return (None, Duration::ZERO),
        };
        if !frame.header.status.is_ok() {
            let after = frame.error().map_or(0, |error| error.retry_after);
            return (
                Some(frame.header.status),
                Duration::from_millis(after.into()),
            );
        }
        match heard(&frame, request_id) {
            Some(heard) => told.send(Told::Heard(id, heard)),
            None => return (None, Duration::ZERO),
        }
    }
}

fn heard(frame: &Frame, request_id: u64) -> Option<Heard> {
    if frame.header.request_id != request_id {
        return None;
    }
    match frame.header.kind {
        Kind::WriteOpened => Some(Heard::Opened),
        Kind::WriteAck => frame.message().ok().map(Heard::Ack),
        Kind::Appended => frame.message().ok().map(Heard::Appended),
        _ => None,
    }
}

fn of_the_master(unanswered: Unanswered) -> Failed {
    let (status, retry_after) = match unanswered {
        Unanswered::HandedBack(status, retry_after) => (Some(status), retry_after),
        Unanswered::SessionUnknown => (Some(Status::SessionUnknown), Duration::ZERO),
        Unanswered::Refused(status) => (Some(status), Duration::ZERO),
        Unanswered::NotNow | Unanswered::Unknown => (None, Duration::ZERO),
    };
    Failed {
        status,
        retry_after,
    }
}
