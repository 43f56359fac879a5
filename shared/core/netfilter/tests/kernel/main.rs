//! The redirect in a real kernel: hosts that are network namespaces, servers that say who they are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod admissions;
mod cost;
mod foreign;
mod guard;
mod network;
mod processes;
mod refusals;
mod server;
mod shares;
