//! The master's orders: they wait here, and what they name besides the chunk is compared when they
//! run.

use sarsen_protocol::message::{AnyMessage, ErrorBody, Kind};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

use super::super::action::{Action, DeleteOrder, Order};
use super::super::event::{ConnectionId, Refusal};
use super::{Link, Machine, WaitingOrder};

/// Orders to delete that run together, for one sync of a folder.
const DELETES_MAX: usize = 256;

/// Orders to verify that run at a time: each reads a whole chunk from the medium.
const VERIFIES_MAX: usize = 2;

impl Machine {
    /// Whether an order may run now. One that may not is answered, if there is anybody to answer.
    pub(super) fn may_run(&mut self, waiting: &WaitingOrder) -> bool {
        if !is_in_force(Check::OrderSession) {
            return true;
        }
        let is_current = matches!(&self.link, Link::Registered(session)
            if session.connection == waiting.connection);
        if is_current && waiting.epoch != self.config.epoch {
            let error = ErrorBody::new("the order is of another epoch than the registration's");
            let (connection, request_id) = (waiting.connection, waiting.request_id);
            let refusal = Err((Status::StaleEpoch, error));
            self.answer(connection, request_id, waiting.order.kind(), refusal);
            return false;
        }
        is_current
    }

    pub(super) fn advance_deletes(&mut self) {
        let mut batch = Vec::new();
        while !self.deletes_run
            && batch.len() < DELETES_MAX
            && let Some(waiting) = self.deletes.pop_front()
        {
            if let Order::Delete { handle, version } = waiting.order
                && self.may_run(&waiting)
            {
                let WaitingOrder {
                    connection,
                    request_id,
                    ..
                } = waiting;
                batch.push(DeleteOrder {
                    connection,
                    request_id,
                    handle,
                    version,
                });
            }
        }
        if !batch.is_empty() {
            self.deletes_run = true;
            self.actions.push_back(Action::Delete(batch));
        }
    }

    pub(super) fn advance_verifies(&mut self) {
        while self.verifies_running < VERIFIES_MAX
            && let Some(waiting) = self.verifies.pop_front()
        {
            if let Order::Verify { handle, version } = waiting.order
                && self.may_run(&waiting)
            {
                self.verifies_running += 1;
                let WaitingOrder {
                    connection,
                    request_id,
                    ..
                } = waiting;
                self.actions.push_back(Action::Verify {
                    connection,
                    request_id,
                    handle,
                    version,
                });
            }
        }
    }

    /// Begins copies, as many as may run at a time. One whose chunk is being copied waits for that
    /// to end; those behind it don't wait for it.
    pub(super) fn advance_copies(&mut self) {
        let mut waiting = std::mem::take(&mut self.copies);
        while let Some(next) = waiting.pop_front() {
            let Order::Copy(order) = &next.order else {
                continue;
            };
            let handle = order.handle;
            let has_room = self.copies_running.len() < self.copies_max;
            if !self.may_run(&next) {
                continue;
            }
            if !has_room || self.copies_running.contains(&handle) {
                self.copies.push_back(next);
                continue;
            }
            self.copies_running.insert(handle);
            self.actions.push_back(Action::Copy {
                connection: next.connection,
                request_id: next.request_id,
                order: order.clone(),
                silence_max: self.silence_max,
            });
        }
    }

    pub(super) fn answer(
        &mut self,
        connection: ConnectionId,
        request_id: u64,
        asked: Kind,
        answer: Result<AnyMessage, Refusal>,
    ) {
        if self.is_current(connection) {
            self.actions.push_back(Action::Answer {
                connection,
                request_id,
                asked,
                answer,
            });
        }
    }
}
