//! The sandbox as clients meet it, with grammers on the other end.

mod client;
mod connections;
mod control;
mod faults;
mod malformed;
mod sign_in;
mod update_stream;
