//! What the benchmarks share: the reference loops that say what the machine can do, and a
//! cluster of real processes to hold against them.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod relay;
