//! What a holder takes in when a renewal says that a session's settings have changed: caps that were raised, checks that
//! are asked for, a move to another pool, another proxy. One look for all sessions of the process, and none while nothing changes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{held::HeldSession, holder::Holder, proxies, term::Term};
use crate::{
    ids::SessionId,
    store::{StoreError, caps, pools, session_checks, session_proxies},
    telegram::connection::CallError,
    vault::Sealed,
};

/// Takes in the settings of these terms. What fails is tried again with the next renewal, which finds the same versions.
pub(super) async fn take_in(holder: Arc<Holder>, mut changed: Vec<(Arc<Term>, i64)>) {
    // One after the other: each of a session's versions is taken in once.
    let _turn = holder.taking_in.lock().await;
    // One that is being loaded is looked at again until it is there.
    changed
        .retain(|(term, version)| term.session().is_some() && term.settings_version.load(Ordering::Relaxed) < *version);
    if changed.is_empty() {
        return;
    }
    if let Err(error) = try_take_in(&holder, &changed).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "changed settings of sessions were not read"
        );
        return;
    }
    for (term, version) in &changed {
        // A renewal that was told of a later version may have been faster.
        term.settings_version.fetch_max(*version, Ordering::Relaxed);
    }
}

async fn try_take_in(holder: &Arc<Holder>, changed: &[(Arc<Term>, i64)]) -> Result<(), StoreError> {
    let sessions: Vec<(Arc<Term>, Arc<HeldSession>)> = changed
        .iter()
        .filter_map(|(term, _)| Some((Arc::clone(term), term.session()?)))
        .collect();
    let ids: Vec<SessionId> = sessions.iter().map(|(_, session)| session.id).collect();
    let mut connection = holder.acquire("spent_caps").await?;
    let mut spent: HashMap<SessionId, Vec<caps::Spent>> = HashMap::new();
    for (id, cap) in caps::spent(&mut connection, &ids).await? {
        spent.entry(id).or_default().push(cap);
    }
    let in_pools: Vec<(SessionId, &str)> = sessions
        .iter()
        .map(|(_, session)| (session.id, session.pool.as_str()))
        .collect();
    let moving = pools::moving(&mut connection, &in_pools).await?;
    let checks = session_checks::open(&mut connection, &ids).await?;
    let mut proxies: HashMap<SessionId, Sealed> = session_proxies::sealed(&mut connection, &ids)
        .await?
        .into_iter()
        .collect();
    drop(connection);
    for (term, session) in &sessions {
        session.gates.sync_spent(spent.remove(&session.id).unwrap_or_default());
        match proxies::open(&holder.vault, session.id, proxies.remove(&session.id).as_ref()) {
            Ok(proxy) => session.connection.set_proxy(proxy),
            Err(error) => {
                // Rather no connection than one from another place than was meant; the next term rests for this reason.
                tracing::error!(session.id = %session.id, %error, "a session's proxy does not open");
                term.take_away();
            }
        }
        if moving.contains(&session.id) {
            term.move_on();
        }
        for (_, check) in checks.iter().filter(|(id, _)| *id == session.id) {
            if session.begin_check(*check) {
                tokio::spawn(answer(Arc::clone(holder), Arc::clone(session), *check));
            }
        }
    }
    Ok(())
}

/// Makes one check and stores what came of it.
async fn answer(holder: Arc<Holder>, session: Arc<HeldSession>, check: Uuid) {
    let probe = session.connection.probe().await;
    if probe.is_ok() {
        session.trouble.hint();
    }
    let answer = judged(probe.map(|took| took.as_millis()));
    let stored = async {
        let mut connection = holder.acquire("answer_check").await?;
        session_checks::answer(&mut connection, check, holder.settings.worker, &answer).await
    };
    if let Err(error) = stored.await {
        tracing::warn!(session.id = %session.id, %error, "the answer to a check was not stored");
    }
}

fn judged(probe: Result<u128, CallError>) -> Value {
    let failed = |code: &str, message: String| json!({ "ok": false, "code": code, "message": message });
    match probe {
        Ok(milliseconds) => json!({ "ok": true, "milliseconds": u64::try_from(milliseconds).unwrap_or(u64::MAX) }),
        Err(CallError::Rpc(error)) => failed(&error.name, format!("Telegram answered {}.", error.name)),
        Err(CallError::SessionLost(reason)) => failed(&reason, format!("The session is lost: {reason}.")),
        Err(error @ CallError::Deadline) => failed("call_deadline", format!("{error}.")),
        Err(error @ CallError::LeaseLost) => failed("lease_lost", format!("{error}.")),
        Err(error @ CallError::Disconnected(_)) => failed("connection_lost", format!("{error}.")),
        Err(error @ CallError::Proxy { .. }) => failed("proxy_failed", format!("{error}.")),
        Err(error @ CallError::Unreadable) => failed("answer_unreadable", format!("{error}.")),
    }
}
