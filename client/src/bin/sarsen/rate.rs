//! `--limit-rate`: bytes a second, as people write them.
//!
//! As with curl a letter alone is a power of 1024, so that `100M` is 100 MiB a second; `MB` is the
//! million bytes in which speeds are told.

use clap::Args;
use sarsen_client::RateLimit;
use sarsen_client::core::limit::RATE_MIN;

/// What a verb that moves bytes is told of how fast it may be.
#[derive(Args, Clone, Debug)]
pub(crate) struct RateArgs {
    /// Bytes a second at most, of all streams together, as 500K, 100M, 1GiB or 100MB
    #[arg(long, value_name = "RATE", value_parser = limit, allow_hyphen_values = true)]
    pub(crate) limit_rate: Option<RateLimit>,
}

/// Parses a rate; what is wrong with it tells what to do.
fn limit(text: &str) -> Result<RateLimit, String> {
    let rate = bytes(text).ok_or(
        "give a whole number of bytes a second, with K, M, G or KiB, MiB, GiB (powers of 1024) or \
         KB, MB, GB (powers of 1000), as in 100M",
    )?;
    let too_low = || {
        format!(
            "{rate} bytes a second move nothing; give at least {RATE_MIN} (1K), or leave the limit out"
        )
    };
    RateLimit::new(rate).ok_or_else(too_low)
}

/// A number of bytes with its unit.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|it: char| !it.is_ascii_digit());
    let (digits, unit) = text.split_at_checked(end.unwrap_or(text.len()))?;
    let unit: u64 = match unit.trim_start_matches(' ') {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_sizes_are() {
        for (text, rate) in [
            ("0", 0),
            ("2048", 2_048),
            ("500K", 512_000),
            ("500k", 512_000),
            ("64 KiB", 65_536),
            ("100M", 104_857_600),
            ("100MiB", 104_857_600),
            ("100MB", 100_000_000),
            ("1GiB", 1 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Some(rate), "{text}");
        }
        for text in [
            "",
            "M",
            "-1",
            "+1M",
            "1.5M",
            "1T",
            "1Mbit",
            "1M/s",
            "fast",
            "1é",
            "20000000000G",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn what_moves_nothing_is_refused_with_what_to_do() {
        for text in ["0", "1023", "0G"] {
            assert!(limit(text).unwrap_err().contains("at least 1024"), "{text}");
        }
        for text in ["-5M", "nonsense"] {
            assert!(limit(text).unwrap_err().contains("as in 100M"), "{text}");
        }
        assert!(limit("1K").is_ok());
    }
}
