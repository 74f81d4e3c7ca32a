//! The update stream of one session. It never ends silently: trouble is waited out with a pause that grows, and when
//! the pool ends so does this, and the supervisor starts both again from what was stored.
//!
//! What was read is stored in the transaction that stores its events, so a crash repeats updates and never skips one.
//! After 15 silent minutes grammers asks for the difference by itself; a connection that died silently is hung up on by
//! the relay, so no request of it hangs for ever.

use std::{sync::Arc, time::Duration};

use grammers_mtsender::{InvocationError, SenderPoolFatHandle, UpdatesConfiguration, UpdatesReceiver};
use grammers_session::updates::{State, UpdatesLike};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    connection::{CallError, Connection},
    errors::Meaning,
    session_storage::StorageError,
};
use crate::store::{StoreError, failed, update_states};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// After this a session is taken to have caught up whatever it has read, and the next one may start.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Reads updates until the pool ends or the session is lost.
pub(super) async fn read(connection: &Connection, handle: &SenderPoolFatHandle, updates: mpsc::Receiver<UpdatesLike>) {
    // A session that starts asks for one difference per channel: not all sessions at once.
    let permit = Arc::clone(connection.catch_up()).acquire_owned().await;
    let configuration = UpdatesConfiguration { catch_up: true };
    let session = Arc::clone(&handle.session);
    // Apart, as all that an idle session is not at: it should not carry the room for it around.
    let creating = Box::pin(UpdatesReceiver::create(
        handle.thin.clone(),
        session,
        updates,
        configuration,
    ));
    let mut receiver = match creating.await {
        Ok(receiver) => receiver,
        Err(error) => {
            tracing::warn!(error, "the update state could not be read");
            return;
        }
    };
    let starter = tokio::spawn(async move {
        sleep(CATCH_UP).await;
        drop(permit);
    });
    // One for each box that was known; without any there is nothing to catch up with.
    let mut differences = connection.storage().known_boxes();
    if differences == 0 {
        caught_up(connection, &starter);
    }
    let mut pause = FIRST_PAUSE;
    loop {
        match receiver.next().await {
            Ok((updates, users, chats)) => {
                pause = FIRST_PAUSE;
                if differences > 0 {
                    differences -= 1;
                    if differences == 0 {
                        caught_up(connection, &starter);
                    }
                }
                connection.note_update();
                Box::pin(connection.learn(&users, &chats)).await;
                let states: Vec<State> = updates.into_iter().map(|(_, state)| state).collect();
                if !Box::pin(store(connection, &states)).await {
                    break;
                }
            }
            Err(InvocationError::Rpc(error)) if Meaning::of(&error) == Meaning::LostPlace => {
                Box::pin(start_over(connection, &error.name)).await;
                break;
            }
            Err(error) => {
                let error = connection.judge(error);
                if matches!(error, CallError::SessionLost(_) | CallError::LeaseLost) {
                    break;
                }
                tracing::debug!(%error, "updates could not be fetched");
                if let CallError::Rpc(error) = &error {
                    pause = pause.max(Box::pin(connection.record_flood("updates.getDifference", error)).await);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    starter.abort();
}

/// The next session may start.
fn caught_up(connection: &Connection, starter: &JoinHandle<()>) {
    starter.abort();
    tracing::debug!(session.id = %connection.storage().lease().session, "the session reads its updates");
}

/// Telegram does not know our place any more: report the gap, and let the supervisor start from the present.
async fn start_over(connection: &Connection, reason: &str) {
    const OPERATION: &str = "forget_update_states";
    let storage = connection.storage();
    tracing::error!(session.id = %storage.lease().session, reason, "the place in the updates is lost: starting over");
    let forgotten = async {
        let mut transaction = storage.database().begin().await.map_err(failed(OPERATION))?;
        update_states::forget(&mut transaction, storage.lease(), reason).await?;
        transaction.commit().await.map_err(failed(OPERATION))
    };
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "the lost place was not forgotten; trying again at the next start");
    }
}

/// Stores a batch's place, however often that takes. `false`: the lease is over, and another holder reads on.
async fn store(connection: &Connection, states: &[State]) -> bool {
    if states.is_empty() {
        return true;
    }
    let mut pause = Duration::from_millis(100);
    loop {
        match try_store(connection, states).await {
            Ok(()) => return true,
            Err(StorageError::Store(StoreError::Fenced { .. })) => return false,
            Err(error) => tracing::warn!(%error, "the updates' place was not stored; trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_store(connection: &Connection, states: &[State]) -> Result<(), StorageError> {
    const OPERATION: &str = "advance_update_states";
    let storage = connection.storage();
    let mut transaction = storage.database().begin().await.map_err(failed(OPERATION))?;
    storage.advance(&mut transaction, states).await?;
    transaction.commit().await.map_err(failed(OPERATION))?;
    Ok(())
}
