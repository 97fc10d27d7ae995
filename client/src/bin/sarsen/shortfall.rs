//! What became of lines that were to be appended, when one of them failed.

use std::fmt;
use std::ops::RangeInclusive;

use sarsen_client::Error;
use sarsen_edge::exit::{Exit, Explain};
use thiserror::Error;

use crate::failure::Problem;

/// Ranges of lines that are told.
const RANGES_MAX: usize = 16;

/// What became of lines, in their order. Lines count from one.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    noted: u64,
    first: Option<u64>,
    is_first_in_doubt: bool,
    /// Why the first failed; of several that only were not tried since one failed, that one's.
    cause: Option<Problem>,
    failed: u64,
    in_doubt: u64,
    not_tried: u64,
    /// Behind the first that failed.
    appended: Vec<RangeInclusive<u64>>,
}

/// Lines that were not all appended: the verb's one error.
#[derive(Debug, Error)]
pub(crate) struct Shortfall {
    fates: Fates,
    cause: Problem,
    /// The last line that was begun, if it isn't known how many follow.
    last: Option<u64>,
}

impl Fates {
    /// The number of the line that is noted next.
    pub(crate) const fn next(&self) -> u64 {
        self.noted + 1
    }

    /// Whether none has failed.
    pub(crate) const fn are_good(&self) -> bool {
        self.first.is_none()
    }

    /// The next line was appended.
    pub(crate) fn note_appended(&mut self) {
        self.noted += 1;
        if self.are_good() {
            return;
        }
        match self.appended.last_mut() {
            Some(last) if *last.end() + 1 == self.noted => *last = *last.start()..=self.noted,
            _ => self.appended.push(self.noted..=self.noted),
        }
    }

    /// The next line was not, or nobody knows.
    pub(crate) fn note_problem(&mut self, problem: Problem) {
        self.noted += 1;
        let is_first = self.are_good();
        self.first.get_or_insert(self.noted);
        let is_in_doubt = matches!(&problem, Problem::Client(error) if error.leaves_doubt());
        let is_untried = matches!(problem, Problem::Client(Error::NotTried));
        match (is_first, is_in_doubt, is_untried) {
            (true, ..) => self.is_first_in_doubt = is_in_doubt,
            (_, true, _) => self.in_doubt += 1,
            (_, _, true) => self.not_tried += 1,
            _ => self.failed += 1,
        }
        let is_consequence = |it: &Problem| matches!(it, Problem::Client(Error::NotTried));
        if self.cause.as_ref().is_none_or(is_consequence) {
            self.cause = Some(problem);
        }
    }

    /// Why the first failed.
    pub(crate) fn into_cause(self) -> Option<Problem> {
        self.cause
    }

    /// The error that tells what failed, if anything did: `rest` lines were left where they are, if that is
    /// known, when `begun` had been begun.
    pub(crate) fn problem(&mut self, rest: Option<u64>, begun: u64) -> Result<(), Problem> {
        let mut fates = std::mem::take(self);
        let Some(cause) = fates.cause.take() else {
            return Ok(());
        };
        fates.not_tried += rest.unwrap_or(0);
        Err(Problem::Shortfall(Box::new(Shortfall {
            fates,
            cause,
            last: rest.is_none().then_some(begun),
        })))
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fates = &self.fates;
        let first = fates.first.unwrap_or_default();
        let what = match fates.is_first_in_doubt {
            true => "is in doubt",
            false => "was not appended",
        };
        write!(f, "line {first} {what}: {}", self.cause)?;
        let counts = [
            (fates.failed, "failed"),
            (fates.in_doubt, "are in doubt"),
            (fates.not_tried, "were not tried"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let mut told: Vec<String> = counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if !fates.appended.is_empty() {
            told.push(format!("these were appended: {}", ranges(&fates.appended)));
        }
        if !told.is_empty() {
            write!(f, "; of the lines behind it {}", told.join(", "))?;
        }
        match self.last {
            Some(last) => write!(f, "; none behind line {last} was tried"),
            None => Ok(()),
        }
    }
}

impl Explain for Shortfall {
    fn exit(&self) -> Exit {
        self.cause.exit()
    }

    fn hint(&self) -> Option<String> {
        self.cause.hint()
    }
}

fn ranges(all: &[RangeInclusive<u64>]) -> String {
    let shown = all
        .iter()
        .take(RANGES_MAX)
        .map(|range| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    let more = all.iter().skip(RANGES_MAX);
    let more: u64 = more.map(|range| range.end() - range.start() + 1).sum();
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_written() -> Problem {
        let waited = std::time::Duration::from_secs(3);
        Error::NotWritten {
            waited,
            cause: None,
        }
        .into()
    }

    fn told(fates: &mut Fates, rest: Option<u64>, begun: u64) -> Problem {
        fates.problem(rest, begun).unwrap_err()
    }

    #[test]
    fn lines_that_were_all_appended_are_no_problem() {
        let mut fates = Fates::default();
        fates.note_appended();
        assert!(fates.are_good());
        assert!(fates.problem(None, 1).is_ok());
    }

    /// Of 200 lines 38 in the middle failed, each with two lines on stderr; those behind were appended, and the
    /// offset that stood in a failed one's place was another's.
    #[test]
    fn the_first_line_that_failed_is_named_and_those_behind_it_are_counted() {
        let mut fates = Fates::default();
        fates.note_appended();
        fates.note_problem(not_written());
        fates.note_appended();
        fates.note_problem(Error::ChunkGone.into());
        fates.note_appended();
        fates.note_appended();
        fates.note_problem(not_written());
        fates.note_problem(Error::NotTried.into());
        assert_eq!((fates.next(), fates.are_good()), (9, false));
        let problem = told(&mut fates, Some(80), 8);
        assert_eq!(
            problem.to_string(),
            "line 2 was not appended: it can't be written (waited 3s): nobody answered; of the lines behind it \
             1 failed, 1 are in doubt, 81 were not tried, these were appended: 3, 5-6"
        );
        assert_eq!(
            (problem.exit(), problem.hint()),
            (Exit::Unavailable, not_written().hint())
        );
    }

    #[test]
    fn what_is_not_read_is_not_counted() {
        let mut fates = Fates::default();
        fates.note_problem(Error::OutcomeUnknown { source: None }.into());
        let problem = told(&mut fates, None, 1).to_string();
        assert!(problem.starts_with("line 1 is in doubt: "), "{problem}");
        assert!(
            problem.ends_with("; none behind line 1 was tried"),
            "{problem}"
        );
    }

    #[test]
    fn many_ranges_are_cut_short() {
        let all: Vec<_> = (0..20).map(|n| n * 10..=n * 10 + 2).collect();
        let text = ranges(&all);
        assert!(text.ends_with("150-152, and 12 more"), "{text}");
    }
}
