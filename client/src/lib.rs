//! The client of a Sarsen cluster: it asks the master for names and places, and moves bytes
//! straight to and from chunkservers.
//!
//! [`Client`] is the door; `examples/` shows it in use. Below it, from the inside out:
//!
//! - [`core`]: what is decided, as machines without a socket, a file or a clock;
//! - `master`, `session`: one control connection, and changes that are done once over it;
//! - `net`: streams with chunkservers; `limit`: how fast they may be; `source`, `sink`, `part`, `local_write`:
//!   the local end of a transfer;
//! - `put`, `get`, `open_file`: the drivers that join machines, streams and files or memory;
//! - `newest`, `live_file`, `record_reader`, `follower`: files that others append to meanwhile;
//! - `writer`: changes of files that are there: records appended, bytes written over;
//! - `tree`: many transfers at a time, and what finds the files.
//!
//! Every byte that goes up carries a CRC computed here, and every byte that comes down was
//! verified here: nothing in between has to be trusted. The API is `Send` and knows nothing of
//! how servers do their I/O. Without the feature `edge` the crate is [`core`] alone.

#![forbid(unsafe_code)]

pub mod core;

#[cfg(feature = "edge")]
mod buffer;
#[cfg(feature = "edge")]
mod client;
#[cfg(feature = "edge")]
mod clock;
#[cfg(feature = "edge")]
mod error;
#[cfg(feature = "edge")]
mod fetch;
#[cfg(feature = "edge")]
mod follower;
#[cfg(feature = "edge")]
mod get;
#[cfg(feature = "edge")]
mod limit;
#[cfg(feature = "edge")]
mod live_file;
#[cfg(feature = "edge")]
mod local_write;
#[cfg(feature = "edge")]
mod master;
#[cfg(feature = "edge")]
mod net;
#[cfg(feature = "edge")]
mod newest;
#[cfg(feature = "edge")]
mod open_file;
#[cfg(feature = "edge")]
mod part;
#[cfg(feature = "edge")]
pub mod path;
#[cfg(feature = "edge")]
mod progress;
#[cfg(feature = "edge")]
mod put;
#[cfg(feature = "edge")]
mod record_reader;
#[cfg(feature = "edge")]
mod session;
#[cfg(feature = "edge")]
mod sink;
#[cfg(feature = "edge")]
mod source;
#[cfg(feature = "edge")]
mod tree;
#[cfg(feature = "edge")]
mod writer;

#[cfg(feature = "edge")]
pub use client::{Client, ClientConfig, FsckReport, MASTER_DEFAULT, TIMEOUT_DEFAULT};
#[cfg(feature = "edge")]
pub use error::{Error, StreamError};
#[cfg(feature = "edge")]
pub use follower::Follower;
#[cfg(feature = "edge")]
pub use get::{BadReplica, GetOptions, GetReport};
#[cfg(feature = "edge")]
pub use limit::RateLimit;
#[cfg(feature = "edge")]
pub use open_file::OpenFile;
#[cfg(feature = "edge")]
pub use progress::Progress;
#[cfg(feature = "edge")]
pub use put::{PutOptions, PutReport, STREAMS_DEFAULT, ShortChunk};
#[cfg(feature = "edge")]
pub use record_reader::{ReadRecord, RecordReader};
#[cfg(feature = "edge")]
pub use sink::GetTarget;
#[cfg(feature = "edge")]
pub use source::PutSource;
#[cfg(feature = "edge")]
pub use tree::{FILES_DEFAULT, GetItem, PutItem, TreeEvent, TreeOptions, TreeSums};
#[cfg(feature = "edge")]
pub use writer::WriteOptions;
#[cfg(feature = "edge")]
pub use writer::file::{FileWriter, WriteSums};
#[cfg(feature = "edge")]
pub use writer::record::{Appended, Receipt, RecordWriter};
