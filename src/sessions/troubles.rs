//! Seeing a session through trouble on Telegram's side: a job has failed at its last attempt because of it. The session stays
//! held and connected, gets no jobs, and is called after rests that grow; when it answers, it is ready again.

use tokio::time::sleep;

use super::{held::HeldSession, holder::Holder, term::Term};
use crate::{
    config::SessionsConfig,
    store::sessions::{SessionState, StateChange},
};

/// Why a session is ready again that was degraded.
const ANSWERS: &str = "ANSWERS_AGAIN";

impl Term {
    /// Sees the session through one trouble after the other; never returns.
    pub(super) async fn see_through_troubles(&self, holder: &Holder, session: &HeldSession) {
        if session.trouble.is_there() {
            // From a holder before this one, long enough ago: the call that every connection begins with decides.
            let mut ready = session.connection.ready();
            if ready.wait_for(|answers| *answers).await.is_ok() {
                self.answers_again(holder, session).await;
            }
        }
        loop {
            let reason = session.trouble.met().await;
            holder.note_change();
            tracing::warn!(
                session.id = %self.key.session, reason,
                "Telegram's trouble outlasts a job: the session gets none until it answers"
            );
            // A limited session stays limited, and rests all the same.
            self.write_down(holder, &change(SessionState::Degraded, &reason)).await;
            self.wait_for_answer(holder, session).await;
            self.answers_again(holder, session).await;
        }
    }

    async fn wait_for_answer(&self, holder: &Holder, session: &HeldSession) {
        let mut rest = holder.settings.sessions.breaker_rest;
        loop {
            tokio::select! {
                () = sleep(rest) => {}
                () = session.trouble.hinted() => {}
            }
            // Apart: an idle session should not carry the room for a call around.
            match Box::pin(session.connection.probe()).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(session.id = %self.key.session, %error, "the session is still degraded"),
            }
            rest = (rest * 2).min(SessionsConfig::LONGEST_REST);
        }
    }

    async fn answers_again(&self, holder: &Holder, session: &HeldSession) {
        self.write_down(holder, &change(SessionState::Ready, ANSWERS)).await;
        session.trouble.end();
        holder.note_change();
    }
}

fn change(to: SessionState, reason: &str) -> StateChange {
    StateChange {
        to,
        reason: reason.to_owned(),
        incident: None,
    }
}
