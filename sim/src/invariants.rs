//! What has to hold in every run, a promise a file.
//!
//! [`Checker`] is told each [`Observation`] when it happens. First the [`Facts`] take it in (what
//! clients set out to do, the model of the namespace), then each invariant says whether it still
//! holds. [`determinism`] is about two runs of a seed and is asked by whoever runs them.

pub mod accepted_losses;
pub mod acknowledged_files;
mod ages;
pub mod cells_in_order;
mod chunks;
pub mod determinism;
pub mod durable_acks;
pub mod exactly_once;
mod facts;
pub mod fencing;
pub mod handles_unique;
pub mod log_prefix;
mod losses;
pub mod never_wrong_bytes;
pub mod no_delete_of_needed;
pub mod nothing_half_made;
pub mod open_left_alone;
pub mod open_members;
pub mod records_once;
pub mod slots_kept;
pub mod states_alike;

pub use ages::{Age, Ages};
pub use facts::{Applied, Facts, OpRecord, SealedReplica, file_offset};
pub use losses::{AcceptedLoss, Loss, Losses};

use sarsen_chunkd::store::InventoryEntry;

use crate::observation::Observation;

/// A promise.
pub trait Invariant: std::fmt::Debug {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Something happened, and the facts know of it already.
    ///
    /// # Errors
    /// How the promise is broken.
    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String>;

    /// The run is over, and all that went wrong was made good.
    ///
    /// # Errors
    /// How the promise is broken.
    fn finish(&mut self, _facts: &Facts) -> Result<(), String> {
        Ok(())
    }
}

/// All promises.
#[derive(Debug)]
pub struct Checker {
    /// What is known of the run.
    pub facts: Facts,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    /// Nothing has happened, so all holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            facts: Facts::default(),
            invariants: vec![
                Box::new(log_prefix::LogPrefix::default()),
                Box::new(exactly_once::ExactlyOnce::default()),
                Box::new(nothing_half_made::NothingHalfMade),
                Box::new(never_wrong_bytes::NeverWrongBytes),
                Box::new(handles_unique::HandlesUnique::default()),
                Box::new(durable_acks::DurableAcks),
                Box::new(no_delete_of_needed::NoDeleteOfNeeded),
                Box::new(fencing::Fencing::default()),
                Box::new(open_members::OpenMembers::default()),
                Box::new(slots_kept::SlotsKept),
                Box::new(states_alike::StatesAlike::default()),
                Box::new(open_left_alone::OpenLeftAlone),
                Box::new(accepted_losses::AcceptedLosses::default()),
                Box::new(records_once::RecordsOnce::default()),
                Box::new(cells_in_order::CellsInOrder::default()),
                Box::new(acknowledged_files::AcknowledgedFiles::default()),
            ],
        }
    }

    /// Something happened.
    ///
    /// # Errors
    /// Which promise is broken, and how.
    pub fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        self.facts.observe(observation)?;
        for invariant in &mut self.invariants {
            let held = invariant.observe(observation, &self.facts);
            held.map_err(|how| format!("{}: {how}", invariant.name()))?;
        }
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    /// Which promise is broken, and how.
    pub fn finish(&mut self) -> Result<(), String> {
        for invariant in &mut self.invariants {
            let held = invariant.finish(&self.facts);
            held.map_err(|how| format!("{}: {how}", invariant.name()))?;
        }
        Ok(())
    }
}

/// Whether a start could not make good what it found of a chunk, for want of room: it is told as poisoned
/// then, and what is stable of it counts again at the next start (`spec/journal.md` section 9 step 5).
fn is_put_off(is_full: bool, entry: Option<&InventoryEntry>) -> bool {
    is_full && entry.is_some_and(|entry| entry.flags.poisoned)
}
