//! What the run knows to be right: what clients set out to do, the content of every file, and a
//! plain model of the namespace.

pub mod content;
pub mod names;
pub mod op;
