//! Samples and their medians.

use std::time::Duration;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// Bytes of a gibibyte.
pub const GIB: u64 = 1 << 30;

/// What was done in one run.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Bytes or operations.
    pub amount: u64,
    /// From the first to the last of them.
    pub elapsed: Duration,
    /// Processor time of each process that took part, by its name; empty where it is not told.
    pub cpu: Vec<(String, Duration)>,
    /// The median time of one operation, where single ones were timed.
    pub p50: Option<Duration>,
}

impl Sample {
    /// Amount a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.amount as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Processor seconds for a GiB, of all processes.
    #[must_use]
    pub fn cpu_per_gib(&self) -> f64 {
        self.cpu.iter().map(|(_, time)| self.per_gib(*time)).sum()
    }

    fn per_gib(&self, time: Duration) -> f64 {
        time.as_secs_f64() * GIB as f64 / self.amount.max(1) as f64
    }
}

/// The samples of one figure, all taken under the same conditions.
#[derive(Clone, Debug, Default)]
pub struct Series {
    samples: Vec<Sample>,
}

impl Series {
    /// Adds a run.
    pub fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Whether there is no run yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The median of amount a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        median(self.samples.iter().map(Sample::per_second).collect())
    }

    /// The lowest and the highest of amount a second.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let rates = self.samples.iter().map(Sample::per_second);
        rates.fold((f64::INFINITY, 0.0), |(low, high), rate| {
            (rate.min(low), rate.max(high))
        })
    }

    /// The median of processor seconds for a GiB; `None` where they were not measured.
    #[must_use]
    pub fn cpu_per_gib(&self) -> Option<f64> {
        let told = self.samples.iter().filter(|sample| !sample.cpu.is_empty());
        let told: Vec<f64> = told.map(Sample::cpu_per_gib).collect();
        (!told.is_empty()).then(|| median(told))
    }

    /// The same for each process, in the order in which the first run names them.
    #[must_use]
    pub fn cpu_by_process(&self) -> Vec<(String, f64)> {
        let Some(first) = self.samples.first() else {
            return Vec::new();
        };
        let of = |name: &str| {
            let times = self.samples.iter().flat_map(|sample| {
                let named = sample.cpu.iter().filter(move |(it, _)| it == name);
                named.map(|(_, time)| sample.per_gib(*time))
            });
            median(times.collect())
        };
        let names = first.cpu.iter().map(|(name, _)| name);
        names.map(|name| (name.clone(), of(name))).collect()
    }

    /// The median of the runs' median times of one operation, in microseconds.
    #[must_use]
    pub fn p50_us(&self) -> Option<f64> {
        let times = self.samples.iter().filter_map(|sample| sample.p50);
        let times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e6).collect();
        (!times.is_empty()).then(|| median(times))
    }
}

/// The middle one of `values`; of an even number the upper of the two; NaN of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The middle one of some times.
#[must_use]
pub fn median_time(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// One way to be measured: a name, and what does one run.
pub type Way<'a> = (&'a str, &'a mut dyn FnMut() -> anyhow::Result<Sample>);

/// Measures all `ways` in turn, `runs` times, and says on stderr how it goes. A round before that
/// touches the memory, and does not count.
///
/// # Errors
/// That of the first run that fails.
pub fn alternate(runs: usize, ways: &mut [Way<'_>]) -> anyhow::Result<Vec<Series>> {
    let mut all = vec![Series::default(); ways.len()];
    for run in 0..=runs {
        for ((name, way), series) in ways.iter_mut().zip(&mut all) {
            let sample = way()?;
            let counts = if run == 0 { "first touch" } else { "" };
            let rate = sample.per_second();
            match sample.amount >= MIB {
                true => eprintln!("  {name:<36} {:>9.0} MB/s {counts}", rate / 1e6),
                false => eprintln!("  {name:<36} {rate:>9.0} /s {counts}"),
            }
            if run > 0 {
                series.push(sample);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(amount: u64, seconds: u64, cpu: &[(&str, u64)]) -> Sample {
        let cpu = cpu.iter();
        let cpu = cpu.map(|&(name, seconds)| (name.to_owned(), Duration::from_secs(seconds)));
        Sample {
            amount,
            elapsed: Duration::from_secs(seconds),
            cpu: cpu.collect(),
            p50: None,
        }
    }

    #[test]
    fn figures_are_medians_and_the_first_round_does_not_count() {
        let mut runs = [100, 4, 1, 2].into_iter();
        let mut next = || {
            Ok(sample(
                GIB,
                runs.next().expect("a run"),
                &[("a", 2), ("b", 1)],
            ))
        };
        let series = alternate(3, &mut [("it", &mut next)]).expect("runs");
        let series = series.first().expect("one way");
        assert_eq!(series.per_second(), GIB as f64 / 2.0);
        assert_eq!(series.spread(), (GIB as f64 / 4.0, GIB as f64));
        assert_eq!(series.cpu_per_gib(), Some(3.0));
        let by_process = [("a".to_owned(), 2.0), ("b".to_owned(), 1.0)];
        assert_eq!(series.cpu_by_process(), by_process);
    }
}
