//! The control port: connections in, their requests to the machine's thread.
//!
//! A connection's task only moves frames; what they mean is decided by the machine alone.

use std::sync::Arc;

use sarsen_edge::connection::{Connection, Incoming};
use sarsen_edge::daemon::descriptors;
use sarsen_edge::strangers::{Stranger, Strangers};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::status::Status;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::inputs::Input;

/// Connections at a time, where descriptors allow it.
const CONNECTIONS_MAX: u64 = 8192;

/// Connections that have not said hello yet.
const STRANGERS_MAX: usize = 512;

/// Accepts connections until its task is dropped.
///
/// Whoever knows the cluster's key has a place among [`CONNECTIONS_MAX`], and is told when there is
/// none; who has yet to prove it takes none of them.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: Identity,
    key: SecretKey,
    inputs: mpsc::Sender<Input>,
) {
    let room = Arc::new(Semaphore::new(connections_max()));
    let strangers = Strangers::new(STRANGERS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (key, inputs) = (key.clone(), inputs.clone());
                let (room, stranger) = (room.clone(), strangers.enter());
                tokio::spawn(async move {
                    let Some((connection, incoming)) =
                        hello(stream, identity, &key, stranger).await
                    else {
                        return;
                    };
                    match room.try_acquire() {
                        Ok(_place) => carry(connection, incoming, inputs).await,
                        Err(_) => {
                            tracing::warn!("a connection was refused: there are too many already");
                            let text = "too many connections; try again later";
                            connection.goodbye(Status::Overloaded, text);
                        }
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, or a peer that left while it waited: neither lasts.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// A quarter of the descriptors at most: the log and HTTP need theirs.
fn connections_max() -> usize {
    let max = (descriptors() / 4).clamp(1, CONNECTIONS_MAX);
    usize::try_from(max).unwrap_or(usize::MAX)
}

/// Takes a stranger's hello.
async fn hello(
    stream: TcpStream,
    identity: Identity,
    key: &SecretKey,
    stranger: Stranger,
) -> Option<(Connection, Incoming)> {
    let accepted = tokio::select! {
        accepted = Connection::accept(stream, identity, key) => accepted,
        () = stranger.ousted() => {
            tracing::info!("a peer had to go before its hello: too many others came");
            return None;
        }
    };
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::info!(%error, "a peer was refused");
            None
        }
    }
}

/// Carries one connection from its hello to its end.
async fn carry(connection: Connection, mut incoming: Incoming, inputs: mpsc::Sender<Input>) {
    let id = connection.id();
    // Sending fails only when the master ends.
    if inputs.send(Input::Opened(connection)).await.is_err() {
        return;
    }
    while let Some(request) = incoming.next().await {
        let request = Input::Request {
            connection: id,
            request: request.id,
            message: request.message,
        };
        if inputs.send(request).await.is_err() {
            return;
        }
    }
    let _ = inputs.send(Input::Closed { connection: id }).await;
}
