//! What the integration tests stand on: networks that fail on demand, real processes, and waiting with a bound.
//! Databases come from `wireroom::cluster::testing`.

pub mod bystander;
pub mod process;
pub mod proxy;
pub mod socks;
pub mod stack;
pub mod wait;
