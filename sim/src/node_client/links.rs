//! Data connections to chunkservers: what `client/src/net/mod.rs` does.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::Plane;

use super::Client;
use crate::net::ConnId;

/// Connections that are kept for each server.
const IDLE_MAX: usize = 64;

/// The connections that lie idle, by address.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<String, Vec<Link>>);

/// A data connection after its hello.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub conn: ConnId,
    /// Whose it is, as its caller was told.
    pub server: ServerId,
    address: String,
    streams: u64,
}

impl Link {
    /// Whether it was used before: its server may have closed it unseen.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.streams > 1
    }

    /// Begins a stream: the request id of its frames.
    pub const fn begin(&mut self) -> u64 {
        self.streams += 1;
        self.streams
    }
}

impl Client {
    /// A connection to the server at `address`, kept or new; none if it can't be reached in time.
    pub async fn take_link(
        &self,
        server: ServerId,
        address: &str,
        time_max: Duration,
    ) -> Option<Link> {
        loop {
            let kept = self
                .links
                .borrow_mut()
                .0
                .get_mut(address)
                .and_then(Vec::pop);
            match kept {
                Some(link) if self.is_quiet(link.conn) => return Some(link),
                Some(link) => self.hang_up(link.conn),
                None => break,
            }
        }
        let (conn, _) = self.dial(address, Plane::Data, time_max).await.ok()?;
        Some(Link {
            conn,
            server,
            address: address.to_owned(),
            streams: 0,
        })
    }

    /// Keeps a connection whose stream ended well.
    pub fn give_back(&self, link: Link) {
        let mut links = self.links.borrow_mut();
        let kept = links.0.entry(link.address.clone()).or_default();
        match kept.len() < IDLE_MAX {
            true => kept.push(link),
            false => {
                drop(links);
                self.hang_up(link.conn);
            }
        }
    }
}
