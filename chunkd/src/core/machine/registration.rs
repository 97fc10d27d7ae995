//! Being taken in by a master: what must be kept first, what is refused, when to try again.

use std::time::Duration;

use sarsen_protocol::id::{ClusterId, DirectoryId, Epoch};
use sarsen_protocol::message::{ErrorBody, Register, Registered};
use sarsen_protocol::status::{Retry, Status};

use super::super::action::{Action, StopReason, ToKeep};
use super::super::event::{ConnectionId, Refusal};
use super::{Link, Machine, Session};

/// The first back-off; it doubles with each failure.
pub(super) const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// The longest back-off.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(5);

impl Machine {
    pub(super) fn dialled(&mut self, connection: ConnectionId, cluster_id: ClusterId) {
        self.link = Link::Registering {
            connection,
            cluster_id,
        };
        let reports = self
            .directories
            .iter()
            .map(|directory| directory.report.clone());
        let register = Register {
            server_id: self.config.server_id,
            control_addr: self.config.control_addr.clone(),
            data_addr: self.config.data_addr.clone(),
            http_addr: self.config.http_addr.clone(),
            rack: self.config.rack.clone(),
            epoch: self.config.epoch,
            directories: reports.collect(),
        };
        self.actions.push_back(Action::Register {
            connection,
            register,
        });
    }

    pub(super) fn dial_failed(&mut self, text: String, is_passing: bool) {
        // Whoever was welcome once may be again: another program may have taken the port.
        match is_passing || self.was_registered {
            true => self.back_off(text),
            false => self.stop(StopReason::NotWelcome(text)),
        }
    }

    pub(super) fn registered(
        &mut self,
        connection: ConnectionId,
        answer: Result<Registered, Refusal>,
    ) {
        let Link::Registering {
            connection: current,
            cluster_id,
        } = self.link
        else {
            return;
        };
        if current != connection {
            return;
        }
        let registered = match answer {
            Ok(registered) => registered,
            Err((status, error)) => return self.refused(connection, status, &error),
        };
        if !self.may_obey(registered.epoch) {
            let text = "the master is an old one, or has lost its log: it is not obeyed";
            return self.hang_up(connection, text.to_owned());
        }
        for verdict in &registered.directories {
            let status = Status::from_number(verdict.status);
            let directory_id = verdict.directory_id;
            if !status.is_ok() {
                self.actions.push_back(Action::Unserved {
                    directory_id,
                    status,
                });
            }
            if let Some(directory) = self.directory(directory_id) {
                directory.is_served = status.is_ok();
                directory.is_left_out = false;
            }
        }
        let directories = self.served();
        if directories.is_empty() {
            let foreign = Status::ForeignDirectory.number();
            let is_foreign = registered.directories.iter().any(|it| it.status == foreign);
            return self.stop(match is_foreign {
                true => StopReason::Foreign(Status::ForeignDirectory.meaning().to_owned()),
                false => StopReason::NothingToServe,
            });
        }
        let keep = ToKeep {
            cluster_id,
            server_id: registered.server_id,
            chunk_size: registered.chunk_size,
            epoch: registered.epoch,
            directories,
        };
        self.link = Link::Keeping {
            connection,
            registered,
        };
        self.actions.push_back(Action::Keep { connection, keep });
    }

    fn refused(&mut self, connection: ConnectionId, status: Status, error: &ErrorBody) {
        let text = format!(
            "the master refused the registration: {status}: {}",
            error.text
        );
        match (status, status.retry()) {
            (Status::ForeignDirectory, _) => self.stop(StopReason::Foreign(text)),
            (_, Retry::Never) if !self.was_registered => self.stop(StopReason::NotWelcome(text)),
            _ => self.hang_up(connection, text),
        }
    }

    /// Whether nothing newer, and no other history of the same number, was obeyed before.
    fn may_obey(&self, asked: Epoch) -> bool {
        let held = self.config.epoch;
        asked.number > held.number || asked == held
    }

    /// One disk that fails or hangs takes nothing but itself out: the master is told that it has
    /// failed, and nothing of it is served.
    pub(super) fn left_out(&mut self, connection: ConnectionId, directory_id: DirectoryId) {
        if self.is_current(connection)
            && let Some(directory) = self.directory(directory_id)
        {
            directory.is_served = false;
            directory.is_left_out = true;
        }
    }

    /// Registers again, this time with all directories.
    pub(super) fn kept_late(&mut self, connection: ConnectionId, directory_id: DirectoryId) {
        let is_left_out = self
            .directory(directory_id)
            .is_some_and(|directory| directory.is_left_out);
        if is_left_out && self.is_current(connection) {
            let text = "a disk that hung answers again, and its directory is to be taken in";
            self.hang_up(connection, text.to_owned());
        }
    }

    pub(super) fn kept(&mut self, connection: ConnectionId) {
        let link = std::mem::replace(&mut self.link, Link::Dialling);
        let registered = match link {
            Link::Keeping {
                connection: current,
                registered,
            } if current == connection => registered,
            other => {
                self.link = other;
                return;
            }
        };
        self.config.server_id = registered.server_id;
        self.config.epoch = registered.epoch;
        self.failures = 0;
        self.was_registered = true;
        let copies_max = usize::try_from(registered.repair_streams);
        self.silence_max = Duration::from_millis(u64::from(registered.dead_after));
        self.copies_max = copies_max.unwrap_or(usize::MAX).max(1);
        for directory in &mut self.directories {
            directory.inventory.restart();
            if directory.is_served {
                let report = &mut directory.report;
                report.registered_number = report.start_number;
                report.registered_nonce = report.start_nonce;
                report.offered.clear();
            }
        }
        self.findings.restart();
        let heartbeat = Duration::from_millis(u64::from(registered.heartbeat));
        self.link = Link::Registered(Session {
            connection,
            heartbeat,
            next_heartbeat: self.now,
            sent: 0,
            answered: 0,
        });
        let directories = self.served();
        self.actions.push_back(Action::Serve {
            ticket_keys: registered.ticket_keys,
            directories,
            heartbeat,
            suspect_after: Duration::from_millis(u64::from(registered.suspect_after)),
            dead_after: self.silence_max,
        });
    }

    pub(super) fn keep_failed(&mut self, connection: ConnectionId, text: String, is_foreign: bool) {
        if !self.is_current(connection) {
            return;
        }
        match is_foreign {
            true => self.stop(StopReason::Foreign(text)),
            false => self.hang_up(connection, text),
        }
    }

    fn served(&self) -> Vec<DirectoryId> {
        let served = self
            .directories
            .iter()
            .filter(|directory| directory.is_served);
        served
            .map(|directory| directory.report.directory_id)
            .collect()
    }

    pub(super) fn hang_up(&mut self, connection: ConnectionId, text: String) {
        self.actions.push_back(Action::Close { connection });
        self.back_off(text);
    }

    pub(super) fn back_off(&mut self, text: String) {
        self.failures = self.failures.saturating_add(1);
        let doubled = BACK_OFF_MIN.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
        // Half of it is fixed and half is drawn, so that many servers don't come at once.
        let half = doubled.min(BACK_OFF_MAX) / 2;
        let wait = half + half.mul_f64(self.draw());
        self.link = Link::Waiting {
            until: self.now + wait,
        };
        self.actions.push_back(Action::Warn(text));
    }

    /// A number from 0 to 1, by xorshift.
    fn draw(&mut self) -> f64 {
        let mut state = self.config.seed | 1;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.config.seed = state;
        let high = u32::try_from(state >> 32).unwrap_or(u32::MAX);
        f64::from(high) / f64::from(u32::MAX)
    }

    fn stop(&mut self, reason: StopReason) {
        self.actions.push_back(Action::Stop(reason));
    }
}
