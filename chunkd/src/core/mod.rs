//! What a chunkserver decides, without a socket, file, clock or randomness.
//!
//! The edges feed what arrived into these state machines and carry out the actions that they
//! yield; a simulator can drive the same machines on a virtual clock.
//!
//! - [`replica_stream`]: one member's side of a write stream;
//! - [`pieces`]: whether what came is what was sent;
//! - [`read_stream`]: which frames answer a read;
//! - [`copy_stream`]: whether the answer to a read is the chunk that is to be copied;
//! - [`member`]: what a member of an open chunk promised, began and prepared;
//! - [`mutation`]: an open chunk on one member, with its streams, its lease and its clients;
//! - [`brief_work`]: whether work on a disk is done where it comes up;
//! - [`tickets`]: whether a ticket opens the door;
//! - [`turns`]: who is served next, so that clients are fair to each other;
//! - [`machine`]: the chunkserver and its master: registration, heartbeats, orders, with
//!   [`inventory`] for one directory's report, [`event`] for what it is told and [`action`] for
//!   what it wants done.

pub mod action;
pub mod brief_work;
pub mod copy_stream;
pub mod event;
pub mod findings;
pub mod inventory;
pub mod machine;
pub mod member;
pub mod mutation;

pub mod pieces;
pub mod read_stream;
pub mod replica_stream;
pub mod tickets;
pub mod turns;
