//! The program `chunkd` as a process, with a scripted master: registration, orders, its end, and
//! what it says when it can't start.

#![expect(clippy::cast_possible_truncation, reason = "tests count small things")]

mod bad_starts;
mod copies;
mod life;
mod master;
mod orders;
mod process;
mod source;
