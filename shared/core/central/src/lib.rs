//! The Central Mesh, as far as it is decided: when work leaves a host, how much of it, and who may take it.
//!
//! Pure: time, randomness and what was measured are arguments.

pub mod config;
pub mod order;
pub mod ledger;
