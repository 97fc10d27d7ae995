//! A committed state of an open chunk is the same at all members, and whenever it is read: of one
//! version and serial there is one length, and one CRC of each block (`spec/replication.md` section
//! 12). What is applied and not committed yet is told by no serial that a reader is given.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};

use super::{Facts, Invariant};
use crate::observation::Observation;

/// What was read so far: of each state its length and the CRCs of its blocks.
#[derive(Debug, Default)]
pub struct StatesAlike(BTreeMap<(ChunkHandle, ChunkVersion, Serial), (u32, Vec<u32>)>);

impl Invariant for StatesAlike {
    fn name(&self) -> &'static str {
        "states alike"
    }

    fn observe(&mut self, observation: &Observation<'_>, _facts: &Facts) -> Result<(), String> {
        let Observation::StateRead {
            machine,
            handle,
            snapshot,
        } = *observation
        else {
            return Ok(());
        };
        let crcs = (0..).map_while(|index| snapshot.block_crc(index));
        let read = (snapshot.length(), crcs.collect());
        let state = (handle, snapshot.version, snapshot.serial);
        let known = self.0.entry(state).or_insert_with(|| read.clone());
        match *known == read {
            true => Ok(()),
            false => Err(format!(
                "machine {machine} serves {state:?} as {read:?}, which was {known:?} before"
            )),
        }
    }
}
