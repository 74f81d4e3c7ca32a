//! Rounds: what they find, and what they do where they cannot look.

use uuid::Uuid;

use super::*;
use crate::{
    Job,
    publish::PublishAction,
    testing::{Fakes, flood, message, result, retried, snoozed, supergroup, target_error, unknown_outcome},
};

fn round() -> PublishArgs {
    PublishArgs {
        action: PublishAction::Statistics,
        of_jobs: vec![Uuid::nil()],
        ..PublishArgs::plain("", "")
    }
}

fn published(fakes: &Fakes, chats: std::ops::RangeInclusive<i64>) {
    let batches = chats.map(|id| Published {
        chat: supergroup(id),
        message_ids: vec![message(7, 1).message_id, 8],
    });
    fakes.store.state().published = batches.collect();
}

fn seen(message_id: i32, views: i32) -> Look {
    Look {
        message_id,
        found: Found::There(Counts {
            views: Some(views),
            ..Counts::default()
        }),
    }
}

fn gone(message_id: i32) -> Look {
    Look {
        message_id,
        found: Found::Deleted,
    }
}

#[tokio::test]
async fn each_chat_is_looked_into_and_what_cannot_be_seen_is_said() {
    let fakes = Fakes::new();
    published(&fakes, 1..=3);
    fakes.telegram.message_counts(Ok(vec![seen(7, 40), gone(8)]));
    fakes.telegram.message_counts(Err(target_error("CHANNEL_PRIVATE")));
    fakes.telegram.message_counts(Ok(vec![seen(7, 2)]));
    let report: PublishResult = result(round().run(&fakes.context()).await);
    assert_eq!(report.status, PublishStatus::Counted);
    let counts = [("deleted", 1), ("looked_at", 2), ("unreadable", 3)];
    assert_eq!(
        report.counts,
        counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    );
    let state = fakes.store.state();
    let (_, last) = state.looks.last().expect("kept");
    assert_eq!(last.found, Found::Unreadable("not_answered".into()));
}

#[tokio::test]
async fn a_flood_and_a_lost_connection_keep_what_was_found() {
    let fakes = Fakes::new();
    published(&fakes, 1..=2);
    fakes.telegram.message_counts(Ok(vec![seen(7, 40), gone(8)]));
    fakes.telegram.message_counts(Err(flood(30)));
    let (_, reason) = snoozed(round().run(&fakes.context()).await);
    assert_eq!(reason.code, "flood");
    assert_eq!(fakes.store.state().looks.len(), 2);
    fakes.telegram.message_counts(Err(unknown_outcome()));
    retried(round().run(&fakes.context()).await);
    fakes.telegram.message_counts(Ok(vec![seen(7, 1), seen(8, 1)]));
    let report: PublishResult = result(round().run(&fakes.context()).await);
    assert_eq!(report.counts["looked_at"], 3);
}
