//! Delivering, over a database and an endpoint of the test's own.

mod bed;
mod delivering;
mod failing;
mod plans;
mod waiting;
