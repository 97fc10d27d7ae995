//! The same seed gives the same run.

use crate::cluster::{Options, run};

/// Runs a seed twice.
///
/// # Errors
/// How the two differ.
pub fn check(options: &Options) -> Result<(), String> {
    let (first, second) = (run(options), run(options));
    let of = |report: &crate::cluster::Report| {
        (report.trace_hash, report.events, report.failure.clone())
    };
    match of(&first) == of(&second) {
        true => Ok(()),
        false => Err(format!(
            "seed {}: {:x} after {} events, then {:x} after {}",
            options.seed, first.trace_hash, first.events, second.trace_hash, second.events
        )),
    }
}
