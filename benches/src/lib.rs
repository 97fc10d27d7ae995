//! What the benchmarks share: the reference loops that say what the machine can do, and a cluster
//! of real processes to hold against them.
//!
//! Every figure of Sarsen stands beside its limit: a loop of a few lines that does only what
//! nothing can do without, with the same sockets, buffers and files, taken in turn with it in the
//! same run ([`measure`]). Each party of a loop is a process of its own, as a chunkserver is:
//! a benchmark's program starts itself again and plays another role ([`roles`]), so what is
//! measured is what was built with it.
//!
//! - [`limits`]: the loops;
//! - [`cluster`]: a master, three chunkservers, and clients as processes;
//! - [`place`]: the folders on tmpfs and on the disk; [`cpu`]: processor time;
//! - [`table`]: the figures side by side; [`picture`]: the same as curves; [`machine`]: what it was
//!   measured on.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod cpu;
pub mod directory;
pub mod limits;
pub mod machine;
pub mod measure;
pub mod picture;
pub mod place;
pub mod roles;
pub mod store;
pub mod table;
