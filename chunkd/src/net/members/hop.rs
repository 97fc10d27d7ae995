//! The way from one member to the next: dialled, written to from an outbox, listened to
//! (`spec/wire.md` section 12.3).
//!
//! It decides nothing: what comes is told to the actor, and so is the connection's end. Whether the hop
//! is silent for too long is the machine's to say; only that it is not reached is seen here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::id::ChunkVersion;
use sarsen_protocol::message::Hop;

use super::super::link::{Link, LinkError};
use super::super::plane::Thread;
use super::frames::FromNext;
use super::inbox::{Inbox, Input, Outbox};
use crate::io::Socket;

/// How long the hop may say nothing before the connection is given up here. The machine, which knows
/// what is due, is far quicker.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// What it takes to go on to the next hop.
pub(super) struct Way {
    pub(super) hop: Hop,
    pub(super) version: ChunkVersion,
    pub(super) request_id: u64,
    /// Begins with the `WriteOpen`.
    pub(super) outbox: Arc<Outbox>,
    pub(super) inbox: Arc<Inbox>,
}

/// Carries frames to the next hop and its answers back, until either side ends.
pub(super) async fn run(thread: Rc<Thread>, way: Way) {
    let connected = thread
        .next_hops
        .connect(&way.hop, thread.mode, &thread.chunkserver)
        .await;
    let connected = connected.and_then(|link| link.hand_over().map_err(|error| error.to_string()));
    let end = match connected.and_then(|it| it.take_over().map_err(|error| error.to_string())) {
        Ok(mut link) => {
            let socket = Arc::clone(link.socket());
            let reached = Input::Next(way.version, FromNext::Reached);
            if way.inbox.push(reached).is_err() {
                return;
            }
            way.outbox.connect(&socket);
            tokio::select! {
                end = listen(&mut link, &way) => end,
                end = send(&socket, &way.outbox) => end,
            }
        }
        Err(text) => text,
    };
    // The actor may have ended.
    let _ = way
        .inbox
        .push(Input::Next(way.version, FromNext::Gone(end)));
}

async fn send(socket: &Socket, outbox: &Outbox) -> String {
    while let Some(pieces) = outbox.next().await {
        for piece in pieces {
            if let Err(error) = socket.send(piece).await {
                return format!("the next hop takes nothing any more: {error}");
            }
        }
    }
    "the stream was ended here".to_owned()
}

/// Tells what comes; why nothing more does.
async fn listen(link: &mut Link, way: &Way) -> String {
    loop {
        let said = match link.next_frame(SILENCE_MAX).await {
            Ok(Some(frame)) => match FromNext::decode(&frame, way.request_id) {
                Ok(said) => said,
                Err(error) => return format!("the next hop broke the protocol: {error}"),
            },
            Ok(None) => return "the next hop closed its connection".to_owned(),
            Err(LinkError::Frame(error)) => {
                return format!("the next hop broke the protocol: {error}");
            }
            Err(error) => return format!("the next hop: {error}"),
        };
        let is_over = matches!(said, FromNext::Failed(..));
        if way.inbox.push(Input::Next(way.version, said)).is_err() || is_over {
            return "nobody listens to the next hop any more".to_owned();
        }
    }
}
