//! The chunkserver: it keeps chunks, passes them down the replica chain, and serves reads.
//!
//! Read in this order: [`core`] decides, without touching anything; [`store`] keeps chunks in
//! files; [`io`] and [`uring`] move bytes between sockets and files; [`net`] is the data plane;
//! [`server`] is the program: the connection to the master, its orders, the [`http`] port. Each
//! imports only those before it.

pub mod core;

#[cfg(feature = "edge")]
pub mod config;
#[cfg(feature = "edge")]
pub mod http;
#[cfg(feature = "edge")]
pub mod io;
#[cfg(feature = "edge")]
pub mod net;
#[cfg(feature = "edge")]
pub mod server;
#[cfg(feature = "edge")]
pub mod store;
#[cfg(feature = "edge")]
pub mod uring;
