//! What all parts of a run share: the clock, the network, chance, the trace, what is checked.
//!
//! One thread runs a seed, so everything is in cells; nobody holds one over a call into another
//! part.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::message::Plane;

use crate::clock::{Agenda, unix_ms};
use crate::counters::Counters;
use crate::disk::{Disk, Fired};
use crate::faults::FaultEvent;
use crate::invariants::Checker;
use crate::net::{ConnId, Hello, Net, NetEvent, Node};
use crate::node_chunkserver::ChunkserverEvent;
use crate::node_master::MasterEvent;
use crate::observation::Observation;
use crate::random::Random;
use crate::trace::Trace;

/// What can be planned.
#[derive(Debug)]
pub enum Event {
    /// The network's.
    Net(NetEvent),
    /// The master process's of this boot.
    Master(u64, MasterEvent),
    /// A chunkserver process's of this boot.
    Chunkserver(u8, u64, ChunkserverEvent),
    /// Time has come for something in a client.
    ClientWakes(u8, u64),
    /// A machine's process starts again.
    Starts(Node),
    /// Something goes wrong.
    Fault(FaultEvent),
    /// The driver of the run looks how far it is.
    Look,
}

/// What all parts of a run share.
#[derive(Debug)]
pub struct World {
    agenda: RefCell<Agenda<Event>>,
    net: RefCell<Net>,
    random: RefCell<Random>,
    trace: RefCell<Trace>,
    counters: RefCell<Counters>,
    checker: RefCell<Checker>,
    failure: RefCell<Option<String>>,
}

impl World {
    /// A world in which nothing has happened.
    #[must_use]
    pub fn new(seed: u64, is_verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let net = Net::new(random.fork());
        Self {
            agenda: RefCell::default(),
            net: RefCell::new(net),
            random: RefCell::new(random),
            trace: RefCell::new(Trace::new(is_verbose)),
            counters: RefCell::default(),
            checker: RefCell::new(Checker::new()),
            failure: RefCell::new(None),
        }
    }

    /// The time since the run began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.agenda.borrow().now()
    }

    /// The wall clock.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        unix_ms(self.now())
    }

    /// Plans an event.
    pub fn plan(&self, at: Duration, event: Event) {
        self.agenda.borrow_mut().plan(at, event);
    }

    /// Plans an event some time from now.
    pub fn plan_in(&self, after: Duration, event: Event) {
        self.plan(self.now() + after, event);
    }

    /// The next event.
    pub fn next(&self) -> Option<Event> {
        self.agenda.borrow_mut().next()
    }

    /// Draws from the run's chance.
    pub fn chance<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    // The network.

    /// Does something to the network, and plans what follows.
    pub fn with_net<T>(&self, act: impl FnOnce(&mut Net, Duration) -> T) -> T {
        let now = self.now();
        let mut net = self.net.borrow_mut();
        let result = act(&mut net, now);
        for (at, event) in net.take_planned() {
            self.plan(at, Event::Net(event));
        }
        for name in net.take_fired() {
            self.count(name);
        }
        result
    }

    /// Dials, for so long at the most.
    pub fn dial(
        &self,
        node: Node,
        address: &str,
        plane: Plane,
        hello: Hello,
        time_max: Duration,
    ) -> ConnId {
        let conn = self.with_net(|net, now| net.dial(node, address, plane, hello, (now, time_max)));
        self.line(|| format!("{node:?} dials {address}: {conn:?}"));
        conn
    }

    /// Sends a frame without a payload.
    pub fn send(&self, from: Node, conn: ConnId, frame: Vec<u8>) {
        self.send_with(from, conn, frame.into(), Bytes::new());
    }

    /// Sends a frame.
    pub fn send_with(&self, from: Node, conn: ConnId, head: Bytes, payload: Bytes) {
        self.with_net(|net, now| net.send(conn, from, head, payload, now));
    }

    /// Ends a connection.
    pub fn close(&self, node: Node, conn: ConnId) {
        self.with_net(|net, now| net.close(conn, node, now));
    }

    /// Whether a connection is open, as far as this machine knows.
    #[must_use]
    pub fn is_open(&self, node: Node, conn: ConnId) -> bool {
        self.net.borrow().is_open(conn, node)
    }

    // What is told of the run.

    /// Counts.
    pub fn count(&self, name: &'static str) {
        self.counters.borrow_mut().count(name);
    }

    /// Counts what a disk has done.
    pub fn count_fired(&self, disk: &Disk) {
        let fired = disk.take_fired();
        if fired == Fired::default() {
            return;
        }
        let mut counters = self.counters.borrow_mut();
        counters.add("fault: unsynced sectors lost", fired.sectors_lost);
        counters.add("fault: unsynced names lost", fired.names_lost);
        counters.add("fault: sync failed", fired.syncs_failed);
        counters.add("fault: disk full", fired.full);
        counters.add("fault: sector unreadable", fired.unreadable);
    }

    /// The counters so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.borrow().clone()
    }

    /// A line for whoever reads along.
    pub fn line(&self, text: impl FnOnce() -> String) {
        self.trace.borrow().line(self.now(), text);
    }

    /// Mixes something into the trace.
    pub fn mix(&self, numbers: &[u64]) {
        let now = self.now();
        self.trace.borrow_mut().mix(now, numbers);
    }

    /// The one number of the trace, and how many events it covers.
    #[must_use]
    pub fn trace_hash(&self) -> (u64, u64) {
        let trace = self.trace.borrow();
        (trace.hash(), trace.events())
    }

    // What is checked.

    /// Something happened that promises are about.
    pub fn observe(&self, observation: &Observation<'_>) {
        // Once a promise is broken what is known may not fit together any more.
        if self.failure.borrow().is_some() {
            return;
        }
        if observation.is_of_a_member() {
            self.line(|| format!("{observation:?}"));
        }
        let found = {
            let mut checker = self.checker.borrow_mut();
            checker.facts.now = self.now();
            checker.observe(observation)
        };
        if let Err(broken) = found {
            self.fail(broken);
        }
    }

    /// Looks at what is known so far.
    pub fn with_checker<T>(&self, look: impl FnOnce(&mut Checker) -> T) -> T {
        look(&mut self.checker.borrow_mut())
    }

    /// A promise is broken: the run ends. Only the first is told.
    pub fn fail(&self, broken: String) {
        self.line(|| format!("BROKEN: {broken}"));
        let at = self.now().as_secs_f64();
        self.failure
            .borrow_mut()
            .get_or_insert(format!("at {at:.6}: {broken}"));
    }

    /// What was broken first.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }
}
