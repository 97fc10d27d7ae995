//! Which copy of a chunk is gone on with when a person has accepted a loss
//! (`spec/replication.md` section 8).
//!
//! Copies are compared by what they say when they promise. What a copy was last sealed as, or opened
//! from, comes first: between two of these nothing but a seal leads from one to the other. Then its
//! (version, serial). A version above the log's is that of an attempt, and tells nothing of the bytes
//! under it unless they are the log's: they may be an older copy that a loss was accepted for, when
//! the master ended. Such a copy is compared with the best of the others by its serial.
//!
//! A copy that is bad by its server's word is none. A server that is silent is one that may have a
//! better copy, unless what it reported is older than the best that is known.

use std::cmp::Reverse;

use sarsen_protocol::id::{ChunkVersion, ServerId};

use super::decide::{Answers, is_usable, makes_sense};
use super::words::{Accepted, OldCopy, Promised};

/// A copy, by its own word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) answer: &'a Promised,
    /// The version of its bytes, if that is known.
    version: Option<ChunkVersion>,
}

impl Told<'_> {
    /// What it is sealed as, or was opened from.
    fn base(&self) -> ChunkVersion {
        self.answer
            .sealed
            .map_or(ChunkVersion::NONE, |it| it.version)
    }
}

/// The best of those that have answered.
pub(super) fn best<'a>(accepted: &Accepted, answers: &'a Answers) -> Option<Told<'a>> {
    let told = accepted.copies.iter().filter_map(|copy| {
        let answer = answers.get(&copy.member.server)?.as_ref()?;
        let is_log = accepted.sealed.is_some() && answer.sealed == accepted.sealed;
        let version = known(accepted, answer.version, copy.is_member || is_log);
        (is_usable(answer) && makes_sense(answer)).then_some(Told { answer, version })
    });
    let told: Vec<Told<'_>> = told.collect();
    let best_of = |is_known: bool| {
        let told = told.iter().filter(|it| it.version.is_some() == is_known);
        // Of equals one that no attempt has begun.
        told.max_by_key(|it| {
            let answer = it.answer;
            (
                it.base(),
                it.version,
                answer.serial,
                Reverse(answer.version),
            )
        })
    };
    let both = best_of(false).into_iter().chain(best_of(true));
    both.max_by_key(|it| (it.base(), it.answer.serial)).copied()
}

/// The servers that have not answered, and may have a better copy than any that has.
pub(super) fn awaited(accepted: &Accepted, answers: &Answers) -> Vec<ServerId> {
    let best = best(accepted, answers);
    let may_be_better = |copy: &OldCopy| {
        let Some(best) = best else {
            return true;
        };
        let version = known(accepted, copy.version, copy.is_member);
        match (version, best.version) {
            (Some(version), Some(than)) => (version, copy.serial) > (than, best.answer.serial),
            _ => copy.version > best.base(),
        }
    };
    let silent = accepted.copies.iter();
    let silent = silent.filter(|it| !answers.contains_key(&it.member.server));
    silent
        .filter(|it| may_be_better(it))
        .map(|it| it.member.server)
        .collect()
}

/// The version of a copy's bytes, by the version that it is in.
fn known(accepted: &Accepted, version: ChunkVersion, is_of_the_log: bool) -> Option<ChunkVersion> {
    match version > accepted.version {
        false => Some(version),
        true => is_of_the_log.then_some(accepted.version),
    }
}
