//! What the programs share at their edges, where the pure cores meet the system.
//!
//! `sarsen-master`, `chunkd` and `sarsen` start in the same way: they read a command line
//! ([`args`]) and settings ([`settings`]), start a log ([`log`]), find the cluster's key
//! ([`key`]), listen ([`listen`]), say that they are ready and wait to be told to end
//! ([`daemon`]); and when something is wrong they say so in the same two lines and exit codes
//! ([`exit`]). They talk over a [`connection`] after a [`hello`], and give
//! out the same documents ([`json`]). Peers that have proved nothing are bounded by [`strangers`] and
//! [`guest`]. [`address`] is `HOST:PORT` as people write it.
//!
//! Nothing here knows what a chunk is. The cores never import this crate.

#![forbid(unsafe_code)]

mod random;

pub mod address;
pub mod args;
pub mod connection;
pub mod daemon;
pub mod exit;
pub mod guest;
pub mod hello;
pub mod json;
pub mod key;
pub mod listen;
pub mod log;
pub mod settings;
pub mod strangers;

pub use random::{random, random_u64};
