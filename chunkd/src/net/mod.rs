//! The data plane (`spec/wire.md` sections 4 and 12).
//!
//! [`DataPlane`] runs some threads, each with a runtime of its own; all accept from the same
//! listening socket, and a connection stays on the thread that took it, but for one that becomes a stream
//! of mutations, which goes on on the thread of its chunk. [`chunkserver`] is what
//! the threads share with the control plane: who we are, the directories, the ticket keys.
//!
//! - [`health`]: how the directories' disks are, as their watchers saw it last;
//! - [`link`]: frames from a connection;
//! - [`write_stream`]: a member's side of a chain, with [`next_hop`] for the way on;
//! - [`members`]: open chunks, and the streams of mutations to them;
//! - [`read`]: stored CRCs and bytes to a reader; [`ids`]: a chunk's id table to who copies it;
//! - [`turns`]: who is served next, where several clients want something.
//!
//! Invariants: nothing is served without a ticket; no byte of a sealed chunk is copied in user space. Memory
//! does not grow with the number or the slowness of peers ([`crate::io::pool`], [`bound`]), but for what is small
//! or has to go on: a client's frame of up to 64 KiB a connection, and the frames of the other members of chains.
//! Whatever a peer sends, only its own connection ends.
//!
//! A thread of the data plane does not wait for a disk: what may is on blocking threads, or is
//! io_uring's to wait for. Two gaps are left: pages that leave the page cache between the look
//! whether they are there ([`crate::store::ReadableChunk::is_cached`]) and their sending; and appends to
//! the page cache that take longer than they may ([`crate::core::brief_work`]), which never hold up all
//! threads.

mod bound;
pub mod chunkserver;
pub mod counters;
pub mod health;
mod ids;
mod link;
pub mod members;
mod next_hop;
mod plane;
mod read;
mod turns;
mod write_stream;

pub use chunkserver::{Chunkserver, Notice};
pub use plane::{DataPlane, PlaneConfig};

use std::time::Duration;

/// How long a peer may keep an unfinished header or room in its socket to itself before its
/// connection is given up. Whether it works is not judged by this: for that the members of a chain
/// have keep-alives and `suspect_after` (`spec/wire.md` section 12.1).
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long a payload may be on its way: a mebibyte over the slowest link that is worth serving.
/// One that takes longer than `suspect_after` has to go sooner where others wait for its buffer.
const PAYLOAD_TIME_MAX: Duration = Duration::from_secs(120);

/// How long the disk may take for one write, or one seal with its sync.
const DISK_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a connection may rest between frames.
const IDLE_MAX: Duration = Duration::from_secs(300);
