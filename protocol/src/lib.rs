//! The bytes that Sarsen's programs exchange, and the values in them.
//!
//! This crate implements `spec/wire.md` and `spec/messages.md`. It has no sockets, files, clock,
//! randomness, async code or unsafe code: bytes go in, values come out, and the other way round.
//! Read it in this order:
//!
//! - [`size`], [`id`], [`crc`]: limits, newtypes, the one checksum;
//! - [`codec`]: how a body's fields are laid out, and how their bounds are checked;
//! - [`header`], [`deframe`]: a frame's header; bytes from a socket into whole frames;
//! - [`status`], [`version`], [`error`]: what can be said about a request, and what can go wrong;
//! - [`message`]: every message, a file each;
//! - [`handshake`], [`ticket`]: the mutual proof of the cluster key, and the master's signature
//!   on the right to touch a chunk;
//! - [`record`], [`id_row`]: what record append writes, and the ids of a chunk; no program uses
//!   them yet;
//! - [`sabotage`]: nothing, but for the simulator.
//!
//! Nothing here trusts a peer: every count and length is checked against what has arrived before
//! it sizes an allocation, reserved bytes must be zero, and a body must be used up exactly.

#![forbid(unsafe_code)]

pub mod codec;
pub mod crc;
pub mod deframe;
pub mod error;
pub mod handshake;
pub mod header;
pub mod id;
pub mod id_row;
pub mod key;
pub mod message;
pub mod record;
pub mod sabotage;
pub mod size;
pub mod status;
pub mod ticket;
pub mod version;
