//! A daemon's life as seen from outside: the `ready` line, and how it is told to end.
//!
//! The first SIGTERM or SIGINT asks it to drain: it finishes what it took on and exits 0. The
//! second ends it at once, whatever it is doing. While it starts it has taken on nothing: the first
//! ends it then, with 0 too, however long a log or a disk would take it. What it leaves is what a
//! crash leaves.

use std::fmt;
use std::io::{self, Write as _};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::address::HostPort;

/// Where a daemon serves, as its one line on stdout tells.
///
/// The master prints it when its ports serve, also in safe mode; `chunkd` once it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The control port.
    pub control: HostPort,
    /// The data port; the master has none.
    pub data: Option<HostPort>,
    /// The HTTP port.
    pub http: HostPort,
}

impl Ready {
    /// Prints the line, flushed, so that who started us through a pipe can go on.
    ///
    /// # Errors
    ///
    /// When stdout can't be written; a daemon may go on, since nobody waits for its line then.
    pub fn print(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{self}")?;
        stdout.flush()
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready control={}", self.control)?;
        if let Some(data) = &self.data {
            write!(f, " data={data}")?;
        }
        write!(f, " http={}", self.http)
    }
}

/// Raises the soft limit of open descriptors to the hard one; how many there may be then.
///
/// A daemon holds one for each connection and each open file, and the usual soft limit of 1,024
/// is for programs that call `select`.
#[must_use]
pub fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
    descriptors()
}

/// How many open descriptors there may be.
#[must_use]
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A daemon that does not serve yet: a signal ends it at once.
#[derive(Debug)]
pub struct Starting {
    drain: Drain,
    /// Held by the thread that ends the process, so that nothing is begun beside it.
    is_starting: Arc<Mutex<bool>>,
}

impl Starting {
    /// Takes over SIGTERM and SIGINT of this process, from a thread of its own: they must end
    /// also a daemon whose disk or runtimes are stuck.
    ///
    /// # Errors
    ///
    /// When the thread can't be started or the signals can't be taken.
    pub fn on_signals() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            Signals {
                term: signal(SignalKind::terminate())?,
                int: signal(SignalKind::interrupt())?,
            }
        };
        let (sender, receiver) = watch::channel(false);
        let is_starting = Arc::new(Mutex::new(true));
        let drain = Drain(receiver);
        let starting = Self {
            drain,
            is_starting: is_starting.clone(),
        };
        let wait = move || {
            runtime.block_on(async {
                let first = signals.next().await;
                end_if(&is_starting, first.name);
                tracing::info!(signal = first.name, "draining; another signal ends at once");
                // Nobody listens when the daemon is at its end already.
                let _ = sender.send(true);
                let second = signals.next().await;
                tracing::warn!(signal = second.name, "ended before everything was drained");
                process::exit(second.exit_code());
            });
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)?;
        Ok(starting)
    }

    /// From now on there is something to drain, or to be put away. Does not return when a signal
    /// has come before.
    #[must_use]
    pub fn serve(self) -> Drain {
        let mut is_starting = self
            .is_starting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *is_starting = false;
        self.drain
    }
}

/// Ends the process if it does not serve yet.
fn end_if(is_starting: &Mutex<bool>, signal: &str) {
    let is_starting = is_starting.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_starting {
        tracing::info!(signal, "ended before it served");
        process::exit(0);
    }
}

/// Tells the parts of a daemon that it is to drain.
///
/// Each part has a clone and waits with [`Drain::asked`].
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

impl Drain {
    /// Takes over SIGTERM and SIGINT of a process that has something to put away from its start on.
    ///
    /// # Errors
    ///
    /// As [`Starting::on_signals`].
    pub fn on_signals() -> io::Result<Self> {
        Ok(Starting::on_signals()?.serve())
    }

    /// Returns when the daemon is to drain; at once if it is already.
    pub async fn asked(&mut self) {
        // The sender lives as long as the process.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Whether the daemon is to drain.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}

struct Signals {
    term: Signal,
    int: Signal,
}

struct Received {
    name: &'static str,
    kind: SignalKind,
}

impl Signals {
    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.term.recv() => Received { name: "SIGTERM", kind: SignalKind::terminate() },
            _ = self.int.recv() => Received { name: "SIGINT", kind: SignalKind::interrupt() },
        }
    }
}

impl Received {
    /// What a shell reports for a process that this signal killed.
    fn exit_code(&self) -> i32 {
        128 + self.kind.as_raw_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_as_promised() {
        let address = |text: &str| text.parse().expect("an address");
        let mut ready = Ready {
            control: address("127.0.0.1:7400"),
            data: None,
            http: address("[::1]:7480"),
        };
        assert_eq!(
            ready.to_string(),
            "ready control=127.0.0.1:7400 http=[::1]:7480"
        );
        ready.data = Some(address("node7:9"));
        assert_eq!(
            ready.to_string(),
            "ready control=127.0.0.1:7400 data=node7:9 http=[::1]:7480"
        );
    }
}
