//! What the proxy does about a host that has nothing left to give; what it decides is in `pannier-central`.
//!
//! | file | what |
//! | --- | --- |
//! | `pressure` | what the kernel says about CPU: the controller's inputs |

#[allow(dead_code)] // Until the controller is fed.
pub mod pressure;
