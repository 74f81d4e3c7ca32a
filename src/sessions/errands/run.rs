//! The life of one errand in this process: its hold renewed, its steps done as they are asked for, its connection closed before
//! anything of it can be somebody else's.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Desk, open_input, outcome::Refusal, progress::Progress};
use crate::{
    config::Secret,
    ids::SessionId,
    proxy::Proxy,
    sessions::proxies,
    store::{
        self, StoreError, errand_work,
        errand_work::{ClaimedErrand, ErrandKey, Reply, Work},
        errands::{self, ErrandProblem, ErrandState, Step, Task},
        failed,
        login_rests::TARGET_BYTES,
        session_logins::{self, Before, Facts},
        session_proxies,
        sessions::{self, LOGGED_IN, SessionState},
    },
    telegram::{
        login::{Account, Application, AuthKey, Link, LinkError},
        trust::{Moment, Trust},
    },
    vault::VaultError,
};

/// How often an errand looks for what was asked of it when no bell rings.
const POLL: Duration = Duration::from_secs(1);
const AFTER_FAILURE: Duration = Duration::from_millis(500);
const RELEASE: Duration = Duration::from_secs(2);

#[expect(clippy::struct_excessive_bools, reason = "facts of one run, each by itself")]
pub(super) struct Run {
    pub desk: Arc<Desk>,
    pub key: ErrandKey,
    pub session: SessionId,
    pub task: Task,
    pub trust: Arc<Trust>,
    pub link: Option<Link>,
    pub progress: Progress,
    /// The last call that could have logged in was not seen through: ask who we are before the next.
    pub uncertain: bool,
    /// A call that could log in was made.
    pub entered: bool,
    /// Somebody is logged in with the login's key, and that is not stored yet.
    pub authorised: bool,
    /// The session's authorisation was ended, by this worker.
    pub ended: bool,
    /// Telegram said something by itself.
    pub told: bool,
    /// What Telegram's floods are kept for, by fingerprint.
    pub targets: Vec<[u8; TARGET_BYTES]>,
}

/// Why an errand is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It is over.
    Over,
    /// Another worker goes on.
    ToAnother,
}

/// What becomes of the session with an answer.
pub(super) enum After {
    Nothing,
    State(SessionState, Option<String>),
    /// It is what it was before the errand; the word is the reason where that has none.
    PutBack(String),
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("refused")]
    Refused(Refusal),
}

impl From<ErrandProblem> for StepError {
    fn from(problem: ErrandProblem) -> Self {
        Self::Refused(Refusal::end(problem))
    }
}

/// What a step came to.
pub(super) enum StepDone {
    /// Answered, and the session's state goes with it.
    Reply(Box<Reply>, Option<SessionState>),
    /// Somebody is logged in on the link.
    LoggedIn(Account),
    /// Everything was written already.
    Written,
}

impl Run {
    pub fn new(desk: Arc<Desk>, errand: ClaimedErrand, start: Moment) -> Self {
        let trust = Arc::new(Trust::new(start, desk.trusted_span()));
        Self {
            desk,
            key: errand.key,
            session: errand.session,
            task: errand.task,
            trust,
            link: None,
            progress: Progress::default(),
            uncertain: false,
            entered: false,
            authorised: false,
            ended: false,
            told: false,
            targets: Vec::new(),
        }
    }

    /// Does the errand to its end, or until the hold is over or the process stops.
    pub async fn live(mut self) {
        let renewing = AbortOnDropHandle::new(tokio::spawn(renew(
            Arc::clone(&self.desk),
            self.key,
            Arc::clone(&self.trust),
        )));
        if self.work().await == Left::Over && self.undo().await {
            self.erase().await;
        }
        self.hang_up().await;
        drop(renewing);
        self.release().await;
    }

    async fn work(&mut self) -> Left {
        let mut pulse = self.desk.pulse.subscribe();
        loop {
            pulse.borrow_and_update();
            let pause = match self.once().await {
                Ok(true) => return Left::Over,
                // Nobody else can have it while the trust lasts: it was given up.
                Err(StepError::Store(StoreError::Fenced { .. })) if self.trust.holds() => return Left::Over,
                Err(StepError::Store(StoreError::Fenced { .. })) => return Left::ToAnother,
                Ok(false) => POLL,
                Err(error) => {
                    // A login may have gone through, and only its storing failed.
                    self.uncertain = true;
                    tracing::warn!(
                        session.id = %self.session, errand.id = %self.key.errand,
                        error = &error as &dyn std::error::Error, "an errand could not go on"
                    );
                    AFTER_FAILURE
                }
            };
            let desk = Arc::clone(&self.desk);
            tokio::select! {
                () = self.trust.ended() => return Left::ToAnother,
                () = desk.stop.cancelled() => return Left::ToAnother,
                changed = pulse.changed() => if changed.is_err() { return Left::ToAnother },
                () = told(self.link.as_ref()), if self.task == Task::Qr => self.told = true,
                () = sleep(pause) => {}
            }
        }
    }

    /// One look at the errand; `true` when it is over.
    async fn once(&mut self) -> Result<bool, StepError> {
        let mut conn = store::connection(&self.desk.database, "load_errand").await?;
        let work = errand_work::load(&mut conn, self.key).await?;
        drop(conn);
        if work.state.is_final() {
            // What the worker before left in doubt is undone.
            self.go_on(&work)?;
            return Ok(true);
        }
        if work.expired {
            self.fail(&work, Refusal::end(ErrandProblem::Expired)).await?;
            return Ok(true);
        }
        self.go_on(&work)?;
        if work.asked > work.answered {
            self.step(&work).await
        } else if self.task == Task::Qr && work.state == ErrandState::ScanNeeded {
            self.watch_qr(&work).await
        } else {
            Ok(false)
        }
    }

    /// Takes over what another worker left.
    fn go_on(&mut self, work: &Work) -> Result<(), StepError> {
        if self.link.is_none()
            && self.progress.key().is_none()
            && let Some(sealed) = &work.progress
            && let Some(progress) = Progress::open(&self.desk.vault, self.key.errand, sealed)?
        {
            self.progress = progress;
            self.uncertain = true;
            self.entered = true;
        }
        Ok(())
    }

    async fn step(&mut self, work: &Work) -> Result<bool, StepError> {
        let done = self.try_step(work).await;
        self.conclude(work, done).await
    }

    /// Writes down what a step, or a look at a QR login, came to; `true` when the errand is over.
    pub async fn conclude(&mut self, work: &Work, done: Result<StepDone, StepError>) -> Result<bool, StepError> {
        match done {
            Ok(StepDone::Reply(reply, session)) => {
                let over = reply.state.is_some_and(ErrandState::is_final);
                let after = session.map_or(After::Nothing, |state| {
                    After::State(state, Some(state.as_str().to_uppercase()))
                });
                self.answer(work, *reply, after).await?;
                Ok(over)
            }
            Ok(StepDone::LoggedIn(account)) => {
                self.logged_in(work, account).await?;
                Ok(true)
            }
            Ok(StepDone::Written) => Ok(true),
            Err(StepError::Link(error)) => {
                self.uncertain = !matches!(error, LinkError::Rpc(_));
                if !self.trust.holds() {
                    return Err(StepError::Link(error));
                }
                tracing::info!(
                    session.id = %self.session, errand.id = %self.key.errand, step = work.step.as_str(),
                    error = &error as &dyn std::error::Error, "a step of an errand was refused"
                );
                let first = work.step == Step::Start && work.asked > work.answered;
                let refusal = Refusal::of(&error, first, work.tries);
                if refusal.problem.is_flood() {
                    self.note_flood(&error, &refusal).await;
                }
                self.refuse(work, refusal).await
            }
            Err(StepError::Refused(refusal)) => self.refuse(work, refusal).await,
            Err(error) => Err(error),
        }
    }

    async fn try_step(&mut self, work: &Work) -> Result<StepDone, StepError> {
        let input = open_input(&self.desk.vault, self.key.errand, work)?;
        if work.step == Step::Start && self.task.logs_in() {
            self.refuse_if_resting(input.as_ref()).await?;
        }
        match (self.task, work.step) {
            (Task::Phone, Step::Start) => {
                let phone = input.ok_or(ErrandProblem::Expired)?;
                self.progress.set_phone(&phone);
                self.send_code().await
            }
            (Task::Phone, Step::Resend) => self.resend_code().await,
            (Task::Phone, Step::Code) => self.enter_code(&input.ok_or(ErrandProblem::Expired)?).await,
            (Task::Phone | Task::Qr, Step::Password) => {
                self.enter_password(&input.ok_or(ErrandProblem::Expired)?).await
            }
            (Task::Bot, Step::Start) => self.sign_in_bot(&input.ok_or(ErrandProblem::Expired)?).await,
            (Task::Qr, Step::Start) => self.show_token().await,
            (Task::Import, Step::Start) => self.import(work, &input.ok_or(ErrandProblem::Expired)?).await,
            (Task::Enable, Step::Start) => self.enable(work).await,
            (Task::Export, Step::Start) => self.export(work).await,
            (Task::LogOut, Step::Start) => self.log_out(work).await,
            (Task::Delete, Step::Start) => self.delete(work, input.as_ref()).await,
            _ => Err(ErrandProblem::Refused.into()),
        }
    }

    async fn refuse(&mut self, work: &Work, refusal: Refusal) -> Result<bool, StepError> {
        if refusal.ends {
            self.fail(work, refusal).await?;
            return Ok(true);
        }
        let reply = Reply {
            problem: Some(refusal.problem),
            reason: refusal.reason,
            retry_after: refusal.retry_after,
            wrong: refusal.wrong,
            ..Reply::default()
        };
        self.answer(work, reply, After::Nothing).await?;
        Ok(false)
    }

    /// Ends the errand without what it was for.
    async fn fail(&mut self, work: &Work, refusal: Refusal) -> Result<(), StepError> {
        // Whoever hears that it came to nothing finds nothing of it at Telegram.
        if self.authorised {
            self.undo().await;
        }
        let word = refusal
            .reason
            .clone()
            .unwrap_or_else(|| refusal.problem.as_str().to_uppercase());
        let after = match self.state_after_failure(&refusal) {
            Some(state) => After::State(state, Some(word)),
            None => After::PutBack(word),
        };
        let reply = Reply {
            state: Some(ErrandState::Failed),
            problem: Some(refusal.problem),
            reason: refusal.reason,
            retry_after: refusal.retry_after,
            wrong: refusal.wrong,
            ..Reply::default()
        };
        if let Some(incident) = refusal.incident {
            self.note_incident(incident).await;
        }
        self.answer(work, reply, after).await?;
        Ok(())
    }

    /// What is known of the session since its errand failed; `None`: it is what it was.
    fn state_after_failure(&self, refusal: &Refusal) -> Option<SessionState> {
        let is_its_own = self.task == Task::Enable;
        match refusal.problem {
            ErrandProblem::PhoneBanned | ErrandProblem::AccountBanned if is_its_own || self.task.logs_in() => {
                Some(SessionState::Banned)
            }
            // Dead like a revoked one, but somebody must find out who used it.
            ErrandProblem::KeyDead if is_its_own && refusal.incident.is_some() => Some(SessionState::Quarantined),
            ErrandProblem::KeyDead if is_its_own => Some(SessionState::LoggedOut),
            _ => None,
        }
    }

    /// Answers the step, and changes the session's state with it.
    pub async fn answer(&self, work: &Work, reply: Reply, after: After) -> Result<(), StoreError> {
        const OPERATION: &str = "reply_errand";
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::reply(&mut transaction, self.key, work.asked, &reply).await?;
        match after {
            After::Nothing => {}
            After::State(state, reason) => {
                session_logins::set_state(&mut transaction, self.session, state, reason.as_deref()).await?;
            }
            After::PutBack(word) => {
                let before = Before {
                    session: self.session,
                    task: self.task,
                    state: &work.was,
                    reason: work.was_reason.as_deref(),
                };
                session_logins::put_back(&mut transaction, &before, &word).await?;
            }
        }
        if reply.state.is_some_and(ErrandState::is_final) {
            session_logins::end_hold(&mut transaction, self.session, &self.hold_actor()).await?;
        }
        transaction.commit().await.map_err(failed(OPERATION))
    }

    /// Who holds the session back while the errand waits for its jobs.
    pub fn hold_actor(&self) -> String {
        format!("errand:{}", self.key.errand)
    }

    /// Stores the fresh authorisation, after its connection is closed: from the commit on any worker may use it.
    async fn logged_in(&mut self, work: &Work, account: Account) -> Result<(), StepError> {
        self.authorised = true;
        let facts = self.facts().await?;
        let (Some(link), true) = (&self.link, facts.account_id.is_none_or(|known| known == account.id)) else {
            return self.fail(work, Refusal::end(ErrandProblem::OtherAccount)).await;
        };
        let (dc, key) = (link.dc(), link.key().ok_or(LinkError::Unreadable)?);
        // It is gone on with, or undone, from here if it cannot be stored.
        self.progress.dc = dc;
        self.progress.set_key(Some(&key));
        self.hang_up().await;
        self.store_login(work, &account, dc, &key).await?;
        self.authorised = false;
        self.uncertain = false;
        self.told = false;
        Ok(())
    }

    async fn store_login(&self, work: &Work, account: &Account, dc: i32, key: &AuthKey) -> Result<(), StepError> {
        const OPERATION: &str = "store_login";
        let dcs = [self.dc_row(dc, key)?];
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        let new = session_logins::Authorisation {
            id: self.session,
            account_id: Some(account.id),
            username: account.username.as_deref(),
            is_bot: account.is_bot,
            home_dc: dc,
            dcs: &dcs,
        };
        session_logins::replace_keys(&mut transaction, &new).await?;
        session_logins::rehome(&mut transaction, self.session, self.key.errand).await?;
        let reason = Some(LOGGED_IN);
        session_logins::set_state(&mut transaction, self.session, SessionState::Ready, reason).await?;
        let reply = Reply {
            state: Some(ErrandState::Done),
            ..Reply::default()
        };
        errand_work::reply(&mut transaction, self.key, work.asked, &reply).await?;
        let details = json!({ "method": self.task.as_str(), "worker": self.key.owner });
        session_logins::note(
            &mut transaction,
            &work.created_by,
            "session.logged_in",
            self.session,
            None,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        tracing::info!(session.id = %self.session, method = self.task.as_str(), "a session was logged in");
        Ok(())
    }

    /// Logs out what may have been authorised and was not stored: nothing is left of a login that came to nothing, at Telegram
    /// either. Within the trust, and as far as Telegram answers. `false`: something may be left.
    pub async fn undo(&mut self) -> bool {
        let maybe = self.authorised || self.told || (self.uncertain && self.entered);
        let reachable = self.link.is_some() || self.progress.key().is_some();
        if !self.task.logs_in() || !maybe || !reachable {
            return true;
        }
        if !self.came_to_nothing().await {
            return false;
        }
        let undone = match self.link().await {
            Ok((link, _)) => link.log_out().await.map_err(StepError::from),
            Err(error) => Err(error),
        };
        let nothing_left = match undone {
            // There was nothing to undo.
            Err(StepError::Link(LinkError::Rpc(error))) if error.code == 401 => true,
            Err(error) => {
                tracing::warn!(
                    session.id = %self.session, errand.id = %self.key.errand,
                    error = &error as &dyn std::error::Error, "a login that came to nothing was not undone"
                );
                false
            }
            Ok(()) => {
                tracing::info!(
                    session.id = %self.session, errand.id = %self.key.errand, "a login that came to nothing was undone"
                );
                true
            }
        };
        self.authorised = false;
        self.uncertain = false;
        self.told = false;
        nothing_left
    }

    /// Erases what the next worker would have needed. What fails is erased by the sweep.
    async fn erase(&self) {
        let erased = async {
            let mut conn = store::connection(&self.desk.database, "erase_errand_progress").await?;
            errand_work::erase_progress(&mut conn, self.key).await
        };
        if let Err(error) = erased.await {
            tracing::warn!(%error, errand.id = %self.key.errand, "what is left of an errand was not erased yet");
        }
    }

    /// Whether the login is known not to be stored. Its commit may have been done and its answer lost: then the key is the session's,
    /// and may be in another's hands. Who cannot tell leaves an authorisation behind rather than end one that is used.
    async fn came_to_nothing(&self) -> bool {
        let record = async {
            let mut conn = store::connection(&self.desk.database, "read_errand").await?;
            errands::get(&mut conn, self.key.errand).await
        };
        match record.await {
            Ok(Some(record)) => record.state != ErrandState::Done,
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, errand.id = %self.key.errand, "whether a login was stored is not known");
                false
            }
        }
    }

    /// Writes an incident of the session down; what was begun goes on without it.
    pub async fn note_incident(&self, incident: &str) {
        let details = json!({ "session": self.session, "errand": self.key.errand, "task": self.task.as_str() });
        let noted = async {
            let mut conn = store::connection(&self.desk.database, "note_incident").await?;
            sessions::incident(&mut conn, self.key.owner, incident, self.session, details).await
        };
        if let Err(error) = noted.await {
            tracing::error!(%error, session.id = %self.session, incident, "an incident was not written down");
        }
    }

    pub async fn facts(&self) -> Result<Facts, StepError> {
        let mut conn = store::connection(&self.desk.database, "errand_facts").await?;
        let facts = session_logins::facts(&mut conn, self.session, Some(self.key.errand)).await?;
        facts.ok_or_else(|| ErrandProblem::Cancelled.into())
    }

    pub async fn application(&self) -> Result<Application, StepError> {
        let facts = self.facts().await?;
        Ok(self.desk.application(facts.application).await??)
    }

    /// What the session is connected through.
    pub async fn proxy(&self) -> Result<Option<Proxy>, StepError> {
        let mut conn = store::connection(&self.desk.database, "sealed_session_proxies").await?;
        let sealed = session_proxies::sealed(&mut conn, &[self.session]).await?.pop();
        Ok(proxies::open(
            &self.desk.vault,
            self.session,
            sealed.as_ref().map(|(_, sealed)| sealed),
        )?)
    }

    /// The link in the data centre that the progress names, opened unless it is there.
    pub async fn link(&mut self) -> Result<(&Link, Application), StepError> {
        let application = self.application().await?;
        if self.link.is_none() {
            let (proxy, trust) = (self.proxy().await?, Arc::clone(&self.trust));
            let (dc, key) = (self.progress.dc, self.progress.key());
            self.link = Some(Link::open(&self.desk.net, dc, key, application.api_id, proxy, trust).await?);
        }
        let link = self.link.as_ref().ok_or(LinkError::Unreadable)?;
        Ok((link, application))
    }

    /// Closes the link and opens none: the next one leads to another data centre, with a key of its own.
    pub async fn move_to(&mut self, dc: i32) {
        self.hang_up().await;
        self.progress.move_to(dc);
    }

    /// The progress as it is now, with the link's key, sealed.
    pub fn sealed_progress(&mut self) -> Result<crate::vault::Sealed, VaultError> {
        if let Some(link) = &self.link {
            self.progress.dc = link.dc();
            self.progress.set_key(link.key().as_ref());
        }
        self.progress.seal(&self.desk.vault, self.key.errand)
    }

    pub fn phone(&self) -> Result<Secret, StepError> {
        let phone = self.progress.phone().map(Secret::new);
        phone.ok_or_else(|| ErrandProblem::Expired.into())
    }

    pub fn now(&self) -> i64 {
        self.desk.clock.now().timestamp()
    }

    pub async fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    async fn release(&self) {
        let released = async {
            let mut conn = store::connection(&self.desk.database, "release_errand").await?;
            errand_work::release(&mut conn, self.key).await
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "an errand was not released: its hold runs out by itself"),
            Err(_) => tracing::warn!("the database took too long to release an errand: its hold runs out by itself"),
        }
    }
}

async fn told(link: Option<&Link>) {
    match link {
        Some(link) => link.told().await,
        None => std::future::pending().await,
    }
}

/// Renews the hold until it is lost; its trust ends with it.
async fn renew(desk: Arc<Desk>, key: ErrandKey, trust: Arc<Trust>) {
    let sessions = &desk.settings.sessions;
    loop {
        sleep(sessions.renew).await;
        let renewed = async {
            let mut conn = store::connection(&desk.database, "renew_errand").await?;
            let start = Moment::now();
            let renewed = errand_work::renew(&mut conn, key, sessions.lease).await?;
            Ok::<_, StoreError>((start, renewed))
        };
        match timeout(sessions.renew, renewed).await {
            Ok(Ok((start, true))) => drop(trust.extend(start, desk.trusted_span())),
            // It ran out, or is another's.
            Ok(Ok((_, false))) => return,
            Ok(Err(error)) => tracing::warn!(%error, "an errand's hold was not renewed"),
            Err(_) => tracing::warn!("the database took too long to renew an errand's hold"),
        }
    }
}
