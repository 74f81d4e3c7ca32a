//! Whether the session answers: a cheap call when it is connected, when it was silent for long, and when somebody asks.
//! Connected is not healthy; a call that came back is.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use grammers_mtsender::RpcError;
use grammers_tl_types as tl;
use tokio::{sync::watch, time::Instant};

use super::{CallError, Connection, FIRST_PAUSE, LONGEST_PAUSE, Loss};
use crate::{
    config::TelegramConfig,
    store::{
        floods::{self, Flood},
        sessions::{SessionState, StateChange},
    },
    telegram::errors::Meaning,
};

/// How a session that does not answer fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failing {
    /// In a row, since it last answered. Floods are answers.
    pub times: u32,
    /// What the last failure was, in words without anything of the account.
    pub error: String,
}

impl Connection {
    /// How often in a row it failed to answer when it was connected.
    pub fn failing(&self) -> watch::Receiver<Failing> {
        self.failing.subscribe()
    }

    /// A call came back, whatever it said.
    pub(super) fn note_answer(&self) {
        self.called.store(true, Ordering::Relaxed);
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Asks who we are until the answer comes: only then is the session healthy, and the updates are worth reading.
    pub(super) async fn check(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            // Apart: an idle session should not carry the room for a call around.
            match Box::pin(self.who_am_i()).await {
                Ok(()) => {
                    self.failing.send_replace(Failing::default());
                    self.ready.send_replace(true);
                    tracing::debug!(session.id = %self.storage.lease().session, "the session answers");
                    return;
                }
                Err(error) => {
                    tracing::warn!(session.id = %self.storage.lease().session, %error, "the session does not answer");
                    let flood = match &error {
                        CallError::Rpc(error) => Box::pin(self.record_flood("users.getUsers", error)).await,
                        _ => Duration::ZERO,
                    };
                    pause = pause.max(flood);
                    // Whether we may use it is no fault of the session's.
                    if flood.is_zero() && !matches!(error, CallError::LeaseLost | CallError::SessionLost(_)) {
                        self.note_failure(&error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn note_failure(&self, error: &CallError) {
        self.failing.send_modify(|failing| {
            failing.times += 1;
            failing.error = error.to_string();
        });
    }

    /// Calls a session that was silent for a while, so that it is known whether it answers, and probes its connection.
    pub(super) async fn stay_healthy(&self) {
        tokio::join!(Box::pin(self.call_at_times()), Box::pin(self.probe_silence()));
    }

    /// Finds a connection that died silently: on one that works grammers' pings are answered. The probe's deadline hangs up.
    async fn probe_silence(&self) {
        let mut probed: Option<Instant> = None;
        loop {
            let silent_until = self.relay.heard().max(probed.unwrap_or(self.relay.heard())) + self.settings.probe_after;
            tokio::time::sleep_until(silent_until).await;
            if self.relay.heard() + self.settings.probe_after > Instant::now() {
                continue;
            }
            probed = Some(Instant::now());
            // Apart: an idle session should not carry the room for a call around.
            if let Err(error) = Box::pin(self.probe_connection()).await {
                tracing::warn!(session.id = %self.storage.lease().session, %error, "the connection was silent");
            }
        }
    }

    /// Somewhere in the last third of the time, so that a thousand sessions that started together do not call together.
    async fn call_at_times(&self) {
        loop {
            let silent_until = self.answered_at() + self.settings.health_call.mul_f64(1.0 - fraction() / 3.0);
            tokio::time::sleep_until(silent_until).await;
            if self.answered_at() + self.settings.health_call * 2 / 3 > Instant::now() {
                continue;
            }
            let began = Instant::now();
            // Apart: an idle session should not carry the room for a call around.
            match Box::pin(self.who_am_i()).await {
                Ok(()) => {}
                Err(CallError::Rpc(error)) => {
                    tokio::time::sleep(Box::pin(self.record_flood("users.getUsers", &error)).await).await;
                }
                Err(error) => {
                    tracing::warn!(session.id = %self.storage.lease().session, %error, "the session does not answer");
                    tokio::time::sleep_until(began + LONGEST_PAUSE).await;
                }
            }
        }
    }

    fn answered_at(&self) -> Instant {
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One cheap call, for whoever wants to know whether the session works now; answers with how long it took.
    pub async fn probe(&self) -> Result<Duration, CallError> {
        let started = Instant::now();
        let answer = Box::pin(self.who_am_i()).await;
        if let Err(CallError::Rpc(error)) = &answer {
            Box::pin(self.record_flood("users.getUsers", error)).await;
        }
        answer.map(|()| started.elapsed())
    }

    /// Records the flood that a call of no job met, and answers with how long to wait; nothing for any other error.
    pub(in crate::telegram) async fn record_flood(&self, method: &str, error: &RpcError) -> Duration {
        if Meaning::of(error) != Meaning::Flood {
            return Duration::ZERO;
        }
        let seconds = error.value.unwrap_or(0);
        let flood = Flood {
            session: self.storage.lease().session,
            job: None,
            method,
            error: &error.name,
            seconds: i32::try_from(seconds).unwrap_or(i32::MAX),
            waited_in_place: true,
        };
        let recorded = async {
            let connection = self.storage.database().acquire().await;
            let mut connection = connection.map_err(crate::store::failed("record_flood"))?;
            floods::record(&mut connection, &flood).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(%error, seconds, "a flood was not recorded");
        }
        Duration::from_secs(seconds.into())
    }

    /// Whether anything comes back at all.
    async fn probe_connection(&self) -> Result<(), CallError> {
        let request = tl::functions::help::GetNearestDc {};
        let deadline = self.settings.call_deadline.min(TelegramConfig::PROBE_DEADLINE);
        match self.call_within(&request, &AtomicBool::new(false), deadline).await {
            Ok(_) | Err(CallError::Rpc(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn who_am_i(&self) -> Result<(), CallError> {
        let request = tl::functions::users::GetUsers {
            id: vec![tl::enums::InputUser::UserSelf],
        };
        let users = self.call(&request).await?;
        let myself = users.iter().find_map(|user| match user {
            tl::enums::User::User(user) if user.is_self => Some(user),
            _ => None,
        });
        match myself {
            Some(user) if user.id == self.storage.account_id() => {
                if let Err(error) = self.storage.save_username(user.username.as_deref()).await {
                    tracing::warn!(session.id = %self.storage.lease().session, %error, "the username was not stored");
                }
                Ok(())
            }
            Some(_) => {
                self.condemn(Loss::Session(StateChange {
                    to: SessionState::Quarantined,
                    reason: "OTHER_ACCOUNT".to_owned(),
                    incident: Some("session.other_account"),
                }));
                Err(CallError::SessionLost("OTHER_ACCOUNT".to_owned()))
            }
            None => Err(CallError::Unreadable),
        }
    }
}

/// From 0 to 1; in the middle when the system has no randomness to give.
fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
