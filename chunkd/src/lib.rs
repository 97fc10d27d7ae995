//! The chunkserver (under construction).

#[cfg(feature = "edge")]
pub mod store;
