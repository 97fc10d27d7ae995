//! The master as pure state machines: no socket, file, clock or randomness.
//!
//! Read in this order:
//!
//! - [`path`], [`refusal`], [`command`]: what entries of the operation log say;
//! - [`file`], [`namespace`], [`chunk_table`], [`session`], [`state`]: what is durable;
//! - [`apply`]: how an entry changes it; [`checkpoint`]: how it is laid out when saved;
//!
//! Invariant: everything imports `sarsen_protocol` and its own siblings, nothing else.

pub mod apply;
pub mod checkpoint;
pub mod chunk_table;
pub mod command;
pub mod file;
pub mod namespace;
pub mod path;
pub mod refusal;
pub mod session;
pub mod state;

#[cfg(test)]
mod scripted;
