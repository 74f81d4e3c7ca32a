//! The chat a job is about.
