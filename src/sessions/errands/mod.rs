//! The errands of one worker process: logins with their challenges, imports, exports, log-outs. The desk claims them, one task
//! does each (`run`), and nothing else in the process depends on how they end.
//!
//! An errand is held under a lease of its own, renewed and trusted like a session's, because a half-open login has an auth key
//! too: when its worker dies or is stopped, another one goes on with the key from the row, and the first never sends again.

mod authorisation;
mod floods;
mod outcome;
mod progress;
mod qr;
mod run;
mod signing_in;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wireroom_jobs::ports::Clock;

use self::run::Run;
use crate::{
    config::{Secret, SessionsConfig, TelegramConfig},
    ids::{ApplicationId, WorkerId},
    letterbox::LetterError,
    store::{
        self, StoreError, applications, errand_upkeep, errand_work,
        errands::{self, ErrandProblem},
        failed, login_rests,
    },
    telegram::{
        login::{Application, LoginNet, LoginNetError, NO_APPLICATION},
        trust::Moment,
    },
    vault::{Sealed, Vault, VaultError},
};

/// Errands of one process at a time.
const AT_A_TIME: usize = 32;
/// The net under bells that do not ring.
const POLL: Duration = Duration::from_secs(2);
/// How long errands that ended are kept for those who ask.
const KEEP: Duration = Duration::from_hours(24 * 30);
const SWEEP_EVERY: Duration = Duration::from_mins(1);
const SWEEP_LIMIT: i64 = 1_000;

/// What a desk is made from.
#[derive(Clone)]
pub struct DeskSettings {
    pub worker: WorkerId,
    pub sessions: SessionsConfig,
    pub telegram: TelegramConfig,
}

/// Why a process cannot do errands.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error(transparent)]
    Net(#[from] LoginNetError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the application's hash could not be sealed")]
    Letter(#[from] LetterError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The errands of this process.
pub struct Desk {
    database: PgPool,
    vault: Vault,
    clock: Arc<dyn Clock>,
    settings: DeskSettings,
    net: LoginNet,
    /// Rung when somebody asked for something.
    bell: Arc<Notify>,
    pulse: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Desk {
    /// Starts doing errands; publishes the environment's application first. The vault must have been verified.
    pub async fn start(
        database: PgPool,
        vault: Vault,
        clock: Arc<dyn Clock>,
        settings: DeskSettings,
        bell: Arc<Notify>,
    ) -> Result<Arc<Self>, DeskError> {
        let net = LoginNet::read(&settings.telegram).await?;
        publish_application(&database, &vault, &settings.telegram).await?;
        let desk = Arc::new(Self {
            database,
            vault,
            clock,
            settings,
            net,
            bell,
            pulse: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        tokio::spawn(Arc::clone(&desk).serve());
        tokio::spawn(Arc::clone(&desk).sweep());
        Ok(desk)
    }

    /// Takes no more, and returns when every errand's socket is closed and its hold given back, or `grace` has passed; then what
    /// is left is dropped with its sockets.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("an errand did not stop in time; its hold runs out by itself");
        }
    }

    async fn serve(self: Arc<Self>) {
        loop {
            match timeout(POLL * 2, self.take_up()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "errands were not looked for"),
                Err(_) => tracing::warn!("the database took too long to look for errands"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.bell.notified() => self.pulse.send_modify(|count| *count += 1),
                () = sleep(POLL) => {}
            }
        }
    }

    async fn take_up(self: &Arc<Self>) -> Result<(), StoreError> {
        let free = AT_A_TIME.saturating_sub(self.tasks.len());
        if free == 0 {
            return Ok(());
        }
        let key_ids: Vec<String> = self.vault.key_ids().map(str::to_owned).collect();
        let mut conn = store::connection(&self.database, "claim_errands").await?;
        let start = Moment::now();
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let lease = self.settings.sessions.lease;
        let claimed = errand_work::claim(&mut conn, self.settings.worker, &key_ids, limit, lease).await?;
        drop(conn);
        for errand in claimed {
            tracing::info!(
                session.id = %errand.session, errand.id = %errand.key.errand, task = errand.task.as_str(),
                "took up an errand"
            );
            self.tasks.spawn(Run::new(Arc::clone(self), errand, start).live());
        }
        Ok(())
    }

    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(SWEEP_EVERY) => {}
            }
            if let Err(error) = self.tidy().await {
                tracing::warn!(%error, "errands that are over were not swept");
            }
        }
    }

    /// Ends what nobody took up in time, and deletes what is old.
    async fn tidy(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "sweep_errands";
        let mut conn = store::connection(&self.database, OPERATION).await?;
        let mut transaction = store::begin(&mut conn, OPERATION).await?;
        let ended = errand_upkeep::end_abandoned(&mut transaction, None, SWEEP_LIMIT).await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        if ended > 0 {
            tracing::warn!(errands = ended, "errands ended that no worker took up in time");
        }
        errand_upkeep::sweep(&mut conn, KEEP, SWEEP_LIMIT).await?;
        login_rests::sweep(&mut conn, SWEEP_LIMIT).await?;
        Ok(())
    }

    /// How long a hold is trusted after the start of the statement that took or renewed it.
    fn trusted_span(&self) -> Duration {
        let sessions = &self.settings.sessions;
        sessions.lease.saturating_sub(sessions.margin)
    }

    /// The application that a session logs in as.
    async fn application(&self, id: Option<ApplicationId>) -> Result<Result<Application, ErrandProblem>, StoreError> {
        let Some(id) = id else {
            return Ok(environment(&self.settings.telegram, &self.net).ok_or(ErrandProblem::ApplicationInvalid));
        };
        let mut conn = store::connection(&self.database, "sealed_application").await?;
        let Some(sealed) = applications::sealed(&mut conn, id).await? else {
            return Ok(Err(ErrandProblem::ApplicationInvalid));
        };
        let opened = self.vault.open_letter(&applications::hash_owner(id), &sealed.hash);
        let hash = opened
            .inspect_err(|error| tracing::error!(%error, application.id = %id, "an application's hash does not open"))
            .ok()
            .and_then(|bytes| std::str::from_utf8(&bytes).ok().map(Secret::new));
        Ok(hash
            .map(|api_hash| Application {
                api_id: sealed.api_id,
                api_hash,
            })
            .ok_or(ErrandProblem::ApplicationInvalid))
    }
}

/// The environment's application; a configured server may do without.
fn environment(telegram: &TelegramConfig, net: &LoginNet) -> Option<Application> {
    match (telegram.api_id, &telegram.api_hash) {
        (Some(api_id), Some(api_hash)) => Some(Application {
            api_id,
            api_hash: api_hash.clone(),
        }),
        _ if net.is_configured_server() => Some(Application {
            api_id: telegram.api_id.unwrap_or(NO_APPLICATION.0),
            api_hash: Secret::new(NO_APPLICATION.1),
        }),
        _ => None,
    }
}

/// Makes the environment's application the default one, so that sessions that log in with it stay with it.
async fn publish_application(database: &PgPool, vault: &Vault, telegram: &TelegramConfig) -> Result<(), DeskError> {
    const OPERATION: &str = "publish_application";
    let (Some(api_id), Some(hash)) = (telegram.api_id, &telegram.api_hash) else {
        return Ok(());
    };
    let mut conn = store::connection(database, OPERATION).await?;
    let mut transaction = store::begin(&mut conn, OPERATION).await?;
    let id = applications::ensure_environment(&mut transaction, api_id).await?;
    let (key_id, slot) = vault.slot()?;
    let sealed = Sealed {
        key_id: key_id.to_owned(),
        bytes: slot.seal(&applications::hash_owner(id), hash.expose().as_bytes())?,
    };
    applications::set_hash(&mut transaction, id, &sealed).await?;
    transaction.commit().await.map_err(store::failed(OPERATION))?;
    Ok(())
}

/// Seals the applications' hashes anew under the vault's first key; returns how many were under another. A part of the rotation of
/// master keys: they are letters, which open otherwise than what the vault seals. One that is changed meanwhile is left as it is
/// then, under the key that it was changed with.
pub async fn reseal_applications(database: &PgPool, vault: &Vault) -> Result<u64, DeskError> {
    let (key_id, slot) = vault.slot()?;
    let mut conn = store::connection(database, "reseal_applications").await?;
    let mut resealed = 0;
    for (id, sealed) in applications::sealed_otherwise(&mut conn, key_id).await? {
        let owner = applications::hash_owner(id);
        let hash = vault.open_letter(&owner, &sealed)?;
        let fresh = Sealed {
            key_id: key_id.to_owned(),
            bytes: slot.seal(&owner, &hash)?,
        };
        resealed += u64::from(applications::reseal(&mut conn, id, &sealed, &fresh).await?);
    }
    Ok(resealed)
}

/// Opens what a step was given.
fn open_input(
    vault: &Vault,
    errand: crate::ids::ErrandId,
    work: &errand_work::Work,
) -> Result<Option<Secret>, VaultError> {
    let Some(sealed) = &work.input else { return Ok(None) };
    let opened = vault.open_letter(&errands::input_owner(errand, work.step), sealed)?;
    Ok(std::str::from_utf8(&opened).ok().map(Secret::new))
}
