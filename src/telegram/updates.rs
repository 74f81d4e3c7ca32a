//! The update stream of one session. It never ends silently: trouble is waited out with a pause that grows, and when
//! the pool ends so does this, and the supervisor starts both again from what was stored.
//!
//! What was read is stored in the transaction that stores its events, so a crash repeats updates and never skips one.
//! After 15 silent minutes the difference is asked for; a connection that died silently is found by the connection's
//! probe and hung up on.

mod receiver;
pub mod recorder;
mod rests;
mod sorting;

use std::{sync::Arc, time::Duration};

use grammers_session::updates::UpdatesLike;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use self::receiver::{Batch, Receiver};
use super::{
    connection::{CallError, Connection},
    errors::Meaning,
    session_storage::StorageError,
};
use crate::store::{
    self, StoreError, failed,
    intake::{Arrival, Recorded},
    join_requests,
    update_states::{self, ACCOUNT_BOX, BoxState},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// After this a session is taken to have caught up whatever it has read, and the next one may start.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Reads updates until the pool ends or the session is lost.
pub(super) async fn read(connection: &Connection, updates: mpsc::Receiver<UpdatesLike>) {
    // A session that starts asks for one difference per channel: not all sessions at once.
    let permit = Arc::clone(connection.catch_up()).acquire_owned().await;
    let mut starter = Some(tokio::spawn(async move {
        sleep(CATCH_UP).await;
        drop(permit);
    }));
    let mut pause = FIRST_PAUSE;
    // Apart, as all that an idle session is not at: it should not carry the room for it around.
    let mut receiver = loop {
        match Box::pin(Receiver::open(connection)).await {
            Ok(boxes) => break Receiver::new(connection, boxes, updates),
            Err(error) => {
                tracing::warn!(%error, "the update state could not be read");
                if matches!(error, CallError::SessionLost(_) | CallError::LeaseLost) {
                    return;
                }
                wait(connection, &error, &mut pause).await;
            }
        }
    };
    loop {
        if starter.is_some() && receiver.has_caught_up() {
            caught_up(connection, &mut starter);
        }
        match receiver.next().await {
            Ok(batch) => {
                pause = FIRST_PAUSE;
                connection.note_update();
                if !Box::pin(store(connection, batch)).await {
                    break;
                }
            }
            Err(CallError::Rpc(error)) if Meaning::of(&error) == Meaning::LostPlace => {
                Box::pin(start_over(connection, &error.name)).await;
                break;
            }
            Err(error) => {
                if matches!(error, CallError::SessionLost(_) | CallError::LeaseLost) || receiver.is_closed() {
                    break;
                }
                tracing::debug!(%error, "updates could not be fetched");
                wait(connection, &error, &mut pause).await;
            }
        }
    }
    if let Some(starter) = starter {
        starter.abort();
    }
}

async fn wait(connection: &Connection, error: &CallError, pause: &mut Duration) {
    if let CallError::Rpc(error) = error {
        *pause = (*pause).max(Box::pin(connection.record_flood("updates.getDifference", error)).await);
    }
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// The next session may start.
fn caught_up(connection: &Connection, starter: &mut Option<JoinHandle<()>>) {
    if let Some(starter) = starter.take() {
        starter.abort();
        tracing::debug!(session.id = %connection.storage().lease().session, "the session reads its updates");
    }
}

/// Telegram does not know our place any more: forget it, and let the supervisor start from the present. The gap is told
/// with the new place, as the histories have to be read up to that. The channels' places are their own, and stay.
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

/// Stores a batch, however long that takes. `false`: the lease is over, and another holder reads on.
async fn store(connection: &Connection, batch: Batch) -> bool {
    connection.learn(&batch.users, &batch.chats).await;
    if batch.entered {
        wake_join_requests(connection).await;
    }
    if batch.boxes.is_empty() && batch.incoming.is_empty() && batch.forgotten.is_empty() {
        return true;
    }
    let storage = connection.storage();
    let mut pause = FIRST_PAUSE;
    while let Err(error) = storage.secure_channels(channels_of(&batch.boxes)).await {
        if matches!(error, StorageError::Store(StoreError::Fenced { .. })) {
            return false;
        }
        tracing::warn!(%error, "a channel's access hash was not stored; trying again");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let arrival = Arrival {
        lease: storage.lease(),
        account_id: storage.account_id(),
        boxes: batch.boxes,
        incoming: batch.incoming,
        forgotten: batch.forgotten,
    };
    match connection.recorder().record(arrival).await {
        Recorded::Stored { troubled } => {
            if troubled {
                connection.note_trouble();
            }
            true
        }
        Recorded::Fenced => false,
    }
}

/// Jobs that wait for an approval look at once. Not repeated when it fails: they look again by themselves.
async fn wake_join_requests(connection: &Connection) {
    const OPERATION: &str = "wake_join_requests";
    let storage = connection.storage();
    let woken = async {
        let mut conn = store::connection(storage.database(), OPERATION).await?;
        join_requests::wake(&mut conn, storage.lease().session).await
    };
    if let Err(error) = woken.await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "jobs that wait for an approval were not woken"
        );
    }
}

fn channels_of(boxes: &[BoxState]) -> impl Iterator<Item = i64> {
    boxes
        .iter()
        .map(|state| state.update_box)
        .filter(|update_box| *update_box != ACCOUNT_BOX)
}
