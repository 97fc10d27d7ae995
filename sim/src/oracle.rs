//! What the run knows to be right: what clients set out to do, the content of every file, a plain
//! model of the namespace, and of files that change what can have happened to them.

pub mod cells;
pub mod content;
pub mod image;
pub mod names;
pub mod op;
pub mod records;
