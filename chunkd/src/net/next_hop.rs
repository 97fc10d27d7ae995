//! Connections to the next hops of chains: dialled from the thread of the stream, kept for the
//! next one.
//!
//! A connection comes back only after its stream was sealed; those of failed streams are dropped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use sarsen_edge::hello::dial_data;
use sarsen_protocol::message::Hop;
use tokio::time::Instant;

use super::chunkserver::Chunkserver;
use super::link::Link;
use crate::io::{Mode, Socket};

/// How long an idle connection is kept.
const KEEP_MAX: Duration = Duration::from_secs(30);

/// Idle connections kept to one server: as many as small files go through at a time.
const KEPT_PER_SERVER_MAX: usize = 32;

/// One thread's idle connections, by address.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    idle: RefCell<HashMap<String, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

impl NextHops {
    /// A connection to `hop`: an idle one, or a new one.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn connect(
        &self,
        hop: &Hop,
        mode: Mode,
        chunkserver: &Chunkserver,
    ) -> Result<Link, String> {
        if let Some(link) = self.take(&hop.data_addr) {
            return Ok(link);
        }
        let key = chunkserver.key();
        let time_max = chunkserver.suspect_after();
        let dialled = dial_data(&hop.data_addr, chunkserver.identity(), &key, time_max);
        let (stream, peer) = dialled.await.map_err(|error| error.to_string())?;
        let found = peer.identity.start.server_id;
        if found != hop.server {
            return Err(format!("server {found} answers at {}", hop.data_addr));
        }
        let socket = Socket::new(mode, stream).map_err(|error| error.to_string())?;
        let mut link = Link::new(socket, BytesMut::new());
        link.expect_answers();
        Ok(link)
    }

    /// Keeps a connection whose stream is over.
    pub(super) fn keep(&self, hop: &Hop, link: Link) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(hop.data_addr.clone()).or_default();
        if kept.len() < KEPT_PER_SERVER_MAX {
            kept.push(Idle {
                link,
                since: Instant::now(),
            });
        }
    }

    /// Drops what was idle for too long, or was closed by the other side.
    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(Idle::is_good);
            !kept.is_empty()
        });
    }

    fn take(&self, data_addr: &str) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(data_addr)?;
        std::iter::from_fn(|| kept.pop())
            .find(Idle::is_good)
            .map(|idle| idle.link)
    }
}

impl Idle {
    fn is_good(&self) -> bool {
        self.since.elapsed() < KEEP_MAX && self.link.is_quiet()
    }
}
