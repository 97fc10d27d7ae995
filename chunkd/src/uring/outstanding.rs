//! How many requests of this thread the kernel has: each is counted from before it is made until
//! what it needs is given back.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static CHANGED: Rc<Notify> = Rc::default();
}

/// One request. It goes into what is kept for the request, and is dropped with it.
#[derive(Debug)]
pub(super) struct Counted(());

impl Counted {
    /// One more.
    pub(super) fn new() -> Self {
        COUNT.set(COUNT.get() + 1);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.set(COUNT.get() - 1);
        // Nobody can wait any more when the thread's own memory goes.
        let _ = CHANGED.try_with(|changed| changed.notify_one());
    }
}

/// Returns when there is none.
pub(super) async fn none() {
    let changed = CHANGED.with(Rc::clone);
    while COUNT.get() > 0 {
        // One that ends between the look and this is remembered.
        changed.notified().await;
    }
}
