//! Errands over an authorisation that exists: imported, checked, handed out, ended. The session is in nobody's hands by then: it
//! is taken out of use first, and its lease must have been released or have run out before anything here connects.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    outcome::{DUPLICATED, is_duplicate},
    progress::{decode_key, key_of},
    run::{Run, StepDone, StepError},
};
use crate::{
    config::Secret,
    store::{
        self,
        errand_work::{self, Reply, Work},
        errands::{self, ErrandProblem, ErrandState, Portable},
        failed, session_logins,
        sessions::{self, DcRow, SessionState},
    },
    telegram::{
        login::{AuthKey, Link, LinkError},
        session_storage::key_owner,
    },
};

/// How long jobs of a session may take to run out before it is taken from them.
const DRAIN: Duration = Duration::from_secs(45);
/// How long a holder may take to let go: longer than any lease that is configured sensibly.
const LET_GO: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(100);

/// Ends the reason of a disabled session that was `limited` before, and is again when it is enabled.
const LIMITED: &str = "_WHILE_LIMITED";

/// How a session is deleted.
#[derive(Deserialize)]
struct Deletion {
    log_out: bool,
}

impl Run {
    pub(super) fn dc_row(&self, dc: i32, key: &AuthKey) -> Result<DcRow, StepError> {
        let (ipv4, ipv6) = self.desk.net.address(dc)?;
        let sealed = self.desk.vault.seal(&key_owner(self.session, dc), key.as_slice())?;
        Ok(DcRow {
            dc_id: dc,
            ipv4: ipv4.to_string(),
            ipv6: ipv6.to_string(),
            auth_key: Some(sealed),
        })
    }

    /// Stores an authorisation that was made elsewhere. Nothing is connected.
    pub(super) async fn import(&mut self, work: &Work, input: &Secret) -> Result<StepDone, StepError> {
        const OPERATION: &str = "store_import";
        let portable: Portable =
            serde_json::from_str(input.expose()).map_err(|_| StepError::from(ErrandProblem::Refused))?;
        let key = decode_key(&portable.key).ok_or(ErrandProblem::Refused)?;
        let known = self.facts().await?.account_id;
        if known.is_some() && portable.account_id.is_some() && known != portable.account_id {
            return Err(ErrandProblem::OtherAccount.into());
        }
        let dcs = [self.dc_row(portable.dc, &key)?];
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        let new = session_logins::Authorisation {
            id: self.session,
            account_id: portable.account_id,
            username: None,
            is_bot: portable.is_bot,
            home_dc: portable.dc,
            dcs: &dcs,
        };
        session_logins::replace_keys(&mut transaction, &new).await?;
        session_logins::rehome(&mut transaction, self.session, self.key.errand).await?;
        session_logins::set_state(&mut transaction, self.session, SessionState::Disabled, Some("IMPORTED")).await?;
        errand_work::reply(&mut transaction, self.key, work.asked, &done()).await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(StepDone::Written)
    }

    /// Checks a disabled session with one call, and makes it ready.
    pub(super) async fn enable(&mut self, work: &Work) -> Result<StepDone, StepError> {
        const OPERATION: &str = "store_enable";
        self.until_let_go().await?;
        let link = self.open_stored().await?;
        let answer = link.who_am_i().await;
        // Whatever it was, nothing is open when the session can be taken.
        link.close().await;
        let account = answer?;
        let facts = self.facts().await?;
        if facts.account_id.is_some_and(|known| known != account.id) {
            return Err(ErrandProblem::OtherAccount.into());
        }
        let was_limited = facts.reason.is_some_and(|reason| reason.ends_with(LIMITED));
        let state = if was_limited {
            SessionState::Limited
        } else {
            SessionState::Ready
        };
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        let (id, username) = (account.id, account.username.as_deref());
        session_logins::checked(&mut transaction, self.session, id, username, account.is_bot).await?;
        session_logins::set_state(&mut transaction, self.session, state, Some("ENABLED")).await?;
        errand_work::reply(&mut transaction, self.key, work.asked, &done()).await?;
        let details = json!({ "worker": self.key.owner });
        session_logins::note(
            &mut transaction,
            &work.created_by,
            "session.enabled",
            self.session,
            None,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(StepDone::Written)
    }

    /// Takes the session out of use, and hands its authorisation to whoever asked.
    pub(super) async fn export(&mut self, work: &Work) -> Result<StepDone, StepError> {
        let slot = work.reply_to.clone().ok_or(ErrandProblem::Refused)?;
        self.take_out_of_use(work, "EXPORTED").await?;
        let facts = self.facts().await?;
        let (dc, key) = self.stored_key().await?;
        let portable = Portable {
            dc,
            key: encode_key(&key),
            account_id: facts.account_id,
            is_bot: facts.is_bot,
            address: self.desk.net.address(dc)?.0.to_string(),
            api_id: self.api_id().await?,
        };
        let output = slot
            .seal(&errands::output_owner(self.key.errand), &portable.to_text())
            .map_err(|_| LinkError::Randomness)?;
        let reply = Reply {
            output: Some(output),
            ..done()
        };
        Ok(StepDone::Reply(Box::new(reply), None))
    }

    /// What the session connects as; nothing when that cannot be known any more.
    async fn api_id(&self) -> Result<Option<i32>, StepError> {
        match self.application().await {
            Ok(application) => Ok(Some(application.api_id)),
            Err(StepError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the authorisation at Telegram, and erases its keys.
    pub(super) async fn log_out(&mut self, work: &Work) -> Result<StepDone, StepError> {
        const OPERATION: &str = "store_log_out";
        self.take_out_of_use(work, "LOGGING_OUT").await?;
        self.end_at_telegram().await?;
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        session_logins::erase_keys(&mut transaction, self.session).await?;
        let reason = Some("LOGGED_OUT_BY_OWNER");
        session_logins::set_state(&mut transaction, self.session, SessionState::LoggedOut, reason).await?;
        session_logins::end_hold(&mut transaction, self.session, &self.hold_actor()).await?;
        errand_work::reply(&mut transaction, self.key, work.asked, &done()).await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(StepDone::Written)
    }

    /// Deletes the session, logged out first unless the asker would keep the authorisation.
    pub(super) async fn delete(&mut self, work: &Work, input: Option<&Secret>) -> Result<StepDone, StepError> {
        const OPERATION: &str = "store_delete";
        let input = input.ok_or(ErrandProblem::Expired)?;
        let deletion: Deletion =
            serde_json::from_str(input.expose()).map_err(|_| StepError::from(ErrandProblem::Refused))?;
        self.take_out_of_use(work, "DELETING").await?;
        // Before anything that cannot be undone; from there on a job that comes late does not stop it: it ends `session_lost`.
        if !self.ended {
            self.no_live_jobs().await?;
        }
        if deletion.log_out {
            self.end_at_telegram().await?;
            self.ended = true;
        }
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        session_logins::end_hold(&mut transaction, self.session, &self.hold_actor()).await?;
        session_logins::delete(&mut transaction, self.session).await?;
        let details = json!({ "logged_out": deletion.log_out });
        session_logins::note(
            &mut transaction,
            &work.created_by,
            "session.deleted",
            self.session,
            None,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(StepDone::Written)
    }

    /// Waits for the session's jobs to run out, disables it, and waits until its holder has let go.
    async fn take_out_of_use(&self, work: &Work, reason: &str) -> Result<(), StepError> {
        const OPERATION: &str = "take_out_of_use";
        let begun = Instant::now();
        let facts = loop {
            let facts = self.facts().await?;
            if facts.running == 0 {
                break facts;
            }
            if begun.elapsed() > DRAIN {
                return Err(ErrandProblem::Busy.into());
            }
            self.pause().await?;
        };
        let mut conn = store::connection(&self.desk.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        errand_work::hold(&mut transaction, self.key, OPERATION).await?;
        // A limit that Telegram set is not over because nobody used the session meanwhile.
        let is_limited =
            work.was == SessionState::Limited.as_str() || facts.reason.is_some_and(|reason| reason.ends_with(LIMITED));
        let reason = format!("{reason}{}", if is_limited { LIMITED } else { "" });
        session_logins::set_state(&mut transaction, self.session, SessionState::Disabled, Some(&reason)).await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        drop(conn);
        self.until_let_go().await
    }

    async fn no_live_jobs(&self) -> Result<(), StepError> {
        let mut conn = store::connection(&self.desk.database, "live_jobs_of_session").await?;
        match session_logins::live_jobs(&mut conn, self.session).await? {
            0 => Ok(()),
            _ => Err(ErrandProblem::Busy.into()),
        }
    }

    async fn until_let_go(&self) -> Result<(), StepError> {
        let begun = Instant::now();
        while !self.facts().await?.free {
            if begun.elapsed() > LET_GO {
                return Err(ErrandProblem::Busy.into());
            }
            self.pause().await?;
        }
        Ok(())
    }

    /// Waits a moment; an errand whose hold is over, or that was given up, stops here.
    async fn pause(&self) -> Result<(), StepError> {
        tokio::select! {
            () = self.trust.ended() => return Err(fenced()),
            () = self.desk.stop.cancelled() => return Err(fenced()),
            () = sleep(LOOK) => {}
        }
        let mut conn = store::connection(&self.desk.database, "load_errand").await?;
        let work = errand_work::load(&mut conn, self.key).await?;
        if work.state.is_final() { Err(fenced()) } else { Ok(()) }
    }

    /// Two sessions may have been given one authorisation, by two imports or by an export that was imported again.
    async fn no_other_has(&self, key: &AuthKey) -> Result<(), StepError> {
        let mut conn = store::connection(&self.desk.database, "other_keys").await?;
        for other in session_logins::other_keys(&mut conn, self.session).await? {
            // One that this worker cannot open belongs to a master key of its own.
            let opened = self
                .desk
                .vault
                .open(&key_owner(other.session, other.dc), &other.auth_key);
            if opened.is_ok_and(|opened| opened.as_slice() == key.as_slice()) {
                return Err(ErrandProblem::KeyShared.into());
            }
        }
        Ok(())
    }

    async fn stored_key(&self) -> Result<(i32, AuthKey), StepError> {
        let facts = self.facts().await?;
        let mut conn = store::connection(&self.desk.database, "session_dcs").await?;
        let dcs = sessions::dcs(&mut conn, self.session).await?;
        drop(conn);
        let home = dcs.into_iter().find(|dc| dc.dc_id == facts.home_dc);
        let sealed = home.and_then(|dc| dc.auth_key).ok_or(ErrandProblem::KeyDead)?;
        let opened = self.desk.vault.open(&key_owner(self.session, facts.home_dc), &sealed)?;
        let key = key_of(&opened).ok_or(ErrandProblem::KeyDead)?;
        Ok((facts.home_dc, key))
    }

    /// A connection with the session's own key. Nobody else may hold it.
    async fn open_stored(&self) -> Result<Link, StepError> {
        let application = self.application().await?;
        let (dc, key) = self.stored_key().await?;
        self.no_other_has(&key).await?;
        let (proxy, trust) = (self.proxy().await?, Arc::clone(&self.trust));
        Ok(Link::open(&self.desk.net, dc, Some(key), application.api_id, proxy, trust).await?)
    }

    /// Logs out; an authorisation that is over already, or a session that has none, is as good as logged out.
    async fn end_at_telegram(&self) -> Result<(), StepError> {
        let link = match self.open_stored().await {
            Ok(link) => link,
            Err(StepError::Refused(refusal)) if refusal.problem == ErrandProblem::KeyDead => return Ok(()),
            Err(error) => return Err(error),
        };
        let ended = link.log_out().await;
        link.close().await;
        if ended.as_ref().is_err_and(is_duplicate) {
            self.note_incident(DUPLICATED).await;
        }
        match ended {
            Err(LinkError::Rpc(error)) if error.code == 401 || error.code == 406 => Ok(()),
            other => Ok(other?),
        }
    }
}

fn done() -> Reply {
    Reply {
        state: Some(ErrandState::Done),
        ..Reply::default()
    }
}

fn fenced() -> StepError {
    StepError::Store(store::StoreError::Fenced {
        operation: "errand_over",
    })
}

/// An auth key in base64: in a struct that is wiped.
fn encode_key(key: &AuthKey) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.as_slice())
}
