//! Who counts, where the version begins, and who its members are
//! (`spec/replication.md` sections 3.3, 7 and 8).
//!
//! A function of the plan and the answers: nothing here knows of time, and whoever calls it says
//! whether there is still somebody to wait for.

use std::collections::BTreeMap;

use sarsen_protocol::id::{Serial, ServerId};
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::best_copy;
use super::words::{Base, Loss, Plan, Promised};
use crate::core::chunk_table::Sealed;
use crate::core::command::chunks::Configuration;
use crate::core::command::{LossCause, Member};

/// What those who were asked said: `None` is a refusal, and who isn't in it is silent.
pub(super) type Answers = BTreeMap<ServerId, Option<Promised>>;

/// Where the version begins, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Chosen {
    pub(super) serial: Serial,
    /// In the order of the chain, the primary first; as they answered.
    pub(super) members: Vec<Member>,
    pub(super) loss: Option<Loss>,
    /// Too few to stay open: the chunk is sealed, and repaired at rest.
    pub(super) is_short: bool,
    /// What the log has the bytes of a copy as, if it is none of those that a loss is accepted for.
    pub(super) as_logged: Option<Sealed>,
}

/// Why nothing is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Somebody who is silent may still make it better.
    Wait,
    /// Fewer than `min_replicas` holders.
    TooFew,
    /// Nobody.
    Unavailable,
}

/// Decides, or says why not. `is_last`: nobody is waited for any more.
pub(super) fn decide(plan: &Plan, answers: &Answers, is_last: bool) -> Result<Chosen, Lack> {
    let lack = |lack| if is_last { lack } else { Lack::Wait };
    match &plan.base {
        Base::Open(active) => {
            let (serial, mut members, loss) = match lowest_that_counts(plan, active, answers) {
                Some((serial, members)) => (serial, members, None),
                None if !is_last => return Err(Lack::Wait),
                None => highest_that_answered(plan, active, answers)?,
            };
            leave_out(plan, &mut members);
            let is_short = members.len() < plan.min_replicas;
            if is_short && !is_last {
                return Err(Lack::Wait);
            }
            let members = in_chain_order(plan, active, members);
            Ok(Chosen {
                serial,
                members,
                loss,
                is_short,
                as_logged: None,
            })
        }
        Base::Sealed { sealed, holders } => {
            let (serial, mut members) =
                holders_that_count(*sealed, holders, answers).ok_or(lack(Lack::TooFew))?;
            leave_out(plan, &mut members);
            if members.len() < plan.min_replicas {
                return Err(lack(Lack::TooFew));
            }
            Ok(Chosen {
                serial,
                members,
                loss: None,
                is_short: false,
                as_logged: None,
            })
        }
        Base::Accepted(accepted) => {
            let best = best_copy::best(accepted, answers);
            let is_best = best_copy::awaited(accepted, answers).is_empty();
            let best = best.filter(|_| is_best);
            let answer = best.ok_or(lack(Lack::Unavailable))?.answer;
            let loss = Loss {
                version: accepted.version,
                serial: answer.serial,
                cause: LossCause::Accepted,
            };
            Ok(Chosen {
                serial: answer.serial,
                members: vec![answer.member.clone()],
                loss: Some(loss),
                is_short: false,
                as_logged: accepted.sealed.filter(|it| answer.sealed == Some(*it)),
            })
        }
        // Nobody is asked: those who are chosen begin at once.
        Base::Fresh(fresh) => Ok(Chosen {
            // 0 is what streams of uploads begin at.
            serial: Serial(1),
            members: fresh.members.clone(),
            loss: None,
            is_short: false,
            as_logged: None,
        }),
    }
}

/// The lowest serial of those that count; with them, those stay that restarted and have as much.
fn lowest_that_counts(
    plan: &Plan,
    active: &Configuration,
    answers: &Answers,
) -> Option<(Serial, Vec<Member>)> {
    let candidates = candidates(plan, active, answers);
    let counting = candidates.iter().filter(|(_, counts)| *counts);
    let serials = counting.map(|(answer, _)| answer.serial);
    let serial = match is_in_force(Check::LowestSerial) {
        true => serials.min()?,
        false => serials.max()?,
    };
    let members = candidates
        .iter()
        .filter(|(answer, counts)| *counts || answer.serial >= serial)
        .map(|(answer, _)| answer.member.clone());
    Some((serial, members.collect()))
}

/// Nobody counts: the highest serial leads, and what was above it in memory only is gone.
fn highest_that_answered(
    plan: &Plan,
    active: &Configuration,
    answers: &Answers,
) -> Result<(Serial, Vec<Member>, Option<Loss>), Lack> {
    let candidates = candidates(plan, active, answers);
    let serials = candidates.iter().map(|(answer, _)| answer.serial);
    let serial = serials.max().ok_or(Lack::Unavailable)?;
    let members = candidates
        .iter()
        .filter(|(answer, _)| answer.serial == serial)
        .map(|(answer, _)| answer.member.clone());
    let loss = Loss {
        version: active.version,
        serial,
        cause: LossCause::NoMember,
    };
    Ok((serial, members.collect(), Some(loss)))
}

/// The answers that hold a prefix of the version's history, each with whether it counts.
fn candidates<'a>(
    plan: &Plan,
    active: &Configuration,
    answers: &'a Answers,
) -> Vec<(&'a Promised, bool)> {
    let is_of_history = |answer: &Promised| {
        (active.version..plan.version).contains(&answer.version) && is_usable(answer)
    };
    active
        .members
        .iter()
        .filter_map(|logged| Some((logged, answer_of(answers, logged)?)))
        .filter(|(_, answer)| is_of_history(answer))
        .map(|(logged, answer)| (answer, counts(active, logged, answer)))
        // A medium that lost the end of a journal tells less than others know to be on all: it is
        // not believed. One that restarted may have lost it rightly.
        .filter(|(answer, counts)| !counts || !is_below_a_commit_mark(answer, answers))
        .collect()
}

/// Whether the member had a say in every acknowledgement and has forgotten none.
fn counts(active: &Configuration, logged: &Member, answer: &Promised) -> bool {
    answer.member.start_number == logged.start_number
        || !active.memory_allowed
        || !is_in_force(Check::RestartedMember)
}

fn is_below_a_commit_mark(answer: &Promised, answers: &Answers) -> bool {
    let others = answers
        .values()
        .flatten()
        .filter(|other| makes_sense(other));
    let mut others = others.filter(|other| other.member != answer.member);
    others.any(|other| other.commit_mark > answer.serial)
}

/// What a member said, if it is the replica that was asked.
fn answer_of<'a>(answers: &'a Answers, asked: &Member) -> Option<&'a Promised> {
    let answer = answers.get(&asked.server)?.as_ref()?;
    let is_asked = answer.member.server == asked.server
        && answer.member.directory == asked.directory
        && makes_sense(answer);
    is_asked.then_some(answer)
}

/// A member knows of nothing that is on all members but not on itself.
pub(super) fn makes_sense(answer: &Promised) -> bool {
    answer.commit_mark <= answer.serial
}

pub(super) fn is_usable(answer: &Promised) -> bool {
    !answer.is_poisoned && !answer.is_corrupt
}

/// Holders of a sealed chunk have the same bytes, and serials only have to rise: the highest.
fn holders_that_count(
    sealed: Sealed,
    holders: &[Member],
    answers: &Answers,
) -> Option<(Serial, Vec<Member>)> {
    let nothing_applied = |answer: &Promised| {
        answer.version == sealed.version
            || answer.version > sealed.version && answer.serial == answer.begin_serial
    };
    let counting: Vec<&Promised> = holders
        .iter()
        .filter_map(|holder| answer_of(answers, holder))
        .filter(|answer| is_usable(answer))
        .filter(|answer| answer.sealed == Some(sealed) && nothing_applied(answer))
        .collect();
    let serial = counting.iter().map(|answer| answer.serial).max()?;
    let members = counting.iter().map(|answer| answer.member.clone());
    Some((serial, members.collect()))
}

/// Who failed before is left out if enough stay, and after that who was blamed the second time or does
/// not believe its own replica: these could go on, and those may hold up the change.
fn leave_out(plan: &Plan, members: &mut Vec<Member>) {
    let fewest = plan.min_replicas.max(1);
    // Where all are so, none is better than the others: they are slow, and asked again.
    let is_hopeless = |member: &Member| plan.hopeless.contains(&member.server);
    let can_insist = !members.iter().all(is_hopeless);
    let fewest_without = |server: &ServerId| match can_insist && plan.hopeless.contains(server) {
        true => 1,
        false => fewest,
    };
    let blamed = plan.blamed.filter(|blamed| blamed.again);
    let blamed = blamed.map(|blamed| blamed.server);
    let failed = plan.failed.iter();
    let failed = failed.map(|server| (*server, fewest_without(server)));
    let others = blamed.iter().chain(&plan.doubtful);
    let others = others.map(|server| (*server, fewest));
    for (server, fewest) in failed.chain(others) {
        let is_one = members.iter().any(|member| member.server == server);
        if is_one && members.len() > fewest {
            members.retain(|member| member.server != server);
        }
    }
}

/// The old order, but those who are blamed or doubtful last; the old primary first, unless it is one
/// of them.
fn in_chain_order(plan: &Plan, active: &Configuration, mut members: Vec<Member>) -> Vec<Member> {
    let blamed = plan.blamed.map(|blamed| blamed.server);
    let rank = |member: &Member| match member.server {
        server if Some(server) == blamed || plan.doubtful.contains(&server) => 2,
        server if server == active.primary => 0,
        _ => 1,
    };
    members.sort_by_key(rank);
    members
}
