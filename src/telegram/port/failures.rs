//! What the port does about a call that failed: the table's responses, carried out.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use grammers_mtsender::RpcError;
use tokio::time::sleep;
use wireroom_jobs::{
    Action,
    ports::{Decision, TelegramError},
};

use super::{GuardError, JobTelegram, WAITS_IN_PLACE, own_error};
use crate::{
    store::{
        self, StoreError,
        floods::{self, Flood},
        gates::{self, Opening},
        sessions,
    },
    telegram::{
        connection::CallError,
        errors::{Meaning, Reach, Response},
        session_storage::StorageError,
    },
};

/// The call that was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub action: Action,
    pub chat_id: Option<i64>,
    /// The TL method.
    pub method: &'static str,
}

impl JobTelegram {
    /// Does what the table says. `None`: the wait is over, and the call is to be made again.
    pub(super) async fn on_refusal(&self, call: Call, error: &RpcError, waits: u32) -> Option<TelegramError> {
        let meaning = Meaning::of(error);
        let decision = match meaning.response(error.value) {
            Response::Answer(decision) => decision,
            Response::ResolveAgain => Decision::Target,
            // The connection saw it first, hung up, and told the holder.
            Response::Lose => Decision::Session,
            Response::Wait { seconds, reach } => {
                let wait = Duration::from_secs(seconds.into());
                let in_place = wait <= self.settings.wait_in_place && waits < WAITS_IN_PLACE;
                self.record_flood(call, error, seconds, in_place).await;
                if in_place {
                    self.wait_in_place(wait).await;
                    return None;
                }
                let chat_id = call.chat_id.filter(|_| reach == Reach::Chat);
                let until = self
                    .close_gate(call.action, chat_id, &error.name, wait + jitter(wait))
                    .await;
                Decision::Gate { until }
            }
            Response::Degrade => {
                if self.hooks.is_last {
                    self.trouble.begin(&error.name);
                }
                Decision::Retry
            }
            Response::Full { span, decision } => {
                tracing::error!(error = %error.name, "the account is full: it joins no channel before it leaves one, or for a day");
                self.close_gate(Action::JoinChannel, None, &error.name, span).await;
                decision
            }
            Response::Limit => {
                self.limit(&error.name).await;
                Decision::Campaign
            }
            Response::LoseChat => {
                if let Some(chat_id) = call.chat_id {
                    self.lose_chat(chat_id, &error.name).await;
                }
                Decision::Target
            }
        };
        if decision == Decision::Bug {
            tracing::error!(
                method = call.method, code = error.code, error = %error.name,
                "Telegram refused in a way that is not expected"
            );
        }
        Some(TelegramError {
            code: error.name.clone(),
            message: meaning.sentence().to_owned(),
            decision,
        })
    }

    /// Sleeps, unless the session is lost meanwhile: the next call then says so.
    async fn wait_in_place(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.connection.trust().ended() => {}
        }
    }

    async fn record_flood(&self, call: Call, error: &RpcError, seconds: u32, waited_in_place: bool) {
        let flood = Flood {
            session: self.connection.storage().lease().session,
            job: Some(self.hooks.job),
            method: call.method,
            error: &error.name,
            seconds: i32::try_from(seconds).unwrap_or(i32::MAX),
            waited_in_place,
        };
        let recorded = async {
            let mut connection = self.database("record_flood").await?;
            floods::record(&mut connection, &flood).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(%error, seconds, "a flood was not recorded");
        }
    }

    /// Closes a gate in memory and in the store. The database's clock says when it opens; ours, when that is away.
    async fn close_gate(&self, action: Action, chat_id: Option<i64>, reason: &str, wait: Duration) -> DateTime<Utc> {
        let session = self.connection.storage().lease().session;
        let stored = async {
            let mut connection = self.database("close_gate").await?;
            gates::close(&mut connection, session, action, chat_id, reason, wait).await
        };
        let opens = stored.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a gate was closed in memory alone");
            Opening {
                at: self.settings.clock.now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX),
                left: wait,
            }
        });
        self.gates.close(action, chat_id, opens)
    }

    /// The account has left a supergroup or channel: there is room for one. In memory alone when the database is away.
    pub(super) async fn open_for_channels(&self) {
        if self.gates.closed(Action::JoinChannel).is_none() {
            return;
        }
        let session = self.connection.storage().lease().session;
        let stored = async {
            let mut connection = self.database("open_gate").await?;
            gates::open(&mut connection, session, Action::JoinChannel).await
        };
        if let Err(error) = stored.await {
            tracing::error!(%error, "a gate was opened in memory alone");
        }
        self.gates.open(Action::JoinChannel);
    }

    async fn limit(&self, reason: &str) {
        self.gates.limit();
        let change = sessions::StateChange {
            to: sessions::SessionState::Limited,
            reason: reason.to_owned(),
            incident: Some("session.limited"),
        };
        let lease = self.connection.storage().lease();
        let stored = async {
            let mut transaction = self.begin("limit_session").await?;
            sessions::change_state(&mut transaction, lease, &change).await?;
            let version = sessions::settings_version(&mut transaction, lease.session).await?;
            transaction.commit().await.map_err(store::failed("limit_session"))?;
            Ok::<_, StoreError>(version)
        };
        match stored.await {
            Ok(version) => self.gates.limit_is_stored(version),
            Err(error) => tracing::error!(%error, "that the account is limited was kept in memory alone"),
        }
    }

    async fn lose_chat(&self, chat_id: i64, reason: &str) {
        let lease = self.connection.storage().lease();
        let stored = async {
            let mut transaction = self.begin("lose_chat").await?;
            sessions::lose_chat(&mut transaction, lease, chat_id, reason).await?;
            transaction.commit().await.map_err(store::failed("lose_chat"))
        };
        if let Err(error) = stored.await {
            tracing::error!(%error, chat_id, "that access to a chat was lost was not stored");
        }
    }

    pub(super) async fn database(
        &self,
        operation: &'static str,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StoreError> {
        self.settings.database.acquire().await.map_err(store::failed(operation))
    }

    pub(super) async fn begin(
        &self,
        operation: &'static str,
    ) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
        self.settings.database.begin().await.map_err(store::failed(operation))
    }
}

/// A call that gave no answer: except for a lost lease, what became of it is not known.
pub(super) fn without_answer(error: &CallError) -> TelegramError {
    match error {
        CallError::Rpc(error) => TelegramError {
            code: error.name.clone(),
            message: Meaning::of(error).sentence().to_owned(),
            decision: Decision::Retry,
        },
        CallError::Deadline => own_error(
            "call_deadline",
            "Telegram did not answer in time; what became of the request is not known.",
            Decision::Retry,
        ),
        CallError::Disconnected(_) => own_error(
            "connection_lost",
            "The connection to Telegram was lost; what became of the request is not known.",
            Decision::Retry,
        ),
        CallError::Proxy { .. } => own_error(
            "proxy_failed",
            "The session's SOCKS5 proxy gave no connection to Telegram; what became of the request is not known.",
            Decision::Retry,
        ),
        CallError::Unreadable => own_error(
            "answer_unreadable",
            "Telegram's answer could not be read; what became of the request is not known.",
            Decision::Retry,
        ),
        CallError::LeaseLost => own_error(
            "lease_lost",
            "This worker may not use the session any more.",
            Decision::Session,
        ),
        CallError::SessionLost(reason) => TelegramError {
            code: reason.clone(),
            message: "The session is not connected any more: GET /v1/sessions/{id} says why.".to_owned(),
            decision: Decision::Session,
        },
    }
}

pub(super) fn gated(code: &str, until: DateTime<Utc>) -> TelegramError {
    own_error(
        code,
        "This session may not do this again until the gate opens.",
        Decision::Gate { until },
    )
}

/// As Telegram said when it was asked last, and nothing was left since.
pub(super) fn account_full() -> TelegramError {
    TelegramError {
        code: "CHANNELS_TOO_MUCH".to_owned(),
        message: Meaning::AccountFull.sentence().to_owned(),
        decision: Decision::Target,
    }
}

pub(super) fn limited() -> TelegramError {
    TelegramError {
        code: "PEER_FLOOD".to_owned(),
        message: Meaning::PeerFlood.sentence().to_owned(),
        decision: Decision::Campaign,
    }
}

pub(super) fn not_bound(error: &GuardError) -> TelegramError {
    match error {
        GuardError::Fenced => own_error("fenced", "Another attempt has taken this job over.", Decision::Retry),
        GuardError::Failed(source) => {
            tracing::warn!(error = source, "a job could not be bound to its session");
            own_error(
                "store_failed",
                "The database did not answer, so Telegram was not called.",
                Decision::Retry,
            )
        }
    }
}

pub(super) fn storage(error: &StorageError) -> TelegramError {
    tracing::warn!(%error, "the session's data could not be read");
    own_error(
        "store_failed",
        "The database did not answer, so Telegram was not called.",
        Decision::Retry,
    )
}

/// The session has never met the chat, and it has no name to ask by.
pub(super) fn not_met() -> TelegramError {
    TelegramError {
        code: "PEER_ID_INVALID".to_owned(),
        message: "This session has never met a chat of that id.".to_owned(),
        decision: Decision::Target,
    }
}

/// Up to a tenth more, at least up to a second: so that what waited for one gate does not start in one moment.
fn jitter(wait: Duration) -> Duration {
    let ceiling = (wait / 10).max(Duration::from_secs(1));
    let mut bytes = [0_u8; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return ceiling;
    }
    ceiling.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
