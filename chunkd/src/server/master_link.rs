//! What the control loop has to do over the connection to the master: each in a task of its own,
//! whose outcome comes back as an event.

use std::sync::Arc;
use std::time::Duration;

use sarsen_edge::address::HostPort;
use sarsen_edge::connection::{CallError, Connection, Incoming};
use sarsen_edge::key;
use sarsen_protocol::id::Epoch;
use sarsen_protocol::message::{ErrorBody, Heartbeat, Inventory, Register, Request as Asks};
use sarsen_protocol::status::Status;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{orders, questions};
use crate::core::event::Event;
use crate::net::Chunkserver;

/// How long a master has to be reached.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// How long a master may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What comes back to the control loop.
#[derive(Debug)]
pub(super) enum Input {
    /// For the machine.
    Event(Event),
    /// A master was reached; the machine is told when the loop has the connection.
    Connected(Connection, Incoming),
}

pub(super) type Inputs = mpsc::UnboundedSender<Input>;

/// Hands an event to the control loop.
pub(super) fn tell(inputs: &Inputs, event: Event) {
    // The loop ends only with the program.
    let _ = inputs.send(Input::Event(event));
}

/// Dials a master, with the key that it left for this user if none was given.
pub(super) async fn dial(
    master: HostPort,
    find_key: bool,
    chunkserver: Arc<Chunkserver>,
    inputs: Inputs,
) {
    let failed = |text: String, is_passing| {
        tell(&inputs, Event::DialFailed { text, is_passing });
    };
    if find_key {
        match obtain_key(master.clone()).await {
            Ok(key) => chunkserver.set_key(key),
            // The master may still be starting.
            Err(text) => return failed(text, true),
        }
    }
    let (identity, key) = (chunkserver.identity(), chunkserver.key());
    match Connection::dial(&master.to_string(), identity, &key, DIAL_MAX).await {
        Ok((connection, incoming)) => {
            // As in `tell`.
            let _ = inputs.send(Input::Connected(connection, incoming));
        }
        Err(error) => failed(error.to_string(), error.is_passing()),
    }
}

async fn obtain_key(master: HostPort) -> Result<sarsen_protocol::key::SecretKey, String> {
    let look = move || {
        let addresses = master
            .resolve()
            .map_err(|error| format!("{master}: {error}"))?;
        key::obtain(None, &addresses).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| error.to_string())?
}

/// Takes what the master sends until its connection ends.
pub(super) async fn listen(
    connection: Connection,
    mut incoming: Incoming,
    chunkserver: Arc<Chunkserver>,
    inputs: Inputs,
) {
    while let Some(request) = incoming.next().await {
        let Some((epoch, order)) = orders::order_of(&request.message) else {
            questions::answer(&connection, request, &chunkserver).await;
            continue;
        };
        let (connection, request_id) = (connection.id(), request.id);
        tell(
            &inputs,
            Event::Ordered {
                connection,
                request_id,
                epoch,
                order,
            },
        );
    }
    tell(
        &inputs,
        Event::Disconnected {
            connection: connection.id(),
        },
    );
}

/// Asks to be registered.
pub(super) async fn register(connection: Connection, register: Register, inputs: Inputs) {
    if let Some(answer) = ask(&connection, &register).await {
        tell(
            &inputs,
            Event::Registered {
                connection: connection.id(),
                answer,
            },
        );
    }
}

/// Sends a heartbeat.
pub(super) async fn heartbeat(connection: Connection, heartbeat: Heartbeat, inputs: Inputs) {
    let sequence = heartbeat.sequence;
    if let Some(answer) = ask(&connection, &heartbeat).await {
        let answer: Result<Epoch, Status> = answer
            .map(|reply| reply.epoch)
            .map_err(|(status, _)| status);
        let connection = connection.id();
        tell(
            &inputs,
            Event::HeartbeatAnswered {
                connection,
                sequence,
                answer,
            },
        );
    }
}

/// Sends a message of an inventory.
pub(super) async fn inventory(connection: Connection, inventory: Inventory, inputs: Inputs) {
    let directory_id = inventory.directory_id;
    if let Some(answer) = ask(&connection, &inventory).await {
        let answer = answer
            .map(|reply| reply.resend)
            .map_err(|(status, _)| status);
        let connection = connection.id();
        tell(
            &inputs,
            Event::InventoryAnswered {
                connection,
                directory_id,
                answer,
            },
        );
    }
}

/// The master's answer; `None` if its connection has ended, which is told elsewhere.
pub(super) async fn ask<R: Asks>(
    connection: &Connection,
    request: &R,
) -> Option<Result<R::Reply, (Status, ErrorBody)>> {
    match timeout(ANSWER_MAX, connection.call(request)).await {
        Ok(Ok(reply)) => Some(Ok(reply)),
        Ok(Err(CallError::Status { status, error })) => Some(Err((status, error))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the master did not answer");
            connection.close();
            None
        }
        Err(_) => {
            tracing::warn!("the master did not answer for {ANSWER_MAX:?}");
            connection.close();
            None
        }
    }
}
