//! `--durability`: what an acknowledged byte has survived.

use clap::{Args, ValueEnum};
use sarsen_protocol::message::Level;

/// The flag, for every verb that stores bytes.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DurabilityArgs {
    /// What is acknowledged has reached this on every copy
    #[arg(long, value_enum, default_value_t = Durability::Disk)]
    durability: Durability,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Durability {
    /// Stable storage
    Disk,
    /// Memory
    Memory,
}

impl DurabilityArgs {
    pub(crate) const fn level(self) -> Level {
        match self.durability {
            Durability::Disk => Level::Disk,
            Durability::Memory => Level::Memory,
        }
    }
}
