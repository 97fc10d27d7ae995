//! Whole clusters of real processes: what a user sees, through failures too.

mod appender;
mod backpressure;
mod bad_input;
mod chance;
mod copied_ids;
mod crowd;
mod damage;
mod failover;
mod fair;
mod files;
mod fine;
mod folders;
mod growing;
mod hangs;
mod harness;
mod http;
mod kills;
mod limit_rate;
mod mutations;
mod names;
mod open_file;
mod repair;
mod restarts;
mod resume;
mod returning;
mod slow;
