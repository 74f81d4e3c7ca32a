//! grammers' `Session` on Postgres.
//!
//! The home data centre and its key are in memory; changes of them and of the update state are written through under the
//! lease's fence, peers behind it in batches. Three things are refused that grammers would do:
//!
//! - **An auth key is never replaced.** On a key the server does not know (-404) grammers' pool makes a new one and hands
//!   it over to be stored, and the account would be logged out without a word. Here that is an error, and the session
//!   ends `logged_out`.
//! - **A known update box is never overwritten** by `set_update_state`, which gets the server's newest numbers and would
//!   skip what was missed. How far the updates were really read is stored with what they said.
//! - **Only the home data centre is reached**, through the session's [`Relay`](super::relay::Relay): one socket, one
//!   look at the trust before every byte. For files that lie elsewhere there is [`connection`](super::connection)'s own way.

use std::{
    net::{SocketAddrV4, SocketAddrV6},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use grammers_session::{
    BoxFuture, Session,
    types::{ChannelState, DcOption, PeerId, PeerInfo, UpdateState, UpdatesState},
};
use sqlx::PgPool;
use tokio::sync::Notify;

use super::{
    auth_key::AuthKey,
    peer_cache::{PeerCache, checked_id, from_row, to_row},
};
use crate::{
    store::{
        StoreError,
        leases::LeaseKey,
        peers,
        sessions::{self, DcRow},
        update_states::{self, ACCOUNT_BOX, BoxState},
    },
    vault::{Vault, VaultError},
};

/// With so many unsaved peers, whoever brings more waits until they are stored.
const UNSAVED_BOUND: usize = 2_000;
/// So many are stored behind without waiting for more, so that hardly anybody ever waits.
const CROWD: usize = 600;

/// Why the session's data could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the session's key could not be sealed or opened")]
    Vault(#[from] VaultError),
    #[error("the session has no auth key for its home data centre")]
    NoKey,
    #[error("the session's data centre has an address that does not parse")]
    Address,
    #[error("the server does not know the session's auth key, and another one is not taken")]
    KeyRefused,
    #[error("a session's home data centre does not change")]
    HomeFixed,
}

/// What the storage of one held session is made from.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    pub lease: LeaseKey,
    pub home_dc: i32,
    pub account_id: i64,
    /// As it is stored.
    pub username: Option<String>,
    pub is_bot: bool,
    /// A configured server's address stays, whatever the server says of itself.
    pub pinned: Option<SocketAddrV4>,
    /// Peers kept in memory.
    pub peer_cache: usize,
}

/// One held session's data.
pub struct PgSession {
    pool: PgPool,
    vault: Vault,
    settings: StorageSettings,
    home: Mutex<Home>,
    /// Where grammers is told that the home data centre is.
    entrance: Mutex<Option<SocketAddrV4>>,
    key_refused: AtomicBool,
    /// As it is stored: an account that is still called the same costs no write.
    username: Mutex<Option<String>>,
    peers: Mutex<PeerCache>,
    /// Told when there is something to write behind.
    unsaved: Notify,
    /// Told when there is so much of it that it should not wait for more.
    crowded: Notify,
    /// One flush at a time, so that an older batch never lands after a newer one.
    flushing: tokio::sync::Mutex<()>,
}

struct Home {
    ipv4: SocketAddrV4,
    ipv6: SocketAddrV6,
    key: AuthKey,
}

impl std::fmt::Debug for PgSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgSession")
            .field("lease", &self.settings.lease)
            .finish_non_exhaustive()
    }
}

/// What a sealed auth key belongs to.
pub fn key_owner(session: crate::ids::SessionId, dc: i32) -> String {
    format!("session:{session}:dc:{dc}")
}

impl PgSession {
    /// Reads the home data centre and opens its key. The lease must be held.
    pub async fn load(pool: PgPool, vault: Vault, settings: StorageSettings) -> Result<Self, StorageError> {
        let session = settings.lease.session;
        let mut connection = acquire(&pool, "load_session").await?;
        let dcs = sessions::dcs(&mut connection, session).await?;
        drop(connection);
        let row = dcs
            .into_iter()
            .find(|dc| dc.dc_id == settings.home_dc)
            .ok_or(StorageError::NoKey)?;
        let sealed = row.auth_key.as_ref().ok_or(StorageError::NoKey)?;
        let opened = vault.open(&key_owner(session, settings.home_dc), sealed)?;
        let key = AuthKey::read(&opened).ok_or(StorageError::NoKey)?;
        let stored: SocketAddrV4 = row.ipv4.parse().map_err(|_| StorageError::Address)?;
        let home = Home {
            ipv4: settings.pinned.unwrap_or(stored),
            ipv6: row.ipv6.parse().map_err(|_| StorageError::Address)?,
            key,
        };
        Ok(Self {
            pool,
            vault,
            home: Mutex::new(home),
            entrance: Mutex::new(None),
            key_refused: AtomicBool::new(false),
            username: Mutex::new(settings.username.clone()),
            peers: Mutex::new(PeerCache::new(settings.peer_cache)),
            unsaved: Notify::new(),
            crowded: Notify::new(),
            flushing: tokio::sync::Mutex::new(()),
            settings,
        })
    }

    pub fn lease(&self) -> LeaseKey {
        self.settings.lease
    }

    pub fn account_id(&self) -> i64 {
        self.settings.account_id
    }

    /// The account is a bot's.
    pub fn is_bot(&self) -> bool {
        self.settings.is_bot
    }

    pub fn home_dc(&self) -> i32 {
        self.settings.home_dc
    }

    /// The key of the home data centre.
    pub(crate) fn home_key(&self) -> AuthKey {
        self.lock_home().key.clone()
    }

    /// The session's key in another data centre than its home, if it has one there.
    pub(super) async fn key_of(&self, dc: i32) -> Result<Option<AuthKey>, StorageError> {
        let session = self.settings.lease.session;
        let mut connection = acquire(&self.pool, "load_session").await?;
        let dcs = sessions::dcs(&mut connection, session).await?;
        let Some(sealed) = dcs.into_iter().find(|row| row.dc_id == dc).and_then(|row| row.auth_key) else {
            return Ok(None);
        };
        let opened = self.vault.open(&key_owner(session, dc), &sealed)?;
        Ok(AuthKey::read(&opened))
    }

    /// Stores the session's key in another data centre than its home, under the lease.
    pub(super) async fn save_key_of(
        &self,
        dc: i32,
        key: &AuthKey,
        ipv4: SocketAddrV4,
        ipv6: SocketAddrV6,
    ) -> Result<(), StorageError> {
        let owner = key_owner(self.settings.lease.session, dc);
        self.save_row(&DcRow {
            dc_id: dc,
            ipv4: ipv4.to_string(),
            ipv6: ipv6.to_string(),
            auth_key: Some(self.vault.seal(&owner, key.as_slice())?),
        })
        .await
    }

    /// Forgets the session's key in another data centre than its home.
    pub(super) async fn forget_key_of(&self, dc: i32) -> Result<(), StorageError> {
        let mut transaction = begin(&self.pool, "forget_session_dc").await?;
        sessions::forget_dc(&mut transaction, self.settings.lease, dc).await?;
        commit(transaction, "forget_session_dc").await
    }

    /// The real address of the home data centre.
    pub fn home_address(&self) -> SocketAddrV4 {
        self.lock_home().ipv4
    }

    /// Sends grammers through the relay from now on.
    pub fn set_entrance(&self, entrance: SocketAddrV4) {
        *self.entrance.lock().unwrap_or_else(PoisonError::into_inner) = Some(entrance);
    }

    /// The server did not know the session's key, and grammers offered another.
    pub fn key_was_refused(&self) -> bool {
        self.key_refused.load(Ordering::Acquire)
    }

    /// A peer this session has met, with its access hash.
    pub async fn find_peer(&self, id: PeerId) -> Result<Option<PeerInfo>, StorageError> {
        if id == PeerId::self_user() || id.bot_api_dialog_id() == Some(self.settings.account_id) {
            return Ok(Some(self.myself()));
        }
        if let Some(info) = self.lock_peers().get(id) {
            return Ok(Some(info));
        }
        let Some(number) = id.bot_api_dialog_id() else {
            return Ok(None);
        };
        let mut connection = acquire(&self.pool, "get_peer").await?;
        let row = peers::get(&mut connection, self.settings.lease.session, number).await?;
        let found = row.as_ref().and_then(from_row);
        if let Some((id, info)) = &found {
            self.lock_peers().remember(*id, info.clone());
        }
        Ok(found.map(|(_, info)| info))
    }

    /// Takes in peers that a response described; stored behind.
    pub async fn learn(&self, infos: impl IntoIterator<Item = PeerInfo>) -> Result<(), StorageError> {
        let unsaved = {
            let mut peers = self.lock_peers();
            for info in infos {
                if let Some(id) = checked_id(&info) {
                    peers.learn(id, &info);
                }
            }
            peers.unsaved()
        };
        if unsaved >= UNSAVED_BOUND {
            return self.flush().await;
        }
        if unsaved > 0 {
            self.unsaved.notify_one();
        }
        if unsaved >= CROWD {
            self.crowded.notify_one();
        }
        Ok(())
    }

    /// Returns when so many peers are to be stored that it should not wait for more.
    pub async fn is_crowded(&self) {
        self.crowded.notified().await;
    }

    /// Returns when there are peers to store.
    pub async fn has_unsaved(&self) {
        self.unsaved.notified().await;
    }

    /// Stores what was learnt of these channels, if it is not stored yet. Whoever stores a place in a channel's updates does
    /// this first: without the access hash nobody could read on from there.
    pub async fn secure_channels(&self, channels: impl IntoIterator<Item = i64>) -> Result<(), StorageError> {
        let is_unsaved = {
            let peers = self.lock_peers();
            let mut ids = channels.into_iter().filter_map(PeerId::channel);
            ids.any(|id| peers.is_unsaved(id))
        };
        // What is being stored at this moment is in neither place: wait for it.
        if is_unsaved || self.flushing.try_lock().is_err() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Stores the peers learnt since the last time, under the lease. What fails is kept for the next time.
    pub async fn flush(&self) -> Result<(), StorageError> {
        let _one = self.flushing.lock().await;
        let unsaved = self.lock_peers().take_unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<_> = unsaved.iter().filter_map(|(id, info)| to_row(*id, info)).collect();
        rows.sort_unstable_by_key(|row| row.peer_id);
        let saved = async {
            let mut transaction = begin(&self.pool, "save_peers").await?;
            peers::save(&mut transaction, self.settings.lease, &rows).await?;
            commit(transaction, "save_peers").await
        };
        let saved = saved.await;
        if saved.is_err() {
            self.lock_peers().not_saved(unsaved);
            self.unsaved.notify_one();
        }
        saved
    }

    /// Stores the account's present username under the lease, unless it is the stored one.
    pub async fn save_username(&self, username: Option<&str>) -> Result<(), StorageError> {
        if self.lock_username().as_deref() == username {
            return Ok(());
        }
        let mut transaction = begin(&self.pool, "save_username").await?;
        sessions::save_username(&mut transaction, self.settings.lease, username).await?;
        commit(transaction, "save_username").await?;
        *self.lock_username() = username.map(str::to_owned);
        Ok(())
    }

    pub(super) fn database(&self) -> &PgPool {
        &self.pool
    }

    fn myself(&self) -> PeerInfo {
        PeerInfo::User {
            id: self.settings.account_id,
            auth: None,
            bot: Some(self.settings.is_bot),
            is_self: Some(true),
        }
    }

    /// What is to be stored of the home data centre; `None`: nothing. Its key is looked at here, and goes no further.
    fn home_to_save(&self, offered: &DcOption) -> Result<Option<DcRow>, StorageError> {
        let entrance = *self.entrance.lock().unwrap_or_else(PoisonError::into_inner);
        let home = self.lock_home();
        if offered.auth_key.as_ref().is_some_and(|key| *key != *home.key) {
            self.key_refused.store(true, Ordering::Release);
            return Err(StorageError::KeyRefused);
        }
        let is_real = Some(offered.ipv4) != entrance && !offered.ipv4.ip().is_unspecified();
        if self.settings.pinned.is_some() || !is_real || (offered.ipv4 == home.ipv4 && offered.ipv6 == home.ipv6) {
            return Ok(None);
        }
        Ok(Some(DcRow {
            dc_id: offered.id,
            ipv4: offered.ipv4.to_string(),
            ipv6: offered.ipv6.to_string(),
            auth_key: None,
        }))
    }

    async fn save_home(&self, row: &DcRow, ipv4: SocketAddrV4, ipv6: SocketAddrV6) -> Result<(), StorageError> {
        self.save_row(row).await?;
        let mut home = self.lock_home();
        home.ipv4 = ipv4;
        home.ipv6 = ipv6;
        Ok(())
    }

    /// What is to be stored of another data centre: its address for later, and its key, sealed at once. Only the home data centre
    /// is ever reached, so the addresses of the others are not worth a write per connection.
    fn other_to_save(&self, offered: &DcOption) -> Result<Option<DcRow>, StorageError> {
        let Some(key) = &offered.auth_key else {
            return Ok(None);
        };
        let owner = key_owner(self.settings.lease.session, offered.id);
        Ok(Some(DcRow {
            dc_id: offered.id,
            ipv4: offered.ipv4.to_string(),
            ipv6: offered.ipv6.to_string(),
            auth_key: Some(self.vault.seal(&owner, key)?),
        }))
    }

    async fn save_row(&self, row: &DcRow) -> Result<(), StorageError> {
        let mut transaction = begin(&self.pool, "save_session_dc").await?;
        sessions::save_dc(&mut transaction, self.settings.lease, row).await?;
        commit(transaction, "save_session_dc").await
    }

    async fn seed(&self, update: UpdateState) -> Result<(), StorageError> {
        let mut transaction = begin(&self.pool, "seed_update_states").await?;
        update_states::seed(&mut transaction, self.settings.lease, &seeds(update)).await?;
        commit(transaction, "seed_update_states").await
    }

    async fn load_states(&self) -> Result<UpdatesState, StorageError> {
        let mut connection = acquire(&self.pool, "load_update_states").await?;
        let boxes = update_states::load(&mut connection, self.settings.lease.session).await?;
        let mut state = UpdatesState::default();
        for known in boxes {
            let pts = known.pts.unwrap_or_default();
            if known.update_box == ACCOUNT_BOX {
                state.pts = pts;
                state.qts = known.qts.unwrap_or_default();
                state.date = known.date.unwrap_or_default();
                state.seq = known.seq.unwrap_or_default();
            } else {
                state.channels.push(ChannelState {
                    id: known.update_box,
                    pts,
                });
            }
        }
        Ok(state)
    }

    fn lock_home(&self) -> std::sync::MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_username(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.username.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_peers(&self) -> std::sync::MutexGuard<'_, PeerCache> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for PgSession {
    type Error = StorageError;

    fn home_dc_id(&self) -> Result<i32, StorageError> {
        Ok(self.settings.home_dc)
    }

    fn set_home_dc_id(&self, dc_id: i32) -> BoxFuture<'_, Result<(), StorageError>> {
        let same = dc_id == self.settings.home_dc;
        Box::pin(async move { if same { Ok(()) } else { Err(StorageError::HomeFixed) } })
    }

    fn dc_option(&self, dc_id: i32) -> Result<Option<DcOption>, StorageError> {
        if dc_id != self.settings.home_dc {
            return Ok(None);
        }
        let entrance = *self.entrance.lock().unwrap_or_else(PoisonError::into_inner);
        let home = self.lock_home();
        Ok(Some(DcOption {
            id: dc_id,
            ipv4: entrance.unwrap_or(home.ipv4),
            ipv6: home.ipv6,
            auth_key: Some(*home.key),
        }))
    }

    fn set_dc_option(&self, dc_option: &DcOption) -> BoxFuture<'_, Result<(), StorageError>> {
        let is_home = dc_option.id == self.settings.home_dc;
        // Before anything waits: what waits is on the heap, and a key in it would be a copy that nobody wipes.
        let row = if is_home {
            self.home_to_save(dc_option)
        } else {
            self.other_to_save(dc_option)
        };
        let (ipv4, ipv6) = (dc_option.ipv4, dc_option.ipv6);
        Box::pin(async move {
            match row? {
                None => Ok(()),
                Some(row) if is_home => self.save_home(&row, ipv4, ipv6).await,
                Some(row) => self.save_row(&row).await,
            }
        })
    }

    fn peer(&self, peer: PeerId) -> BoxFuture<'_, Result<Option<PeerInfo>, StorageError>> {
        Box::pin(self.find_peer(peer))
    }

    fn cache_peer(&self, peer: PeerInfo) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(self.learn([peer]))
    }

    fn cache_peers(&self, peers: Vec<PeerInfo>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(self.learn(peers))
    }

    fn updates_state(&self) -> BoxFuture<'_, Result<UpdatesState, StorageError>> {
        Box::pin(self.load_states())
    }

    fn set_update_state(&self, update: UpdateState) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(self.seed(update))
    }
}

fn seeds(update: UpdateState) -> Vec<BoxState> {
    let unknown = BoxState {
        update_box: ACCOUNT_BOX,
        pts: None,
        qts: None,
        date: None,
        seq: None,
    };
    let channel = |id, pts| BoxState {
        update_box: id,
        pts: Some(pts),
        ..unknown
    };
    match update {
        UpdateState::All(all) => {
            let account = BoxState {
                pts: Some(all.pts),
                qts: Some(all.qts),
                date: Some(all.date),
                seq: Some(all.seq),
                ..unknown
            };
            let channels = all.channels.into_iter().map(|known| channel(known.id, known.pts));
            std::iter::once(account).chain(channels).collect()
        }
        UpdateState::Primary { pts, date, seq } => vec![BoxState {
            pts: Some(pts),
            date: Some(date),
            seq: Some(seq),
            ..unknown
        }],
        UpdateState::Secondary { qts } => vec![BoxState {
            qts: Some(qts),
            ..unknown
        }],
        UpdateState::Channel { id, pts } => vec![channel(id, pts)],
    }
}

type Transaction = sqlx::Transaction<'static, sqlx::Postgres>;

async fn acquire(
    pool: &PgPool,
    operation: &'static str,
) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StorageError> {
    Ok(pool.acquire().await.map_err(crate::store::failed(operation))?)
}

async fn begin(pool: &PgPool, operation: &'static str) -> Result<Transaction, StorageError> {
    Ok(pool.begin().await.map_err(crate::store::failed(operation))?)
}

async fn commit(transaction: Transaction, operation: &'static str) -> Result<(), StorageError> {
    Ok(transaction.commit().await.map_err(crate::store::failed(operation))?)
}

#[cfg(test)]
mod tests;
