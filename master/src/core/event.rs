//! What reaches the machine from outside: times, connections, requests.

use std::time::Duration;

use sarsen_protocol::id::ServerId;
use sarsen_protocol::status::Status;

/// The two clocks, read once an event.
///
/// Waiting and silence are measured by the first, which never goes back; the second stamps
/// entries and tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the process started.
    pub elapsed: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Names a control connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names a request of a peer: where the reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The connection.
    pub connection: ConnectionId,
    /// The number that the peer gave the request.
    pub request: u64,
}

/// Why a chunkserver did not do what it was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderFailure {
    /// Why.
    pub status: Status,
    /// Whose fault it was, as the chunkserver says; none if it doesn't.
    pub server: ServerId,
}

impl From<Status> for OrderFailure {
    fn from(status: Status) -> Self {
        Self {
            status,
            server: ServerId::NONE,
        }
    }
}

/// Names an order that this master gave; also its request number on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);
