//! The log of a daemon: events to stderr, as text for people or as JSON for machines.
//!
//! What is logged is chosen by the variable `SARSEN_LOG` in the manner of `tracing`'s filters,
//! as `warn` or `info,sarsen_chunkd=debug`; without it everything from `info` on. Times are
//! RFC 3339 in UTC. Results and the `ready` line go to stdout and are not part of the log.

use std::io::{self, IsTerminal as _};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::exit::{Exit, Explain};

/// The variable that chooses what is logged.
const FILTER_VARIABLE: &str = "SARSEN_LOG";

/// What is logged without it.
const FILTER_DEFAULT: &str = "info";

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Why there is no log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// `SARSEN_LOG` is not a filter.
    #[error("{FILTER_VARIABLE}: `{filter}` does not say what to log")]
    FilterInvalid {
        /// Its value.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process has a log already.
    #[error("the log was started twice")]
    StartedTwice,
}

impl Explain for LogError {
    fn exit(&self) -> Exit {
        match self {
            Self::FilterInvalid { .. } => Exit::Usage,
            Self::StartedTwice => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::FilterInvalid { .. } => Some(
                "give a level (error, warn, info, debug, trace), or one a crate, \
                 as in info,sarsen_chunkd=debug"
                    .to_owned(),
            ),
            Self::StartedTwice => None,
        }
    }
}

/// Starts the log of this process.
///
/// # Errors
///
/// As [`LogError`] tells.
pub fn start(format: LogFormat) -> Result<(), LogError> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| FILTER_DEFAULT.to_owned());
    let colours = io::stderr().is_terminal();
    subscriber(format, &filter, colours, io::stderr)?
        .try_init()
        .map_err(|_| LogError::StartedTwice)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogError::FilterInvalid {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_ansi(colours)
        // It would tell of a line that can't be written on stderr, which is what can't be written to,
        // and panic in whatever thread logged. That who read the log has gone is no daemon's end.
        .log_internal_errors(false)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> Vec<String> {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber.expect("a filter"), || {
            tracing::debug!("small");
            tracing::info!(server = 7, "registered\nand more");
        });
        let bytes = memory.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes)
            .expect("text")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn json_is_an_object_a_line_with_the_fields_of_the_event() {
        let lines = logged(LogFormat::Json, "info");
        assert_eq!(lines.len(), 1);
        let event: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(event["server"], 7);
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "registered\nand more");
        assert!(
            event["timestamp"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z'))
        );
    }

    #[test]
    fn text_names_level_message_and_fields_and_the_filter_chooses() {
        let lines = logged(LogFormat::Text, "debug");
        assert!(
            lines[0].contains("DEBUG") && lines[0].contains("small"),
            "{lines:?}"
        );
        let all = lines.concat();
        assert!(
            all.contains("registered") && all.contains("server=7"),
            "{all}"
        );
        assert!(logged(LogFormat::Text, "warn").is_empty());
    }

    #[test]
    fn a_wrong_filter_is_a_usage_error() {
        let error = subscriber(LogFormat::Text, "sarsen=loud", false, io::sink);
        let Err(error) = error else { panic!("taken") };
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("sarsen=loud"), "{error}");
    }
}
