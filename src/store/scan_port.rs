//! What scans use of the functions' store: every page in one transaction with the checkpoint that follows it, and without
//! people who were erased.

use std::collections::HashSet;

use async_trait::async_trait;
use serde_json::Value;
use wireroom_jobs::{
    message::ServiceMessage,
    ports::{Member, StoreError as PortError},
    scan::ports::{Count, EndPage, FoundChat, Profile, ScanStart, ScanStore, ScannedMessage, Tally},
};

use super::{
    StoreError, attempt_data, downloads,
    erasure::{self, erased_among},
    job_store::{JobStore, commit},
    scan_messages, scan_rows, scans,
};

impl JobStore {
    async fn save_page_of_members(
        &self,
        chat_id: i64,
        members: &[Member],
        end: EndPage<'_>,
    ) -> Result<Tally, StoreError> {
        let mut transaction = self.fenced_page("save_members").await?;
        let kept = erasure::without_erased(&mut transaction, self.key.as_ref(), members, |member| {
            vec![member.user_id]
        })
        .await?;
        let stored = kept.as_deref().unwrap_or(members);
        let left_out = difference(members, stored);
        let tally = scans::save_members(&mut transaction, self.attempt, chat_id, stored, left_out).await?;
        self.end_page(&mut transaction, &end(tally)).await?;
        commit(transaction, "save_members").await?;
        Ok(tally)
    }

    async fn save_page_of_messages(
        &self,
        place: scan_messages::Place,
        messages: &[ScannedMessage],
        end: EndPage<'_>,
    ) -> Result<Tally, StoreError> {
        let mut transaction = self.fenced_page("save_messages").await?;
        let kept = erasure::without_erased(&mut transaction, self.key.as_ref(), messages, people_of).await?;
        let stored = kept.as_deref().unwrap_or(messages);
        let left_out = difference(messages, stored);
        let tally = scan_messages::save(&mut transaction, self.attempt, place, stored, left_out).await?;
        downloads::plan(&mut transaction, self.attempt, place, stored).await?;
        self.end_page(&mut transaction, &end(tally)).await?;
        commit(transaction, "save_messages").await?;
        Ok(tally)
    }

    async fn save_found(&self, find: &FoundChat, checkpoint: &Value) -> Result<Tally, StoreError> {
        let mut transaction = self.fenced("save_find").await?;
        let tally = scan_rows::save_find(&mut transaction, self.attempt, find).await?;
        attempt_data::save_checkpoint(&mut transaction, self.attempt, checkpoint).await?;
        commit(transaction, "save_find").await?;
        Ok(tally)
    }

    async fn keep_profile(&self, profile: &Profile) -> Result<bool, StoreError> {
        let mut transaction = self.fenced("save_profile").await?;
        if let Profile::Person(person) = profile {
            let erased = erased_among(&mut transaction, self.key.as_ref(), &[person.user_id]).await?;
            if !erased.is_empty() {
                return Ok(false);
            }
        }
        scan_rows::save_profile(&mut transaction, self.attempt, profile).await?;
        commit(transaction, "save_profile").await?;
        Ok(true)
    }
}

fn difference<R>(met: &[R], stored: &[R]) -> i64 {
    i64::try_from(met.len() - stored.len()).unwrap_or(i64::MAX)
}

/// Whom a message is about: who sent it, and who came or went by it.
fn people_of(scanned: &ScannedMessage) -> Vec<i64> {
    let mut people: Vec<i64> = scanned.message.sender_id.into_iter().collect();
    match &scanned.message.service {
        Some(ServiceMessage::Joined { user_ids, by }) => {
            people.extend(user_ids);
            people.extend(by);
        }
        Some(ServiceMessage::Left { user_id, by }) => {
            people.push(*user_id);
            people.extend(by);
        }
        _ => {}
    }
    people
}

#[async_trait]
impl ScanStore for JobStore {
    async fn begin_scan(&self, scan: &ScanStart) -> Result<(), PortError> {
        let mut transaction = self.fenced("begin_scan").await?;
        scans::begin(&mut transaction, self.attempt, scan).await?;
        Ok(commit(transaction, "begin_scan").await?)
    }

    async fn scan_tally(&self) -> Result<Tally, PortError> {
        let mut transaction = self.fenced("scan_tally").await?;
        Ok(scans::tally(&mut transaction, self.attempt).await?)
    }

    async fn save_members(&self, chat_id: i64, members: &[Member], end: EndPage<'_>) -> Result<Tally, PortError> {
        Ok(self.save_page_of_members(chat_id, members, end).await?)
    }

    async fn save_messages(
        &self,
        chat_id: i64,
        owner: i64,
        post: Option<i32>,
        messages: &[ScannedMessage],
        end: EndPage<'_>,
    ) -> Result<Tally, PortError> {
        let place = scan_messages::Place { chat_id, owner, post };
        Ok(self.save_page_of_messages(place, messages, end).await?)
    }

    async fn known_finds(&self, chat_ids: &[i64]) -> Result<HashSet<i64>, PortError> {
        let mut transaction = self.fenced("known_finds").await?;
        let known = scan_rows::known_finds(&mut transaction, self.attempt, chat_ids).await?;
        commit(transaction, "known_finds").await?;
        Ok(known)
    }

    async fn save_find(&self, find: &FoundChat, checkpoint: Value) -> Result<Tally, PortError> {
        Ok(self.save_found(find, &checkpoint).await?)
    }

    async fn save_profile(&self, profile: &Profile) -> Result<bool, PortError> {
        Ok(self.keep_profile(profile).await?)
    }

    async fn save_count(&self, count: &Count) -> Result<(), PortError> {
        let mut transaction = self.fenced("save_count").await?;
        scan_rows::save_count(&mut transaction, self.attempt, count).await?;
        Ok(commit(transaction, "save_count").await?)
    }
}
