//! Counting what is capped, in a transaction of its own that is committed before the call is made.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use grammers_session::types::{PeerId, PeerKind};
use wireroom_jobs::{
    Action,
    ports::{Decision, TelegramError},
};

use super::{JobTelegram, own_error};
use crate::{
    ids::SessionId,
    store::{
        self, PgPool, StoreError,
        caps::{self, Capped, Receipt, Spent, Taken, Use, Window},
    },
    telegram::gates::Gates,
};

/// A call that is counted, if it is of the sort that is. Given back when it is dropped before it was handed in, as by an
/// attempt that was cancelled meanwhile; a process that dies before has counted one too many.
pub(super) struct Counted {
    use_of: Option<UseOf>,
    /// From then on nobody but the connection knows whether it has left.
    pub(super) handed_in: AtomicBool,
}

/// Where a use is given back.
struct UseOf {
    receipt: Receipt,
    session: SessionId,
    database: PgPool,
    gates: Arc<Gates>,
}

impl Counted {
    /// Gives the use back: the call has not left, and never will.
    pub(super) async fn give_back(mut self) {
        if let Some(use_of) = self.use_of.take() {
            use_of.give_back().await;
        }
    }

    fn is_counted(&self) -> bool {
        self.use_of.is_some()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(use_of) = self.use_of.take() else { return };
        if !self.handed_in.load(Ordering::Acquire)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { use_of.give_back().await });
        }
    }
}

impl UseOf {
    async fn give_back(self) {
        let given_back = async {
            const OPERATION: &str = "give_cap_back";
            let mut conn = store::connection(&self.database, OPERATION).await?;
            let mut transaction = store::begin(&mut conn, OPERATION).await?;
            caps::give_back(&mut transaction, self.session, &self.receipt).await?;
            transaction.commit().await.map_err(store::failed(OPERATION))
        };
        match given_back.await {
            Ok(()) => {
                if let Some(spent) = self.receipt.spent() {
                    self.gates.unspend(spent);
                }
            }
            // Not tried again: it may have been done, and one too many is counted at worst.
            Err(error) => tracing::warn!(
                session.id = %self.session, error = &error as &dyn std::error::Error,
                "the use of a cap was not given back"
            ),
        }
    }
}

impl JobTelegram {
    /// Counts the call, or says that it may not be made now. A use that spends a cap closes its action at once, so that
    /// no job is claimed to find that out.
    pub(super) async fn spend(&self, action: Action, chat_id: Option<i64>) -> Result<Counted, TelegramError> {
        let Some(capped) = Capped::of(action) else {
            return Ok(self.counted(None));
        };
        let opens = chat_id.filter(|chat| capped == Capped::Message && is_person(*chat));
        let looks = self.gates.looks();
        let taken = self.take(capped, opens).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a call could not be counted");
            own_error(
                "store_failed",
                "The database did not answer, so Telegram was not called.",
                Decision::Retry,
            )
        })?;
        match taken.used {
            Use::Granted { spent } => {
                if let Some(spent) = spent {
                    self.gates.spend(spent, looks);
                }
                Ok(self.counted(taken.receipt))
            }
            Use::Refused(spent) => {
                let refusal = reached(&spent);
                let closes = spent.capped.closes();
                self.gates.spend(spent, looks);
                Err(match closes {
                    Some(action) => self.not_here(action, refusal),
                    None => refusal,
                })
            }
        }
    }

    /// After a call that gave no answer: what certainly has not left is given back.
    pub(super) async fn give_back_unless_it_left(&self, counted: Counted, sent: u64) {
        let was_handed_in = counted.handed_in.load(Ordering::Acquire);
        if counted.is_counted() && (!was_handed_in || self.connection.has_not_left(sent).await) {
            counted.give_back().await;
        }
    }

    fn counted(&self, receipt: Option<Receipt>) -> Counted {
        Counted {
            use_of: receipt.map(|receipt| UseOf {
                receipt,
                session: self.connection.storage().lease().session,
                database: self.settings.database.clone(),
                gates: Arc::clone(&self.gates),
            }),
            handed_in: AtomicBool::new(false),
        }
    }

    async fn take(&self, capped: Capped, opens: Option<i64>) -> Result<Taken, StoreError> {
        let session = self.connection.storage().lease().session;
        let mut transaction = self.begin("take_cap").await?;
        let taken = caps::take(&mut transaction, session, capped, opens).await?;
        transaction.commit().await.map_err(store::failed("take_cap"))?;
        Ok(taken)
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
