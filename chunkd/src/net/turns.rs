//! The turns of one data plane, all its threads together: [`crate::core::turns`] decides.
//!
//! Who takes a turn on one thread may be let in by what ends on another. A turn ends when it is
//! dropped, wherever that is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::counters::Counter;
use crate::core::turns::{self, Begun, Client, PATIENCE, WaitId};

/// All that take turns.
#[derive(Debug)]
pub(super) struct Turns {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    core: turns::Turns,
    waiting: HashMap<WaitId, oneshot::Sender<()>>,
}

/// A connection, or a stream, of a client; leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    turns: Arc<Turns>,
    client: Client,
}

/// A turn that has begun; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    member: Arc<Member>,
}

impl Turns {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            inner: Mutex::default(),
        })
    }

    pub(super) fn enter(self: &Arc<Self>, client: Client) -> Arc<Member> {
        self.act(|core, _| core.enter(client));
        Arc::new(Member {
            turns: Arc::clone(self),
            client,
        })
    }

    /// Has the core do something, and lets in whom it then lets in.
    fn act<T>(&self, act: impl FnOnce(&mut turns::Turns, std::time::Duration) -> T) -> T {
        self.act_in(&mut self.lock(), act)
    }

    fn act_in<T>(
        &self,
        inner: &mut Inner,
        act: impl FnOnce(&mut turns::Turns, std::time::Duration) -> T,
    ) -> T {
        let done = act(&mut inner.core, self.began.elapsed());
        while let Some(wait) = inner.core.poll_granted() {
            if let Some(waiter) = inner.waiting.remove(&wait) {
                // One that is just being dropped finds that it was let in.
                let _ = waiter.send(());
            }
        }
        done
    }

    /// Also after a panic elsewhere: what is under it is whole between calls.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// The turn of a frame of so many bytes, once it may begin. `held` counts those that wait.
    pub(super) async fn turn(self: &Arc<Self>, bytes: impl Into<u64>, held: &Counter) -> Turn {
        let bytes = bytes.into();
        let begun = {
            let mut inner = self.turns.lock();
            let begin = |core: &mut turns::Turns, now| core.begin(now, self.client, bytes);
            match self.turns.act_in(&mut inner, begin) {
                Begun::Now => None,
                Begun::Later(wait) => {
                    let (waiter, granted) = oneshot::channel();
                    inner.waiting.insert(wait, waiter);
                    Some((wait, granted))
                }
            }
        };
        if let Some((wait, granted)) = begun {
            held.add(1);
            Waiting { member: self, wait }.until(granted).await;
        }
        Turn {
            member: Arc::clone(self),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.turns.act(|core, now| core.leave(now, self.client));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let client = self.member.client;
        self.member.turns.act(|core, now| core.end(now, client));
    }
}

/// A turn that waits; given up on drop.
struct Waiting<'a> {
    member: &'a Arc<Member>,
    wait: WaitId,
}

impl Waiting<'_> {
    async fn until(self, mut granted: oneshot::Receiver<()>) {
        let (turns, client) = (&self.member.turns, self.member.client);
        // The sender is dropped only behind its word.
        while timeout(PATIENCE, &mut granted).await.is_err() {
            turns.act(|core, now| core.handle_timeout(now, client));
        }
        // It has begun: nothing is to be given up.
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (turns, client) = (&self.member.turns, self.member.client);
        let mut inner = turns.lock();
        let waits_still = inner.waiting.remove(&self.wait).is_some();
        turns.act_in(&mut inner, |core, now| match waits_still {
            true => core.give_up(client, self.wait),
            false => core.end(now, client),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::StartNonce;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    const MIB: u32 = 1024 * 1024;

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// A runtime, since timers want one; nothing waits in it.
    fn inside(test: impl FnOnce()) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        test();
    }

    #[test]
    fn a_turn_that_is_dropped_before_or_after_it_was_granted_leaves_nothing_behind() {
        inside(|| {
            let (turns, held) = (Turns::new(), Counter::default());
            let one = turns.enter(Client::Dialer(StartNonce(1)));
            let many = turns.enter(Client::Dialer(StartNonce(2)));
            let other = poll(pin!(one.turn(MIB, &held))).expect("the first");
            let mut begun = Vec::new();
            let mut waits = loop {
                let mut turn = Box::pin(many.turn(MIB, &held));
                match poll(turn.as_mut()) {
                    Some(turn) => begun.push(turn),
                    None => break turn,
                }
            };
            let mut gives_up = Box::pin(many.turn(MIB, &held));
            assert!(poll(gives_up.as_mut()).is_none());
            assert_eq!(held.value(), 2);
            drop(gives_up);
            begun.clear();
            // Granted by the end of the others, seen by nobody: it is to end by itself.
            assert!(turns.lock().waiting.is_empty());
            let mut second = Box::pin(many.turn(MIB, &held));
            assert!(poll(second.as_mut()).is_none());
            assert!(poll(waits.as_mut()).is_some());
            assert!(poll(second.as_mut()).is_some(), "the first has ended");
            drop((waits, second, other));
            drop((one, many));
            let debris = format!("{:?}", turns.lock().core);
            assert!(
                debris.contains("shares: {}") && debris.contains("in_hand: 0"),
                "{debris}"
            );
        });
    }
}
