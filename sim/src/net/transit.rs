//! What is on its way over a connection: frames in order, the end behind them, and the questions
//! whether the other side is still there.

use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{self, Frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::message::{Kind, Ping, Plane, Pong};
use sarsen_protocol::size::HEADER_LEN;

use super::{
    ACCEPTOR, CLOSE_AFTER, ConnId, DialError, IDLE_MAX, Input, Net, NetEvent, Node, PING_AFTER,
    Side, Wire,
};

impl Net {
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
        let is_client = matches!(from, Node::Client(_));
        if is_client && self.random.millionth(self.rates.strand) {
            self.strand(id, side, now);
        }
    }

    /// A side loses a control connection behind what it sent last, which comes all the same, and late.
    fn strand(&mut self, id: ConnId, side: usize, now: Duration) {
        let late = now + self.random.micros(100_000, 2_500_000);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.plane != Plane::Control {
            return;
        }
        if let Some((ready, _)) = conn.sides[1 - side].queue.back_mut() {
            *ready = late.max(*ready);
        }
        conn.sides[side].gave_up = true;
        conn.sides[side].queue.clear();
        self.fired.push("fault: connection lost behind a request");
        self.push(id, side, Wire::End, now);
        self.push(id, 1 - side, Wire::End, now);
    }

    pub(super) fn push(&mut self, id: ConnId, to: usize, wire: Wire, now: Duration) {
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

    pub(super) fn pump(&mut self, id: ConnId, to: usize, now: Duration) -> Option<(Node, Input)> {
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

    pub(super) fn keep_alive(
        &mut self,
        id: ConnId,
        side: usize,
        now: Duration,
    ) -> Option<(Node, Input)> {
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
