//! The client library.
pub mod core;
