//! A QR login: a token that another client of the account scans. It is shown as a URL, made anew before it runs out, and asked
//! after whenever Telegram says anything.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;

use super::run::{Run, StepDone, StepError};
use crate::{
    store::{
        errand_work::{Reply, Work},
        errands::{ErrandProblem, ErrandState},
        sessions::SessionState,
    },
    telegram::login::{LoginToken, SignedIn},
};

/// A token is made anew when it is good for less than this, so that nobody scans one that is over.
const REFRESH_BEFORE: TimeDelta = TimeDelta::seconds(5);
/// How often a scanned token is sent on to another data centre.
const MOST_MOVES: usize = 3;

impl Run {
    /// Shows a token; or, when the last one was scanned, is logged in.
    pub(super) async fn show_token(&mut self) -> Result<StepDone, StepError> {
        let now = self.now();
        self.entered = true;
        let (link, application) = self.link().await?;
        let mut token = link.export_token(&application, now).await?;
        for _ in 0..MOST_MOVES {
            match token {
                LoginToken::Show { token, seconds } => {
                    let reply = Reply {
                        state: Some(ErrandState::ScanNeeded),
                        qr: Some((format!("tg://login?token={}", URL_SAFE_NO_PAD.encode(token)), seconds)),
                        progress: Some(self.sealed_progress()?),
                        ..Reply::default()
                    };
                    return Ok(StepDone::Reply(Box::new(reply), Some(SessionState::CodeNeeded)));
                }
                LoginToken::Scanned(SignedIn::Unregistered) => return Err(ErrandProblem::Refused.into()),
                LoginToken::Scanned(signed_in) => return self.came_to(signed_in).await,
                LoginToken::Migrate { dc, token: scanned } => {
                    self.move_to(dc).await;
                    let (link, _) = self.link().await?;
                    token = link.import_token(scanned, now).await?;
                }
            }
        }
        Err(ErrandProblem::Unsupported.into())
    }

    /// Makes the token anew when it is due or something was said; `true` when the errand is over.
    pub(super) async fn watch_qr(&mut self, work: &Work) -> Result<bool, StepError> {
        if work.rests {
            return Ok(false);
        }
        let due = work
            .qr_expires_at
            .is_none_or(|at| at - self.desk.clock.now() < REFRESH_BEFORE);
        // A worker that has just taken it over does not know whether it was scanned meanwhile.
        if !due && !self.told && self.link.is_some() {
            return Ok(false);
        }
        self.told = false;
        if let Some(account) = self.already_in().await? {
            return self.conclude(work, Ok(StepDone::LoggedIn(account))).await;
        }
        let done = self.show_token().await;
        self.conclude(work, done).await
    }
}
