//! The network: connections with TCP's promises, and everything TCP does not promise.
//!
//! Within a connection bytes come in order, none twice. Between connections anything may overtake
//! anything. A direction may be cut for a while: what was sent waits, and comes late, also when
//! its sender has closed and dialled anew meanwhile. A connection may be reset at any frame. A
//! machine without power answers nothing; one whose process died resets what it knows nothing of.
//!
//! A frame goes as the bytes that the protocol gives it, and is read by the protocol's own
//! decoders at the other end: a bit that flips on the way is found where a real one would be.
//!
//! The hello is one exchange without a proof: keys are not simulated. Control connections ask
//! after silence whether the other side is there, as `sarsen_edge` does.
//!
//! Here are the machines, the connections between them, and what goes wrong; [`dial`] is how a
//! connection comes about, [`transit`] what is on its way over it.

mod dial;
mod transit;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::Frame;
use sarsen_protocol::id::{ClusterId, ServerId};
use sarsen_protocol::message::{Plane, Role};

use crate::random::Random;

/// A machine; each runs one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The master.
    Master,
    /// A chunkserver, counted from 0.
    Chunkserver(u8),
    /// A client, counted from 0.
    Client(u8),
}

impl Node {
    /// A number for the trace.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Master => 0,
            Self::Chunkserver(n) => 100 + n as u64,
            Self::Client(n) => 1000 + n as u64,
        }
    }
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// The two ends of a connection: who dialled, and who was dialled.
const DIALLER: usize = 0;
const ACCEPTOR: usize = 1;

/// How long a dial may take.
pub const DIAL_MAX: Duration = Duration::from_secs(5);

/// Silence after which a control connection asks, and after which it ends.
const PING_AFTER: Duration = Duration::from_secs(10);
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// Silence after which a chunkserver ends a data connection.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Who a process is, as its hello tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it is.
    pub role: Role,
    /// Its cluster, if it knows.
    pub cluster: ClusterId,
    /// Its server id, if it has one.
    pub server: ServerId,
}

/// What the network does next.
#[derive(Clone, Debug)]
pub enum NetEvent {
    /// A dial reaches its target.
    DialArrives(ConnId),
    /// A dial comes to its end at the dialler.
    DialEnds(ConnId, Result<Hello, DialError>),
    /// Something may arrive at this end of a connection.
    Pump(ConnId, usize),
    /// Is the other side still there?
    KeepAlive(ConnId, usize),
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Nobody listens.
    Refused,
    /// Nobody answered.
    Silent,
}

/// What arrives at a process.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody has dialled, and said hello.
    Accepted(ConnId, Plane, Hello),
    /// A dial has ended.
    Dialled(ConnId, Result<Hello, DialError>),
    /// A frame.
    Frame(ConnId, Frame),
    /// A connection has ended.
    Ended(ConnId),
}

/// What is on its way.
#[derive(Clone, Debug)]
enum Wire {
    Frame { head: Bytes, payload: Bytes },
    End,
}

#[derive(Debug)]
struct Side {
    node: Node,
    boot: u64,
    is_open: bool,
    /// On its way to this side, each with when it can be here.
    queue: VecDeque<(Duration, Wire)>,
    is_pumping: bool,
    last_heard: Duration,
    /// This side gave the connection up, and what it had sent may still be on its way.
    gave_up: bool,
}

#[derive(Debug)]
struct Conn {
    plane: Plane,
    address: String,
    hello: Hello,
    began: Duration,
    /// How long the dial may take.
    time_max: Duration,
    is_up: bool,
    /// The dialler was told how its dial ended.
    has_ended: bool,
    sides: [Side; 2],
}

/// A machine, as the network sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    has_power: bool,
    boot: u64,
    is_running: bool,
}

/// How often what goes wrong, in millionths of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// The connection is reset.
    pub reset: u32,
    /// A bit flips.
    pub damage: u32,
    /// A frame takes long.
    pub slow: u32,
    /// A client loses a control connection behind a request, which comes all the same.
    pub strand: u32,
}

/// All connections.
#[derive(Debug)]
pub struct Net {
    random: Random,
    /// How often what goes wrong by itself.
    pub rates: Rates,
    last_conn: u64,
    conns: BTreeMap<ConnId, Conn>,
    hosts: BTreeMap<Node, Host>,
    listening: BTreeMap<String, (Node, u64, Plane, Hello)>,
    /// Directions that nothing passes, until when.
    cuts: BTreeMap<(Node, Node), Duration>,
    /// What is to be planned.
    planned: Vec<(Duration, NetEvent)>,
    fired: Vec<&'static str>,
}

impl Net {
    /// A network without connections.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            random,
            rates: Rates::default(),
            last_conn: 0,
            conns: BTreeMap::new(),
            hosts: BTreeMap::new(),
            listening: BTreeMap::new(),
            cuts: BTreeMap::new(),
            planned: Vec::new(),
            fired: Vec::new(),
        }
    }

    /// What follows from what was done since the last call.
    pub fn take_planned(&mut self) -> Vec<(Duration, NetEvent)> {
        std::mem::take(&mut self.planned)
    }

    /// What went wrong since the last call.
    pub fn take_fired(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.fired)
    }

    // Machines.

    /// A process starts.
    pub fn start(&mut self, node: Node, boot: u64) {
        let host = Host {
            has_power: true,
            boot,
            is_running: true,
        };
        self.hosts.insert(node, host);
    }

    /// A process listens; again to change what it says of itself.
    pub fn listen(&mut self, node: Node, address: &str, plane: Plane, hello: Hello) {
        let boot = self.hosts.get(&node).map_or(0, |host| host.boot);
        self.listening
            .insert(address.to_owned(), (node, boot, plane, hello));
    }

    /// A process is no more. Its machine lives on, unless the power went too.
    pub fn stop(&mut self, node: Node, now: Duration, has_power: bool) {
        if let Some(host) = self.hosts.get_mut(&node) {
            (host.is_running, host.has_power) = (false, has_power);
        }
        self.listening.retain(|_, (listener, ..)| *listener != node);
        let touched: Vec<(ConnId, usize)> = self
            .conns
            .iter()
            .flat_map(|(&id, conn)| [(id, DIALLER, conn), (id, ACCEPTOR, conn)])
            .filter(|(_, side, conn)| conn.sides[*side].node == node && conn.sides[*side].is_open)
            .map(|(id, side, _)| (id, side))
            .collect();
        for (id, side) in touched {
            let forgets = !has_power || self.random.percent(50);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.sides[side].is_open = false;
                conn.sides[side].queue.clear();
                if forgets {
                    // What it had sent and is still on its way goes down with it.
                    conn.sides[1 - side].queue.clear();
                }
            }
            if has_power {
                self.push(id, 1 - side, Wire::End, now);
            }
        }
    }

    /// The power is back.
    pub fn power(&mut self, node: Node) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.has_power = true;
        }
    }

    // What goes wrong.

    /// Nothing passes from one to the other, for a while.
    pub fn cut(&mut self, from: Node, to: Node, until: Duration) {
        let old = self.cuts.entry((from, to)).or_default();
        *old = (*old).max(until);
    }

    /// All is well again.
    pub fn heal(&mut self, now: Duration) {
        self.cuts.clear();
        self.rates = Rates::default();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for side in [DIALLER, ACCEPTOR] {
                self.planned.push((now, NetEvent::Pump(id, side)));
            }
        }
    }

    /// Resets some connection of a machine.
    pub fn reset_one_of(&mut self, node: Node, now: Duration) -> bool {
        let of_node = |conn: &Conn| {
            conn.is_up
                && conn
                    .sides
                    .iter()
                    .any(|side| side.node == node && side.is_open)
        };
        let ids: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| of_node(conn))
            .map(|(&id, _)| id)
            .collect();
        match self.random.pick(&ids).copied() {
            Some(id) => {
                self.reset(id, now);
                true
            }
            None => false,
        }
    }

    fn reset(&mut self, id: ConnId, now: Duration) {
        self.fired.push("fault: connection reset");
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.sides.iter_mut().for_each(|side| side.queue.clear());
        }
        for side in [DIALLER, ACCEPTOR] {
            self.push(id, side, Wire::End, now);
        }
    }

    /// Whether nothing passes from one to the other for now.
    #[must_use]
    pub fn is_cut(&self, from: Node, to: Node, now: Duration) -> bool {
        self.cut_until(from, to, now).is_some()
    }

    fn cut_until(&self, from: Node, to: Node, now: Duration) -> Option<Duration> {
        self.cuts
            .get(&(from, to))
            .copied()
            .filter(|&until| until > now)
    }

    fn latency(&mut self) -> Duration {
        if self.random.millionth(self.rates.slow) {
            self.fired.push("fault: slow path");
            return self.random.micros(10_000, 900_000);
        }
        self.random.micros(80, 600)
    }

    // Connections.

    /// Ends a connection: what was sent still arrives, and then its end.
    pub fn close(&mut self, id: ConnId, node: Node, now: Duration) {
        if let Some(side) = self.side_of(id, node) {
            self.end_side(id, side);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.sides[side].gave_up = true;
            }
            self.push(id, 1 - side, Wire::End, now);
        }
    }

    /// Whether this end of a connection is open, as far as its machine knows.
    #[must_use]
    pub fn is_open(&self, id: ConnId, node: Node) -> bool {
        self.side_of(id, node).is_some()
    }

    fn side_of(&self, id: ConnId, node: Node) -> Option<usize> {
        let conn = self.conns.get(&id)?;
        let side = conn.sides.iter().position(|side| side.node == node)?;
        conn.sides[side].is_open.then_some(side)
    }

    fn end_side(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.sides[side].is_open = false;
        let is_over = conn
            .sides
            .iter()
            .all(|side| !side.is_open && side.queue.is_empty());
        if is_over {
            self.conns.remove(&id);
        }
    }

    /// Does what is due; what arrives, and where.
    pub fn handle(&mut self, event: NetEvent, now: Duration) -> Option<(Node, Input)> {
        match event {
            NetEvent::DialArrives(id) => self.dial_arrives(id, now),
            NetEvent::DialEnds(id, result) => self.dial_ends(id, result, now),
            NetEvent::Pump(id, side) => self.pump(id, side, now),
            NetEvent::KeepAlive(id, side) => self.keep_alive(id, side, now),
        }
    }
}
