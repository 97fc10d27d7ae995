//! What the client decides, without a socket, a file, a clock or randomness.
//!
//! Each machine is told what happened by `handle_*`, and yields what to do by `poll`, until that
//! is `None`; `wake_at` says when to poll again though nothing happened. `now` is the time since
//! the client was made, and every seed is an argument, so that a run can be repeated exactly.
//!
//! - [`retry`]: what to do about a request to the master that failed, and how long to wait;
//! - [`session`]: the numbers of requests that are done once;
//! - [`local_write`]: on which thread a download's bytes are written to its file;
//! - [`limit`]: how many bytes a second a command may move;
//! - [`locate`]: which chunks a range of a file touches, and which replica to ask first;
//! - [`pieces`]: payloads cut at block edges, and their CRCs;
//! - [`upload`]: a file's chunks on their way up, over machines of [`mod@write`], one a stream,
//!   each with its [`window`];
//! - [`read`]: a file's chunks on their way down, over machines of [`read_stream`];
//! - [`cut_read`]: a few bytes of a block or two, verified without the rest of them;
//! - [`pace`]: how quick servers are, which is to be left, and when a second one is asked beside it;
//! - [`locations`]: what a master told of an open file's chunks, while it may be used;
//! - [`mutation`]: changes of files that are there, until each has an answer;
//! - [`seen`]: how new the states are that were seen of open chunks;
//! - [`newest`]: which state of an open chunk is the newest;
//! - [`records`]: every record of a file once;
//! - [`resume`]: what an unfinished download leaves, and what of it counts.

pub mod cut_read;
pub mod limit;
pub mod local_write;
pub mod locate;
pub mod locations;
pub mod mutation;
pub mod newest;
pub mod pace;
pub mod pieces;
pub mod read;
pub mod read_stream;
pub mod records;
pub mod resume;
pub mod retry;
pub mod seen;
pub mod session;
pub mod upload;
pub mod window;
pub mod write;
