//! Values as people write them: whole numbers, fractions, times with a unit, sizes.
//!
//! `None` is all that is said about a wrong one: the settings' table knows what was allowed.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// The shortest time that can be set, short enough for tests.
const TIME_MIN: Duration = Duration::from_millis(50);

/// The longest, a hundred years: adding it to a clock can't overflow.
const TIME_MAX: Duration = Duration::from_hours(36_500 * 24);

/// A whole number in `range`, in decimal digits only.
pub(super) fn number<T: FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    range.contains(&number).then_some(number)
}

/// A number from 0 to 1, such as `0.999`.
pub(super) fn fraction(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let fraction: f64 = plain.then(|| text.parse().ok()).flatten()?;
    (0.0..=1.0).contains(&fraction).then_some(fraction)
}

/// A whole number with one of the units ms, s, m, h, d, as in `50ms`.
pub(super) fn time(text: &str) -> Option<Duration> {
    let (count, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "d" => 24 * 60 * 60 * 1_000,
        _ => return None,
    };
    let time = Duration::from_millis(count.checked_mul(milliseconds)?);
    (TIME_MIN..=TIME_MAX).contains(&time).then_some(time)
}

/// Bytes: a whole number with one of the units KiB, MiB, GiB, or none, as in `64MiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (count, unit) = split(text)?;
    let bytes: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    count.checked_mul(bytes)
}

/// A text's whole number and its unit, which a space may part.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("50ms", 50),
            ("1s", 1_000),
            ("90 s", 90_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("14d", 1_209_600_000),
            ("36500d", 3_153_600_000_000),
        ] {
            assert_eq!(
                time(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "1",
            "49ms",
            "0s",
            "-1s",
            "+1s",
            "1.5s",
            "1S",
            "1 week",
            "1s ",
            " 1s",
            "36501d",
            "18446744073709551615d",
            "18446744073709551616ms",
            "1é",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("4KiB", 4096),
            ("64 MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1MB",
            "1mib",
            "-1",
            "1.5GiB",
            "18446744073709551615KiB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_and_fractions() {
        assert_eq!(number("16", 1..=16_u8), Some(16));
        for text in ["", "0", "17", "256", "+3", " 3", "3.0", "0x3", "three"] {
            assert_eq!(number(text, 1..=16_u8), None, "{text}");
        }
        for (text, value) in [("0", 0.0), ("1", 1.0), ("0.999", 0.999), (".5", 0.5)] {
            assert_eq!(fraction(text), Some(value), "{text}");
        }
        for text in ["", ".", "1.001", "-0.5", "nan", "inf", "1e-3", "99%"] {
            assert_eq!(fraction(text), None, "{text}");
        }
    }
}
