//! The master as pure state machines: no socket, file, clock or randomness.
//!
//! Read in this order:
//!
//! - [`path`], [`refusal`], [`command`]: what entries of the operation log say;
//! - [`mod@file`], [`namespace`], [`chunk_table`], [`session`], [`state`]: what is durable;
//! - [`apply`]: how an entry changes it; [`checkpoint`]: how it is laid out when saved;
//! - [`replica`], [`chunkservers`], [`placement`], [`garbage`], [`diagnosis`], [`repair`]: what is
//!   only observed, and what follows from it;
//! - [`version_change`], [`lease`], [`timed`]: one attempt to change an open chunk's members, how long
//!   its primary may order mutations, and what comes due first of many;
//! - [`config`], [`event`], [`action`], [`machine`]: all of it together, driven by an edge.
//!
//! Invariant: everything imports `sarsen_protocol` and its own siblings, nothing else.

pub mod action;
pub mod apply;
pub mod checkpoint;
pub mod chunk_table;
pub mod chunkservers;
pub mod command;
pub mod config;
pub mod diagnosis;
pub mod event;
pub mod file;
pub mod garbage;
pub mod lease;
pub mod machine;
pub mod namespace;
pub mod path;
pub mod placement;
pub mod refusal;
pub mod repair;
pub mod replica;
pub mod session;
pub mod state;
pub mod timed;
pub mod version_change;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod vectors;
