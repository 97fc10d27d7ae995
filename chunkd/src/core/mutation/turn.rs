//! What is done for many inputs at once: levels, acks, answers, orders.

use std::time::Duration;

use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{ChainTrouble, Level};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

use super::Replica;
use super::chain::{Chain, Reached};
use super::ordering::{Orderer, TURN_BYTES, Went};
use super::primary::{Building, Phase};
use super::words::{Action, Ids, Reply, StreamId};

impl Replica {
    /// Orders what waits as far as bounds allow, acknowledges, answers. To be called once after any
    /// number of inputs; `ids` is the table of the chunk as the store has it now.
    pub fn take_turn(&mut self, now: Duration, ids: &dyn Ids) {
        self.check_lease(now);
        if self.chain.is_none() {
            return;
        }
        let reached = self.reached();
        if self.primary.is_some() {
            let floor = self.chain.as_ref().map_or(Level::Disk, Chain::floor);
            self.commit(now, reached.at(floor));
            if let (Some(primary), (_, applied)) = (&mut self.primary, self.member.has()) {
                primary.flight.applied(applied);
            }
            if let Some(chain) = &mut self.chain {
                chain.land(reached.at(floor));
            }
            self.answer_clients(reached);
            self.order(ids);
            // What was done before is answered without waiting for another input.
            self.answer_clients(reached);
            self.send_results();
            self.ask_newest();
            self.check_drained(now);
            self.share_memory(now);
        } else {
            self.ack_up(reached);
        }
        self.flush(now);
        self.watch_store(now);
    }

    /// Up to where everything is on this member and on all behind it.
    fn reached(&self) -> Reached {
        let (_, applied) = self.member.has();
        let own = Reached {
            memory: applied,
            disk: match is_in_force(Check::DiskPrefix) {
                true => self.stable.min(applied),
                false => applied,
            },
        };
        let behind = self.chain.as_ref().map(|chain| chain.next_acked);
        let behind = behind.filter(|_| is_in_force(Check::LastMember));
        own.min(behind.unwrap_or(own))
    }

    /// Acknowledges to the hop before what is new. An ack at `disk` says all that one at `memory`
    /// would.
    fn ack_up(&mut self, reached: Reached) {
        let commit_mark = self.member.commit_mark();
        let Some(chain) = &mut self.chain else { return };
        let Some(stream) = chain.up else { return };
        let before = chain.acked;
        chain.acked.raise(Level::Memory, reached.memory);
        chain.acked.raise(Level::Disk, reached.disk);
        let is_new_on_disk = chain.acked.disk > before.disk;
        let is_new_in_memory = chain.memory
            && chain.acked.memory
                > before.memory.max(if is_new_on_disk {
                    chain.acked.disk
                } else {
                    Serial::NONE
                });
        for (is_new, level) in [
            (is_new_on_disk, Level::Disk),
            (is_new_in_memory, Level::Memory),
        ] {
            if is_new {
                chain.up_was_sent = true;
                let reply = Reply::Ack(chain.ack(level, commit_mark));
                self.actions.push_back(Action::Send { stream, reply });
            }
        }
    }

    /// Has the store sync what somebody waits for, one sync after the other, so that each takes along
    /// what came during the one before.
    fn flush(&mut self, now: Duration) {
        let received = self.member.received();
        let is_idle = self.stable >= self.flush_asked;
        let has = self.flush_asked.max(self.stable);
        if self.flush_wanted > has && is_idle {
            self.flush_asked = received;
            self.flush_due = None;
            self.actions.push_back(Action::Flush);
        } else if received > has.max(self.flush_wanted) && self.flush_due.is_none() {
            // What nobody waits for doesn't stay in memory for long either: a promise needs it stable.
            self.flush_due = Some(now + self.config.suspect_after / 3);
        }
    }

    /// Gives serials to what clients asked for, in turns.
    fn order(&mut self, ids: &dyn Ids) {
        let (Some(chain), Some(primary)) = (&mut self.chain, &mut self.primary) else {
            return;
        };
        if matches!(primary.phase, Phase::Opening | Phase::Drained(_)) {
            return;
        }
        let mut orderer = Orderer {
            config: &self.config,
            member: &mut self.member,
            chain,
            primary,
            ids,
            actions: &mut self.actions,
            building: Building::new(),
            flush_wanted: self.flush_wanted,
            reports: Vec::new(),
        };
        let mut failed: Vec<(StreamId, Status, &'static str)> = Vec::new();
        'turns: while let Some(stream) = orderer.primary.turns.pop_front() {
            let Some(client) = self.clients.get_mut(&stream) else {
                continue;
            };
            // Waiting for acks saves up no turns.
            let most = client.next_length().map_or(0, u64::from).max(TURN_BYTES);
            client.credit = (client.credit + TURN_BYTES).min(most);
            let is_alone = orderer.primary.turns.is_empty();
            while let Some(length) = client.next_length() {
                let length = u64::from(length);
                if length > client.credit && !is_alone {
                    orderer.primary.turns.push_back(stream);
                    continue 'turns;
                }
                match orderer.order_next(client) {
                    Went::On => client.credit = client.credit.saturating_sub(length),
                    Went::Waits => {
                        orderer.primary.turns.push_front(stream);
                        break 'turns;
                    }
                    Went::Fails(status, text) => {
                        failed.push((stream, status, text));
                        client.asked.clear();
                    }
                }
            }
            (client.credit, client.has_turn) = (0, false);
        }
        orderer.launch();
        let reports = orderer.reports;
        self.flush_wanted = orderer.flush_wanted;
        for (stream, status, text) in failed {
            self.fail_client(stream, status, text);
        }
        self.report_all(reports);
    }

    fn report_all(&mut self, reports: Vec<ChainTrouble>) {
        for what in reports {
            let me = self.member.me().server;
            self.report(what, me, Status::Ok);
        }
    }
}
