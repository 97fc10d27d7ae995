//! The client against servers that do what a test says: a master and chunkservers inside the test
//! process, spoken to over loopback.

#![cfg(feature = "cli")]

mod chunkserver;
mod command;
mod download;
mod growing;
mod master;
mod mutation;
mod open_chunk;
mod open_chunks;
mod open_file;
mod upload;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use sarsen_client::{Client, ClientConfig};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::ClusterId;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Role, Start};

use crate::chunkserver::Chunkserver;
use crate::master::Master;
use crate::open_chunks::OpenChunks;

/// Bytes of a chunk: the fewest that a cluster may have.
const CHUNK_SIZE: usize = 1024 * 1024;

/// A master and chunkservers.
struct Cluster {
    master: Arc<Master>,
    servers: Vec<Arc<Chunkserver>>,
    /// What is open.
    chunks: Arc<OpenChunks>,
    /// Where the master listens.
    address: String,
}

impl Cluster {
    /// A cluster whose servers have the ids from 1 on.
    async fn start(servers: usize) -> Self {
        let chunks = Arc::new(OpenChunks::default());
        chunks.clone().listen(key()).await;
        let mut started = Vec::new();
        for _ in 0..servers {
            started.push(Chunkserver::start(key(), chunks.clone()).await);
        }
        let master = Arc::new(Master::new(&started, chunks.clone()));
        let address = master.clone().listen(key()).await;
        Self {
            master,
            servers: started,
            chunks,
            address,
        }
    }

    /// A client with more patience than any test needs.
    async fn client(&self) -> Client {
        self.client_that_waits(Duration::from_secs(60)).await
    }

    /// A client for what is to be given up.
    async fn impatient_client(&self) -> Client {
        self.client_that_waits(Duration::from_millis(300)).await
    }

    async fn client_that_waits(&self, timeout: Duration) -> Client {
        let mut config = ClientConfig::default();
        config.masters = vec![self.address.clone()];
        config.key = Some(key());
        config.timeout = timeout;
        Client::connect(config).await.expect("the master is there")
    }

    /// The server with this id.
    fn server(&self, id: u64) -> &Chunkserver {
        &self.servers[usize::try_from(id).unwrap() - 1]
    }
}

fn key() -> SecretKey {
    SecretKey::new([7; 32])
}

fn identity(role: Role) -> Identity {
    Identity {
        role,
        cluster_id: ClusterId([3; 16]),
        start: Start::default(),
    }
}

/// Bytes that differ from block to block.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
