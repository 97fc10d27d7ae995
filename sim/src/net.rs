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

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{self, Frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ClusterId, ServerId};
use sarsen_protocol::message::{Kind, Ping, Plane, Pong, Role};
use sarsen_protocol::size::HEADER_LEN;

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

    /// Dials at a time, for so long at the most; how it ends comes as an input.
    pub fn dial(
        &mut self,
        node: Node,
        address: &str,
        plane: Plane,
        hello: Hello,
        (now, time_max): (Duration, Duration),
    ) -> ConnId {
        self.last_conn += 1;
        let id = ConnId(self.last_conn);
        let boot = self.hosts.get(&node).map_or(0, |host| host.boot);
        let side = |node, boot| Side {
            node,
            boot,
            is_open: true,
            queue: VecDeque::new(),
            is_pumping: false,
            last_heard: now,
            gave_up: false,
        };
        let target = self
            .listening
            .get(address)
            .map(|(node, boot, ..)| (*node, *boot));
        let (target, target_boot) = target.unwrap_or((owner_of(address), 0));
        let conn = Conn {
            plane,
            address: address.to_owned(),
            hello,
            began: now,
            time_max,
            is_up: false,
            has_ended: false,
            sides: [side(node, boot), side(target, target_boot)],
        };
        self.conns.insert(id, conn);
        let latency = self.latency();
        self.planned
            .push((now + latency, NetEvent::DialArrives(id)));
        id
    }

    /// Sends a frame; one over a connection that has ended goes nowhere.
    pub fn send(&mut self, id: ConnId, from: Node, head: Bytes, payload: Bytes, now: Duration) {
        let Some(side) = self.side_of(id, from) else {
            return;
        };
        if self.random.millionth(self.rates.reset) {
            return self.reset(id, now);
        }
        let (mut head, mut payload) = (head, payload);
        if self.random.millionth(self.rates.damage) {
            self.fired.push("fault: frame damaged");
            // Mostly where the bytes of files are: that is where most bytes are.
            let hit = match payload.is_empty() || self.random.percent(20) {
                true => &mut head,
                false => &mut payload,
            };
            let mut bytes = hit.to_vec();
            let (at, bit) = (self.random.index(bytes.len().max(1)), self.random.below(8));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            *hit = Bytes::from(bytes);
        }
        self.push(id, 1 - side, Wire::Frame { head, payload }, now);
    }

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

    fn push(&mut self, id: ConnId, to: usize, wire: Wire, now: Duration) {
        let latency = self.latency();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let side = &mut conn.sides[to];
        let behind = side
            .queue
            .back()
            .map_or(Duration::ZERO, |(ready, _)| *ready);
        let ready = behind.max(now + latency);
        side.queue.push_back((ready, wire));
        if !side.is_pumping {
            side.is_pumping = true;
            self.planned.push((ready, NetEvent::Pump(id, to)));
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

    fn dial_arrives(&mut self, id: ConnId, now: Duration) -> Option<(Node, Input)> {
        let conn = self.conns.get(&id)?;
        let (dialler, plane, hello) = (conn.sides[DIALLER].node, conn.plane, conn.hello);
        let (deadline, target) = (conn.began + conn.time_max, conn.sides[ACCEPTOR].node);
        let there = self.cut_until(dialler, target, now);
        let back = self.cut_until(target, dialler, now);
        if let Some(until) = there.max(back) {
            let again = (until + Duration::from_millis(200)).min(deadline);
            let event = match until >= deadline {
                true => NetEvent::DialEnds(id, Err(DialError::Silent)),
                false => NetEvent::DialArrives(id),
            };
            self.planned.push((again, event));
            return None;
        }
        let host = self.hosts.get(&target).copied().unwrap_or_default();
        if !host.has_power {
            let event = NetEvent::DialEnds(id, Err(DialError::Silent));
            self.planned.push((deadline, event));
            return None;
        }
        let latency = self.latency() + self.latency();
        let found = self.listening.get(&conn_address(&self.conns, id)).copied();
        let Some((node, boot, _, theirs)) = found.filter(|found| found.2 == plane) else {
            let event = NetEvent::DialEnds(id, Err(DialError::Refused));
            self.planned.push((now + latency, event));
            return None;
        };
        let conn = self.conns.get_mut(&id)?;
        conn.is_up = true;
        (conn.sides[ACCEPTOR].node, conn.sides[ACCEPTOR].boot) = (node, boot);
        conn.sides[ACCEPTOR].last_heard = now;
        self.planned
            .push((now + latency, NetEvent::DialEnds(id, Ok(theirs))));
        let patience = match plane {
            Plane::Control => PING_AFTER,
            Plane::Data => IDLE_MAX,
        };
        self.planned
            .push((now + patience, NetEvent::KeepAlive(id, ACCEPTOR)));
        Some((node, Input::Accepted(id, plane, hello)))
    }

    fn dial_ends(
        &mut self,
        id: ConnId,
        result: Result<Hello, DialError>,
        now: Duration,
    ) -> Option<(Node, Input)> {
        let conn = self.conns.get_mut(&id)?;
        let Side {
            node,
            boot,
            is_open,
            ..
        } = conn.sides[DIALLER];
        if std::mem::replace(&mut conn.has_ended, true)
            || !is_open
            || !self
                .hosts
                .get(&node)
                .is_some_and(|host| host.is_running && host.boot == boot)
        {
            return None;
        }
        match result {
            Ok(hello) if now <= conn.began + conn.time_max => {
                conn.sides[DIALLER].last_heard = now;
                if conn.plane == Plane::Control {
                    self.planned
                        .push((now + PING_AFTER, NetEvent::KeepAlive(id, DIALLER)));
                }
                Some((node, Input::Dialled(id, Ok(hello))))
            }
            Ok(_) => {
                self.close(id, node, now);
                Some((node, Input::Dialled(id, Err(DialError::Silent))))
            }
            Err(error) => {
                self.conns.remove(&id);
                Some((node, Input::Dialled(id, Err(error))))
            }
        }
    }

    fn pump(&mut self, id: ConnId, to: usize, now: Duration) -> Option<(Node, Input)> {
        let conn = self.conns.get(&id)?;
        let (from, node, boot) = (
            conn.sides[1 - to].node,
            conn.sides[to].node,
            conn.sides[to].boot,
        );
        let blocked = self.cut_until(from, node, now);
        let jitter = self.random.micros(100, 400_000);
        let conn = self.conns.get_mut(&id)?;
        let side = &mut conn.sides[to];
        side.is_pumping = false;
        let (ready, _) = side.queue.front()?;
        let due = blocked.map_or(*ready, |until| until + jitter);
        if due > now {
            side.is_pumping = true;
            self.planned.push((due, NetEvent::Pump(id, to)));
            return None;
        }
        let (_, wire) = side.queue.pop_front()?;
        if let Some((next, _)) = side.queue.front() {
            side.is_pumping = true;
            self.planned
                .push(((*next).max(now), NetEvent::Pump(id, to)));
        }
        let is_open = side.is_open;
        let host = self.hosts.get(&node).copied().unwrap_or_default();
        if !host.has_power {
            return None;
        }
        if !is_open || !host.is_running || host.boot != boot {
            // Nobody knows of the connection here.
            if matches!(wire, Wire::Frame { .. }) {
                self.push(id, 1 - to, Wire::End, now);
            } else {
                self.end_side(id, to);
            }
            return None;
        }
        self.arrive(id, to, wire, now)
    }

    fn arrive(
        &mut self,
        id: ConnId,
        to: usize,
        wire: Wire,
        now: Duration,
    ) -> Option<(Node, Input)> {
        let conn = self.conns.get_mut(&id)?;
        let (node, plane) = (conn.sides[to].node, conn.plane);
        conn.sides[to].last_heard = now;
        let is_late = conn.sides[1 - to].gave_up;
        match wire {
            Wire::End => {
                // What ends before the hello is done never was.
                let has_begun = to == ACCEPTOR || std::mem::replace(&mut conn.has_ended, true);
                self.end_side(id, to);
                Some(match has_begun {
                    true => (node, Input::Ended(id)),
                    false => (node, Input::Dialled(id, Err(DialError::Refused))),
                })
            }
            Wire::Frame { head, payload } => {
                match decode(&head, payload, plane) {
                    Ok(frame) if frame.header.kind == Kind::Ping => {
                        let pong = deframe::frame(&Pong, frame.header.request_id);
                        self.push(
                            id,
                            1 - to,
                            Wire::Frame {
                                head: pong.into(),
                                payload: Bytes::new(),
                            },
                            now,
                        );
                        None
                    }
                    Ok(frame) if frame.header.kind == Kind::Pong => None,
                    Ok(frame) => {
                        if is_late && !frame.header.kind.is_reply() && plane == Plane::Control {
                            self.fired.push("fault: request came late, over a connection its client had given up");
                        }
                        Some((node, Input::Frame(id, frame)))
                    }
                    Err(_) => {
                        // The peer breaks the protocol, for all that is known.
                        self.close(id, node, now);
                        Some((node, Input::Ended(id)))
                    }
                }
            }
        }
    }

    fn keep_alive(&mut self, id: ConnId, side: usize, now: Duration) -> Option<(Node, Input)> {
        let conn = self.conns.get(&id)?;
        let Side {
            node,
            boot,
            is_open,
            last_heard,
            ..
        } = conn.sides[side];
        let is_here = self
            .hosts
            .get(&node)
            .is_some_and(|host| host.is_running && host.boot == boot);
        if !is_open || !is_here {
            return None;
        }
        let (ask_after, end_after) = match conn.plane {
            Plane::Control => (PING_AFTER, CLOSE_AFTER),
            Plane::Data => (IDLE_MAX, IDLE_MAX),
        };
        let silent = now.saturating_sub(last_heard);
        if silent >= end_after {
            self.close(id, node, now);
            return Some((node, Input::Ended(id)));
        }
        if silent >= ask_after {
            // A number that no request of the process has: its answer is nobody's.
            let ping = deframe::frame(&Ping, u64::MAX);
            self.push(
                id,
                1 - side,
                Wire::Frame {
                    head: ping.into(),
                    payload: Bytes::new(),
                },
                now,
            );
        }
        let again = match silent >= ask_after {
            true => now + ask_after,
            false => last_heard + ask_after,
        };
        self.planned.push((again, NetEvent::KeepAlive(id, side)));
        None
    }
}

/// Reads a frame as it came.
fn decode(head: &Bytes, payload: Bytes, plane: Plane) -> Result<Frame, FrameError> {
    let Some(bytes) = head.first_chunk::<HEADER_LEN>() else {
        return Err(FrameError::BadMagic);
    };
    let header = Header::decode(bytes, plane, true)?;
    let body = head.slice(HEADER_LEN..);
    header.check_body(&body)?;
    Ok(Frame {
        header,
        body,
        payload,
    })
}

fn conn_address(conns: &BTreeMap<ConnId, Conn>, id: ConnId) -> String {
    conns
        .get(&id)
        .map(|conn| conn.address.clone())
        .unwrap_or_default()
}

/// The machine that an address is on: `master:…`, or `cN:…` of chunkserver N.
fn owner_of(address: &str) -> Node {
    let host = address.split(':').next().unwrap_or_default();
    match host
        .strip_prefix('c')
        .and_then(|number| number.parse().ok())
    {
        Some(number) => Node::Chunkserver(number),
        None => Node::Master,
    }
}
