//! Control connections to chunkservers, for the short questions that clients have
//! (`spec/messages.md` section 14.4).
//!
//! One is kept for each address, as long as it lasts; whoever finds it gone dials again.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sarsen_edge::connection::{CallError, ConnectError, Connection};
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::Request;
use tokio::time::timeout;

use crate::error::StreamError;
use crate::master::Master;

/// The connections, by address.
#[derive(Debug)]
pub(crate) struct Controls {
    master: Arc<Master>,
    kept: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Connection>>>>>,
}

impl Controls {
    pub(crate) fn new(master: Arc<Master>) -> Self {
        Self {
            master,
            kept: Mutex::default(),
        }
    }

    /// Asks a chunkserver; connection, hello and answer may take `time_max` together.
    pub(crate) async fn call<R: Request>(
        &self,
        server: ServerId,
        addr: &str,
        request: &R,
        time_max: Duration,
    ) -> Result<R::Reply, StreamError> {
        let asking = async {
            let connection = self.connection(server, addr, time_max).await?;
            let answer = connection.call(request).await;
            answer.map_err(|error| stream_error(server, addr, error))
        };
        match timeout(time_max, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                self.forget(addr).await;
                let addr = addr.to_owned();
                Err(StreamError::Silent { server, addr })
            }
        }
    }

    /// The connection that there is, or a new one; one task dials for all.
    async fn connection(
        &self,
        server: ServerId,
        addr: &str,
        time_max: Duration,
    ) -> Result<Connection, StreamError> {
        let place = self.place(addr);
        let mut place = place.lock().await;
        if let Some(connection) = place.as_ref().filter(|it| !it.is_closed()) {
            return Ok(connection.clone());
        }
        let connect = |cause| StreamError::Connect { server, cause };
        let Some(known) = self.master.credentials() else {
            // Addresses of chunkservers come from a master, after a hello.
            let cause = io::ErrorKind::NotConnected.into();
            let addr = addr.to_owned();
            return Err(connect(ConnectError::Io { addr, cause }));
        };
        // A chunkserver asks a client nothing, so what comes in is not listened to.
        let dialled = Connection::dial(addr, known.identity, &known.key, time_max).await;
        let (connection, _incoming) = dialled.map_err(connect)?;
        *place = Some(connection.clone());
        Ok(connection)
    }

    fn place(&self, addr: &str) -> Arc<tokio::sync::Mutex<Option<Connection>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(addr.to_owned()).or_default().clone()
    }

    /// One that owes an answer for too long is not asked again.
    async fn forget(&self, addr: &str) {
        if let Some(connection) = self.place(addr).lock().await.take() {
            connection.close();
        }
    }
}

fn stream_error(server: ServerId, addr: &str, error: CallError) -> StreamError {
    let addr = addr.to_owned();
    match error {
        CallError::Status { status, error } => StreamError::Status {
            server,
            status,
            text: error.text,
        },
        CallError::Protocol(cause) => StreamError::Protocol {
            server,
            addr,
            cause,
        },
        _ => StreamError::Io {
            server,
            addr,
            cause: io::ErrorKind::ConnectionReset.into(),
        },
    }
}
