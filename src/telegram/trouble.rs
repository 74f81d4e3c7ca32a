//! Trouble on Telegram's side that outlasts a job's attempts: the port says that it is there, the holder sees the session
//! through it.

use tokio::sync::{Notify, watch};

/// What keeps one held session from its work.
#[derive(Debug)]
pub struct Trouble {
    /// Telegram's name of the error.
    reason: watch::Sender<Option<String>>,
    /// Somebody saw the session answer.
    hint: Notify,
}

impl Trouble {
    /// `reason`: it is there from the beginning.
    pub fn new(reason: Option<String>) -> Self {
        Self {
            reason: watch::Sender::new(reason),
            hint: Notify::new(),
        }
    }

    /// Notes that a job met trouble at its last attempt. The first reason stays.
    pub fn begin(&self, name: &str) {
        self.reason.send_if_modified(|reason| {
            let is_new = reason.is_none();
            if is_new {
                *reason = Some(name.to_owned());
            }
            is_new
        });
    }

    pub fn is_there(&self) -> bool {
        self.reason.borrow().is_some()
    }

    /// Returns with the reason when there is trouble.
    pub async fn met(&self) -> String {
        let mut reason = self.reason.subscribe();
        loop {
            if let Some(name) = reason.borrow_and_update().clone() {
                return name;
            }
            if reason.changed().await.is_err() {
                // The sender is in `self`, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn end(&self) {
        self.reason.send_replace(None);
    }

    /// A call came back: whoever sees the session through its trouble may look now.
    pub fn hint(&self) {
        if self.is_there() {
            self.hint.notify_one();
        }
    }

    /// Returns at the next [`Trouble::hint`].
    pub async fn hinted(&self) {
        self.hint.notified().await;
    }
}
