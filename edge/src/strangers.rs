//! Connections of peers that have not proved anything yet: bounded, and the oldest makes room.
//!
//! Whoever can reach a port can connect, say nothing, and take a descriptor for as long as a hello
//! may take (`spec/wire.md` section 2). A bound alone would let them shut everybody else out:
//! so a newcomer is always taken in, and above the bound the oldest has to go. An honest peer
//! needs milliseconds, and is never the oldest of many for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The strangers of one port.
#[derive(Debug)]
pub struct Strangers {
    max: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    last_number: u64,
    /// Oldest first.
    waiting: VecDeque<(u64, Instant, Arc<Notify>)>,
}

/// One of them, until it is dropped: when it has said hello, or has gone.
#[derive(Debug)]
pub struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    ousted: Arc<Notify>,
}

impl Strangers {
    /// Nobody yet; at most `max` at a time, and at least one.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            present: Mutex::default(),
        })
    }

    /// Takes one in. The oldest is told to go if they are too many now.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Stranger {
        let ousted = Arc::new(Notify::new());
        let mut present = self.present();
        present.last_number += 1;
        let number = present.last_number;
        present
            .waiting
            .push_back((number, Instant::now(), ousted.clone()));
        if present.waiting.len() > self.max
            && let Some((.., oldest)) = present.waiting.pop_front()
        {
            oldest.notify_one();
        }
        drop(present);
        Stranger {
            strangers: self.clone(),
            number,
            ousted,
        }
    }

    /// Waits until another one can be taken in without ousting one that came less than `stay` ago:
    /// those that come again as soon as they are ousted must not keep a processor busy.
    pub async fn until_room(&self, stay: Duration) {
        while let Some(entered) = self.oldest_if_full()
            && entered.elapsed() < stay
        {
            sleep_until(entered + stay).await;
        }
    }

    /// When the oldest came, if there is no room for another.
    fn oldest_if_full(&self) -> Option<Instant> {
        let present = self.present();
        let oldest = present.waiting.front().map(|it| it.1);
        oldest.filter(|_| present.waiting.len() >= self.max)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.present().waiting.len()
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // A panic can't leave the list half changed.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Returns when it has to go.
    pub async fn ousted(&self) {
        self.ousted.notified().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut present = self.strangers.present();
        let number = self.number;
        // Those in front came before; it is among the first, or was ousted.
        let place = present.waiting.binary_search_by_key(&number, |it| it.0);
        if let Ok(place) = place {
            present.waiting.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_ousted(stranger: &Stranger) -> bool {
        let ousted = pin!(stranger.ousted());
        ousted.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let strangers = Strangers::new(2);
        let (first, second) = (strangers.enter(), strangers.enter());
        assert!(!is_ousted(&first) && !is_ousted(&second));
        let third = strangers.enter();
        assert!(is_ousted(&first) && !is_ousted(&second) && !is_ousted(&third));
        assert_eq!(strangers.count(), 2);
        drop(third);
        drop(first);
        let _fourth = strangers.enter();
        assert!(!is_ousted(&second), "there was room");
        let _fifth = strangers.enter();
        assert!(is_ousted(&second));
    }
}
