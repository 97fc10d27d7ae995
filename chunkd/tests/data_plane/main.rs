//! The data plane from outside: real sockets and files, a scripted peer, three servers in one
//! process. Every test runs with epoll, and with io_uring where it is allowed.

#![expect(clippy::cast_possible_truncation, reason = "tests count small things")]

mod cluster;
mod crowds;
mod hangs;
mod hops;
mod hostile;
mod mutations;
mod peer;
mod reads;
mod seals;
mod writes;
