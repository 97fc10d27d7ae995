//! Chunks that change: opened, gone on with without a member, sealed; asked for by clients.

mod again;
mod attacks;
mod last_chunk;
mod losses;

use std::collections::BTreeSet;

use super::*;
use crate::core::command::chunks::{Configuration, Member};
use crate::core::event::{OrderFailure, OrderId};

/// A replica as its server has it.
#[derive(Clone, Copy, Debug, Default)]
struct Replica {
    promised: ChunkVersion,
    version: ChunkVersion,
    begin: Serial,
    serial: Serial,
    length: u32,
    sealed: Option<(ChunkVersion, u32, u32)>,
    prepared: Option<(ChunkVersion, u32, u32)>,
}

/// Servers that do what they are ordered, but for those that don't.
#[derive(Debug, Default)]
struct Servers {
    replicas: BTreeMap<(u64, ChunkHandle), Replica>,
    /// Answer nothing.
    silent: BTreeSet<u64>,
    /// Answer no orders, but beat.
    deaf: BTreeSet<u64>,
    /// Promise and then refuse to begin or to prepare.
    unable: BTreeSet<u64>,
    /// Have a sector that can't be read, which they find out when they prepare.
    damaged: BTreeSet<u64>,
    /// Refuse to make chunks.
    full: BTreeSet<u64>,
    /// Have no descriptor to settle with.
    short: BTreeSet<u64>,
    /// Refuse leases.
    stopped: BTreeSet<u64>,
    /// Refuse to promise, for now.
    busy: BTreeSet<u64>,
    /// Had a write fail in their replicas, and promise nothing of them.
    poisoned: BTreeSet<u64>,
    /// Find that their replica is damaged when they are to begin.
    unbegun: BTreeSet<u64>,
    /// Have a block that does not match.
    rotten: BTreeSet<u64>,
    /// Are in another start than they registered with.
    restarted: BTreeSet<u64>,
    /// Prepare something else than the others.
    differing: BTreeSet<u64>,
    /// Chunks whose primaries take no records.
    closed: BTreeSet<ChunkHandle>,
    orders: Vec<(u64, &'static str)>,
}

impl Servers {
    fn obey(&mut self, server: u64, message: &AnyMessage) -> Option<Result<AnyMessage, Status>> {
        self.orders.push((server, message.kind().name()));
        if self.silent.contains(&server) || self.deaf.contains(&server) {
            return None;
        }
        let member = |n: u64| MemberState {
            server: ServerId(n),
            directory_id: DirectoryId([u8::try_from(n).unwrap(); 16]),
            start_number: StartNumber(1 + u64::from(self.restarted.contains(&n))),
        };
        let is_unable = self.unable.contains(&server);
        Some(match message {
            AnyMessage::Promise(_) if self.busy.contains(&server) => Err(Status::Overloaded),
            AnyMessage::Promise(_) if self.poisoned.contains(&server) => Err(Status::Poisoned),
            AnyMessage::Begin(_) if self.unbegun.contains(&server) => Err(Status::Corrupt),
            AnyMessage::VerifyChunk(_) if self.rotten.contains(&server) => Ok(ChunkVerified {
                good: false,
                length: 0,
                crc32: 0,
            }
            .into()),
            // None of the blocks is known to be wrong, nor to be right.
            AnyMessage::VerifyChunk(_) => Err(Status::ChunkOpen),
            AnyMessage::Promise(order) => {
                let Some(replica) = self.replicas.get_mut(&(server, order.handle)) else {
                    return Some(Err(Status::ChunkUnknown));
                };
                replica.promised = order.version;
                let base = replica.sealed.unwrap_or_default();
                Ok(Promised {
                    version: replica.version,
                    begin_serial: replica.begin,
                    serial: replica.serial,
                    commit_mark: replica.begin,
                    length: replica.length,
                    ids: 0,
                    state: ChunkState::Open,
                    flags: HeldFlags::NONE,
                    member: member(server),
                    base_version: base.0,
                    base_length: base.1,
                    base_crc32: base.2,
                    prepared: PreparedSeal::NONE,
                }
                .into())
            }
            AnyMessage::Begin(_) | AnyMessage::PrepareSeal(_) if is_unable => Err(Status::NoSpace),
            AnyMessage::PrepareSeal(_) if self.damaged.contains(&server) => {
                Err(Status::MediumFailed)
            }
            AnyMessage::Begin(order) if order.create.is_some() && self.full.contains(&server) => {
                Err(Status::NoSpace)
            }
            AnyMessage::Begin(order) => {
                let replica = self.replicas.entry((server, order.handle)).or_default();
                replica.version = order.version;
                (replica.begin, replica.serial) = (order.serial, order.serial);
                Ok(Begun {
                    serial: order.serial,
                    length: replica.length,
                    member: member(server),
                }
                .into())
            }
            AnyMessage::PrepareSeal(order) => {
                let replica = self.replicas.entry((server, order.handle)).or_default();
                replica.version = order.version;
                (replica.begin, replica.serial) = (order.serial, order.serial);
                let length = order.length.unwrap_or(replica.length);
                let crc32 = 4711 + length + u32::from(self.differing.contains(&server));
                replica.prepared = Some((order.version, length, crc32));
                Ok(SealPrepared {
                    prepared: PreparedSeal {
                        version: order.version,
                        serial: order.serial,
                        length,
                        crc32,
                        id_table_length: 0,
                        id_table_crc32: 0,
                    },
                    member: member(server),
                }
                .into())
            }
            AnyMessage::Settle(_) if self.short.contains(&server) => Err(Status::Overloaded),
            AnyMessage::Settle(order) => {
                let replica = self.replicas.entry((server, order.handle)).or_default();
                replica.sealed = Some((order.version, order.length, order.crc32));
                replica.length = order.length;
                replica.prepared = None;
                Ok(Settled.into())
            }
            AnyMessage::GrantLease(_) if self.stopped.contains(&server) => {
                Err(Status::PromiseRefused)
            }
            AnyMessage::GrantLease(order) => {
                match order.closed {
                    true => self.closed.insert(order.handle),
                    false => self.closed.remove(&order.handle),
                };
                let replica = self.replicas.entry((server, order.handle)).or_default();
                match replica.promised > order.version || replica.version != order.version {
                    true => Err(Status::PromiseRefused),
                    false => Ok(LeaseGranted.into()),
                }
            }
            AnyMessage::RevokeLease(_) => Ok(LeaseRevoked {
                serial: Serial(1),
                commit_mark: Serial(1),
            }
            .into()),
            // Repair is not what is tested here.
            AnyMessage::CopyChunk(_) | AnyMessage::DeleteChunk(_) => return None,
            other => panic!("{other:?}"),
        })
    }
}

/// A cluster whose servers obey, and its client.
struct Play {
    rig: Rig,
    servers: Servers,
    /// Orders that nobody answered yet.
    unanswered: Vec<(ConnectionId, OrderId, AnyMessage)>,
    /// Replies to clients, by token.
    replies: BTreeMap<Token, Result<AnyMessage, Failure>>,
}

fn settings() -> Config {
    Config {
        replicas: 3,
        min_replicas: 2,
        ..config()
    }
}

impl Play {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(config: Config) -> Self {
        let mut rig = Rig::with(config);
        rig.servers(4);
        Self {
            rig,
            servers: Servers::default(),
            unanswered: Vec::new(),
            replies: BTreeMap::new(),
        }
    }

    /// An empty file.
    fn touch(&mut self, path: &str) -> FileId {
        let file = self.rig.begin(path, 3);
        let publish = publish(self.rig.request(), file, path, &[]);
        self.rig.get(publish).node.file_id
    }

    /// Lets the servers do what they were ordered, until nothing is left to do.
    fn run(&mut self, actions: Vec<Action>) {
        let mut actions = actions;
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Order {
                        connection,
                        order,
                        message,
                    } => match self.servers.obey(connection.0, &message) {
                        Some(reply) => {
                            let reply = reply.map_err(OrderFailure::from);
                            actions.extend(self.answer(connection, order, reply));
                        }
                        None => self.unanswered.push((connection, order, message)),
                    },
                    Action::Reply { to, reply } => {
                        let twice = self.replies.insert(to, reply);
                        assert_eq!(twice, None, "a request is answered once");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn answer(
        &mut self,
        connection: ConnectionId,
        order: OrderId,
        reply: Result<AnyMessage, OrderFailure>,
    ) -> Vec<Action> {
        let now = self.rig.now;
        self.rig
            .machine
            .handle_order_reply(connection, order, reply, now);
        self.rig.settle()
    }

    /// Those who were deaf answer what they were ordered so far; what follows they don't answer.
    fn answer_late(&mut self, orders: Vec<(ConnectionId, OrderId, AnyMessage)>) {
        for (connection, order, message) in orders {
            let deaf = std::mem::take(&mut self.servers.deaf);
            let reply = self.servers.obey(connection.0, &message);
            self.servers.deaf = deaf;
            let reply = reply.expect("it hears").map_err(OrderFailure::from);
            let actions = self.answer(connection, order, reply);
            self.run(actions);
        }
    }

    /// A client asks; the answer, if there is one by now.
    fn ask(&mut self, message: impl Into<AnyMessage>) -> Option<Result<AnyMessage, Failure>> {
        let token = self.rig.send(CLIENT, message);
        let actions = self.rig.settle();
        self.run(actions);
        self.replies.remove(&token)
    }

    /// The servers that speak do so while time passes.
    fn wait(&mut self, time: Duration) {
        let step = Duration::from_millis(500);
        let mut left = time;
        while !left.is_zero() {
            let now = left.min(step);
            left -= now;
            let actions = self.rig.wait(now);
            self.run(actions);
            for n in 1..=4 {
                if !self.servers.silent.contains(&n.into()) {
                    let (_, actions) = self.rig.exchange(ConnectionId(n.into()), heartbeat(n));
                    self.run(actions);
                }
            }
        }
    }

    fn open(&mut self, asked: OpenChunk) -> ChunkOpened {
        match self.ask(asked) {
            Some(Ok(AnyMessage::ChunkOpened(opened))) => *Box::new(opened),
            other => panic!("{asked:?}: {other:?}"),
        }
    }

    fn last(&self, file: FileId) -> OpenChunk {
        OpenChunk {
            session: self.rig.session,
            file_id: file,
            slot: Slot::Last {
                after: ChunkHandle::NONE,
            },
            failed: ChunkVersion::NONE,
            memory: false,
            lock_token: 0,
        }
    }

    /// Mutations reach all members of a chunk.
    fn mutate(&mut self, handle: ChunkHandle, serial: u64, length: u32) {
        for ((_, of), replica) in &mut self.servers.replicas {
            if *of == handle {
                (replica.serial, replica.length) = (Serial(serial), length);
            }
        }
    }

    fn report(&mut self, server: u64, opened: &ChunkOpened, what: ChainTrouble, blamed: u64) {
        let report = ReportChain {
            handle: opened.handle,
            version: opened.version,
            serial: Serial(1),
            what,
            blamed: ServerId(blamed),
            status: 0,
        };
        let token = self.rig.send(ConnectionId(server), report);
        let actions = self.rig.settle();
        self.run(actions);
        assert_eq!(self.replies.remove(&token), Some(Ok(ChainReported.into())));
    }

    fn active(&self, handle: ChunkHandle) -> Configuration {
        let record = self.rig.machine.state.chunks.record(handle).unwrap();
        record.active.clone().expect("it is open")
    }

    fn sealed(&self, handle: ChunkHandle) -> Option<(ChunkVersion, u32)> {
        let record = self.rig.machine.state.chunks.record(handle)?;
        record.at_rest().map(|sealed| (sealed.version, sealed.len))
    }

    /// The servers report what they hold of a chunk.
    fn tell(&mut self, handle: ChunkHandle, file_id: FileId) {
        for n in 1..=4_u8 {
            let Some(replica) = self.servers.replicas.get(&(n.into(), handle)) else {
                continue;
            };
            let (version, length, crc32) = replica.sealed.unwrap_or_default();
            let held = HeldChunk {
                handle,
                version,
                serial: replica.serial,
                length,
                crc32,
                state: ChunkState::Sealed,
                flags: HeldFlags::NONE,
                file_id,
                index: 0,
            };
            let (_, actions) = self
                .rig
                .exchange(ConnectionId(n.into()), inventory(n, 1, &[held]));
            self.run(actions);
        }
    }
}

fn servers_of(active: &Configuration) -> Vec<u64> {
    let members = active.members.iter();
    members.map(|member: &Member| member.server.0).collect()
}

#[test]
fn the_first_mutation_of_an_empty_file_makes_its_first_chunk() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let opened = play.open(play.last(file));
    assert_eq!((opened.index, opened.begin_serial), (0, Serial(1)));
    assert_eq!(opened.chain.len(), 3);
    let active = play.active(opened.handle);
    assert_eq!((active.version, active.serial), (opened.version, Serial(1)));
    assert_eq!(active.primary, opened.chain[0].server);
    // Asked again it is the same, and nothing is done for that.
    play.servers.orders.clear();
    assert_eq!(play.open(play.last(file)).version, opened.version);
    assert_eq!(play.servers.orders, []);
}

#[test]
fn a_chunk_without_work_is_sealed_when_its_lease_is_over_and_opened_again_on_demand() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 9, 900);
    play.wait(seconds(61));
    let (version, len) = play.sealed(first.handle).expect("it is sealed");
    assert!(version > first.version);
    assert_eq!(len, 900);
    let size = play.rig.get(stat("/f")).node.size;
    assert_eq!(size, 900);
    // Their servers have settled, and tell so.
    play.tell(first.handle, file);
    let again = play.open(play.last(file));
    assert_eq!(again.handle, first.handle);
    assert!(again.version > version);
    assert_eq!(again.begin_serial, Serial(9));
    assert_eq!(again.sealed_version, version);
}

#[test]
fn work_extends_a_lease_and_nobody_else_does() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let opened = play.open(play.last(file));
    let primary = opened.chain[0].server.0;
    let extend = |play: &mut Play, server: u64, version| {
        let request = ExtendLeases {
            epoch: play.rig.machine.epoch,
            leases: vec![HeldLease {
                handle: opened.handle,
                version,
                length: 1,
                serial: Serial(2),
            }],
        };
        let (reply, _) = play.rig.exchange(ConnectionId(server), request);
        match reply {
            Ok(AnyMessage::LeasesExtended(reply)) => reply.extended.len(),
            other => panic!("{other:?}"),
        }
    };
    play.wait(seconds(40));
    assert_eq!(extend(&mut play, primary, opened.version), 1);
    assert_eq!(extend(&mut play, primary, ChunkVersion(77)), 0);
    let secondary = opened.chain[1].server.0;
    assert_eq!(extend(&mut play, secondary, opened.version), 0);
    play.wait(seconds(40));
    assert_eq!(play.sealed(opened.handle), None, "it was extended");
    play.wait(seconds(21));
    assert!(play.sealed(opened.handle).is_some());
}

#[test]
fn who_is_blamed_goes_to_the_end_and_the_second_time_is_left_out() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.report(primary, &first, ChainTrouble::HopFailed, second);
    let then = play.active(first.handle);
    assert_eq!(servers_of(&then), [primary, third, second]);
    assert!(then.version > first.version);
    // Late words about the old version change nothing.
    play.report(third, &first, ChainTrouble::HopFailed, primary);
    assert_eq!(play.active(first.handle), then);
    let now = play.open(play.last(file));
    play.report(primary, &now, ChainTrouble::HopFailed, second);
    assert_eq!(servers_of(&play.active(first.handle)), [primary, third]);
}

/// A hop that is silent is noticed `suspect_after` after the chunk is mutated, which was too late to be the
/// second time: the same members went on by the same hop for ever.
#[test]
fn who_is_blamed_again_is_left_out_however_late_that_is() {
    // In a version in which nothing was done, the same one again; else it is the first time.
    for (has_worked, is_same) in [(false, true), (true, true), (false, false)] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let first = play.open(play.last(file));
        let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
        play.report(primary, &first, ChainTrouble::HopFailed, second);
        let then = play.open(play.last(file));
        play.wait(seconds(5));
        let held = HeldLease {
            handle: then.handle,
            version: then.version,
            length: 1,
            serial: Serial(play.active(then.handle).serial.0 + u64::from(has_worked)),
        };
        let extend = ExtendLeases {
            epoch: play.rig.machine.epoch,
            leases: vec![held],
        };
        let _ = play.rig.exchange(ConnectionId(primary), extend);
        play.wait(seconds(5));
        let (by, blamed) = match is_same {
            true => (third, second),
            false => (primary, third),
        };
        play.report(by, &then, ChainTrouble::HopFailed, blamed);
        let stay = match (has_worked, is_same) {
            (false, true) => vec![primary, third],
            (true, _) => vec![primary, third, second],
            (false, false) => vec![primary, second, third],
        };
        assert_eq!(servers_of(&play.active(first.handle)), stay);
    }
}

/// Where the one blamed could not be spared, one version followed the other as fast as disks sync.
#[test]
fn a_chunk_whose_versions_do_not_work_rests_in_between() {
    let mut play = Play::new();
    let file = play.rig.begin("/f", 2);
    let publish = publish(play.rig.request(), file, "/f", &[]);
    let file = play.rig.get(publish).node.file_id;
    let mut now = play.open(play.last(file));
    let [primary, second] = [0, 1].map(|at| now.chain[at].server.0);
    let (mut versions, handle) = (0, now.handle);
    for _ in 0..200 {
        if play.active(handle).version == now.version {
            play.report(primary, &now, ChainTrouble::HopFailed, second);
        }
        if play.active(handle).version != now.version {
            now.version = play.active(handle).version;
            versions += 1;
        }
        play.wait(Duration::from_millis(50));
    }
    assert!((5..10).contains(&versions), "{versions} in ten seconds");
}

/// A seal that a server could not settle just then was ordered again when it registered, which may be weeks
/// later: until then the replica counted for nothing, and could not be replaced.
#[test]
fn a_seal_that_could_not_be_settled_just_then_is_settled_later() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let opened = play.open(play.last(file));
    play.mutate(opened.handle, 5, 700);
    let second = opened.chain[1].server.0;
    play.servers.short.insert(second);
    play.report(
        opened.chain[0].server.0,
        &opened,
        ChainTrouble::WantsSeal,
        0,
    );
    play.wait(seconds(3));
    assert!(play.sealed(opened.handle).is_some());
    let replica = |play: &Play| play.servers.replicas[&(second, opened.handle)];
    assert_eq!(replica(&play).sealed, None);
    play.servers.short.clear();
    play.wait(seconds(3));
    assert!(replica(&play).sealed.is_some());
    let settles = |play: &Play| {
        let orders = play.servers.orders.iter();
        orders.filter(|(_, kind)| *kind == "Settle").count()
    };
    let before = settles(&play);
    play.wait(seconds(3));
    assert_eq!(settles(&play), before, "once it is done");
}

/// A server that had no room for the next chunk was taken for one that could not seal the full one: its
/// replica was left out.
#[test]
fn who_cannot_make_the_next_chunk_stays_with_the_full_one() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let full = play.open(play.last(file));
    play.mutate(full.handle, 5, 700);
    let secondaries = [1, 2].map(|at| full.chain[at].server.0);
    play.servers.full.extend(secondaries);
    play.report(full.chain[0].server.0, &full, ChainTrouble::Full, 0);
    play.wait(seconds(3));
    assert!(play.sealed(full.handle).is_some());
    let orders = play.servers.orders.iter();
    let settled: BTreeSet<u64> = orders
        .filter(|(_, kind)| *kind == "Settle")
        .map(|(server, _)| *server)
        .collect();
    assert_eq!(settled, full.chain.iter().map(|hop| hop.server.0).collect());
}

impl Play {
    /// Whom a reader of a file's first chunk is sent to.
    fn readers_are_sent_to(&mut self, file: FileId) -> BTreeSet<u64> {
        let locate = Locate {
            path: String::new(),
            file_id: file,
            first_index: 0,
            count: 1,
        };
        let located = self.rig.get(locate);
        let replicas = located.chunks[0].replicas.iter();
        replicas.map(|replica| replica.server.0).collect()
    }
}

/// A member whose disk failed under a read said so, and stayed: the first trouble of a version leaves
/// nobody out, since one member's word stands against another's. So readers were sent to it again, and
/// it had to fail a second one within `suspect_after`.
#[test]
fn who_does_not_believe_its_own_replica_is_left_out_the_first_time() {
    for at in [0, 1, 2] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let first = play.open(play.last(file));
        let chain = [0, 1, 2].map(|at| first.chain[at].server.0);
        let (bad, good) = (
            chain[at],
            BTreeSet::from(chain)
                .into_iter()
                .filter(|it| *it != chain[at]),
        );
        let good: BTreeSet<u64> = good.collect();
        assert_eq!(play.readers_are_sent_to(file), BTreeSet::from(chain));
        // While the version is being changed, too.
        play.servers.deaf.extend(chain);
        play.report(bad, &first, ChainTrouble::Corrupt, bad);
        let mut sent_to = play.readers_are_sent_to(file);
        if at == 0 {
            // The primary says what is newest, whoever is read then.
            assert!(sent_to.remove(&bad));
        }
        assert_eq!(sent_to, good);
        play.servers.deaf.clear();
        let unanswered = std::mem::take(&mut play.unanswered);
        play.answer_late(unanswered);
        let then = play.active(first.handle);
        assert!(then.version > first.version);
        assert_eq!(servers_of(&then).into_iter().collect::<BTreeSet<_>>(), good);
        assert_eq!(play.readers_are_sent_to(file), good);
    }
}

/// A reader got bytes that did not match, and said so: the member looked for itself.
#[test]
fn a_readers_complaint_about_a_member_leaves_it_out_if_it_is_right() {
    for is_right in [false, true] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let first = play.open(play.last(file));
        let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
        let held = HeldChunk {
            handle: first.handle,
            version: first.version,
            serial: Serial(1),
            length: 0,
            crc32: 0,
            state: ChunkState::Open,
            flags: HeldFlags::NONE,
            file_id: file,
            index: 0,
        };
        let n = u8::try_from(second).unwrap();
        let told = inventory(n, 1, &[held]);
        let (_, actions) = play.rig.exchange(ConnectionId(second), told);
        play.run(actions);
        play.servers.rotten.extend(is_right.then_some(second));
        let complaint = ReportReplica {
            handle: first.handle,
            version: first.version,
            server: ServerId(second),
            fault: ReplicaFault::CrcMismatch,
        };
        let taken = play.ask(complaint);
        assert!(matches!(taken, Some(Ok(_))), "{taken:?}");
        let members = servers_of(&play.active(first.handle));
        match is_right {
            true => assert_eq!(members, [primary, third]),
            false => assert_eq!(members, [primary, second, third]),
        }
    }
}

/// A change that has decided nothing takes it along; one that has is followed by another.
#[test]
fn who_does_not_believe_its_own_replica_while_the_version_changes_is_left_out_next() {
    for is_decided in [false, true] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let first = play.open(play.last(file));
        let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
        play.servers.deaf.extend([primary, second, third]);
        play.report(third, &first, ChainTrouble::HopFailed, second);
        if is_decided {
            let promises = std::mem::take(&mut play.unanswered);
            play.answer_late(promises);
        }
        play.report(third, &first, ChainTrouble::Corrupt, third);
        play.servers.deaf.clear();
        play.servers.orders.clear();
        let unanswered = std::mem::take(&mut play.unanswered);
        play.answer_late(unanswered);
        let then = play.active(first.handle);
        assert_eq!(servers_of(&then), [primary, second]);
        let begins = play.servers.orders.iter();
        let begins = begins.filter(|(server, what)| *server == primary && *what == "Begin");
        assert_eq!(begins.count(), 1 + usize::from(is_decided));
    }
}

/// Who does not believe its own replica is left out for the sake of readers. It took the place of one
/// that can't go on, and which held up the change until it was left out in the end.
#[test]
fn who_can_not_go_on_is_left_out_before_who_does_not_believe_its_own_replica() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.servers.unable.insert(second);
    // It was the primary, and is none if somebody else is there.
    play.report(primary, &first, ChainTrouble::Corrupt, primary);
    play.wait(seconds(1));
    let then = play.active(first.handle);
    assert_eq!(servers_of(&then), [third, primary]);
    assert_eq!(play.readers_are_sent_to(file), BTreeSet::from([third]));
    // It says so in this version too, and can't be spared: that is no reason for another one.
    let now = play.open(play.last(file));
    play.report(primary, &now, ChainTrouble::Corrupt, primary);
    assert_eq!(play.active(first.handle), then);
}

/// Below `min_replicas` nobody is left out: the chunk goes on, and readers are sent to the other one.
#[test]
fn where_nobody_can_be_spared_readers_are_sent_to_the_others_all_the_same() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.report(third, &first, ChainTrouble::Corrupt, third);
    let two = play.open(play.last(file));
    play.report(second, &two, ChainTrouble::Corrupt, second);
    let then = play.active(first.handle);
    assert_eq!(servers_of(&then), [primary, second]);
    assert_eq!(play.readers_are_sent_to(file), BTreeSet::from([primary]));
    // All of them are better than none.
    let now = play.open(play.last(file));
    play.report(primary, &now, ChainTrouble::Corrupt, primary);
    let both = BTreeSet::from([primary, second]);
    assert_eq!(play.readers_are_sent_to(file), both);
}

#[test]
fn a_silent_primary_is_gone_on_without_and_clients_wait_for_that() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let primary = first.chain[0].server.0;
    play.servers.silent.insert(primary);
    let failed = OpenChunk {
        failed: first.version,
        ..play.last(file)
    };
    let token = play.rig.send(CLIENT, failed);
    let actions = play.rig.settle();
    play.run(actions);
    assert_eq!(play.replies.get(&token), None, "its primary is asked");
    play.wait(seconds(7));
    let Some(Ok(AnyMessage::ChunkOpened(opened))) = play.replies.remove(&token) else {
        panic!("{:?}", play.replies)
    };
    assert!(opened.version > first.version);
    assert_eq!(opened.chain.len(), 2);
    assert_ne!(opened.chain[0].server.0, primary);
}

#[test]
fn a_primary_that_refuses_its_lease_is_gone_on_without() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.servers.stopped.insert(first.chain[0].server.0);
    let failed = OpenChunk {
        failed: first.version,
        ..play.last(file)
    };
    let opened = play.open(failed);
    assert_ne!(opened.chain[0].server, first.chain[0].server);
    assert!(opened.version > first.version);
}

#[test]
fn a_full_chunk_is_sealed_with_the_next_one_in_the_same_entry_once_however_many_ask() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let full = play.open(play.last(file));
    play.mutate(full.handle, 5, 700);
    let after = |play: &Play| OpenChunk {
        slot: Slot::Last { after: full.handle },
        ..play.last(file)
    };
    // A client's word alone does nothing.
    assert_eq!(play.open(after(&play)).handle, full.handle);
    play.report(full.chain[0].server.0, &full, ChainTrouble::Full, 0);
    assert_eq!(play.sealed(full.handle).map(|sealed| sealed.1), Some(700));
    let next = play.open(after(&play));
    assert_eq!(next.index, 1);
    assert_ne!(next.handle, full.handle);
    assert_eq!(play.open(after(&play)).handle, next.handle);
    assert_eq!(play.open(play.last(file)).handle, next.handle);
    // The rest of the full one is padding.
    assert_eq!(play.rig.get(stat("/f")).node.size, u64::from(MIB));
}

/// Who names a chunk may only want to know what became of something: it is found in the sealed one.
#[test]
fn a_chunk_that_was_sealed_is_not_opened_again_for_who_does_not_know_that() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let full = play.open(play.last(file));
    play.mutate(full.handle, 5, 700);
    let at_first = OpenChunk {
        slot: Slot::At(0),
        failed: full.version,
        ..play.last(file)
    };
    play.servers.deaf.extend(1..=4);
    play.report(full.chain[0].server.0, &full, ChainTrouble::Full, 0);
    let named = play.send(at_first);
    let last = play.send(play.last(file));
    play.servers.deaf.clear();
    while !play.unanswered.is_empty() {
        let unanswered = std::mem::take(&mut play.unanswered);
        play.answer_late(unanswered);
    }
    let refused = play.replies.remove(&named).unwrap().unwrap_err();
    assert_eq!(refused.status, Status::ChunkSealed);
    let Some(Ok(AnyMessage::ChunkOpened(next))) = play.replies.remove(&last) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(next.index, 1);
    assert!(play.sealed(full.handle).is_some());
    let asked = play.ask(at_first).unwrap();
    assert_eq!(asked.unwrap_err().status, Status::ChunkSealed);
    let knows = OpenChunk {
        failed: ChunkVersion::NONE,
        ..at_first
    };
    assert_eq!(play.open(knows).handle, full.handle);
}

/// An append in doubt goes to the chunk that it was sent to first, also when that has a next one. What
/// is not there stays away, and who writes to it is not stopped by that.
#[test]
fn a_chunk_that_is_not_the_last_is_closed_to_records_and_no_report_seals_it() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let full = play.open(play.last(file));
    play.mutate(full.handle, 5, 700);
    play.report(full.chain[0].server.0, &full, ChainTrouble::Full, 0);
    let next = play.open(play.last(file));
    play.tell(full.handle, file);
    let again = play.open(OpenChunk {
        slot: Slot::At(0),
        ..play.last(file)
    });
    assert_eq!(again.handle, full.handle);
    assert_eq!(play.servers.closed, BTreeSet::from([full.handle]));
    play.report(again.chain[0].server.0, &again, ChainTrouble::Full, 0);
    let at_first = OpenChunk {
        slot: Slot::At(0),
        ..play.last(file)
    };
    assert_eq!(
        play.open(at_first).version,
        again.version,
        "it is still open"
    );
    let record = play.rig.machine.state.namespace.file(file).unwrap();
    assert_eq!(record.slots[..], [full.handle, next.handle]);
    assert_eq!(play.open(play.last(file)).handle, next.handle);
}

/// An open chunk was taken to reach as far as its file: records went into what a truncation had
/// lengthened the file by, ahead of its end.
#[test]
fn records_go_behind_what_a_file_was_lengthened_by_also_while_its_chunk_is_open() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 1000,
    };
    play.send(truncate);
    let first = play.open(OpenChunk {
        slot: Slot::At(0),
        ..play.last(file)
    });
    play.mutate(first.handle, 5, 15);
    assert_eq!(play.servers.closed, BTreeSet::from([first.handle]));
    let next = play.open(play.last(file));
    assert_eq!((next.index, next.handle == first.handle), (1, false));
    assert_eq!(play.open(play.last(file)).handle, next.handle);
}

#[test]
fn acks_from_memory_take_another_version() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let disk = play.open(play.last(file));
    assert!(!disk.memory);
    let wants = OpenChunk {
        memory: true,
        ..play.last(file)
    };
    let memory = play.open(wants);
    assert!(memory.memory && memory.version > disk.version);
    assert_eq!(memory.chain, disk.chain);
    // It stays so for whoever doesn't ask for it.
    assert_eq!(play.open(play.last(file)).version, memory.version);
}

#[test]
fn a_member_that_promises_and_never_begins_is_left_out_in_the_end() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    // Just `min_replicas` are left, and one of them does nothing but promise.
    play.servers.silent.insert(third);
    play.servers.unable.insert(second);
    play.mutate(first.handle, 3, 300);
    play.report(primary, &first, ChainTrouble::HopFailed, third);
    play.wait(seconds(30));
    assert_eq!(
        play.sealed(first.handle).map(|sealed| sealed.1),
        Some(300),
        "one is enough to seal with, and repair does the rest"
    );
}

/// Who waited was told that too much is waiting here, which is no reason to start servers again.
#[test]
fn who_waits_for_members_that_are_too_few_is_told_so() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let gone = [1, 2].map(|at| first.chain[at].server.0);
    play.servers.silent.extend(gone);
    play.report(
        first.chain[0].server.0,
        &first,
        ChainTrouble::HopFailed,
        gone[0],
    );
    let token = play.rig.send(CLIENT, play.last(file));
    let actions = play.rig.settle();
    play.run(actions);
    play.wait(seconds(9));
    let Some(Err(failure)) = play.replies.remove(&token) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(failure.status, Status::TooFewServers);
    assert!(failure.retry_after_ms > 0 && failure.text.contains("too few members"));
}

/// It was told the whole length of a lease, however old that was: a client went on to believe in a
/// primary that had stopped by itself.
#[test]
fn a_client_is_told_what_is_left_of_the_lease() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    assert_eq!(first.lease, 60_000);
    play.wait(seconds(20));
    let then = play.open(play.last(file));
    assert_eq!((then.version, then.lease), (first.version, 40_000));
}

/// A request that is sent again tells what is outstanding by then. It was taken for another one, and
/// refused since its own file was being truncated.
#[test]
fn a_truncate_that_is_sent_again_is_the_same_whatever_else_was_answered() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let open = play.open(play.last(file));
    play.mutate(open.handle, 7, 1000);
    let truncate = |play: &Play, lowest| Truncate {
        request: RequestId {
            lowest_outstanding: lowest,
            ..play.rig.request_id(900)
        },
        path: "/f".to_owned(),
        size: 400,
    };
    // Every order is answered, a round of them between two requests: whether the file is to be sealed
    // first, or is being cut, or that is being logged, it is one request.
    play.servers.deaf.extend(1..=4);
    for lowest in 800..900 {
        let again = truncate(&play, lowest);
        if let Some(reply) = play.ask(again) {
            assert!(matches!(reply, Ok(AnyMessage::Truncated(_))), "{reply:?}");
            assert!(lowest > 803, "it takes a seal and a cut");
            assert_eq!(play.sealed(open.handle).map(|sealed| sealed.1), Some(400));
            return;
        }
        let unanswered = std::mem::take(&mut play.unanswered);
        play.answer_late(unanswered);
        play.wait(Duration::from_millis(100));
    }
    panic!("it is not cut");
}

/// A chunk that lost a member and was sealed a moment ago; whether there is another server to copy
/// it to.
fn sealed_short(is_spare_there: bool) -> (Play, FileId, ChunkHandle) {
    let mut play = Play::new();
    if !is_spare_there {
        play.servers.silent.insert(4);
        play.wait(settings().dead_after + seconds(1));
    }
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.servers.silent.insert(members[2]);
    let now = play.rig.now;
    let lost = ConnectionId(members[2]);
    play.rig.machine.handle_disconnected(lost, now);
    play.wait(seconds(3));
    play.report(members[0], &first, ChainTrouble::HopFailed, members[2]);
    for _ in 0..600 {
        if play.sealed(first.handle).is_some() {
            return (play, file, first.handle);
        }
        play.wait(Duration::from_millis(100));
    }
    panic!("it is not sealed");
}

#[test]
fn a_chunk_that_was_sealed_short_is_copied_before_it_is_opened_again() {
    let (mut play, file, handle) = sealed_short(true);
    let sealed = play.sealed(handle);
    let token = play.rig.send(CLIENT, play.last(file));
    let actions = play.rig.settle();
    play.run(actions);
    // However long a client wants it: who is to copy it has not answered yet.
    play.wait(Duration::from_millis(1500));
    assert_eq!(play.replies.get(&token), None);
    assert_eq!(play.sealed(handle), sealed);
    let is_copy = |message: &AnyMessage| matches!(message, AnyMessage::CopyChunk(_));
    let copy = play.unanswered.iter().position(|it| is_copy(&it.2));
    let (connection, order, copy) = play.unanswered.remove(copy.expect("it is being copied"));
    let AnyMessage::CopyChunk(copy) = copy else {
        panic!("{copy:?}")
    };
    let server = connection.0;
    let replica = Replica {
        sealed: Some((copy.version, copy.length, copy.crc32)),
        version: copy.version,
        length: copy.length,
        ..Replica::default()
    };
    play.servers.replicas.insert((server, handle), replica);
    let copied = ChunkCopied {
        directory_id: DirectoryId([u8::try_from(server).unwrap(); 16]),
        length: copy.length,
        crc32: copy.crc32,
        suspects: Vec::new(),
    };
    let actions = play.answer(connection, order, Ok(copied.into()));
    play.run(actions);
    play.wait(seconds(1));
    let Some(Ok(AnyMessage::ChunkOpened(opened))) = play.replies.remove(&token) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(opened.chain.len(), 3);
}

#[test]
fn a_copy_that_does_not_come_to_its_end_is_not_waited_for_for_ever() {
    let (mut play, file, handle) = sealed_short(true);
    play.wait(settings().dead_after);
    let opened = play.open(play.last(file));
    assert_eq!((opened.handle, opened.chain.len()), (handle, 2));
}

#[test]
fn a_chunk_that_nobody_can_copy_is_opened_again_at_once() {
    let (mut play, file, handle) = sealed_short(false);
    let opened = play.open(play.last(file));
    assert_eq!((opened.handle, opened.chain.len()), (handle, 2));
}

#[test]
fn without_members_a_chunk_is_unavailable_until_one_is_back() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.servers.silent.extend(&members);
    play.report(members[0], &first, ChainTrouble::HopFailed, members[1]);
    play.wait(seconds(15));
    let status = |play: &mut Play| match play.ask(play.last(file)) {
        Some(Err(failure)) => failure.status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(&mut play), Status::Unavailable);
    let findings = play.rig.get(fsck()).findings;
    let findings: Vec<Finding> = findings.iter().map(|it| it.finding).collect();
    assert!(findings.contains(&Finding::Unavailable), "{findings:?}");
    play.servers.silent.clear();
    play.wait(seconds(1));
    let token = play.rig.send(CLIENT, play.last(file));
    let actions = play.rig.settle();
    play.run(actions);
    play.wait(seconds(1));
    assert!(matches!(
        play.replies.remove(&token),
        Some(Ok(AnyMessage::ChunkOpened(_)))
    ));
}

#[test]
fn a_file_is_cut_inside_of_a_chunk_once() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let open = play.open(play.last(file));
    play.mutate(open.handle, 7, 1000);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    // First it is sealed as it is, which its servers tell; then cut.
    let token = play.rig.send(CLIENT, truncate.clone());
    let actions = play.rig.settle();
    play.run(actions);
    play.tell(open.handle, file);
    play.wait(seconds(2));
    let Some(Ok(AnyMessage::Truncated(truncated))) = play.replies.remove(&token) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(truncated.node.size, 400);
    assert_eq!(play.sealed(open.handle).map(|sealed| sealed.1), Some(400));
    // Asked again it is answered as before.
    let again = play.ask(truncate);
    assert!(
        matches!(again, Some(Ok(AnyMessage::Truncated(_)))),
        "{again:?}"
    );
    let longer = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 5 * u64::from(MIB),
    };
    let longer = play.ask(longer);
    assert!(
        matches!(longer, Some(Ok(AnyMessage::Truncated(_)))),
        "{longer:?}"
    );
    assert_eq!(play.rig.get(stat("/f")).node.size, 5 * u64::from(MIB));
    // What is appended goes behind all that there is.
    assert_eq!(play.open(play.last(file)).index, 5);
}

#[test]
fn a_tree_is_sealed_when_somebody_asks() {
    let mut play = Play::new();
    let files = [play.touch("/f"), play.touch("/g")];
    let opened = files.map(|file| play.open(play.last(file)));
    let seal = SealFile {
        path: "/".to_owned(),
    };
    let reply = play.ask(seal);
    assert!(
        matches!(reply, Some(Ok(AnyMessage::FileSealed(_)))),
        "{reply:?}"
    );
    for chunk in &opened {
        assert!(play.sealed(chunk.handle).is_some());
    }
}

#[test]
fn a_master_that_starts_grants_what_its_log_calls_active() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let open = play.open(play.last(file));
    play.rig = play.rig.restarted(settings());
    play.servers.orders.clear();
    for n in 1..=4 {
        let connection = ConnectionId(n);
        play.rig
            .machine
            .handle_connected(connection, Role::Chunkserver);
        let (reply, actions) = play
            .rig
            .exchange(connection, register(u8::try_from(n).unwrap()));
        assert!(matches!(reply, Ok(AnyMessage::Registered(_))), "{reply:?}");
        play.run(actions);
        play.rig.hold(u8::try_from(n).unwrap(), 1, &[]);
    }
    let primary = open.chain[0].server.0;
    assert_eq!(play.servers.orders, [(primary, "GrantLease")]);
    play.wait(seconds(61));
    assert!(
        play.sealed(open.handle).is_some(),
        "its lease begins anew, and ends"
    );
}

#[test]
fn bad_requests_get_clear_errors_and_change_nothing() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let folder = play.rig.make_folder("/d");
    let folder = play.rig.get(folder).file_id;
    let session = SessionId(999);
    let statuses = [
        (play.last(FileId(12_345)), Status::NotFound),
        (play.last(folder), Status::IsAFolder),
        (
            OpenChunk {
                session,
                ..play.last(file)
            },
            Status::SessionUnknown,
        ),
        (
            OpenChunk {
                slot: Slot::At(u32::MAX - 1),
                ..play.last(file)
            },
            Status::TooLarge,
        ),
    ];
    for (asked, status) in statuses {
        match play.ask(asked) {
            Some(Err(failure)) => assert_eq!(failure.status, status, "{asked:?}"),
            other => panic!("{asked:?}: {other:?}"),
        }
    }
    assert_eq!(play.servers.orders, []);
    let remove = play.rig.remove("/f", false);
    play.rig.get(remove);
    match play.ask(play.last(file)) {
        Some(Err(failure)) => assert_eq!(failure.status, Status::NotFound, "in the trash"),
        other => panic!("{other:?}"),
    }
}

/// The places for blocks that were written again run out on each member's own disk. Only the primary was
/// heard: where they ran out on another member, its mutations waited until the hop failed.
#[test]
fn any_member_has_its_chunk_sealed_when_it_has_no_places_left() {
    for at in [0, 1, 2] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let open = play.open(play.last(file));
        play.mutate(open.handle, 5, 700);
        let members = [0, 1, 2].map(|at| open.chain[at].server.0);
        let outsider = (1..=4).find(|n| !members.contains(n)).unwrap();
        play.report(outsider, &open, ChainTrouble::WantsSeal, 0);
        let late = ChunkOpened {
            version: ChunkVersion(open.version.0 - 1),
            ..open.clone()
        };
        play.report(members[at], &late, ChainTrouble::WantsSeal, 0);
        assert_eq!(play.sealed(open.handle), None);
        play.report(members[at], &open, ChainTrouble::WantsSeal, 0);
        assert_eq!(play.sealed(open.handle).map(|it| it.1), Some(700));
    }
}

/// The sweep did not know of attempts: where what is unknown is deleted soon, it deleted a chunk that two
/// servers had begun while the third was waited for, and the log called it open a moment later.
#[test]
fn what_an_attempt_had_servers_begin_is_no_garbage() {
    let mut play = Play::with(Config {
        orphan_grace: Duration::ZERO,
        gc_interval: Duration::from_millis(100),
        ..settings()
    });
    let file = play.touch("/f");
    play.servers.deaf.extend(1..=4);
    let opens = play.send(play.last(file));
    let mut begins = std::mem::take(&mut play.unanswered);
    let last = begins.split_off(2);
    let begun = [0, 1].map(|at| begins[at].0.0);
    play.answer_late(begins);
    play.report_held(2, &begun);
    play.wait(seconds(1));
    let deletions = |play: &Play| {
        let orders = play.servers.orders.iter();
        orders.filter(|(_, name)| *name == "DeleteChunk").count()
    };
    assert_eq!(deletions(&play), 0);
    play.answer_late(last);
    play.servers.deaf.clear();
    let grants = std::mem::take(&mut play.unanswered);
    play.answer_late(grants);
    let opened = play.replies.remove(&opens);
    assert!(
        matches!(opened, Some(Ok(AnyMessage::ChunkOpened(_)))),
        "{opened:?}"
    );
    play.wait(seconds(1));
    assert_eq!(deletions(&play), 0);
}

/// What had begun when the log turned out to be lost in part went on: seals and openings were logged, and
/// a file was cut, by a master that told everybody that it takes no changes.
#[test]
fn what_is_under_way_when_the_log_turns_out_to_be_lost_in_part_is_not_logged() {
    let mut play = Play::new();
    let sealed = play.touch("/sealed");
    let opened = play.touch("/opened");
    play.touch("/empty");
    for file in [sealed, opened] {
        let open = play.open(play.last(file));
        play.mutate(open.handle, 5, 700);
    }
    let empty = play.rig.get(stat("/empty")).node.file_id;
    play.servers.deaf.extend(1..=4);
    let lengthen = |play: &mut Play, path: &str| Truncate {
        request: play.rig.request(),
        path: path.to_owned(),
        size: 5 * u64::from(MIB),
    };
    // One waits for a seal, one for a member to begin, one for what is opened, and two for the attempts.
    let first = lengthen(&mut play, "/sealed");
    let memory = OpenChunk {
        memory: true,
        ..play.last(opened)
    };
    let mut waiting = vec![
        play.send(first),
        play.send(memory),
        play.send(play.last(empty)),
    ];
    let second = lengthen(&mut play, "/empty");
    waiting.push(play.send(second));
    for _ in 0..2 {
        // They drain and promise; the next are to begin or to prepare.
        let is_early = |message: &AnyMessage| {
            matches!(message, AnyMessage::RevokeLease(_) | AnyMessage::Promise(_))
        };
        let orders = std::mem::take(&mut play.unanswered);
        let (early, late): (Vec<_>, Vec<_>) = orders.into_iter().partition(|it| is_early(&it.2));
        play.unanswered = late;
        play.answer_late(early);
    }
    let connection = ConnectionId(5);
    play.rig
        .machine
        .handle_connected(connection, Role::Chunkserver);
    let unknown = Register {
        server_id: ServerId(99),
        ..register(5)
    };
    let (_, alarms) = play.rig.exchange(connection, unknown);
    assert!(matches!(alarms[..], [Action::Alarm(_)]), "{alarms:?}");
    let logged = play.rig.log.len();
    let late = std::mem::take(&mut play.unanswered);
    assert_eq!(late.len(), 9);
    play.servers.deaf.clear();
    play.answer_late(late);
    play.wait(seconds(1));
    assert_eq!(play.rig.log[logged..], []);
    for token in waiting {
        let refused = play.replies.remove(&token).unwrap().unwrap_err();
        assert_eq!(refused.status, Status::ReadOnly);
    }
}
