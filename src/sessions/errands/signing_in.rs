//! The steps of a login by phone number, by password and by a bot's token.

use super::run::{Run, StepDone, StepError};
use crate::{
    config::Secret,
    store::{
        self,
        errand_work::{self, Reply},
        errands::{CodeInfo, ErrandProblem, ErrandState},
        sessions::SessionState,
    },
    telegram::login::{Account, LinkError, SentCode, SignedIn},
};

/// How often a login is sent on to another data centre before that counts as an error.
const MOST_MOVES: usize = 3;

impl Run {
    /// Sends the code, in the data centre the account lives in.
    pub(super) async fn send_code(&mut self) -> Result<StepDone, StepError> {
        let phone = self.phone()?;
        for _ in 0..MOST_MOVES {
            let (link, application) = self.link().await?;
            match link.send_code(&phone, &application).await {
                Err(error) => match error.moved_to() {
                    Some(dc) => self.move_to(dc).await,
                    None => return Err(error.into()),
                },
                Ok(sent) => return self.code_sent(sent),
            }
        }
        Err(ErrandProblem::Unsupported.into())
    }

    /// Sends the code again by the next way; when the old one is over, a new one.
    pub(super) async fn resend_code(&mut self) -> Result<StepDone, StepError> {
        let phone = self.phone()?;
        let Some(hash) = self.progress.code_hash() else {
            return self.send_code().await;
        };
        let (link, _) = self.link().await?;
        match link.resend_code(&phone, &hash).await {
            Ok(sent) => self.code_sent(sent),
            Err(LinkError::Rpc(error))
                if error.name == "PHONE_CODE_EXPIRED" || error.name == "SEND_CODE_UNAVAILABLE" =>
            {
                self.send_code().await
            }
            Err(error) => Err(error.into()),
        }
    }

    fn code_sent(&mut self, sent: Result<SentCode, Account>) -> Result<StepDone, StepError> {
        let sent = match sent {
            Ok(sent) => sent,
            Err(account) => return Ok(StepDone::LoggedIn(account)),
        };
        self.progress.set_code_hash(&sent.hash);
        let reply = Reply {
            state: Some(ErrandState::CodeNeeded),
            code: Some(CodeInfo {
                sent_by: sent.sent_by.to_owned(),
                length: sent.length,
                next: sent.next.map(str::to_owned),
                resend_after: sent.timeout,
            }),
            progress: Some(self.sealed_progress()?),
            ..Reply::default()
        };
        Ok(StepDone::Reply(Box::new(reply), Some(SessionState::CodeNeeded)))
    }

    pub(super) async fn enter_code(&mut self, code: &Secret) -> Result<StepDone, StepError> {
        if let Some(account) = self.already_in().await? {
            return Ok(StepDone::LoggedIn(account));
        }
        let phone = self.phone()?;
        let hash = self.progress.code_hash().ok_or(ErrandProblem::Expired)?;
        self.entered = true;
        let (link, _) = self.link().await?;
        match link.sign_in(&phone, &hash, code).await {
            Err(error) => match error.moved_to() {
                // A code belongs to the data centre that sent it.
                Some(dc) => {
                    self.move_to(dc).await;
                    self.send_code().await
                }
                None => Err(error.into()),
            },
            Ok(signed_in) => self.came_to(signed_in).await,
        }
    }

    pub(super) async fn enter_password(&mut self, password: &Secret) -> Result<StepDone, StepError> {
        if let Some(account) = self.already_in().await? {
            return Ok(StepDone::LoggedIn(account));
        }
        self.entered = true;
        let (link, _) = self.link().await?;
        let signed_in = link.check_password(password).await?;
        self.came_to(signed_in).await
    }

    pub(super) async fn sign_in_bot(&mut self, token: &Secret) -> Result<StepDone, StepError> {
        if let Some(account) = self.already_in().await? {
            return Ok(StepDone::LoggedIn(account));
        }
        self.entered = true;
        for _ in 0..MOST_MOVES {
            let (link, application) = self.link().await?;
            let answer = link.sign_in_bot(token, &application).await;
            self.authorised = matches!(answer, Ok(SignedIn::Yes(_)));
            self.uncertain = answer.as_ref().is_err_and(|error| !matches!(error, LinkError::Rpc(_)));
            // Known to the next worker, should this one die before the login is stored.
            let progress = self.sealed_progress()?;
            let mut conn = store::connection(&self.desk.database, "save_errand_progress").await?;
            errand_work::save_progress(&mut conn, self.key, &progress).await?;
            drop(conn);
            match answer {
                Err(error) => match error.moved_to() {
                    Some(dc) => self.move_to(dc).await,
                    None => return Err(error.into()),
                },
                Ok(signed_in) => return self.came_to(signed_in).await,
            }
        }
        Err(ErrandProblem::Unsupported.into())
    }

    /// What a sign-in leads to: the end, or the question for the password.
    pub(super) async fn came_to(&mut self, signed_in: SignedIn) -> Result<StepDone, StepError> {
        match signed_in {
            SignedIn::Yes(account) => {
                self.authorised = true;
                Ok(StepDone::LoggedIn(account))
            }
            SignedIn::Unregistered => Err(ErrandProblem::PhoneUnregistered.into()),
            SignedIn::PasswordNeeded => {
                let (link, _) = self.link().await?;
                // The password is asked for without its hint too.
                let hint = link.password_hint().await.unwrap_or_default();
                let reply = Reply {
                    state: Some(ErrandState::PasswordNeeded),
                    password_hint: hint,
                    progress: Some(self.sealed_progress()?),
                    ..Reply::default()
                };
                Ok(StepDone::Reply(Box::new(reply), Some(SessionState::PasswordNeeded)))
            }
        }
    }

    /// Who is logged in already, when a call that could have done so was not seen through.
    pub(super) async fn already_in(&mut self) -> Result<Option<Account>, StepError> {
        if !self.uncertain || self.progress.key().is_none() {
            return Ok(None);
        }
        let (link, _) = self.link().await?;
        match link.who_am_i().await {
            Ok(account) => Ok(Some(account)),
            Err(LinkError::Rpc(_)) => {
                self.uncertain = false;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
