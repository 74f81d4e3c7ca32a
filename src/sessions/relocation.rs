//! Takes a session along to the data centre that its account has moved to: the authorisation is exported where it was, and imported
//! with a fresh key where it is to be. One connection after the other, through the session's proxy, and under its lease.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{held::HeldSession, holder::Holder, term::Term};
use crate::{
    store::{StoreError, failed, session_homes, sessions::DcRow},
    telegram::{
        login::{Account, AuthKey, Link, LinkError, LoginNet, LoginNetError},
        session_storage::key_owner,
    },
    vault::VaultError,
};

/// It takes no longer than this in all.
const BOUND: Duration = Duration::from_mins(1);

/// Why a session stays where it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelocationError {
    #[error("it followed its account less than ten minutes ago")]
    Lately,
    #[error("the other data centre knows it as another account")]
    OtherAccount,
    #[error("it took too long")]
    Deadline,
    #[error(transparent)]
    Net(#[from] LoginNetError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes `dc` the home of the term's session, whose own connection is closed. Nothing is open when this returns.
pub(super) async fn follow(
    term: &Term,
    holder: &Holder,
    session: &HeldSession,
    dc: i32,
) -> Result<(), RelocationError> {
    const OPERATION: &str = "move_home";
    let storage = session.connection.storage();
    let (from, id) = (storage.home_dc(), term.key.session);
    let mut conn = holder.acquire("moved_lately").await?;
    if session_homes::moved_lately(&mut conn, id).await? {
        return Err(RelocationError::Lately);
    }
    drop(conn);
    let net = LoginNet::read(&holder.settings.telegram).await?;
    let (account, key) = take_along(&net, term, session, dc).await?;
    if account.id != storage.account_id() {
        return Err(RelocationError::OtherAccount);
    }
    let (ipv4, ipv6) = net.address(dc)?;
    let home = DcRow {
        dc_id: dc,
        ipv4: ipv4.to_string(),
        ipv6: ipv6.to_string(),
        auth_key: Some(holder.vault.seal(&key_owner(id, dc), key.as_slice())?),
    };
    let mut conn = holder.acquire(OPERATION).await?;
    let mut transaction = crate::store::begin(&mut conn, OPERATION).await?;
    session_homes::move_home(&mut transaction, term.key, from, &home).await?;
    transaction.commit().await.map_err(failed(OPERATION))?;
    tracing::info!(session.id = %id, from, to = dc, "the session has followed its account to another data centre");
    Ok(())
}

/// Exports the authorisation at home and imports it there; answers with whose it is and its key there.
async fn take_along(
    net: &LoginNet,
    term: &Term,
    session: &HeldSession,
    dc: i32,
) -> Result<(Account, AuthKey), RelocationError> {
    let connection = &session.connection;
    let (api_id, trust) = (connection.api_id(), &term.trust);
    let (home, key) = (connection.storage().home_dc(), connection.storage().home_key());
    let link = Link::open(net, home, Some(key), api_id, connection.proxy(), Arc::clone(trust)).await?;
    let exported = timeout(BOUND / 2, link.export_authorization(dc)).await;
    link.close().await;
    let exported = exported.map_err(|_| RelocationError::Deadline)??;
    let opened = Link::open(net, dc, None, api_id, connection.proxy(), Arc::clone(trust));
    let link = timeout(BOUND / 2, opened)
        .await
        .map_err(|_| RelocationError::Deadline)??;
    let imported = timeout(BOUND / 2, link.import_authorization(exported)).await;
    let key = link.key();
    link.close().await;
    let account = imported.map_err(|_| RelocationError::Deadline)??;
    Ok((account, key.ok_or(LinkError::Unreadable)?))
}
