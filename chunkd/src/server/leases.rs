//! Open chunks and the master (`spec/replication.md` sections 3 and 5, `spec/messages.md` sections
//! 14.2 and 14.3): its orders go to the chunks' machines, whose answers, reports and wishes for their
//! leases go to it.

use std::sync::Arc;
use std::time::Duration;

use sarsen_edge::connection::Connection;
use sarsen_protocol::message::{
    AnyMessage, ErrorBody, ExtendLeases, LeaseGranted, ReportChain, Settled,
};
use sarsen_protocol::status::Retry;

use super::master_link::{self, Inputs, tell};
use crate::core::action;
use crate::core::event::{ConnectionId, Event, Refusal};
use crate::core::member;
use crate::core::mutation::{Answer, Order};
use crate::net::Chunkserver;

/// Hands an order to its chunk; the control loop is told of the answer.
pub(super) fn order(
    chunkserver: &Chunkserver,
    inputs: &Inputs,
    (connection, request_id): (ConnectionId, u64),
    order: Order,
) {
    let asked = action::kind_of(&order);
    let answered = move |answer| Event::ChunkOrderAnswered {
        connection,
        request_id,
        asked,
        answer: Box::new(answer),
    };
    let to = inputs.clone();
    let answer = move |answer: Result<Answer, Refusal>| tell(&to, answered(answer.map(message_of)));
    if let Err(error) = chunkserver.members.order(chunkserver, order, answer) {
        let refusal = (error.status(), ErrorBody::new(error.to_string()));
        tell(inputs, answered(Err(refusal)));
    }
}

/// An answer as it is sent.
#[must_use]
pub fn message_of(answer: Answer) -> AnyMessage {
    match answer {
        Answer::Change(member::Answer::Promised(promised)) => promised.into(),
        Answer::Change(member::Answer::Begun(begun)) => begun.into(),
        Answer::Change(member::Answer::Prepared(prepared)) => prepared.into(),
        Answer::Change(member::Answer::Settled) => Settled.into(),
        Answer::Granted => LeaseGranted.into(),
        Answer::Revoked(revoked) => revoked.into(),
        Answer::Newest(newest) => newest.into(),
    }
}

/// Tells the master of an open chunk; what is returned waits for the answer. There may be many of
/// these, so they wait in line. Their place among answers does not count: a report names a version,
/// and is told again over later connections.
pub(super) fn report(
    connection: Connection,
    report: ReportChain,
    inputs: Inputs,
) -> impl Future<Output = ()> {
    let call = connection.begin(&report);
    async move {
        let Some(answer) = master_link::answer(&connection, call).await else {
            return;
        };
        if let Err((status, error)) = answer {
            tracing::warn!(handle = %report.handle, %status, text = error.text,
                "the master refuses to hear of a chain");
            if status.retry() != Retry::Never {
                // It waits, and is said again over the next connection.
                return;
            }
        }
        let connection = connection.id();
        tell(&inputs, Event::ChainReported { connection, report });
    }
}

/// Asks for leases to go on, from now; what is returned waits for the answer. It goes with a
/// heartbeat, so there are few.
pub(super) fn extend(
    connection: Connection,
    request: &ExtendLeases,
    chunkserver: Arc<Chunkserver>,
) -> impl Future<Output = ()> + use<> {
    let sent = chunkserver.members.now();
    let call = connection.begin_now(request);
    async move {
        match master_link::answer(&connection, call).await {
            Some(Ok(answer)) => {
                for lease in answer.extended {
                    let until = sent + Duration::from_millis(u64::from(lease.lease));
                    let members = &chunkserver.members;
                    members.lease_extended(lease.handle, lease.version, until);
                }
            }
            // A lease that is not extended ends by itself.
            Some(Err((status, error))) => {
                tracing::warn!(%status, text = error.text, "the master extends no leases");
            }
            None => {}
        }
    }
}
