//! What was measured, as people and scripts read it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::table::{seconds, size};
use crate::transfer::mb_per_s;

/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// What was done, and how long it took.
#[derive(Debug)]
pub(super) struct Measured {
    /// Of each operation, rising.
    pub(super) times: Vec<Duration>,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Processor time of this process.
    pub(super) client_cpu: Duration,
    /// Of all chunkservers, if each told it before and after.
    pub(super) servers_cpu: Option<Duration>,
}

impl Measured {
    pub(super) fn document(&self, op: &str) -> Value {
        let servers = self.servers_cpu.and_then(|cpu| self.per_gib(cpu));
        json!({
            "op": op,
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "mb_per_s": mb_per_s(self.bytes, self.elapsed),
            "ops_per_s": self.ops_per_s(),
            "p50_us": self.percentile(0.5),
            "p99_us": self.percentile(0.99),
            "p999_us": self.percentile(0.999),
            "cpu_s_per_gib": { "client": self.per_gib(self.client_cpu), "servers": servers },
        })
    }

    pub(super) fn line(&self) -> String {
        let percentile = |part| self.percentile(part).unwrap_or_default();
        let mut line = format!(
            "{} operations, {} in {}: {:.0} /s, {:.1} MB/s; p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
            self.times.len(),
            size(self.bytes),
            seconds(self.elapsed),
            self.ops_per_s(),
            mb_per_s(self.bytes, self.elapsed),
            percentile(0.5),
            percentile(0.99),
            percentile(0.999),
        );
        let all = [
            ("client", Some(self.client_cpu)),
            ("servers", self.servers_cpu),
        ];
        for (who, cpu) in all {
            if let Some(cpu) = cpu.and_then(|cpu| self.per_gib(cpu)) {
                line.push_str(&format!("; {who} {cpu:.2} CPU s/GiB"));
            }
        }
        line
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown with a few digits"
    )]
    fn ops_per_s(&self) -> f64 {
        match self.elapsed.is_zero() {
            true => 0.0,
            false => self.times.len() as f64 / self.elapsed.as_secs_f64(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is shown with a few digits")]
    fn per_gib(&self, cpu: Duration) -> Option<f64> {
        (self.bytes > 0).then(|| cpu.as_secs_f64() * GIB / self.bytes as f64)
    }

    /// Microseconds in which this part of the operations was done.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count is a count"
    )]
    fn percentile(&self, part: f64) -> Option<f64> {
        let place = (self.times.len() as f64 * part) as usize;
        let time = self.times.get(place).or(self.times.last())?;
        Some(time.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_done() {
        let measured = |count: u64| Measured {
            times: (1..=count).map(Duration::from_micros).collect(),
            bytes: 1 << 20,
            elapsed: Duration::from_secs(2),
            client_cpu: Duration::from_secs(1),
            servers_cpu: Some(Duration::from_secs(2)),
        };
        let many = measured(1000);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| many.percentile(part));
        let rounded = |us: Option<f64>| us.map(f64::round);
        assert_eq!(rounded(p50), Some(501.0));
        assert_eq!(rounded(p99), Some(991.0));
        assert_eq!(rounded(p999), Some(1000.0));
        let none = measured(0);
        assert_eq!(none.percentile(0.5), None);
        let document = many.document("append");
        assert_eq!(document["ops_per_s"], 500.0);
        assert_eq!(document["cpu_s_per_gib"]["client"], 1024.0);
        assert_eq!(document["cpu_s_per_gib"]["servers"], 2048.0);
    }
}
