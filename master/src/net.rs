//! The control port: connections in, their requests to the machine's thread.
//!
//! A connection's task only moves frames; what they mean is decided by the machine alone.

use std::sync::Arc;

use sarsen_edge::connection::Connection;
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::key::SecretKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::inputs::Input;

/// Connections at a time; those beyond wait to be accepted.
const CONNECTIONS_MAX: usize = 8192;

/// Accepts connections until its task is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: Identity,
    key: SecretKey,
    inputs: mpsc::Sender<Input>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (key, inputs) = (key.clone(), inputs.clone());
                tokio::spawn(async move {
                    carry(stream, identity, key, inputs).await;
                    drop(place);
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

/// Carries one connection from its hello to its end.
async fn carry(stream: TcpStream, identity: Identity, key: SecretKey, inputs: mpsc::Sender<Input>) {
    let (connection, mut incoming) = match Connection::accept(stream, identity, &key).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::info!(%error, "a peer was refused");
            return;
        }
    };
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
