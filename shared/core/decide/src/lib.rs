//! Governance decisions, without I/O: snapshots, a view of the request, the time and randomness in; a decision out.
//!
//! The same code decides in the proxy, in the tools that explain, and in replay.
//!
//! | module | what |
//! | --- | --- |
//! | [`schema`] | what a table's payload may say |
//! | [`policy`], [`cluster`], [`limits`], [`rules`] | the tables joined into what a worker looks up |
//! | [`matching`], [`route`] | which route a request takes, and where that leads |
//! | [`rewriting`], [`cors`] | what a route changes, and what it answers itself |
//! | [`headers`] | what a header policy changes |
//! | [`balance`], [`load`], [`affinity`], [`hashing`] | which endpoint takes it |
//! | [`breaker`] | who is out, and for how long |
//! | [`retry`], [`budget`], [`deadline`] | whether it is tried again, and until when |
//! | [`gate`], [`bucket`] | how many may be under way, and how many a second |
//! | [`live`], [`usage`] | what a process remembers of a service between requests, and how full its limits are |
//! | [`trace`] | which trace it belongs to |

pub mod address;
pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod budget;
pub mod cluster;
pub mod cors;
pub mod deadline;
pub mod gate;
pub mod hashing;
pub mod headers;
pub mod hex;
pub mod limits;
pub mod live;
pub mod load;
pub mod matching;
pub mod policy;
pub mod random;
pub mod retry;
pub mod rewriting;
pub mod route;
pub mod route_labels;
pub mod rules;
pub mod schema;
pub mod trace;
pub mod usage;
