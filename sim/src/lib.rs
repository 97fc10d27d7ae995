//! Whole clusters from a seed: the shipped cores of master, chunkserver and client, with the
//! shipped chunk store and operation log, on a virtual clock, a network and disks that do their
//! worst.
//!
//! One thread runs a seed, and everything in it follows from the seed: the same one gives the
//! same run, to the byte. Read in this order:
//!
//! - [`random`], [`clock`], [`trace`], [`counters`]: chance, time, what is told;
//! - [`disk`], [`net`]: the medium and the network, and what they may do;
//! - [`world`]: all of these together, and the events that are to come;
//! - [`node_master`], [`node_chunkserver`], [`node_client`]: the processes: shipped cores, and as
//!   little around them as there is around them in the programs;
//! - [`workload`], [`faults`]: what clients do, and what goes wrong;
//! - [`observation`], [`oracle`], [`invariants`]: what is seen, what is known to be right, what
//!   has to hold;
//! - [`cluster`]: a run from its start to its reckoning;
//! - [`version_model`]: beside all that, the rule of version changes in every order of one chunk's
//!   steps;
//! - [`far`]: by itself, one client and three chunkservers over links with a rate and a delay.
//!
//! `README.md` beside this crate says how to run it, what it found, and what is not simulated.

#![forbid(unsafe_code)]

pub mod clock;
pub mod cluster;
pub mod counters;
pub mod disk;
pub mod far;
pub mod faults;
pub mod invariants;
pub mod net;
pub mod node_chunkserver;
pub mod node_client;
pub mod node_master;
pub mod observation;
pub mod oracle;
pub mod random;
pub mod trace;
pub mod version_model;
pub mod workload;
pub mod world;
