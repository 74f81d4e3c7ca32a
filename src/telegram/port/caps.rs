//! Counting what is capped, in a transaction of its own that is committed before the call is made.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use std::time::Duration;

use chrono::TimeDelta;
use grammers_session::types::{PeerId, PeerKind};
use uuid::Uuid;
use wireroom_jobs::{
    Action,
    ports::{Decision, TelegramError},
};

use super::{JobTelegram, WAITS_IN_PLACE, own_error};
use crate::{
    ids::SessionId,
    store::{
        self, PgPool, StoreError,
        caps::{self, Capped, Receipt, Spent, Taken, Use, Window},
        outreach_switch,
    },
    telegram::gates::Gates,
};

/// How long a call that was given up on is taken to be on its way still: it may leave with the session's next connection.
const LATE: Duration = Duration::from_mins(2);
/// Whoever lets outreach go on wakes the jobs that wait for it; this is the net.
const LOOK_AGAIN: TimeDelta = TimeDelta::hours(1);

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
    /// Counts the call, which sends `units` messages, or says that it may not be made now. A use that spends a cap closes its
    /// action at once, so that
    /// no job is claimed to find that out. A call that contacts somebody is known until its end is noted: `let_through`.
    pub(super) async fn spend(
        &self,
        action: Action,
        chat_id: Option<i64>,
        units: i32,
        let_through: &mut Option<Uuid>,
    ) -> Result<Counted, TelegramError> {
        let Some(capped) = Capped::of(action) else {
            return Ok(self.counted(None));
        };
        let opens = chat_id.filter(|chat| capped == Capped::Message && is_person(*chat));
        let looks = self.gates.looks();
        // Apart: a call that is counted should not carry its transaction around.
        let taken = Box::pin(self.take(capped, units, opens))
            .await
            .map_err(|error| not_asked(&error))?;
        let (taken, entered) = match taken {
            Ok(taken) => taken,
            Err(Shut::All) => return Err(self.outreach_is_stopped()),
            Err(Shut::Person(outcome)) => return Err(left_alone(outcome)),
        };
        match taken.used {
            Use::Granted { spent } => {
                if let Some(spent) = spent {
                    self.gates.spend(spent, looks);
                }
                *let_through = entered;
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
            // One of fewer messages may go out: no gate closes.
            Use::TooMany(spent) => Err(reached(&spent)),
            Use::Never(spent) => Err(own_error(
                "cap_too_small",
                &format!(
                    "The job would send {units} messages at once, and this session may send {} a day. Send fewer in one job.",
                    spent.cap
                ),
                Decision::Content,
            )),
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

    /// Counts, and lets a call of outreach through, in one transaction.
    async fn take(&self, capped: Capped, units: i32, opens: Option<i64>) -> Result<Pass, StoreError> {
        let session = self.connection.storage().lease().session;
        let mut transaction = self.begin("take_cap").await?;
        let mut let_through = None;
        if self.is_outreach(&mut transaction, capped, opens).await? {
            let bound = answer_bound(self.settings.call_deadline, self.settings.wait_in_place);
            let entered = outreach_switch::enter(&mut transaction, session, self.hooks.job, bound).await?;
            let Some(id) = entered else { return Ok(Err(Shut::All)) };
            if let Some(outcome) = self.contact.left_alone(&mut transaction).await? {
                return Ok(Err(Shut::Person(outcome)));
            }
            let_through = Some(id);
        }
        let taken = caps::take(&mut transaction, session, capped, units, opens).await?;
        if !matches!(taken.used, Use::Granted { .. })
            && let Some(id) = let_through.take()
        {
            outreach_switch::leave(&mut transaction, id).await?;
        }
        transaction.commit().await.map_err(store::failed("take_cap"))?;
        Ok(Ok((taken, let_through)))
    }

    /// A call of outreach has waited out a flood, and is about to be made again: whether it still may.
    pub(super) async fn ask_again(&self) -> Result<(), TelegramError> {
        let asked = async {
            let mut transaction = self.begin("ask_again").await?;
            let outcome = self.contact.left_alone(&mut transaction).await?;
            transaction.commit().await.map_err(store::failed("ask_again"))?;
            Ok::<_, StoreError>(outcome)
        };
        match asked.await {
            Ok(None) => Ok(()),
            Ok(Some(outcome)) => Err(left_alone(outcome)),
            Err(error) => Err(not_asked(&error)),
        }
    }

    /// Invitations, every message of a job that invites, and the first message to a person.
    async fn is_outreach(
        &self,
        conn: &mut store::PgConnection,
        capped: Capped,
        opens: Option<i64>,
    ) -> Result<bool, StoreError> {
        let session = self.connection.storage().lease().session;
        Ok(match (capped, opens) {
            (Capped::Invite, _) => true,
            (Capped::Message, Some(person)) => {
                self.hooks.action == Action::Invite || !outreach_switch::knows(conn, session, person).await?
            }
            (Capped::Message | Capped::Join | Capped::Dialogue, _) => false,
        })
    }

    fn outreach_is_stopped(&self) -> TelegramError {
        own_error(
            "outreach_stopped",
            "All outreach is stopped: GET /v1/outreach says why. The job goes on when somebody lets it.",
            Decision::Gate {
                until: self.settings.clock.now() + LOOK_AGAIN,
            },
        )
    }

    /// Notes that a call of outreach is over. One that cannot be noted is waited for until its bound.
    pub(super) async fn answered(&self, id: Uuid) {
        let left = async {
            let mut conn = self.database("leave_outreach_call").await?;
            outreach_switch::leave(&mut conn, id).await
        };
        if let Err(error) = left.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the end of a call of outreach was not noted"
            );
        }
    }
}

/// What became of asking for a call: it is counted, or its cap is spent; with what is to be noted when a call of outreach is over.
type Pass = Result<(Taken, Option<Uuid>), Shut>;

/// Why a call of outreach is not let through. Nothing was counted.
enum Shut {
    /// All outreach is stopped.
    All,
    /// The person is to be left alone: an outcome's code.
    Person(&'static str),
}

/// How long a call of outreach may be on its way: every time that it is made, with the floods that are waited out between, and what
/// comes late.
fn answer_bound(deadline: Duration, wait_in_place: Duration) -> Duration {
    deadline * (WAITS_IN_PLACE + 1) + wait_in_place * WAITS_IN_PLACE + LATE
}

fn left_alone(outcome: &str) -> TelegramError {
    let sentence = "The person was put on the list of those to leave alone in the moment before the call.";
    own_error(outcome, sentence, Decision::Person { suppress: false })
}

fn not_asked(error: &StoreError) -> TelegramError {
    tracing::warn!(error = error as &dyn std::error::Error, "a call could not be counted");
    own_error(
        "store_failed",
        "The database did not answer, so Telegram was not called.",
        Decision::Retry,
    )
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
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        assert_eq!(answer_bound(second, Duration::ZERO), second * 4 + LATE);
        assert!(answer_bound(second * 30, minute) > minute * 5, "whatever is configured");
        assert!(is_person(42) && !is_person(-42) && !is_person(-1_000_000_000_042));
    }
}
