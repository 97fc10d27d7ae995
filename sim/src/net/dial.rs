//! How a connection comes about: a dial that reaches its target, and how the dialler hears of it.
//!
//! A dial into a cut waits for the end of the cut, or of the dialler's patience. A machine without power
//! says nothing; one where nobody listens refuses.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_protocol::message::Plane;

use super::{
    ACCEPTOR, Conn, ConnId, DIALLER, DialError, Hello, IDLE_MAX, Input, Net, NetEvent, Node,
    PING_AFTER, Side,
};

impl Net {
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

    pub(super) fn dial_arrives(&mut self, id: ConnId, now: Duration) -> Option<(Node, Input)> {
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

    pub(super) fn dial_ends(
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
