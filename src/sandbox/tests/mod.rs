//! The sandbox as clients meet it, with grammers on the other end.

mod client;
mod sign_in;
