//! Ctrl-C, and the system's word that we are to end.

use std::future::pending;
use std::process;

use sarsen_edge::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::GOODBYE_TIME_MAX;

/// Both signals, from when they were taken over.
pub(crate) struct Signals {
    /// Without handlers they end the process by themselves.
    taken: Option<[Signal; 2]>,
}

impl Signals {
    /// Takes them over.
    pub(crate) fn take() -> Self {
        let interrupt = signal(SignalKind::interrupt());
        let terminate = signal(SignalKind::terminate());
        let taken = match (interrupt, terminate) {
            (Ok(interrupt), Ok(terminate)) => Some([interrupt, terminate]),
            _ => None,
        };
        Self { taken }
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        let Some([interrupt, terminate]) = &mut self.taken else {
            return pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    /// Ends the process when an interruption came to nothing: at the second one, or when the goodbye would be
    /// over. The thread that runs the verb may stand in a write that nobody reads, and hears of neither.
    pub(crate) async fn end_at_last(mut self) {
        self.next().await;
        let _ = timeout(GOODBYE_TIME_MAX, self.next()).await;
        process::exit(Exit::Interrupted.code().into());
    }
}
