//! The futures of one client, polled by hand.
//!
//! Whenever something arrives, or a time has come, all are polled, in the order in which they
//! were begun, and again for as long as one of them did something that another may wait for.
//! There are few, so no waker is needed, and the order is always the same.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sarsen_protocol::deframe::Frame;

use super::Client;
use crate::net::{ConnId, DialError, Hello};
use sarsen_protocol::message::Plane;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The futures.
#[derive(Default)]
pub(super) struct Tasks {
    running: RefCell<Vec<Task>>,
    begun: RefCell<Vec<Task>>,
    has_progressed: Cell<bool>,
    wake_at: Cell<Option<Duration>>,
}

impl Tasks {
    /// Drops all of them.
    pub(super) fn clear(&self) {
        let running = std::mem::take(&mut *self.running.borrow_mut());
        let begun = std::mem::take(&mut *self.begun.borrow_mut());
        drop((running, begun));
    }

    /// Polls until nothing goes on; when to do so again.
    pub(super) fn run(&self) -> Option<Duration> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.has_progressed.set(false);
            self.wake_at.set(None);
            let mut running = std::mem::take(&mut *self.running.borrow_mut());
            running.append(&mut self.begun.borrow_mut());
            running.retain_mut(|task| {
                let is_over = task.as_mut().poll(&mut context).is_ready();
                if is_over {
                    self.has_progressed.set(true);
                }
                !is_over
            });
            *self.running.borrow_mut() = running;
            if !self.has_progressed.get() && self.begun.borrow().is_empty() {
                return self.wake_at.get();
            }
        }
    }

    fn wait_until(&self, at: Duration) {
        let earliest = self.wake_at.get().map_or(at, |earlier| earlier.min(at));
        self.wake_at.set(Some(earliest));
    }
}

/// What came at a connection.
#[derive(Debug)]
pub enum Received {
    /// A frame.
    Frame(Frame),
    /// Its end.
    Ended,
    /// Nothing in time.
    Nothing,
}

impl Client {
    /// Begins something that goes on by itself.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.begun.borrow_mut().push(Box::pin(task));
    }

    /// Something changed that another future may wait for.
    pub fn progressed(&self) {
        self.tasks.has_progressed.set(true);
    }

    /// Ready at a time; never if there is none.
    pub async fn sleep_until(&self, at: Option<Duration>) {
        poll_fn(|_| match at {
            Some(at) if self.now() >= at => Poll::Ready(()),
            Some(at) => {
                self.tasks.wait_until(at);
                Poll::Pending
            }
            None => Poll::Pending,
        })
        .await;
    }

    /// Ready some time from now.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(Some(self.now() + time)).await;
    }

    /// Ready when `is_so`, or at a time, whichever comes first; whether it is so.
    pub async fn until(&self, at: Option<Duration>, is_so: impl Fn() -> bool) -> bool {
        poll_fn(|_| {
            if is_so() {
                return Poll::Ready(true);
            }
            match at {
                Some(at) if self.now() >= at => Poll::Ready(false),
                Some(at) => {
                    self.tasks.wait_until(at);
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Dials, for so long at the most.
    pub async fn dial(
        &self,
        address: &str,
        plane: Plane,
        time_max: Duration,
    ) -> Result<(ConnId, Hello), DialError> {
        let conn = self
            .world
            .dial(self.node, address, plane, Self::hello(), time_max);
        self.mail.borrow_mut().entry(conn).or_default();
        let mut dialling = Dialling {
            client: self,
            conn: Some(conn),
        };
        let dialled = poll_fn(|_| {
            let mut mail = self.mail.borrow_mut();
            match mail.get_mut(&conn).and_then(|mail| mail.dialled.take()) {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            }
        })
        .await;
        dialling.conn = None;
        if dialled.is_err() {
            self.mail.borrow_mut().remove(&conn);
        }
        dialled.map(|hello| (conn, hello))
    }

    /// What comes next at a connection, until a time.
    pub async fn receive(&self, conn: ConnId, until: Option<Duration>) -> Received {
        poll_fn(|_| {
            let mut mail = self.mail.borrow_mut();
            let Some(mail) = mail.get_mut(&conn) else {
                return Poll::Ready(Received::Ended);
            };
            if let Some(frame) = mail.frames.pop_front() {
                return Poll::Ready(Received::Frame(frame));
            }
            if mail.has_ended {
                return Poll::Ready(Received::Ended);
            }
            match until {
                Some(at) if self.now() >= at => Poll::Ready(Received::Nothing),
                Some(at) => {
                    self.tasks.wait_until(at);
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Whether a connection lies idle and can be used.
    #[must_use]
    pub fn is_quiet(&self, conn: ConnId) -> bool {
        let mail = self.mail.borrow();
        mail.get(&conn)
            .is_some_and(|mail| mail.frames.is_empty() && !mail.has_ended)
    }

    /// Ends a connection.
    pub fn hang_up(&self, conn: ConnId) {
        self.world.close(self.node, conn);
        self.mail.borrow_mut().remove(&conn);
        self.progressed();
    }
}

/// A dial whose end is waited for; given up on drop.
struct Dialling<'a> {
    client: &'a Client,
    conn: Option<ConnId>,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn {
            self.client.hang_up(conn);
        }
    }
}

/// A queue from one future to another of the same client.
pub struct Channel<T> {
    client: Rc<Client>,
    items: RefCell<VecDeque<T>>,
}

impl<T> Channel<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(client: &Rc<Client>) -> Rc<Self> {
        Rc::new(Self {
            client: Rc::clone(client),
            items: RefCell::default(),
        })
    }

    /// Puts something in.
    pub fn send(&self, item: T) {
        self.items.borrow_mut().push_back(item);
        self.client.progressed();
    }

    /// Takes the next out, or nothing at a time.
    pub async fn receive(&self, until: Option<Duration>) -> Option<T> {
        let is_here = || !self.items.borrow().is_empty();
        self.client.until(until, is_here).await;
        self.items.borrow_mut().pop_front()
    }
}
