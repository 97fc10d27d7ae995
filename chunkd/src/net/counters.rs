//! What the data plane counts, for `/metrics` and for the heartbeat's load.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One of what a [`Gauge`] counts, until it is dropped.
#[derive(Debug)]
pub struct Counted<'a>(&'a Gauge);

impl Gauge {
    /// Counts one more until the answer is dropped.
    pub fn count(&self) -> Counted<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Payload bytes that were received and matched their CRCs.
    pub bytes_in: Counter,
    /// Payload bytes that were sent to readers.
    pub bytes_out: Counter,
    /// Payload bytes that were sent on to a next hop.
    pub bytes_forwarded: Counter,
    /// Chunks sealed through a stream.
    pub chunks_sealed: Counter,
    /// Write streams that failed, whoever was to blame.
    pub write_failures: Counter,
    /// Reads that were answered with a status.
    pub read_failures: Counter,
    /// Pieces that did not match the CRC they came with.
    pub pieces_damaged: Counter,
    /// Connections closed because the peer broke the protocol.
    pub protocol_errors: Counter,
    /// Hellos that failed.
    pub hello_failures: Counter,
    /// Reads and writes that the medium failed.
    pub medium_errors: Counter,
    /// Syncs that failed, with the chunk or directory that they poisoned.
    pub sync_failures: Counter,
    /// Chunks that were read back and did not match.
    pub chunks_corrupt: Counter,
    /// Chunks that were copied from other chunkservers, by order.
    pub chunks_copied: Counter,
    /// Frames that waited for their turn beside other clients' (`spec/wire.md` section 12.4).
    pub turns_held: Counter,
    /// Orders to copy that came to nothing, whoever was to blame.
    pub copy_failures: Counter,
    /// Payload bytes of copies that matched their CRCs.
    pub bytes_copied: Counter,
    /// Data-plane connections.
    pub connections: Gauge,
    /// Write streams in hand.
    pub write_streams: Gauge,
    /// Reads in hand.
    pub read_streams: Gauge,
    /// Copies from other chunkservers in hand.
    pub copies: Gauge,
}
