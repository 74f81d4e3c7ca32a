//! Counting what is capped, in a transaction of its own that is committed before the call is made.

use grammers_session::types::{PeerId, PeerKind};
use wireroom_jobs::{
    Action,
    ports::{Decision, TelegramError},
};

use super::{JobTelegram, own_error};
use crate::store::{
    self, StoreError,
    caps::{self, Capped, Spent, Use, Window},
};

impl JobTelegram {
    /// Counts the call, or says that it may not be made now. A use that spends a cap closes its action at once, so that
    /// no job is claimed to find that out.
    pub(super) async fn spend(&self, action: Action, chat_id: Option<i64>) -> Result<(), TelegramError> {
        let Some(capped) = Capped::of(action) else {
            return Ok(());
        };
        let opens = chat_id.filter(|chat| capped == Capped::Message && is_person(*chat));
        let looks = self.gates.looks();
        let used = self.take(capped, opens).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a call could not be counted");
            own_error(
                "store_failed",
                "The database did not answer, so Telegram was not called.",
                Decision::Retry,
            )
        })?;
        match used {
            Use::Granted { spent } => {
                if let Some(spent) = spent {
                    self.gates.spend(spent, looks);
                }
                Ok(())
            }
            Use::Refused(spent) => {
                let refusal = reached(&spent);
                self.gates.spend(spent, looks);
                Err(refusal)
            }
        }
    }

    async fn take(&self, capped: Capped, opens: Option<i64>) -> Result<Use, StoreError> {
        let session = self.connection.storage().lease().session;
        let mut transaction = self.begin("take_cap").await?;
        let used = caps::take(&mut transaction, session, capped, opens).await?;
        transaction.commit().await.map_err(store::failed("take_cap"))?;
        Ok(used)
    }
}

fn is_person(chat: i64) -> bool {
    PeerId::from_bot_api_dialog_id(chat).is_some_and(|peer| peer.kind() == PeerKind::User)
}

/// The gate that a spent cap is.
pub(super) fn reached(spent: &Spent) -> TelegramError {
    own_error("cap_reached", &sentence(spent), Decision::Gate { until: spent.until })
}

fn sentence(spent: &Spent) -> String {
    let (cap, window) = (spent.cap, spent.window.as_str());
    let what = match spent.capped {
        Capped::Join => "join chats",
        Capped::Invite => "invite people",
        Capped::Message => "send messages",
        Capped::Dialogue => "write to people it has not written to before",
    };
    let times = match cap {
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    let article = match spent.window {
        Window::Hour => "an",
        Window::Minute | Window::Day => "a",
    };
    format!("This session may {what} {times} {article} {window}, and has.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_spent_cap_says_which_one_it_is() {
        let spent = Spent {
            capped: Capped::Join,
            window: Window::Hour,
            cap: 10,
            until: DateTime::UNIX_EPOCH,
            left: Duration::ZERO,
        };
        let error = reached(&spent);
        assert_eq!(error.code, "cap_reached");
        assert_eq!(error.message, "This session may join chats 10 times an hour, and has.");
        assert!(is_person(42) && !is_person(-42) && !is_person(-1_000_000_000_042));
    }
}
