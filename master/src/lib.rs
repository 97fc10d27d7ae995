//! The master of a Sarsen cluster: names, chunk metadata, placement.
//!
//! [`core`] is a pure state machine. What touches a socket, a file or a clock is behind the
//! feature `edge`, and drives it.

#![forbid(unsafe_code)]

pub mod core;
#[cfg(feature = "edge")]
mod driver;
#[cfg(feature = "edge")]
mod http;
#[cfg(feature = "edge")]
mod inputs;
#[cfg(feature = "edge")]
mod net;
#[cfg(feature = "edge")]
pub mod oplog;
#[cfg(feature = "edge")]
pub mod server;
#[cfg(feature = "edge")]
pub mod start;
#[cfg(feature = "edge")]
mod walks;
