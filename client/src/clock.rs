//! The client's one clock: the time since it was made, which the cores take as `now`.

use std::time::Duration;

use tokio::time::Instant;

/// Tells the time since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The instant at which [`Clock::now`] is `time`.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.0 + time
    }

    /// Waits until [`Clock::now`] is `time`; for ever if there is none.
    pub(crate) async fn wait_until(&self, time: Option<Duration>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time)).await,
            None => std::future::pending().await,
        }
    }
}
