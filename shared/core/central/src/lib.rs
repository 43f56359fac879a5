//! The Central Mesh, as far as it is decided: when work leaves a host, how much of it, and who may take it.
//!
//! Pure: time, randomness and what was measured are arguments.
//!
//! | file | what |
//! | --- | --- |
//! | `config`, `check` | the controller's numbers; which of them are refused, and why |
//! | `sample` | what one look at the host has measured, and what that means: hot, calm or neither |
//! | `window` | for how long an input was hot lately |
//! | `pause` | a Central that was down is not tried again at once |
//! | `controller` | the weight: what follows from all that |
//! | `order` | which requests leave first |
//! | `ledger` | the tokens of a Central: who may send it how much |
//! | `fleet` | a simulated day of many hosts and a Central |
//! | `random` | numbers that can be replayed |

pub mod check;
pub mod config;
pub mod controller;
pub mod fleet;
pub mod ledger;
pub mod order;
mod pause;
pub mod random;
pub mod sample;
mod window;
