//! The errands of one worker process: logins with their challenges, imports, exports, log-outs. The desk claims them, one task
//! does each (`run`), and nothing else in the process depends on how they end.
//!
//! An errand is held under a lease of its own, renewed and trusted like a session's, because a half-open login has an auth key
//! too: when its worker dies or is stopped, another one goes on with the key from the row, and the first never sends again.

mod authorisation;
mod outcome;
mod progress;
mod qr;
mod run;
mod signing_in;

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
        self, StoreError, applications, errand_work,
        errands::{self, ErrandProblem},
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
            let swept = async {
                let mut conn = store::connection(&self.database, "sweep_errands").await?;
                errand_work::sweep(&mut conn, KEEP, SWEEP_LIMIT).await
            };
            if let Err(error) = swept.await {
                tracing::warn!(%error, "old errands were not deleted");
            }
        }
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
/// master keys: they are letters, which open otherwise than what the vault seals.
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
        applications::set_hash(&mut conn, id, &fresh).await?;
        resealed += 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::testing::TestDatabase,
        config::{Config, Source},
        ids::SessionId,
        sessions::verify_master_keys,
        store::{
            errand_work::Reply,
            errands::{CHALLENGE, ErrandState, Step, Task},
            login_requests::{self, Asker, Begun, LoginRequest, StepAsked},
        },
    };

    fn vault(ids: &[&str]) -> (Vault, String) {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| Vault::generate(id).unwrap().expose().to_owned())
            .collect();
        let text = keys.join(",");
        (Vault::parse(&Secret::new(text.as_str())).unwrap(), text)
    }

    const ASKER: Asker<'static> = Asker {
        actor: "cli",
        request_id: None,
    };

    async fn begun(database: &TestDatabase, vault: &Vault) -> (SessionId, crate::ids::ErrandId) {
        verify_master_keys(database.pool(), vault).await.unwrap();
        let mut conn = database.pool().acquire().await.unwrap();
        let request = LoginRequest {
            label: "a",
            pool: "default",
            application: None,
            proxy: None,
            task: Task::Phone,
            input: Some(b"+9996620001"),
        };
        match login_requests::begin_login(&mut conn, &request, ASKER).await.unwrap() {
            Begun::Now { session, errand } => (session, errand),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_hash_follows_the_rotation_of_master_keys() {
        let database = TestDatabase::new().await;
        let (old, text) = vault(&["k1"]);
        let id = ApplicationId::generate();
        let (key_id, slot) = old.slot().unwrap();
        let sealed = Sealed {
            key_id: key_id.to_owned(),
            bytes: slot.seal(&applications::hash_owner(id), b"hash").unwrap(),
        };
        let mut conn = database.pool().acquire().await.unwrap();
        assert!(applications::insert(&mut conn, id, "mine", 7, &sealed).await.unwrap());
        let new = Vault::generate("k2").unwrap();
        let both = Vault::parse(&Secret::new(format!("{},{text}", new.expose()))).unwrap();
        assert_eq!(reseal_applications(database.pool(), &both).await.unwrap(), 1);
        assert_eq!(reseal_applications(database.pool(), &both).await.unwrap(), 0);
        let kept = applications::sealed(&mut conn, id).await.unwrap().unwrap();
        let alone = Vault::parse(&new).unwrap();
        let hash = alone.open_letter(&applications::hash_owner(id), &kept.hash).unwrap();
        assert_eq!(hash.as_slice(), b"hash");
    }

    #[tokio::test]
    async fn an_errand_is_claimed_once_and_by_a_worker_that_can_open_it() {
        let database = TestDatabase::new().await;
        let (vault, _) = vault(&["k1"]);
        begun(&database, &vault).await;
        let mut conn = database.pool().acquire().await.unwrap();
        let lease = Duration::from_mins(1);
        let other = ["k9".to_owned()];
        let none = errand_work::claim(&mut conn, WorkerId::generate(), &other, 10, lease).await;
        assert!(none.unwrap().is_empty(), "it could not open it");
        let ours = ["k1".to_owned()];
        let claims = (0..10).map(|_| {
            let (pool, ours) = (database.pool().clone(), ours.clone());
            async move {
                let mut conn = pool.acquire().await.unwrap();
                let claimed = errand_work::claim(&mut conn, WorkerId::generate(), &ours, 10, lease).await;
                claimed.unwrap().len()
            }
        });
        let claimed: usize = futures::future::join_all(claims).await.into_iter().sum();
        assert_eq!(claimed, 1);
    }

    #[tokio::test]
    async fn a_worker_whose_hold_is_over_changes_nothing() {
        let database = TestDatabase::new().await;
        let (vault, _) = vault(&["k1"]);
        let (session, errand) = begun(&database, &vault).await;
        let mut conn = database.pool().acquire().await.unwrap();
        let ours = ["k1".to_owned()];
        let mut claim = async |lease| {
            let claimed = errand_work::claim(&mut conn, WorkerId::generate(), &ours, 1, lease).await;
            claimed.unwrap().pop().map(|claimed| claimed.key)
        };
        let first = claim(Duration::ZERO).await.expect("free");
        let second = claim(Duration::from_mins(1)).await.expect("its hold has run out");
        assert!(second.fence > first.fence);
        let code_needed = Reply {
            state: Some(ErrandState::CodeNeeded),
            ..Reply::default()
        };
        let stale = errand_work::reply(&mut conn, first, 1, &code_needed).await;
        assert!(matches!(stale, Err(StoreError::Fenced { .. })));
        assert!(
            !errand_work::renew(&mut conn, first, Duration::from_mins(1))
                .await
                .unwrap()
        );
        errand_work::release(&mut conn, first).await.unwrap();
        errand_work::reply(&mut conn, second, 1, &code_needed).await.unwrap();
        let work = errand_work::load(&mut conn, second).await.unwrap();
        assert_eq!((work.state, work.answered), (ErrandState::CodeNeeded, 1));
        assert!(work.input.is_none(), "erased by the answer");

        // Of two codes at once one is taken; the other hears that.
        let one = login_requests::ask_step(&mut conn, session, Step::Code, Some(b"1"))
            .await
            .unwrap();
        assert!(matches!(one, StepAsked::Now { seq: 2, .. }), "{one:?}");
        let other = login_requests::ask_step(&mut conn, session, Step::Code, Some(b"2"))
            .await
            .unwrap();
        assert!(matches!(other, StepAsked::Busy), "{other:?}");
        login_requests::give_up(&mut conn, session, ASKER).await.unwrap();
        let late = errand_work::reply(&mut conn, second, 2, &code_needed).await;
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "it was given up");
        let record = errands::get(&mut conn, errand).await.unwrap().unwrap();
        assert_eq!(record.problem, Some(ErrandProblem::Cancelled));
        assert!(record.expires_at - record.updated_at <= chrono::TimeDelta::from_std(CHALLENGE).unwrap());
    }

    #[tokio::test]
    async fn without_an_application_telegram_itself_is_not_asked() {
        let variables = [
            ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing"),
            ("TELEGRAM_API_ID", "7"),
        ];
        let source = Source::from_values(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let config = Config::from_source(source).unwrap();
        let net = LoginNet::read(&config.telegram).await.unwrap();
        assert!(environment(&config.telegram, &net).is_none(), "its hash is missing");
        let (first, _) = net.address(2).unwrap();
        assert_eq!(first.port(), 443);
        assert!(net.address(9).is_err());
    }
}
