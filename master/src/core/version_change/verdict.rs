//! What an answer of those who were chosen is worth: whether they did what they were told, as the
//! members that they were when they were chosen (`spec/replication.md` sections 3.4 and 3.5).

use sarsen_protocol::id::{Serial, ServerId};

use super::decide::Chosen;
use super::words::{Answer, Fault, Prepared, Step};
use crate::core::command::Member;

/// What an answer of a step is worth.
pub(super) enum Verdict<T> {
    /// It is no answer to this step, or not of a member.
    Ignore,
    Good(T),
    Fault(Fault),
}

/// An answer while members begin.
pub(super) fn begun(chosen: &Chosen, server: ServerId, answer: &Answer) -> Verdict<()> {
    let Some(member) = member_of(chosen, server) else {
        return Verdict::Ignore;
    };
    match answer {
        Answer::Begun {
            serial,
            member: told,
        } => fitting(chosen, member, *serial, told, ()),
        Answer::Refused(Step::Begin, status) => Verdict::Fault(Fault::Refused(*status)),
        _ => Verdict::Ignore,
    }
}

/// An answer while members prepare a seal.
pub(super) fn prepared(chosen: &Chosen, server: ServerId, answer: &Answer) -> Verdict<Prepared> {
    let Some(member) = member_of(chosen, server) else {
        return Verdict::Ignore;
    };
    match answer {
        Answer::SealPrepared {
            serial,
            prepared,
            member: told,
        } => fitting(chosen, member, *serial, told, *prepared),
        Answer::Refused(Step::PrepareSeal, status) => Verdict::Fault(Fault::Refused(*status)),
        _ => Verdict::Ignore,
    }
}

/// A member did what it was told if it is the one that was told, and at the place it was told.
fn fitting<T>(
    chosen: &Chosen,
    member: &Member,
    serial: Serial,
    told: &Member,
    value: T,
) -> Verdict<T> {
    match told == member && serial == chosen.serial {
        true => Verdict::Good(value),
        false => Verdict::Fault(Fault::WrongAnswer),
    }
}

/// The member that a server is, if it was chosen.
pub(super) fn member_of(chosen: &Chosen, server: ServerId) -> Option<&Member> {
    let mut members = chosen.members.iter();
    members.find(|member| member.server == server)
}

/// Those who were chosen and have not answered.
pub(super) fn silent(
    chosen: &Chosen,
    has_answered: impl Fn(ServerId) -> bool,
) -> Vec<(ServerId, Fault)> {
    let servers = chosen.members.iter().map(|member| member.server);
    let silent = servers.filter(|&server| !has_answered(server));
    silent.map(|server| (server, Fault::Silent)).collect()
}
