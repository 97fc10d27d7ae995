//! The store's tests: its promises over every kind of tree, at every crash, and its vectors.

mod conformance;
mod copies;
mod crash;
mod directories;
pub(crate) mod faulty;
mod heap;
mod journal;
mod medium;
mod open_chunks;
pub(crate) mod scenario;
