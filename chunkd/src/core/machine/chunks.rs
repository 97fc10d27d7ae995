//! What concerns open chunks: the master's orders to their members, and what members tell it.
//!
//! An order goes to its chunk at once, whose own machine has them wait for each other; epoch and
//! connection are compared here, version and promise there, when it is acted on. An order of an older
//! epoch that is overtaken on that way does no harm: it names an attempt that a newer one's promise
//! refuses (`spec/replication.md` section 15, lemma 9).
//!
//! A report is kept until the master has answered it, and is told again after a new registration:
//! a hop may fail while no master is there.

use sarsen_protocol::message::ReportChain;

use super::super::action::{Action, Order};
use super::super::event::ConnectionId;
use super::{Link, Machine};

/// Reports that wait for the master; of more the oldest are forgotten, and clients ask instead.
const REPORTS_MAX: usize = 4096;

/// A report, and over which connection it was sent last.
#[derive(Debug)]
pub(super) struct WaitingReport {
    report: ReportChain,
    sent_over: Option<ConnectionId>,
}

impl Machine {
    pub(super) fn advance_chunk_orders(&mut self) {
        while let Some(waiting) = self.chunk_orders.pop_front() {
            if !self.may_run(&waiting) {
                continue;
            }
            if let Order::Chunk(order) = waiting.order {
                self.actions.push_back(Action::OrderChunk {
                    connection: waiting.connection,
                    request_id: waiting.request_id,
                    order,
                });
            }
        }
    }

    /// Takes a report; one that waits already is not taken twice.
    pub(super) fn take_report(&mut self, report: ReportChain) {
        let is_same = |waiting: &WaitingReport| {
            let same = &waiting.report;
            (same.handle, same.version, same.what) == (report.handle, report.version, report.what)
        };
        if self.reports.iter().any(is_same) {
            return;
        }
        if self.reports.len() >= REPORTS_MAX {
            self.reports.pop_front();
        }
        self.reports.push_back(WaitingReport {
            report,
            sent_over: None,
        });
    }

    /// The master has taken or refused it: either way it knows.
    pub(super) fn report_answered(&mut self, connection: ConnectionId, report: &ReportChain) {
        self.reports
            .retain(|waiting| waiting.report != *report || waiting.sent_over != Some(connection));
    }

    /// Sends what was not sent over this registration's connection.
    pub(super) fn advance_reports(&mut self) {
        let Link::Registered(session) = &self.link else {
            return;
        };
        let connection = session.connection;
        for waiting in &mut self.reports {
            if waiting.sent_over != Some(connection) {
                waiting.sent_over = Some(connection);
                self.actions.push_back(Action::ReportChain {
                    connection,
                    report: waiting.report,
                });
            }
        }
    }
}
