//! Open chunks at work: what `chunkd/src/net/members/actor.rs` does around the shipped `Worker`.
//!
//! - here: which chunks there are, turns, and what the machines want;
//! - [`mutation_streams`](super::mutation_streams): mutation streams that come in, and the way to next hops;
//! - [`journals`](super::journals): the directories' journals.
//!
//! A turn comes a moment after something was told, so that what comes together is taken together; now and
//! then the chunk's thread is busy with others for longer, and more gathers. The
//! lane carries out one action at a time, each at a moment of its own; a flush is done beside it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_chunkd::core::action::kind_of;
use sarsen_chunkd::core::event::Event as CoreEvent;
use sarsen_chunkd::core::member::{self, Refusal, RequestId};
use sarsen_chunkd::core::mutation::{Action, Answer, Order, Reply, StreamId};
use sarsen_chunkd::net::members::worker::{LaneWork, Worker};
use sarsen_chunkd::net::members::{UnknownChunk, holder, lane, whose};
use sarsen_chunkd::server::leases::message_of;
use sarsen_protocol::id::{ChunkHandle, DirectoryId, Serial};
use sarsen_protocol::message::{ErrorBody, HeldLease, LeasesExtended, Level, Newest};
use sarsen_protocol::size::LEASES_MAX;
use sarsen_protocol::status::Status;

use super::journals::Journals;
use super::mutation_streams::{Incoming, Onward};
use super::{ChunkserverEvent, Process};
use crate::faults::{FaultEvent, STRUCK};
use crate::net::{ConnId, Node};
use crate::observation::Observation;
use crate::world::{Event, World};

/// How often that happens in one run: more, and little else is done in it.
const STRIKES_MAX: u64 = 20;

/// The open chunks of a process.
#[derive(Debug, Default)]
pub(super) struct OpenChunks {
    pub(super) chunks: BTreeMap<ChunkHandle, OpenOne>,
    /// Whose streams connections that were accepted carry.
    pub(super) streams: BTreeMap<ConnId, (ChunkHandle, StreamId)>,
    /// Whose next hops were dialled.
    pub(super) onward: BTreeMap<ConnId, ChunkHandle>,
    pub(super) journals: Journals,
    pub(super) dead_after: Duration,
    last_life: u64,
}

/// One open chunk.
#[derive(Debug)]
pub(super) struct OpenOne {
    /// Tells it from those that the process had under the handle before.
    life: u64,
    pub(super) worker: Worker,
    directory: DirectoryId,
    lane: Option<LaneWork>,
    pub(super) streams: BTreeMap<StreamId, Incoming>,
    pub(super) next: Option<Onward>,
    answerers: BTreeMap<RequestId, Answerer>,
    last_request: RequestId,
    /// When its next turn is planned.
    planned: Option<Duration>,
    /// Its thread does something else until then.
    busy_until: Duration,
}

/// Who waits for an answer of a machine.
#[derive(Debug)]
pub(super) enum Answerer {
    /// The master, over a connection, to an order of this number.
    Master(ConnId, u64, Order),
    /// A peer at the control port.
    Question(ConnId, u64),
    /// A read of the newest state, of this turn.
    Reading(ConnId, u64),
}

impl Process {
    /// The chunk of this handle, which comes to work if it is here, or is to be made in a directory.
    pub(super) fn open_one(
        &mut self,
        handle: ChunkHandle,
        made_in: Option<DirectoryId>,
    ) -> Result<&mut OpenOne, UnknownChunk> {
        if !self.open.chunks.contains_key(&handle) {
            let directory = holder(&self.server, handle, made_in)?;
            let id = directory.identity().directory_id;
            let worker = Worker::new(&self.server, directory, handle, self.open.dead_after);
            self.open.last_life += 1;
            let one = OpenOne {
                life: self.open.last_life,
                worker,
                directory: id,
                lane: None,
                streams: BTreeMap::new(),
                next: None,
                answerers: BTreeMap::new(),
                last_request: 0,
                planned: None,
                busy_until: Duration::ZERO,
            };
            self.open.chunks.insert(handle, one);
        }
        self.open.chunks.get_mut(&handle).ok_or(UnknownChunk)
    }

    /// Whether a chunk is not read as a sealed one.
    pub(super) fn is_open(&self, handle: ChunkHandle) -> bool {
        match self.open.chunks.get(&handle) {
            Some(one) => one.worker.is_open(),
            None => self.server.members.is_open(&self.server, handle),
        }
    }

    // What is told.

    /// Hands an order of the master to its chunk.
    pub(super) fn order_chunk(&mut self, world: &World, to: (ConnId, u64), order: Order) {
        let now = self.elapsed(world);
        let (handle, made_in) = whose(&order);
        let Ok(one) = self.open_one(handle, made_in) else {
            let refusal = (
                Status::ChunkUnknown,
                ErrorBody::new(UnknownChunk.to_string()),
            );
            return self.answer_master(world, to, &order, Err(refusal));
        };
        let id = one.expect(Answerer::Master(to.0, to.1, order.clone()));
        one.worker.machine().handle_order(now, id, order);
        self.stir(world, handle);
    }

    /// Asks which state of a chunk is the newest; the ticket was compared.
    pub(super) fn ask_newest(
        &mut self,
        world: &World,
        newest: &Newest,
        who: Answerer,
    ) -> Result<(), UnknownChunk> {
        let now = self.elapsed(world);
        let one = self.open_one(newest.handle, None)?;
        let id = one.expect(who);
        one.worker.machine().handle_newest(now, id, newest);
        self.stir(world, newest.handle);
        Ok(())
    }

    /// The leases that are to go on.
    pub(super) fn wanted_leases(&self) -> Vec<HeldLease> {
        let wanted = self.open.chunks.iter().filter_map(|(&handle, one)| {
            let lease = one.worker.replica().wanted_lease()?;
            Some(HeldLease {
                handle,
                version: lease.version,
                length: lease.length,
                serial: lease.serial,
            })
        });
        wanted.take(LEASES_MAX).collect()
    }

    /// The master lets leases go on, from when they were asked for.
    pub(super) fn leases_extended(
        &mut self,
        world: &World,
        sent: Duration,
        answer: &LeasesExtended,
    ) {
        let now = self.elapsed(world);
        for lease in &answer.extended {
            if let Some(one) = self.open.chunks.get_mut(&lease.handle) {
                world.count("path: lease extended");
                let until = sent + Duration::from_millis(u64::from(lease.lease));
                let machine = one.worker.machine();
                machine.handle_lease_extended(now, lease.version, until);
                self.stir(world, lease.handle);
            }
        }
    }

    /// Something of a chunk has changed in its directory.
    pub(super) fn look_again(&mut self, world: &World, handle: ChunkHandle) {
        if let Some(one) = self.open.chunks.get_mut(&handle) {
            one.worker.handle_changed();
            self.stir(world, handle);
        }
    }

    /// A directory's journal has come further.
    pub(super) fn stir_waiting(&mut self, world: &World, id: DirectoryId) {
        for handle in self.open.of_directory(id) {
            let waits = |one: &OpenOne| one.worker.waits_for_journal();
            if self.open.chunks.get(&handle).is_some_and(waits) {
                self.stir(world, handle);
            }
        }
    }

    /// A directory's journal has failed.
    pub(super) fn journal_has_failed(&mut self, world: &World, id: DirectoryId) {
        let now = self.elapsed(world);
        for handle in self.open.of_directory(id) {
            if let Some(one) = self.open.chunks.get_mut(&handle) {
                one.worker.handle_journal_failed(now);
                self.stir(world, handle);
            }
        }
    }

    // Turns.

    /// Plans a turn for soon.
    pub(super) fn stir(&mut self, world: &World, handle: ChunkHandle) {
        let soon = world.chance(|random| random.micros(2, 40));
        self.plan_turn(world, handle, world.now() + soon);
    }

    fn plan_turn(&mut self, world: &World, handle: ChunkHandle, at: Duration) {
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        let at = at.max(one.busy_until);
        if one.planned.is_none_or(|planned| at < planned) {
            one.planned = Some(at);
            let after = at.saturating_sub(world.now());
            self.plan(world, after, ChunkserverEvent::Turn(handle));
        }
    }

    /// A chunk's turn has come.
    pub(super) fn turn_due(&mut self, world: &World, handle: ChunkHandle) {
        let now = self.elapsed(world);
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        if one.planned != Some(world.now()) {
            // Another one was planned for an earlier time.
            return;
        }
        one.planned = None;
        let stable = self.open.journals.stable(one.directory);
        one.worker.handle_journal(now, stable);
        if one.worker.is_overtaken() {
            world.count("path: open chunk overtaken");
            return self.forget(world, handle);
        }
        one.worker.take_turn(now);
        let mut actions = VecDeque::new();
        actions.extend(std::iter::from_fn(|| one.worker.poll_action()));
        for action in actions {
            self.carry_out_of(world, handle, action);
        }
        self.start_work(world, handle);
        self.rest(world, handle);
        self.publish(world, handle);
    }

    /// Now and then a chunk's thread is busy elsewhere, and what is told meanwhile is one batch.
    fn rest(&mut self, world: &World, handle: ChunkHandle) {
        let (is_busy, time) = world.chance(|it| (it.percent(4), it.micros(200, 6_000)));
        if let Some(one) = self.open.chunks.get_mut(&handle).filter(|_| is_busy) {
            world.count("path: turn of a chunk delayed");
            one.busy_until = world.now() + time;
        }
    }

    /// Starts what is due on the disk.
    fn start_work(&mut self, world: &World, handle: ChunkHandle) {
        let now = self.elapsed(world);
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        let life = one.life;
        if let Some(work) = one.worker.start_lane(now) {
            one.lane = Some(work);
            self.plan_disk(world, ChunkserverEvent::Lane(handle, life), 20, 500);
        }
        let one = self.open.chunks.get_mut(&handle);
        if one.is_some_and(|one| one.worker.start_flush(now)) {
            self.plan_disk(world, ChunkserverEvent::Flush(handle, life), 300, 5_000);
        }
    }

    /// Says to others what they may want to know, and plans the next turn.
    fn publish(&mut self, world: &World, handle: ChunkHandle) {
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        if one.worker.has_changed() {
            self.server.changed(one.worker.directory(), handle);
        }
        let stable = self.open.journals.stable(one.directory);
        if one.worker.is_stirred() || one.worker.has_more_to_see(stable) {
            return self.stir(world, handle);
        }
        if one.answerers.is_empty() && one.streams.is_empty() && one.worker.is_at_rest() {
            return self.forget(world, handle);
        }
        if let Some(due) = one.worker.deadline() {
            let at = (self.began + due).max(world.now() + Duration::from_micros(1));
            self.plan_turn(world, handle, at);
        }
    }

    /// The chunk is at rest, or another one by now.
    fn forget(&mut self, world: &World, handle: ChunkHandle) {
        let Some(one) = self.open.chunks.remove(&handle) else {
            return;
        };
        for incoming in one.streams.values() {
            self.open.streams.remove(&incoming.conn);
            self.accepted.remove(&incoming.conn);
            world.close(self.node, incoming.conn);
        }
        if let Some(next) = one.next {
            self.open.onward.remove(&next.conn);
            world.close(self.node, next.conn);
        }
        for who in one.answerers.into_values() {
            self.answer_to(world, handle, who, Err(unknown()));
        }
    }

    // The disk.

    /// The disk is at the next action of a chunk's lane.
    pub(super) fn lane_due(&mut self, world: &World, handle: ChunkHandle, life: u64) {
        let now = self.elapsed(world);
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        let Some(work) = one.lane.as_mut().filter(|_| one.life == life) else {
            return;
        };
        let directory = one.worker.directory().clone();
        let journals = &mut self.open.journals;
        let goes_on = work.step(|| journals.begin(&directory));
        if self.is_dead() {
            return;
        }
        if goes_on {
            return self.plan_disk(world, ChunkserverEvent::Lane(handle, life), 20, 500);
        }
        if let Some(one) = self.open.chunks.get_mut(&handle)
            && let Some(work) = one.lane.take()
        {
            one.worker.handle_lane_done(now, work.done());
            self.stir(world, handle);
        }
    }

    /// A flush is done now.
    pub(super) fn flush_due(&mut self, world: &World, handle: ChunkHandle, life: u64) {
        let now = self.elapsed(world);
        let one = self.open.chunks.get_mut(&handle);
        let Some(one) = one.filter(|one| one.life == life) else {
            return;
        };
        let outcome = lane::flush(&one.worker.directory().clone(), handle);
        if self.is_dead() {
            return;
        }
        if let Some(one) = self.open.chunks.get_mut(&handle) {
            one.worker.handle_flushed(now, outcome);
            self.stir(world, handle);
        }
    }

    // What the machine wants.

    fn carry_out_of(&mut self, world: &World, handle: ChunkHandle, action: Action) {
        match action {
            Action::DialNext { hop, open } => self.dial_onward(world, handle, hop, &open),
            Action::SendNext(frame) => self.send_onward(world, handle, &frame),
            Action::CloseNext(version) => self.close_onward(world, handle, version),
            Action::Send { stream, reply } => {
                self.observe_reply(world, handle, stream, &reply);
                self.reply_to(world, handle, stream, &reply);
            }
            Action::Take { stream, is_wanted } => self.take_from(world, handle, stream, is_wanted),
            Action::EndStream(stream) => self.end_incoming(world, handle, stream),
            Action::Answer { to, answer } => {
                let one = self.open.chunks.get_mut(&handle);
                if let Some(who) = one.and_then(|one| one.answerers.remove(&to)) {
                    self.answer_to(world, handle, who, *answer);
                }
            }
            Action::Report(report) => {
                world.line(|| format!("{:?} reports {report:?}", self.node));
                self.server.chain_trouble(report);
            }
            // Those for the store are the worker's.
            _ => {}
        }
    }

    fn answer_to(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        who: Answerer,
        answer: Result<Answer, Refusal>,
    ) {
        match who {
            Answerer::Master(conn, id, order) => {
                self.observe_answer(world, handle, &order, &answer);
                self.answer_master(world, (conn, id), &order, answer);
            }
            Answerer::Question(conn, id) => self.answer_newest(world, conn, id, answer),
            Answerer::Reading(conn, turn) => self.newest_confirmed(world, conn, turn, answer),
        }
    }

    fn answer_master(
        &mut self,
        world: &World,
        (conn, request_id): (ConnId, u64),
        order: &Order,
        answer: Result<Answer, Refusal>,
    ) {
        world.line(|| format!("{:?} answers {order:?}: {answer:?}", self.node));
        let event = CoreEvent::ChunkOrderAnswered {
            connection: conn.0,
            request_id,
            asked: kind_of(order),
            answer: Box::new(answer.map(message_of)),
        };
        self.tell(world, event);
    }

    // What promises are about.

    fn observe_answer(
        &self,
        world: &World,
        handle: ChunkHandle,
        order: &Order,
        answer: &Result<Answer, Refusal>,
    ) {
        use member::Answer as Of;
        let machine = self.number;
        let Order::Change(order) = order else { return };
        let Ok(Answer::Change(answer)) = answer else {
            return;
        };
        match (order, answer) {
            (member::Order::Promise(asked), Of::Promised(told)) => {
                world.count("path: version promised");
                world.observe(&Observation::Promised {
                    machine,
                    handle,
                    promised: asked.version,
                    version: told.version,
                    serial: told.serial,
                });
                self.strike(world, handle);
            }
            (member::Order::Begin(asked), Of::Begun(told)) => {
                world.count("path: version begun");
                world.observe(&Observation::Begun {
                    machine,
                    directory: told.member.directory_id,
                    handle,
                    version: asked.version,
                    serial: told.serial,
                    memory: asked.memory,
                });
            }
            (member::Order::PrepareSeal(_), Of::Prepared(told)) => {
                world.observe(&Observation::SealPrepared {
                    machine,
                    directory: told.member.directory_id,
                    handle,
                    version: told.prepared.version,
                    serial: told.prepared.serial,
                    length: told.prepared.length,
                    crc32: told.prepared.crc32,
                });
                self.strike(world, handle);
            }
            (member::Order::Settle(asked), Of::Settled) => {
                world.count("path: open chunk settled");
                if let Some(one) = self.open.chunks.get(&handle) {
                    world.observe(&Observation::Settled {
                        machine,
                        directory: one.directory,
                        handle,
                        version: asked.version,
                        length: asked.length,
                        crc32: asked.crc32,
                    });
                }
            }
            _ => {}
        }
    }

    /// While a loss is being accepted, the master or the one that has the copy is killed now and then.
    fn strike(&self, world: &World, handle: ChunkHandle) {
        if !world.with_checker(|checker| checker.facts.is_being_accepted(handle))
            || world.counters().value(STRUCK) >= STRIKES_MAX
        {
            return;
        }
        let (is_struck, is_master) = world.chance(|it| (it.percent(40), it.percent(50)));
        if is_struck {
            let node = if is_master { Node::Master } else { self.node };
            let after = world.chance(|random| random.micros(0, 4_000));
            world.plan_in(after, Event::Fault(FaultEvent::Strike(node)));
        }
    }

    fn observe_reply(&self, world: &World, handle: ChunkHandle, stream: StreamId, reply: &Reply) {
        let Some(one) = self.open.chunks.get(&handle) else {
            return;
        };
        let Some(incoming) = one.streams.get(&stream) else {
            return;
        };
        let (version, _) = one.worker.replica().member().has();
        let acked = |serial: Serial, level: Level| {
            world.observe(&Observation::Acked {
                machine: self.number,
                handle,
                version,
                serial,
                level,
                to_client: incoming.from_client,
            });
        };
        match reply {
            // To a client it counts the stream's writes, and the chunk's serial stands beside.
            Reply::Ack(ack) if incoming.from_client => {
                acked(ack.commit_mark, ack.level);
            }
            Reply::Ack(ack) => acked(ack.serial, ack.level),
            Reply::Appended(appended) => {
                for result in &appended.results {
                    if result.status == Status::Ok.number() {
                        acked(result.serial, result.level);
                    }
                }
            }
            _ => {}
        }
    }
}

impl OpenOne {
    fn expect(&mut self, who: Answerer) -> RequestId {
        self.last_request += 1;
        self.answerers.insert(self.last_request, who);
        self.last_request
    }
}

impl OpenChunks {
    fn of_directory(&self, id: DirectoryId) -> Vec<ChunkHandle> {
        let of_it = self.chunks.iter().filter(|(_, one)| one.directory == id);
        of_it.map(|(&handle, _)| handle).collect()
    }
}

/// What is said of a chunk of which nothing is here.
pub(super) fn unknown() -> Refusal {
    (
        Status::ChunkUnknown,
        ErrorBody::new(UnknownChunk.to_string()),
    )
}
