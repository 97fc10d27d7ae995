//! Whole clusters of real processes: what a user sees, through failures too.

mod bad_input;
mod chance;
mod damage;
mod files;
mod folders;
mod hangs;
mod harness;
mod http;
mod names;
mod restarts;
