//! The control port: connections in, their requests and answers to the machine's thread, in the order
//! in which they came: what a chunkserver holds is told by both.
//!
//! A connection's task only moves frames; what they mean is decided by the machine alone.

use std::sync::Arc;

use sarsen_edge::connection::{Arrival, Connection, Incoming};
use sarsen_edge::daemon::descriptors;
use sarsen_edge::strangers::{Stranger, Strangers};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::status::Status;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::core::event::OrderId;
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
    while let Some(arrival) = incoming.next_arrival().await {
        let input = match arrival {
            Arrival::Request(request) => Input::Request {
                connection: id,
                request: request.id,
                message: request.message,
            },
            Arrival::Answer(answer) => Input::OrderDone {
                connection: id,
                order: OrderId(answer.order),
                answer: answer.answer,
            },
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
    let _ = inputs.send(Input::Closed { connection: id }).await;
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch};
    use sarsen_protocol::message::{ChunkDeleted, DeleteChunk, Inventory, Kind, Role, Start};

    use super::*;
    use crate::inputs;

    /// Answers came from tasks of their own. An inventory that told a chunk as held was acted on behind the
    /// answer that it was deleted, and a good replica was deleted as one too many.
    #[tokio::test]
    async fn answers_keep_their_place_among_requests() {
        let key = SecretKey::new([1; 32]);
        let identity = |role| Identity {
            role,
            cluster_id: ClusterId::NONE,
            start: Start::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (inputs, mut taken) = inputs::channel();
        tokio::spawn(serve(listener, identity(Role::Master), key.clone(), inputs));
        let time_max = std::time::Duration::from_secs(20);
        let dialled = Connection::dial(&addr, identity(Role::Chunkserver), &key, time_max).await;
        let (server, mut orders) = dialled.unwrap();
        let Some(Input::Opened(connection)) = taken.recv().await else {
            panic!("nothing comes before it");
        };
        let delete = DeleteChunk {
            epoch: Epoch::default(),
            handle: ChunkHandle(7),
            version: ChunkVersion(1),
        };
        let inventory = Inventory {
            directory_id: DirectoryId([1; 16]),
            sequence: 1,
            full: false,
            first: false,
            last: false,
            held: vec![],
            gone: vec![],
        };
        for number in 0..100 {
            connection.order(number, &delete.into());
        }
        let mut calls = Vec::new();
        for _ in 0..100 {
            let order = orders.next().await.unwrap();
            calls.push(server.begin_now(&inventory));
            server.reply(order.id, Kind::DeleteChunk, Ok(ChunkDeleted.into()));
        }
        for number in 0..100 {
            let inventory = taken.recv().await;
            assert!(matches!(inventory, Some(Input::Request { .. })));
            let Some(Input::OrderDone { order, answer, .. }) = taken.recv().await else {
                panic!("an answer follows");
            };
            assert_eq!((order, answer), (OrderId(number), Ok(ChunkDeleted.into())));
        }
    }
}
