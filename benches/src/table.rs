//! Figures beside their limits, and what invalidates them.

use std::fmt;

use crate::measure::Series;

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Millions of bytes a second.
    Megabytes,
    /// Operations a second.
    Operations,
    /// Microseconds for one operation, the median: less is better.
    Microseconds,
}

impl Unit {
    fn of(self, series: &Series) -> f64 {
        match self {
            Self::Megabytes => series.per_second() / 1e6,
            Self::Operations => series.per_second(),
            Self::Microseconds => series.p50_us().unwrap_or(f64::NAN),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Megabytes => "MB/s",
            Self::Operations => "/s",
            Self::Microseconds => "us",
        })
    }
}

/// A reference loop's own rate.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Which loop.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Its runs.
    pub series: Series,
    /// What it reached on the machine that the project is measured on, idle; `None` where nothing
    /// is known.
    pub known: Option<f64>,
}

impl Reference {
    /// Whether it fell a third below what is known: then something else had the machine, or it is
    /// another one, and figures beside it say nothing.
    #[must_use]
    pub fn is_low(&self) -> bool {
        let rate = self.unit.of(&self.series);
        self.known.is_some_and(|known| rate < known * 2.0 / 3.0)
    }
}

/// A figure beside its limit.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Sarsen.
    pub ours: Series,
    /// What it is held against.
    pub limit_name: String,
    /// The limit.
    pub limit: Series,
    /// What ratio is aimed at, in words.
    pub goal: String,
}

/// Everything that a run of the table found.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The reference loops.
    pub references: Vec<Reference>,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Table {
    /// The references that are too low.
    #[must_use]
    pub fn low(&self) -> Vec<&Reference> {
        let references = self.references.iter();
        references.filter(|reference| reference.is_low()).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44} {:>9} {:<5} {:>17} {:>8} {:>9}",
            "reference loop", "median", "", "lowest..highest", "CPU s/GiB", "known"
        )?;
        self.references
            .iter()
            .try_for_each(|it| write!(f, "{it}"))?;
        writeln!(
            f,
            "\n{:<44} {:>9} {:>9} {:<5} {:>5} {:<16} {:>6} {:>6} {:>5}  limit",
            "figure", "Sarsen", "limit", "", "ratio", "goal", "CPU", "limit", "ratio"
        )?;
        self.rows.iter().try_for_each(|it| write!(f, "{it}"))?;
        let told = |row: &&Row| row.ours.cpu_by_process().len() > 1;
        writeln!(f, "\nCPU s/GiB by process")?;
        for row in self.rows.iter().filter(told) {
            let ours = by_process(&row.ours);
            let limit = by_process(&row.limit);
            writeln!(
                f,
                "{:<44} {ours}\n{:<44} {limit}",
                row.name,
                format!("  {}", row.limit_name)
            )?;
        }
        Ok(())
    }
}

fn by_process(series: &Series) -> String {
    let told = series.cpu_by_process();
    let told = told
        .iter()
        .map(|(name, seconds)| format!("{name} {seconds:.2}"));
    told.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        let scale = match unit {
            Unit::Megabytes => 1e-6,
            Unit::Operations | Unit::Microseconds => 1.0,
        };
        let (low, high) = self.series.spread();
        let spread = format!("{:.0}..{:.0}", low * scale, high * scale);
        let known = self
            .known
            .map_or(String::new(), |known| format!("{known:.0}"));
        let mark = if self.is_low() { "  TOO LOW" } else { "" };
        writeln!(
            f,
            "{:<44} {:>9.0} {unit:<5} {spread:>17} {:>9} {known:>9}{mark}",
            self.name,
            unit.of(&self.series),
            seconds(self.series.cpu_per_gib()),
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, ours, limit) = (self.unit, &self.ours, &self.limit);
        let (rate, limit_rate) = (unit.of(ours), unit.of(limit));
        let (cpu, limit_cpu) = (ours.cpu_per_gib(), limit.cpu_per_gib());
        let cpu_ratio = cpu.zip(limit_cpu).map(|(cpu, limit)| cpu / limit);
        writeln!(
            f,
            "{:<44} {rate:>9.0} {limit_rate:>9.0} {unit:<5} {:>5.2} {:<16} {:>6} {:>6} {:>5}  {}",
            self.name,
            rate / limit_rate,
            self.goal,
            seconds(cpu),
            seconds(limit_cpu),
            seconds(cpu_ratio),
            self.limit_name,
        )
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Sample;
    use std::time::Duration;

    fn series(amount: u64) -> Series {
        let mut series = Series::default();
        series.push(Sample {
            amount,
            elapsed: Duration::from_secs(1),
            ..Sample::default()
        });
        series
    }

    #[test]
    fn a_loop_a_third_below_what_is_known_is_told() {
        let reference = |megabytes: u64, known| Reference {
            name: "loop".to_owned(),
            unit: Unit::Megabytes,
            series: series(megabytes * 1_000_000),
            known,
        };
        assert!(reference(66, Some(100.0)).is_low());
        assert!(!reference(67, Some(100.0)).is_low());
        assert!(!reference(1, None).is_low());
        let table = Table {
            references: vec![reference(66, Some(100.0))],
            rows: Vec::new(),
        };
        assert_eq!(table.low().len(), 1);
        assert!(table.to_string().contains("TOO LOW"));
    }

    #[test]
    fn a_row_tells_the_ratio() {
        let row = Row {
            name: "upload".to_owned(),
            unit: Unit::Megabytes,
            ours: series(30_000_000),
            limit_name: "relay".to_owned(),
            limit: series(40_000_000),
            goal: ">= 0.60".to_owned(),
        };
        let line = row.to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            ["upload", "30", "40", "MB/s", "0.75", ">=", "0.60", "relay"]
        );
    }
}
