//! One chunk that is written to: its primary, the stream with it, and what is in doubt there.
//!
//! ```text
//!   idle ── Open ──► opening ──► known ── Connect ──► streaming
//!    │ ▲                ▲                                │
//!    │ └────────────────┼──────── the stream is lost ────┘
//!    └─ in doubt: Locate ──► locating ── sealed since ──► finding ──► idle
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{
    Appended, ChunkOpened, ChunkState, FoundKind, FoundRequest, Level, LocatedChunk, RequestsFound,
    Slot, WriteAck,
};
use sarsen_protocol::size::{
    APPEND_CRCS_MAX, APPEND_ITEMS_MAX, FIND_MAX, PAYLOAD_LEN_MAX, blocks_in,
};
use sarsen_protocol::status::Status;

use super::flow::{Flow, FlowFault};
use super::{
    Action, All, Done, Failing, Find, FindId, Outcome, Sent, StreamId, What, is_final,
    is_of_the_mutation,
};

#[derive(Clone, Debug)]
pub(super) struct Way {
    index: u32,
    state: State,
    /// Mutations at an offset that surely were not done.
    writes: BTreeSet<u64>,
    /// Mutations that may have been done in this chunk, or in one that was here before.
    doubts: BTreeSet<u64>,
    /// The version whose stream was lost, or none.
    failed: ChunkVersion,
    failing: Failing,
    /// A mutation was refused, and it is to be found out which.
    is_careful: bool,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    /// The master was asked to open it, at this time.
    Opening(Duration),
    Known(Box<Known>),
    Streaming(Box<Streaming>),
    /// The master was asked what the chunk is by now, at this time.
    Locating(Duration),
    /// A holder was asked this.
    Finding(FindId, Box<Finding>),
}

#[derive(Clone, Debug)]
struct Known {
    opened: ChunkOpened,
    until: Duration,
}

#[derive(Clone, Debug)]
struct Streaming {
    known: Known,
    stream: StreamId,
    flow: Flow,
    /// The primary takes no more in this version.
    is_draining: bool,
}

impl Known {
    const fn names(&self) -> (ChunkHandle, ChunkVersion) {
        (self.opened.handle, self.opened.version)
    }
}

/// A sealed chunk whose holders are asked.
#[derive(Clone, Debug)]
struct Finding {
    chunk: LocatedChunk,
    /// The holders asked before this one.
    asked: usize,
    numbers: Vec<u64>,
}

/// What an `Appended` says beside what became of records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// A record was appended to the chunk with this index.
    pub(super) grown: Option<u32>,
    /// The chunk takes no more records.
    pub(super) full: Option<(u32, ChunkHandle)>,
    pub(super) is_session_over: bool,
}

impl Way {
    pub(super) const fn new(index: u32, seed: u64) -> Self {
        Self {
            index,
            state: State::Idle,
            writes: BTreeSet::new(),
            doubts: BTreeSet::new(),
            failed: ChunkVersion::NONE,
            failing: Failing::new(seed),
            is_careful: false,
        }
    }

    /// A mutation at an offset waits to be sent.
    pub(super) fn wait(&mut self, number: u64) {
        if self.is_idle() {
            self.failing.succeed();
        }
        self.writes.insert(number);
    }

    pub(super) const fn failed(&self) -> ChunkVersion {
        self.failed
    }

    /// Whether the primary is known.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self.state, State::Known(_) | State::Streaming(_))
    }

    /// Whether nothing waits for an answer, nor to be sent.
    pub(super) fn is_idle(&self) -> bool {
        let is_at_rest = match &self.state {
            State::Idle | State::Known(_) => true,
            State::Streaming(streaming) => streaming.flow.in_flight() == 0,
            State::Opening(_) | State::Locating(_) | State::Finding(..) => false,
        };
        is_at_rest && self.writes.is_empty() && self.doubts.is_empty()
    }

    pub(super) fn stream(&self) -> Option<StreamId> {
        match &self.state {
            State::Streaming(streaming) => Some(streaming.stream),
            _ => None,
        }
    }

    /// Whether the answer to a question is waited for.
    pub(super) fn has_asked(&self, id: FindId) -> bool {
        matches!(&self.state, State::Finding(asked, _) if *asked == id)
    }

    pub(super) fn has_stream(&self, stream: StreamId) -> bool {
        self.stream() == Some(stream)
    }

    pub(super) fn flow_mut(&mut self) -> Option<&mut Flow> {
        match &mut self.state {
            State::Streaming(streaming) => Some(&mut streaming.flow),
            _ => None,
        }
    }

    /// When the master was asked to open the chunk, if it was.
    pub(super) const fn opening_since(&self) -> Option<Duration> {
        match self.state {
            State::Opening(since) => Some(since),
            _ => None,
        }
    }

    /// Records that were sent here and are not answered.
    pub(super) fn appends_sent(&self, all: &All) -> usize {
        let in_flight = match &self.state {
            State::Streaming(streaming) => streaming.flow.appends_in_flight(),
            _ => 0,
        };
        in_flight + usize::from(self.has_append_in_doubt(all))
    }

    pub(super) fn has_append_in_doubt(&self, all: &All) -> bool {
        self.doubts.iter().any(|&number| all.is_append(number))
    }

    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        let has_work = !self.writes.is_empty() || !self.doubts.is_empty();
        let not_before = Some(self.failing.not_before).filter(|&at| at > now);
        match &self.state {
            State::Streaming(streaming) => {
                let stalled = streaming.flow.stalled_at();
                Some(not_before.map_or(stalled, |at| at.min(stalled)))
            }
            State::Idle if has_work => not_before,
            State::Known(_) => not_before,
            _ => None,
        }
    }

    /// Makes something out to be done, if there is anything.
    pub(super) fn step(&mut self, now: Duration, takes_appends: bool, all: &mut All) -> bool {
        if let State::Streaming(streaming) = &self.state {
            if now >= streaming.flow.stalled_at() {
                self.handle_ended(now, None, Duration::ZERO, all);
                return true;
            }
            if streaming.is_draining && streaming.flow.in_flight() == 0 {
                self.handle_ended(now, Some(Status::PromiseRefused), Duration::ZERO, all);
                return true;
            }
        }
        let has_work = takes_appends || !self.writes.is_empty() || !self.doubts.is_empty();
        if !has_work || now < self.failing.not_before {
            return false;
        }
        match &self.state {
            State::Opening(_) | State::Locating(_) | State::Finding(..) => return false,
            State::Streaming(_) => return self.send(now, takes_appends, all),
            State::Idle | State::Known(_) => {}
        }
        if self.failing.is_hopeless(now, all.plan.patience) {
            self.give_up(all);
        } else if let State::Known(known) = &self.state {
            match now < known.until {
                true => self.connect(now, all),
                false => self.state = State::Idle,
            }
        } else if self.doubts.is_empty() {
            self.open(now, all);
        } else {
            self.state = State::Locating(now);
            let index = self.index;
            all.actions.push_back(Action::Locate { index });
        }
        true
    }

    fn give_up(&mut self, all: &mut All) {
        all.end_all(std::mem::take(&mut self.doubts), Outcome::InDoubt);
        all.end_all(std::mem::take(&mut self.writes), Outcome::NotNow);
        self.state = State::Idle;
        self.failing.succeed();
    }

    fn open(&mut self, now: Duration, all: &mut All) {
        self.state = State::Opening(now);
        let (slot, failed) = (Slot::At(self.index), self.failed);
        all.actions.push_back(Action::Open { slot, failed });
    }

    fn connect(&mut self, now: Duration, all: &mut All) {
        let State::Known(known) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        all.streams += 1;
        let stream = StreamId(all.streams);
        all.actions.push_back(Action::Connect {
            stream,
            opened: Box::new(known.opened.clone()),
        });
        let (level, suspect_after) = (all.plan.level, all.plan.suspect_after);
        self.state = State::Streaming(Box::new(Streaming {
            flow: Flow::new(now, level, known.opened.version, suspect_after),
            known: *known,
            stream,
            is_draining: false,
        }));
    }

    /// The chunk is open, as the master said to what it was asked at `asked`; nothing is to be sent
    /// for as long as `hold`.
    pub(super) fn learn(
        &mut self,
        now: Duration,
        asked: Duration,
        opened: ChunkOpened,
        hold: Option<Duration>,
        all: &mut All,
    ) {
        if let Some(hold) = hold {
            self.failing.not_before = now.saturating_add(hold);
        }
        if let State::Streaming(streaming) = &self.state {
            let current = &streaming.known.opened;
            if current.handle == opened.handle && current.version >= opened.version {
                return;
            }
            self.handle_ended(now, None, Duration::ZERO, all);
        }
        // A slot never gets a chunk back that it had.
        let is_elsewhere = |number: &u64| {
            let sent = all.mutations.get(number).and_then(|it| it.sent);
            sent.is_some_and(|sent| sent.handle != opened.handle)
        };
        let gone = self.doubts.extract_if(.., is_elsewhere).collect();
        all.end_all(gone, Outcome::ChunkGone);
        let lease = Duration::from_millis(opened.lease.into());
        self.state = State::Known(Box::new(Known {
            opened,
            until: asked.saturating_add(lease),
        }));
    }

    pub(super) fn handle_open_failed(
        &mut self,
        now: Duration,
        status: Option<Status>,
        retry_after: Duration,
        all: &mut All,
    ) {
        let State::Opening(since) = self.state else {
            return;
        };
        self.state = State::Idle;
        if let Some(status) = status.filter(|&it| is_final(it)) {
            let writes = std::mem::take(&mut self.writes);
            all.end_all(writes, Outcome::Refused(status));
        }
        if status == Some(Status::ChunkSealed) {
            self.failed = ChunkVersion::NONE;
        }
        // What is in doubt may still be found, when the chunk is sealed.
        self.failing.fail_since(since, now, retry_after);
    }

    pub(super) fn handle_located(
        &mut self,
        now: Duration,
        chunk: Option<LocatedChunk>,
        all: &mut All,
    ) {
        if !matches!(self.state, State::Locating(_)) {
            return;
        }
        self.state = State::Idle;
        let Some(chunk) = chunk else {
            let doubts = std::mem::take(&mut self.doubts);
            all.end_all(doubts, Outcome::ChunkGone);
            return;
        };
        let sent = |number: &u64| all.mutations.get(number).and_then(|it| it.sent);
        let is_gone = |number: &u64| sent(number).is_some_and(|it| it.handle != chunk.handle);
        let gone: BTreeSet<u64> = self.doubts.extract_if(.., is_gone).collect();
        let is_later =
            |number: &&u64| sent(number).is_some_and(|it| it.version_max < chunk.version);
        let numbers: Vec<u64> = match chunk.state {
            ChunkState::Sealed => self.doubts.iter().filter(is_later).copied().collect(),
            ChunkState::Open | ChunkState::Pending => Vec::new(),
        };
        all.end_all(gone, Outcome::ChunkGone);
        if self.doubts.is_empty() {
            return;
        }
        if numbers.is_empty() {
            // It is open, or its seal is older than what was sent.
            self.open(now, all);
            return;
        }
        let numbers = numbers.into_iter().take(FIND_MAX).collect();
        let finding = Finding {
            chunk,
            asked: 0,
            numbers,
        };
        self.find(now, finding, all);
    }

    /// Asks the next holder.
    fn find(&mut self, now: Duration, finding: Finding, all: &mut All) {
        let Some(replica) = finding.chunk.replicas.get(finding.asked) else {
            self.state = State::Idle;
            self.failing.fail(now, Duration::ZERO);
            return;
        };
        all.finds += 1;
        let id = FindId(all.finds);
        all.actions.push_back(Action::Find(Box::new(Find {
            id,
            handle: finding.chunk.handle,
            version: finding.chunk.version,
            ticket: finding.chunk.ticket,
            replica: replica.clone(),
            numbers: finding.numbers.clone(),
        })));
        self.state = State::Finding(id, Box::new(finding));
    }

    /// The master could not be asked where the chunk is.
    pub(super) fn handle_settling_failed(&mut self, now: Duration, retry_after: Duration) {
        if let State::Locating(since) = self.state {
            self.state = State::Idle;
            self.failing.fail_since(since, now, retry_after);
        }
    }

    pub(super) fn handle_find_failed(&mut self, now: Duration, all: &mut All) {
        if let State::Finding(_, finding) = &self.state {
            let mut finding = finding.clone();
            finding.asked += 1;
            self.find(now, *finding, all);
        }
    }

    pub(super) fn handle_found(&mut self, now: Duration, found: &RequestsFound, all: &mut All) {
        let State::Finding(_, finding) = &self.state else {
            return;
        };
        let finding = finding.clone();
        self.state = State::Idle;
        // It comes further: whatever failed before is settled.
        self.failing.succeed();
        self.failing.not_before = now;
        for number in finding.numbers {
            if !self.doubts.remove(&number) {
                continue;
            }
            let Some(of_it) = found.found.iter().find(|it| it.number == number) else {
                self.send_anew(number, all);
                continue;
            };
            let what = all.mutations.get(&number).map(|it| it.what);
            let outcome = match is_row_of(what, of_it) {
                // It may have been done before it was forgotten.
                None => Outcome::InDoubt,
                // Another one was done under its id, and so this one was not.
                Some(false) => Outcome::Refused(Status::InvalidArgument),
                Some(true) => Outcome::Done(Done {
                    index: self.index,
                    handle: finding.chunk.handle,
                    version: finding.chunk.version,
                    serial: Serial::NONE,
                    offset: of_it.offset,
                    level: Level::Disk,
                    copies: u8::try_from(finding.chunk.replicas.len()).unwrap_or(u8::MAX),
                }),
            };
            all.end(number, outcome);
        }
    }

    /// A mutation surely was not done: it goes where it would go if it were new.
    fn send_anew(&mut self, number: u64, all: &mut All) {
        let Some(mutation) = all.mutations.get_mut(&number) else {
            return;
        };
        mutation.sent = None;
        match mutation.what {
            What::Append { .. } => all.appends.insert(number),
            What::Write { .. } => self.writes.insert(number),
        };
    }

    pub(super) fn handle_ack(
        &mut self,
        now: Duration,
        ack: &WriteAck,
        all: &mut All,
    ) -> Result<(), FlowFault> {
        let State::Streaming(streaming) = &mut self.state else {
            return Ok(());
        };
        let (handle, version) = streaming.known.names();
        let numbers = streaming.flow.handle_ack(now, ack)?;
        if !numbers.is_empty() {
            self.come_further();
        }
        for number in numbers {
            let Some(What::Write { index, offset, .. }) =
                all.mutations.get(&number).map(|it| it.what)
            else {
                continue;
            };
            let done = Done {
                index,
                handle,
                version,
                serial: ack.commit_mark,
                offset,
                level: ack.level,
                copies: ack.copies,
            };
            all.end(number, Outcome::Done(done));
        }
        Ok(())
    }

    pub(super) fn handle_appended(
        &mut self,
        now: Duration,
        appended: &Appended,
        all: &mut All,
    ) -> Result<Noted, FlowFault> {
        let State::Streaming(streaming) = &mut self.state else {
            return Ok(Noted::default());
        };
        let (handle, version) = streaming.known.names();
        streaming.flow.handle_appended(now, appended)?;
        let mut noted = Noted::default();
        for result in &appended.results {
            match Status::from_number(result.status) {
                Status::Ok => {
                    noted.grown = Some(self.index);
                    self.come_further();
                    let done = Done {
                        index: self.index,
                        handle,
                        version,
                        serial: result.serial,
                        offset: result.offset,
                        level: result.level,
                        copies: result.copies,
                    };
                    all.end(result.number, Outcome::Done(done));
                }
                Status::ChunkFull => {
                    noted.full = Some((self.index, handle));
                    self.send_anew(result.number, all);
                }
                Status::SessionUnknown => noted.is_session_over = true,
                status if is_of_the_mutation(status) => {
                    all.end(result.number, Outcome::Refused(status));
                }
                status => {
                    let sent = all.mutations.get(&result.number).and_then(|it| it.sent);
                    match sent.is_some_and(|it| !it.is_again) {
                        true => self.send_anew(result.number, all),
                        // Whether an earlier try of it was done is as open as before.
                        false => {
                            self.doubts.insert(result.number);
                        }
                    }
                    match status {
                        Status::Overloaded => self.failing.fail(now, Duration::ZERO),
                        _ => self.drain(),
                    }
                }
            }
        }
        Ok(noted)
    }

    /// The primary takes no more: what it has is waited for.
    fn drain(&mut self) {
        if let State::Streaming(streaming) = &mut self.state {
            streaming.is_draining = true;
        }
    }

    fn come_further(&mut self) {
        self.failing.succeed();
        self.is_careful &= !self.doubts.is_empty();
    }

    /// The stream is over, whoever ended it.
    pub(super) fn handle_ended(
        &mut self,
        now: Duration,
        status: Option<Status>,
        retry_after: Duration,
        all: &mut All,
    ) {
        let State::Streaming(streaming) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        let stream = streaming.stream;
        all.actions.push_back(Action::Close { stream });
        self.failed = streaming.known.opened.version;
        let mut lost: BTreeSet<u64> = streaming.flow.numbers().collect();
        // A primary that has served us and has nothing of ours may go.
        if !lost.is_empty() || !streaming.flow.has_answered() {
            self.failing.fail(now, retry_after);
        }
        if let Some(status) = status.filter(|&it| is_of_the_mutation(it)) {
            match lost.len() {
                1 => all.end_all(std::mem::take(&mut lost), Outcome::Refused(status)),
                _ => self.is_careful = true,
            }
        }
        self.doubts.append(&mut lost);
    }

    /// Sends one frame, if there is room for it.
    fn send(&mut self, now: Duration, takes_appends: bool, all: &mut All) -> bool {
        let State::Streaming(streaming) = &mut self.state else {
            return false;
        };
        let flow = &mut streaming.flow;
        let is_ready = flow.is_open() && !streaming.is_draining;
        if !is_ready || (self.is_careful && flow.in_flight() > 0) {
            return false;
        }
        let from = match (self.doubts.first(), self.writes.first()) {
            (Some(_), _) => &mut self.doubts,
            (None, Some(_)) => &mut self.writes,
            (None, None) if takes_appends => &mut all.appends,
            (None, None) => return false,
        };
        let count_max = if self.is_careful { 1 } else { APPEND_ITEMS_MAX };
        let mutations = &all.mutations;
        let what = |number: u64| mutations.get(&number).map(|it| it.what);
        let numbers = frame(from.iter().copied(), what, flow, count_max);
        let Some(&first) = numbers.first() else {
            return false;
        };
        for number in &numbers {
            from.remove(number);
        }
        let (stream, opened) = (streaming.stream, &streaming.known.opened);
        for &number in &numbers {
            if let Some(mutation) = all.mutations.get_mut(&number) {
                let before = mutation
                    .sent
                    .map_or(ChunkVersion::NONE, |it| it.version_max);
                mutation.sent = Some(Sent {
                    handle: opened.handle,
                    version_max: opened.version.max(before),
                    is_again: mutation.sent.is_some(),
                });
            }
        }
        if all.is_append(first) {
            for &number in &numbers {
                flow.send_append(now, number, all.len(number));
            }
            all.actions.push_back(Action::Append { stream, numbers });
        } else {
            let serial = flow.send_write(now, first, all.len(first));
            all.actions.push_back(Action::Write {
                stream,
                number: first,
                serial,
            });
        }
        true
    }
}

/// The mutations that go with the next frame: one at an offset, or records, as many as fit.
fn frame(
    waiting: impl Iterator<Item = u64>,
    what: impl Fn(u64) -> Option<What>,
    flow: &Flow,
    count_max: usize,
) -> Vec<u64> {
    let (mut numbers, mut bytes, mut crcs) = (Vec::new(), 0_u64, 0);
    for number in waiting {
        let len = match what(number) {
            Some(What::Append { len }) => len,
            Some(What::Write { len, .. }) => {
                if numbers.is_empty() && flow.has_room(len.into()) {
                    numbers.push(number);
                }
                break;
            }
            None => break,
        };
        let whole = bytes + u64::from(len);
        let pieces = crcs + blocks_in(len) as usize;
        let fits = whole <= u64::from(PAYLOAD_LEN_MAX) && pieces <= APPEND_CRCS_MAX;
        // A longer record goes alone, in parts.
        let is_first = numbers.is_empty();
        if !(is_first || fits) || !flow.has_room(whole) || numbers.len() == count_max {
            break;
        }
        numbers.push(number);
        (bytes, crcs) = (whole, pieces);
        if bytes >= u64::from(PAYLOAD_LEN_MAX) {
            break;
        }
    }
    numbers
}

/// Whether what was found under a mutation's id is the mutation (`spec/replication.md` section 11.2); none
/// if it was forgotten.
fn is_row_of(what: Option<What>, row: &FoundRequest) -> Option<bool> {
    let is_it = match (row.kind, what?) {
        (FoundKind::Floor, _) => return None,
        (FoundKind::Append, What::Append { len }) => row.length == len,
        (FoundKind::Write, What::Write { offset, len, .. }) => {
            (row.offset, row.length) == (offset, len)
        }
        (FoundKind::Append | FoundKind::Write, _) => false,
    };
    Some(is_it)
}
