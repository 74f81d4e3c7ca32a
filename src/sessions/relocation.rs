//! Takes a session along to the data centre that its account has moved to: the authorisation is exported where it was, and imported
//! with a fresh key where it is to be. One connection after the other, through the session's proxy, and under its lease. What
//! fails after the import gives the new authorisation back.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{held::HeldSession, holder::Holder, term::Term};
use crate::{
    store::{StoreError, failed, session_homes, sessions::DcRow},
    telegram::{
        login::{Exported, Link, LinkError, LoginNet, LoginNetError},
        session_storage::key_owner,
    },
    vault::VaultError,
};

/// No step of it takes longer than half of this.
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

/// Makes `dc` the home of the term's session, whose own connection is closed. Nothing is open when this returns, and no
/// authorisation is left behind at `dc` that nobody has the key of.
pub(super) async fn follow(
    term: &Term,
    holder: &Holder,
    session: &HeldSession,
    dc: i32,
) -> Result<(), RelocationError> {
    let mut conn = holder.acquire("moved_lately").await?;
    if session_homes::moved_lately(&mut conn, term.key.session).await? {
        return Err(RelocationError::Lately);
    }
    drop(conn);
    let net = LoginNet::read(&holder.settings.telegram).await?;
    let exported = export(&net, term, session, dc).await?;
    let connection = &session.connection;
    let opened = Link::open(
        &net,
        dc,
        None,
        connection.api_id(),
        connection.proxy(),
        Arc::clone(&term.trust),
    );
    let link = timeout(BOUND / 2, opened)
        .await
        .map_err(|_| RelocationError::Deadline)??;
    let settled = settle(&net, term, holder, session, &link, exported).await;
    if settled.is_err() {
        give_back(term, holder, &link).await;
    }
    link.close().await;
    settled
}

/// Imports the authorisation at the link's data centre, and makes that the session's home.
async fn settle(
    net: &LoginNet,
    term: &Term,
    holder: &Holder,
    session: &HeldSession,
    link: &Link,
    exported: Exported,
) -> Result<(), RelocationError> {
    const OPERATION: &str = "move_home";
    let storage = session.connection.storage();
    let (from, dc, id) = (storage.home_dc(), link.dc(), term.key.session);
    let account = timeout(BOUND / 2, link.import_authorization(exported))
        .await
        .map_err(|_| RelocationError::Deadline)??;
    if account.id != storage.account_id() {
        return Err(RelocationError::OtherAccount);
    }
    let key = link.key().ok_or(LinkError::Unreadable)?;
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

/// Logs out what was, or may have been, authorised at a data centre that did not become the session's home. Where nobody can say
/// whether it did, it is left alone: an authorisation too many can be ended by its owner, the session's own cannot be had back.
async fn give_back(term: &Term, holder: &Holder, link: &Link) {
    let id = term.key.session;
    let home = async {
        let mut conn = holder.acquire("settled_home").await?;
        session_homes::settled_home(&mut conn, id).await
    };
    match home.await {
        Ok(Some(home)) if home == link.dc() => return,
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(session.id = %id, dc = link.dc(), error = &error as &dyn std::error::Error,
                "it is not known whether the session has moved: an authorisation may be left behind there");
            return;
        }
    }
    match timeout(BOUND / 2, link.log_out()).await {
        Ok(Ok(())) => tracing::info!(session.id = %id, dc = link.dc(), "the authorisation there was given back"),
        // As when the import was refused.
        Ok(Err(LinkError::Rpc(error))) => {
            tracing::debug!(session.id = %id, dc = link.dc(), error = error.name, "there was none to give back");
        }
        Ok(Err(error)) => {
            tracing::warn!(session.id = %id, dc = link.dc(), error = &error as &dyn std::error::Error,
                "an authorisation may be left behind there");
        }
        Err(_) => tracing::warn!(session.id = %id, dc = link.dc(), "an authorisation may be left behind there"),
    }
}

/// Exports the authorisation at home.
async fn export(net: &LoginNet, term: &Term, session: &HeldSession, dc: i32) -> Result<Exported, RelocationError> {
    let connection = &session.connection;
    let (home, key) = (connection.storage().home_dc(), connection.storage().home_key());
    let trust = Arc::clone(&term.trust);
    let link = Link::open(net, home, Some(key), connection.api_id(), connection.proxy(), trust).await?;
    let exported = timeout(BOUND / 2, link.export_authorization(dc)).await;
    link.close().await;
    Ok(exported.map_err(|_| RelocationError::Deadline)??)
}
