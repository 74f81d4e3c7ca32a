//! The API side of logins, without a worker.
