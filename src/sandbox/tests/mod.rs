//! The sandbox as clients meet it, with grammers on the other end.

mod client;
mod connections;
mod control;
mod data_centres;
mod faults;
mod hostile_server;
mod malformed;
mod messages;
mod methods;
mod pool;
mod raw;
mod sign_in;
mod updates;
mod whole_client;
