//! [`RateLimit`]: what [`crate::core::limit`] decides, on the client's clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::core::limit::Limit;

/// Bytes a second for all transfers of a client that were given it or a clone of it.
///
/// Counted are the bytes of files, on the client's own link: what a chain of replicas passes on
/// among its members is not.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<Mutex<Limit>>);

impl RateLimit {
    /// At most `rate` bytes a second; `None` below [`crate::core::limit::RATE_MIN`].
    #[must_use]
    pub fn new(rate: u64) -> Option<Self> {
        Some(Self(Arc::new(Mutex::new(Limit::new(rate)?))))
    }

    /// Waits until so many bytes may be moved.
    pub(crate) async fn take(&self, clock: Clock, bytes: u32) {
        let paid_at = self.limit().take(clock.now(), bytes);
        clock.wait_until(Some(paid_at)).await;
    }

    /// What the bucket alone says.
    pub(crate) fn limit(&self) -> MutexGuard<'_, Limit> {
        // A panic can't leave the bucket half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
