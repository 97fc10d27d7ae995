//! Three replicas, their stores, a master and clients, joined in memory and driven by a seed.
//!
//! Frames of a stream arrive in order, everything else in any. Members are killed and lose what was
//! not stable; the master changes versions whenever it likes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch, Serial, ServerId};
use sarsen_protocol::id::{FileId, RequestId, SessionId, StartNumber};
use sarsen_protocol::message::{
    Append, Begin, ChainTrouble, GrantLease, Hop, Level, MemberState, Promise, Promised, WriteData,
    WriteOpen,
};
use sarsen_protocol::ticket::Ticket;

use super::super::super::member::{self, Member};
use super::super::{Action, Answer, Config, Frame, Order, Replica, Reply, StreamId};
use super::client::Client;
use super::toy::{Told, Toy};

pub(super) const HANDLE: ChunkHandle = ChunkHandle(0xbeef);
pub(super) const EPOCH: Epoch = Epoch {
    number: 3,
    incarnation: 33,
};
pub(super) const CHUNK: u32 = 8 << 20;

/// xorshift64*.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % end.max(1)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub(super) fn config() -> Config {
    let seconds = Duration::from_secs;
    Config {
        window_bytes: 3 << 20,
        client_bytes: 4 << 20,
        ..Config::new(seconds(3), seconds(30), CHUNK)
    }
}

/// So that no chunk is full.
fn world_config() -> Config {
    Config {
        chunk_size: 64 << 20,
        ..config()
    }
}

pub(super) fn hop(server: usize) -> Hop {
    Hop {
        server: ServerId(server as u64 + 1),
        data_addr: format!("server-{server}:1"),
    }
}

pub(super) fn me(server: usize, start: u64) -> MemberState {
    MemberState {
        server: ServerId(server as u64 + 1),
        directory_id: DirectoryId([7; 16]),
        start_number: StartNumber(start),
    }
}

pub(super) fn ticket() -> Ticket {
    super::any_ticket()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Node(usize),
    Client(usize),
}

#[derive(Debug)]
pub(super) enum Down {
    Open(WriteOpen),
    Frame(Frame),
    Write(WriteData, Bytes),
    Append(Append, Bytes),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) from: End,
    to: usize,
    version: ChunkVersion,
    stream: StreamId,
    pub(super) down: VecDeque<Down>,
    up: VecDeque<Reply>,
    from_is_gone: bool,
    to_is_gone: bool,
    /// By the replica that listens.
    was_ended: bool,
}

pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) toy: Toy,
    lane: VecDeque<Action>,
    flush: bool,
    pub(super) start: u64,
}

/// What the master is about.
enum Attempt {
    Asking {
        v: u64,
        answers: BTreeMap<usize, Promised>,
        asked: Vec<usize>,
    },
    Beginning {
        v: u64,
        s: u64,
        chain: Vec<usize>,
        left: Vec<usize>,
        memory: bool,
    },
}

/// Version, members with their starts, whether `memory` acks are allowed.
pub(super) type Active = (u64, Vec<(usize, u64)>, bool);

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Duration,
    pub(super) nodes: Vec<Node>,
    pub(super) links: Vec<Link>,
    pub(super) clients: Vec<Client>,
    next_stream: u64,
    last_version: u64,
    attempt: Option<Attempt>,
    /// Something is known to be wrong with the active version.
    trouble: bool,
    /// What the log says.
    pub(super) active: Option<Active>,
    pub(super) acked: usize,
    pub(super) kills: usize,
    pub(super) changes: usize,
}

impl World {
    pub(super) fn new(seed: u64, clients: usize) -> Self {
        let node = |server| Node {
            replica: Replica::new(
                Member::recovered(HANDLE, me(server, 1), &Toy::new().found()),
                world_config(),
            ),
            toy: Toy::new(),
            lane: VecDeque::new(),
            flush: false,
            start: 1,
        };
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Duration::from_secs(1),
            nodes: (0..3).map(node).collect(),
            links: Vec::new(),
            clients: (0..clients).map(|n| Client::new(n as u64 + 1)).collect(),
            next_stream: 0,
            last_version: 1,
            attempt: None,
            trouble: true,
            active: None,
            acked: 0,
            kills: 0,
            changes: 0,
        }
    }

    /// One thing happens.
    pub(super) fn step(&mut self, faults: bool) {
        match self.random.below(100) {
            0..30 => self.step_store(),
            30..75 => self.step_link(),
            75..90 => self.step_client(),
            90..92 => self.pass_time(),
            92..95 => self.step_master(faults),
            95 if faults && self.random.one_in(6) => self.kill(),
            96 if faults && self.random.one_in(8) => self.close_a_link(),
            _ => self.step_store(),
        }
    }

    fn pass_time(&mut self) {
        let most = if self.random.one_in(20) { 4000 } else { 60 };
        self.now += Duration::from_millis(self.random.below(most) as u64);
        for index in 0..self.nodes.len() {
            let now = self.now;
            if self.nodes[index]
                .replica
                .poll_timeout()
                .is_some_and(|at| at <= now)
            {
                self.nodes[index].replica.handle_timeout(now);
                self.turn(index);
            }
        }
    }

    /// A node takes its turn, and what it wants is put where it is carried out.
    fn turn(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.replica.take_turn(self.now, &node.toy);
        while let Some(action) = self.nodes[index].replica.poll_action() {
            self.carry_out(index, action);
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        if action.is_for_store() {
            self.nodes[index].lane.push_back(action);
            return;
        }
        let of_next = |link: &&mut Link| link.from == End::Node(index) && !link.from_is_gone;
        match action {
            Action::DialNext { hop, open } => {
                let to = usize::try_from(hop.server.0).unwrap() - 1;
                self.dial(End::Node(index), to, *open);
            }
            Action::SendNext(frame) => {
                if let Some(link) = self.links.iter_mut().find(of_next) {
                    link.down.push_back(Down::Frame(frame));
                }
            }
            Action::CloseNext(version) => {
                let link = self.links.iter_mut().filter(of_next);
                for link in link.filter(|link| link.version == version) {
                    link.from_is_gone = true;
                }
            }
            Action::Send { stream, reply } => {
                self.check_acks(index, &reply);
                let is_it = |link: &&mut Link| link.to == index && link.stream == stream;
                if let Some(link) = self.links.iter_mut().find(is_it) {
                    assert!(!link.was_ended, "nothing goes to a stream that was ended");
                    link.up.push_back(reply);
                }
            }
            Action::EndStream(stream) => {
                for link in &mut self.links {
                    let is_it = link.to == index && link.stream == stream;
                    link.to_is_gone |= is_it;
                    link.was_ended |= is_it;
                }
            }
            Action::Answer { answer, .. } => self.answered(index, *answer),
            Action::Report(report) => {
                let is_active = self.active.as_ref().map(|(version, ..)| *version);
                let ends_it = matches!(
                    report.what,
                    ChainTrouble::HopFailed | ChainTrouble::PromiseRefused
                );
                self.trouble |= ends_it && is_active == Some(report.version.0);
            }
            Action::Take { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// What a client is told to be done is on every member, at the level told.
    fn check_acks(&mut self, index: usize, reply: &Reply) {
        let Reply::Appended(appended) = reply else {
            return;
        };
        let Some((version, members, _)) = &self.active else {
            return;
        };
        assert_eq!(*version, appended.version.0);
        assert_eq!(members[0].0, index, "only the primary answers");
        for result in appended.results.iter().filter(|result| result.status == 0) {
            assert_eq!(usize::from(result.copies), members.len());
            for (server, start) in members {
                let node = &self.nodes[*server];
                if node.start != *start {
                    continue;
                }
                let count = usize::try_from(result.serial.0 - super::toy::BASE).unwrap();
                assert!(
                    node.toy.history.len() >= count,
                    "acknowledged, and not on {server}"
                );
                let is_stable = node.toy.stable >= count;
                assert!(
                    result.level == Level::Memory || is_stable,
                    "not stable on {server}"
                );
            }
        }
    }

    pub(super) fn dial(&mut self, from: End, to: usize, open: WriteOpen) -> u64 {
        self.next_stream += 1;
        self.links.push(Link {
            from,
            to,
            version: open.version,
            stream: StreamId(self.next_stream),
            down: VecDeque::from([Down::Open(open)]),
            up: VecDeque::new(),
            from_is_gone: false,
            to_is_gone: false,
            was_ended: false,
        });
        self.next_stream
    }

    fn step_store(&mut self) {
        let index = self.random.below(self.nodes.len());
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.flush {
            // The journal reaches what was applied by now, or a part of it.
            node.flush = false;
            let all = node.toy.history.len();
            node.toy.stable = node.toy.stable.max(all);
            let version = ChunkVersion(node.toy.version);
            let serial = Serial(super::toy::BASE + node.toy.stable as u64);
            node.replica.handle_stable(now, version, serial);
        } else if let Some(action) = node.lane.pop_front() {
            match node.toy.carry_out(action) {
                Told::Applied(version, serial) => node.replica.handle_applied(now, version, serial),
                Told::Reserved(end) => node.replica.handle_reserved(now, end),
                Told::Flush => node.flush = true,
                Told::Done(done) => node.replica.handle_done(now, done),
                Told::Nothing => {}
            }
        }
        self.turn(index);
    }

    fn step_link(&mut self) {
        self.forget();
        if self.links.is_empty() {
            return;
        }
        let at = self.random.below(self.links.len());
        let now = self.now;
        let link = &mut self.links[at];
        let (from, to, stream, version) = (link.from, link.to, link.stream, link.version);
        if self.random.one_in(2) {
            // Towards the one that listens; what a closed end sent still comes.
            let Some(down) = link.down.pop_front() else {
                if link.from_is_gone && !link.to_is_gone {
                    link.to_is_gone = true;
                    self.nodes[to].replica.handle_stream_gone(now, stream);
                    self.turn(to);
                }
                return;
            };
            if link.to_is_gone {
                return;
            }
            let replica = &mut self.nodes[to].replica;
            match down {
                Down::Open(open) => replica.handle_open(now, stream, open),
                Down::Frame(Frame::Mark(mark)) => replica.handle_mark(now, stream, &mark),
                Down::Frame(Frame::Batch(batch, payload)) => {
                    batch
                        .check_payload(
                            u32::try_from(payload.iter().map(Bytes::len).sum::<usize>()).unwrap(),
                        )
                        .unwrap();
                    let payload = Bytes::from(payload.concat());
                    replica.handle_batch(now, stream, batch, payload);
                }
                Down::Write(write, payload) => replica.handle_write(now, stream, write, payload),
                Down::Append(append, payload) => {
                    replica.handle_append(now, stream, append, payload);
                }
            }
            // Sometimes more comes before the turn.
            if !self.random.one_in(3) {
                self.turn(to);
            }
            return;
        }
        let reply = link.up.pop_front();
        let is_gone = reply.is_none() && link.to_is_gone;
        if link.from_is_gone || (reply.is_none() && !is_gone) {
            return;
        }
        match from {
            End::Client(client) => {
                self.acked += self.clients[client].hear(reply, stream.0);
                if is_gone {
                    self.links[at].from_is_gone = true;
                }
            }
            End::Node(index) => {
                let replica = &mut self.nodes[index].replica;
                match reply {
                    Some(Reply::Opened) => replica.handle_next_opened(now, version),
                    Some(Reply::Ack(ack)) => replica.handle_next_ack(now, version, &ack),
                    Some(Reply::Marked(marked)) => {
                        replica.handle_next_marked(now, version, &marked);
                    }
                    Some(Reply::Failed { status, error, .. }) => {
                        replica.handle_next_failed(now, version, status, error);
                    }
                    Some(Reply::Appended(_)) => panic!("a hop is no client"),
                    None => {
                        self.links[at].from_is_gone = true;
                        self.nodes[index].replica.handle_next_gone(now, version);
                    }
                }
                self.turn(index);
            }
        }
    }

    /// Streams that both sides know to be over.
    fn forget(&mut self) {
        self.links
            .retain(|link| !(link.from_is_gone && link.to_is_gone));
    }

    fn close_a_link(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let at = self.random.below(self.links.len());
        let (from, to, stream, version, now) = {
            let link = &mut self.links[at];
            if link.from_is_gone || link.to_is_gone {
                return;
            }
            (link.from_is_gone, link.to_is_gone) = (true, true);
            (link.from, link.to, link.stream, link.version, self.now)
        };
        self.nodes[to].replica.handle_stream_gone(now, stream);
        self.turn(to);
        match from {
            End::Client(client) => self.clients[client].lost(),
            End::Node(index) => {
                self.nodes[index].replica.handle_next_gone(now, version);
                self.turn(index);
            }
        }
    }

    /// A member loses its power, and starts again.
    fn kill(&mut self) {
        let index = self.random.below(self.nodes.len());
        if let Some((_, members, true)) = &self.active {
            // One whose memory counts has to stay.
            let counts = |(server, start): &&(usize, u64)| self.nodes[*server].start == *start;
            if members.iter().filter(counts).count() < 2 {
                return;
            }
        }
        self.kills += 1;
        self.trouble = true;
        let node = &mut self.nodes[index];
        node.start += 1;
        node.toy.lose_power();
        node.lane.clear();
        node.flush = false;
        let member = Member::recovered(HANDLE, me(index, node.start), &node.toy.found());
        node.replica = Replica::new(member, world_config());
        for link in &mut self.links {
            if link.to == index {
                link.to_is_gone = true;
                link.down.clear();
            }
            if link.from == End::Node(index) {
                link.from_is_gone = true;
            }
        }
        // An attempt that spoke with it finds out by its start.
        self.attempt = None;
    }

    fn order(&mut self, index: usize, order: Order) {
        let now = self.now;
        self.nodes[index].replica.handle_order(now, 0, order);
        self.turn(index);
    }

    pub(super) fn is_changing(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether the active version can go on.
    pub(super) fn is_well(&self) -> bool {
        self.attempt.is_none()
            && self.active.as_ref().is_some_and(|(version, members, _)| {
                members.iter().all(|(server, _)| {
                    self.nodes[*server].replica.version() == Some(ChunkVersion(*version))
                })
            })
    }

    fn wants_change(&mut self, faults: bool) -> bool {
        self.trouble || (faults && self.random.one_in(30))
    }

    /// The master begins an attempt, or goes on with the one that runs.
    pub(super) fn step_master(&mut self, faults: bool) {
        match self.attempt.take() {
            None if !self.wants_change(faults) => {}
            None => {
                self.trouble = true;
                self.last_version += 1;
                let v = self.last_version;
                let asked = match &self.active {
                    Some((_, members, _)) => members.iter().map(|(server, _)| *server).collect(),
                    None => vec![0, 1, 2],
                };
                self.attempt = Some(Attempt::Asking {
                    v,
                    answers: BTreeMap::new(),
                    asked: asked.clone(),
                });
                for index in asked {
                    let promise = Promise {
                        epoch: EPOCH,
                        handle: HANDLE,
                        version: ChunkVersion(v),
                    };
                    self.order(index, Order::Change(member::Order::Promise(promise)));
                }
            }
            Some(running) => {
                // Given up now and then, at any step.
                let is_given_up = match faults {
                    true => self.random.one_in(40),
                    false => self.random.one_in(400),
                };
                if !is_given_up {
                    self.attempt = Some(running);
                }
            }
        }
    }

    fn answered(&mut self, index: usize, answer: Result<Answer, member::Refusal>) {
        match (&mut self.attempt, answer) {
            (
                Some(Attempt::Asking { v, answers, asked }),
                Ok(Answer::Change(member::Answer::Promised(promised))),
            ) if self.nodes[index].replica.member().promised().0 == *v => {
                answers.insert(index, promised);
                if answers.len() == asked.len() {
                    self.begin();
                }
            }
            (
                Some(Attempt::Beginning { v, left, .. }),
                Ok(Answer::Change(member::Answer::Begun(_))),
            ) if self.nodes[index].replica.member().has().0.0 == *v => {
                left.retain(|server| *server != index);
                if left.is_empty() {
                    self.log();
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self) {
        let Some(Attempt::Asking { v, answers, .. }) = self.attempt.take() else {
            return;
        };
        let counts = |server: usize, promised: &Promised| match &self.active {
            Some((_, members, true)) => members.contains(&(server, promised.member.start_number.0)),
            _ => true,
        };
        let of_counting = answers
            .iter()
            .filter(|(server, told)| counts(**server, told));
        let Some(s) = of_counting.map(|(_, told)| told.serial.0).min() else {
            return;
        };
        let mut chain: Vec<usize> = answers
            .iter()
            .filter(|(_, told)| told.serial.0 >= s)
            .map(|(server, _)| *server)
            .collect();
        // With bad luck a member was left out for good; the test is over changes, not over repair.
        let turned = self.random.below(chain.len());
        chain.rotate_left(turned);
        let memory = self.random.one_in(2);
        self.attempt = Some(Attempt::Beginning {
            v,
            s,
            left: chain.clone(),
            chain: chain.clone(),
            memory,
        });
        for index in chain {
            let begin = Begin {
                epoch: EPOCH,
                handle: HANDLE,
                version: ChunkVersion(v),
                serial: Serial(s),
                start_number: StartNumber(self.nodes[index].start),
                directory_id: DirectoryId([7; 16]),
                memory,
                create: None,
            };
            self.order(index, Order::Change(member::Order::Begin(begin)));
        }
    }

    fn log(&mut self) {
        let Some(Attempt::Beginning {
            v,
            s,
            chain,
            memory,
            ..
        }) = self.attempt.take()
        else {
            return;
        };
        self.changes += 1;
        self.trouble = false;
        let of_chain = chain
            .iter()
            .map(|server| (*server, self.nodes[*server].start));
        self.active = Some((v, of_chain.collect(), memory));
        let grant = GrantLease {
            epoch: EPOCH,
            handle: HANDLE,
            version: ChunkVersion(v),
            begin_serial: Serial(s),
            memory,
            closed: false,
            lease: 3_600_000,
            ticket: ticket(),
            chain: chain.iter().map(|server| hop(*server)).collect(),
            file_id: FileId(8),
            index: 2,
            lock_token: 0,
        };
        self.order(chain[0], Order::Grant(Box::new(grant)));
    }

    fn step_client(&mut self) {
        let client = self.random.below(self.clients.len());
        let Some((version, members, _)) = self.active.clone() else {
            return;
        };
        if self.clients[client].link.is_none() {
            let chain = members.iter().map(|(server, _)| hop(*server)).collect();
            let open = client_open(version, chain);
            let stream = self.dial(End::Client(client), members[0].0, open);
            self.clients[client].opened(stream, version);
            return;
        }
        let (random, clients) = (&mut self.random, &mut self.clients);
        if let Some((stream, down)) = clients[client].say(random) {
            let is_it = |link: &&mut Link| link.stream.0 == stream;
            if let Some(link) = self.links.iter_mut().find(is_it) {
                link.down.push_back(down);
            }
        }
    }
}

pub(super) fn client_open(version: u64, chain: Vec<Hop>) -> WriteOpen {
    WriteOpen {
        ticket: ticket(),
        handle: HANDLE,
        version: ChunkVersion(version),
        file_id: FileId(8),
        index: 2,
        room: 0,
        begin_serial: Serial(0),
        lock_token: 0,
        level: Level::Disk,
        position: 0,
        chain,
    }
}

pub(super) fn request(session: u64, number: u64, lowest: u64) -> RequestId {
    RequestId {
        session: SessionId(session),
        number,
        lowest_outstanding: lowest,
    }
}
