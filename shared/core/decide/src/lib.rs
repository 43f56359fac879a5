//! Governance decisions, without I/O: snapshots, a view of the request, the time and randomness in; a decision out.
//!
//! The same code decides in the proxy, in the tools that explain, and in replay. [`schema`] is what a table's payload
//! may say, [`policy`] joins the tables into what a worker looks up, [`route`] says where a request goes, [`balance`]
//! which endpoint takes it, [`trace`] which trace it belongs to.

pub mod address;
pub mod balance;
pub mod policy;
pub mod random;
pub mod route;
pub mod route_labels;
pub mod schema;
pub mod trace;
