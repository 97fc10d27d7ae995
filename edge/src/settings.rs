//! The settings of a cluster: their keys, defaults and bounds, and where they are set.
//!
//! A key can be set on the command line (`--set KEY=VALUE`), in the environment
//! (`SARSEN_<KEY>`), and in a TOML file (`--config FILE`); the first of these that names it
//! counts. A value is checked wherever it stands, also where another place overrules it.
//!
//! The master's values hold for the whole cluster and are told at registration; of a
//! chunkserver's own only `io_threads` counts.
//!
//! Left out on purpose:
//! - A `SARSEN_` variable that names no key is passed over and not refused. Some have other
//!   uses, and container platforms set `SARSEN_PORT` and the like for a service of that name.
//! - Values are not checked against each other: one key may be set for a test without the rest.
//!   What will hardly work is told by [`Settings::warnings`].

mod units;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sarsen_protocol::size::{CHUNK_LEN_MAX, CHUNK_LEN_MIN};
use thiserror::Error;

use crate::exit::{Exit, Explain};

/// The values of all keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Time between two heartbeats of a chunkserver.
    pub heartbeat: Duration,
    /// Silence after which a server is not counted on.
    pub suspect_after: Duration,
    /// Silence after which a server is dead.
    pub dead_after: Duration,
    /// How long a primary may go on without renewal, and how long locations may be cached.
    pub lease: Duration,
    /// Time between a server's death and the repair of what it held.
    pub repair_grace: Duration,
    /// Time after which what was removed leaves the trash.
    pub trash_expiry: Duration,
    /// Time between two rounds of garbage collection.
    pub gc_interval: Duration,
    /// Age below which a chunk that no file names is spared.
    pub orphan_grace: Duration,
    /// Age at which an upload that nobody published is given up.
    pub pending_expiry: Duration,
    /// Replicas of a file that asks for no number of its own.
    pub replicas: u8,
    /// Replicas below which a change is not acknowledged.
    pub min_replicas: u8,
    /// Bytes of a chunk; `None` when not asked for: what the cluster was first started with,
    /// or [`CHUNK_SIZE_DEFAULT`] at its first start.
    pub chunk_size: Option<u32>,
    /// Part of the known chunks that must be reported before safe mode is left.
    pub safe_mode_fraction: f64,
    /// Time after which safe mode is left, whatever was reported.
    pub safe_mode_max: Duration,
    /// Repair copies that one server takes part in at a time.
    pub repair_streams_per_server: u32,
    /// Bytes a second that one server gives to repair; `None` is no limit.
    pub repair_rate_per_server: Option<NonZeroU64>,
    /// Time over which reads are counted to find hot chunks.
    pub hot_window: Duration,
    /// Reads a second from which on a chunk is hot.
    pub hot_reads_per_s: u32,
    /// Replicas that a hot chunk may have.
    pub hot_replicas_max: u8,
    /// Time in which every stored block is verified once.
    pub scrub_cycle: Duration,
    /// Threads of the data plane; `None` is one a core.
    pub io_threads: Option<NonZeroUsize>,
    /// Entries of the operation log between two checkpoints.
    pub checkpoint_entries: u64,
    /// Those of [`WITHOUT_EFFECT`] that were set.
    without_effect: BTreeSet<&'static str>,
}

/// Keys that nothing looks at yet. They are taken, since their names are promised; who sets one is
/// told ([`Settings::warnings`]).
const WITHOUT_EFFECT: &[&str] = &[
    "repair_rate_per_server",
    "hot_window",
    "hot_reads_per_s",
    "hot_replicas_max",
    "scrub_cycle",
];

/// The `chunk_size` of a cluster that was started without one.
pub const CHUNK_SIZE_DEFAULT: u32 = CHUNK_LEN_MAX;

const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(SECOND),
            suspect_after: Duration::from_secs(3 * SECOND),
            dead_after: Duration::from_secs(10 * SECOND),
            lease: Duration::from_secs(MINUTE),
            repair_grace: Duration::from_secs(30 * SECOND),
            trash_expiry: Duration::from_secs(3 * DAY),
            gc_interval: Duration::from_secs(10 * SECOND),
            orphan_grace: Duration::from_secs(HOUR),
            pending_expiry: Duration::from_secs(HOUR),
            replicas: 3,
            min_replicas: 2,
            chunk_size: None,
            safe_mode_fraction: 0.999,
            safe_mode_max: Duration::from_secs(MINUTE),
            repair_streams_per_server: 4,
            repair_rate_per_server: None,
            hot_window: Duration::from_secs(MINUTE),
            hot_reads_per_s: 200,
            hot_replicas_max: 8,
            scrub_cycle: Duration::from_secs(14 * DAY),
            io_threads: None,
            checkpoint_entries: 1_000_000,
            without_effect: BTreeSet::new(),
        }
    }
}

/// A key that can be set.
struct Key {
    name: &'static str,
    /// What it takes, for the person who gave something else.
    allowed: &'static str,
    /// Takes the value, or leaves the settings alone and gives `None`.
    set: fn(&mut Settings, &str) -> Option<()>,
}

const TIME: &str = "a time from 50ms to 36500d is allowed, with one of the units ms, s, m, h, d";
const REPLICAS: &str = "a whole number from 1 to 16 is allowed";
const COUNT: &str = "a whole number from 1 to 1024 is allowed";
const CHUNK_SIZE: &str = "a power of two from 1MiB to 64MiB is allowed";
const FRACTION: &str = "a number from 0 to 1 is allowed";
const RATE: &str = "bytes a second are allowed, with one of the units KiB, MiB, GiB or none; \
                    0 is no limit";
const READS: &str = "a whole number from 1 to 1000000000 is allowed";
const ENTRIES: &str = "a whole number from 1 to 1000000000000 is allowed";

/// A row of [`KEYS`]: the field is also the key, and the expression turns the text into it.
macro_rules! key {
    ($field:ident, $allowed:expr, |$text:ident| $value:expr) => {
        Key {
            name: stringify!($field),
            allowed: $allowed,
            set: |settings, $text| {
                settings.$field = $value?;
                Some(())
            },
        }
    };
}

const KEYS: &[Key] = &[
    key!(heartbeat, TIME, |text| units::time(text)),
    key!(suspect_after, TIME, |text| units::time(text)),
    key!(dead_after, TIME, |text| units::time(text)),
    key!(lease, TIME, |text| units::time(text)),
    key!(repair_grace, TIME, |text| units::time(text)),
    key!(trash_expiry, TIME, |text| units::time(text)),
    key!(gc_interval, TIME, |text| units::time(text)),
    key!(orphan_grace, TIME, |text| units::time(text)),
    key!(pending_expiry, TIME, |text| units::time(text)),
    key!(replicas, REPLICAS, |text| units::number(text, 1..=16)),
    key!(min_replicas, REPLICAS, |text| units::number(text, 1..=16)),
    key!(chunk_size, CHUNK_SIZE, |text| chunk_size(text).map(Some)),
    key!(safe_mode_fraction, FRACTION, |text| units::fraction(text)),
    key!(safe_mode_max, TIME, |text| units::time(text)),
    key!(repair_streams_per_server, COUNT, |text| units::number(
        text,
        1..=1024
    )),
    key!(repair_rate_per_server, RATE, |text| units::size(text)
        .map(NonZeroU64::new)),
    key!(hot_window, TIME, |text| units::time(text)),
    key!(hot_reads_per_s, READS, |text| units::number(
        text,
        1..=1_000_000_000
    )),
    key!(hot_replicas_max, REPLICAS, |text| units::number(
        text,
        1..=16
    )),
    key!(scrub_cycle, TIME, |text| units::time(text)),
    key!(io_threads, COUNT, |text| units::number(text, 1..=1024)
        .map(NonZeroUsize::new)),
    key!(checkpoint_entries, ENTRIES, |text| units::number(
        text,
        1..=1_000_000_000_000
    )),
];

fn chunk_size(text: &str) -> Option<u32> {
    let size = u32::try_from(units::size(text)?).ok()?;
    let fits = size.is_power_of_two() && (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&size);
    fits.then_some(size)
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// By `--set`.
    CommandLine,
    /// By this variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// In this TOML file.
    File {
        /// Its name.
        path: PathBuf,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("--set"),
            Self::Environment { variable } => f.write_str(variable),
            Self::File { path } => write!(f, "{}", path.display()),
        }
    }
}

/// Why settings are not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// No key has this name.
    #[error("{origin}: `{key}` is not a key, so it can't be `{value}`")]
    KeyUnknown {
        /// The name.
        key: String,
        /// What it was to be set to.
        value: String,
        /// Where.
        origin: Origin,
    },
    /// The key can't have this value.
    #[error("{origin}: {key} can't be `{value}`: {allowed}")]
    ValueInvalid {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it can be.
        allowed: &'static str,
        /// Where it was set.
        origin: Origin,
    },
    /// A `--set` has no `=`.
    #[error("--set {text} is not of the form KEY=VALUE")]
    NotAPair {
        /// What was given.
        text: String,
    },
    /// The TOML file can't be read.
    #[error("the settings file {} can't be read", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} line {line}: {message}", path.display())]
    FileMalformed {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What the parser said.
        message: String,
    },
}

impl Explain for SettingsError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::KeyUnknown { .. } | Self::NotAPair { .. } => {
                let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
                Some(format!("the keys are {}", names.join(", ")))
            }
            Self::FileMalformed { .. } => {
                Some("a settings file has lines such as `heartbeat = \"1s\"`".to_owned())
            }
            Self::ValueInvalid { .. } | Self::FileUnreadable { .. } => None,
        }
    }
}

impl Settings {
    /// The settings of a daemon: the defaults, overruled by the TOML file `config`, that by the
    /// variables of `environment`, those by the `KEY=VALUE` texts of `set` (of two for the same
    /// key the later counts).
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, looked for in that order.
    pub fn load(
        config: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        set: &[String],
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if let Some(path) = config {
            let read = fs::read_to_string(path);
            let unreadable = |source| SettingsError::FileUnreadable {
                path: path.to_owned(),
                source,
            };
            settings.take_file(path, &read.map_err(unreadable)?)?;
        }
        settings.take_environment(environment)?;
        for text in set {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| SettingsError::NotAPair { text: text.clone() })?;
            settings.take(key.trim(), value.trim(), &Origin::CommandLine)?;
        }
        Ok(settings)
    }

    /// What is allowed but will hardly work as it is, or does nothing: for the log, a line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let rules = [
            (
                self.heartbeat >= self.suspect_after,
                "heartbeat is not below suspect_after: servers will be suspected between beats",
            ),
            (
                self.suspect_after > self.dead_after,
                "suspect_after is above dead_after: servers will be dead before suspected",
            ),
            (
                self.min_replicas > self.replicas,
                "min_replicas is above replicas: the lower of the two counts",
            ),
        ];
        let mut warnings: Vec<String> = rules
            .into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, warning)| warning.to_owned())
            .collect();
        for key in &self.without_effect {
            warnings.push(format!("{key} is set, and has no effect yet"));
        }
        warnings
    }

    fn take_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.as_bytes().iter().take(start);
            SettingsError::FileMalformed {
                path: path.to_owned(),
                line: 1 + before.filter(|&&byte| byte == b'\n').count(),
                message: error.message().to_owned(),
            }
        })?;
        let origin = Origin::File {
            path: path.to_owned(),
        };
        for (key, value) in table {
            let value = match value {
                toml::Value::String(text) => text,
                other => other.to_string(),
            };
            self.take(&key, &value, &origin)?;
        }
        Ok(())
    }

    fn take_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), SettingsError> {
        for (variable, value) in environment {
            let Some(variable) = variable.to_str() else {
                continue;
            };
            let Some(key) = variable.strip_prefix("SARSEN_") else {
                continue;
            };
            let is_key = |known: &&Key| known.name.to_ascii_uppercase() == key;
            if let Some(key) = KEYS.iter().find(is_key) {
                let origin = Origin::Environment {
                    variable: variable.to_owned(),
                };
                self.take(key.name, &value.to_string_lossy(), &origin)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &str, origin: &Origin) -> Result<(), SettingsError> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            let (key, value) = (key.to_owned(), value.to_owned());
            return Err(SettingsError::KeyUnknown {
                key,
                value,
                origin: origin.clone(),
            });
        };
        (known.set)(self, value).ok_or_else(|| SettingsError::ValueInvalid {
            key: known.name,
            value: value.to_owned(),
            allowed: known.allowed,
            origin: origin.clone(),
        })?;
        if WITHOUT_EFFECT.contains(&known.name) {
            self.without_effect.insert(known.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
