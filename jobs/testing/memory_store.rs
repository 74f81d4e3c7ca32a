//! The fake of the store: what one job keeps, in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{FixedClock, Journal, RANDOM_ID, files::KeptFile, lock};
use crate::{
    LogLevel, LogLine,
    message::Message,
    monitor::FailoverArgs,
    ports::{
        Chat, Clock, Effect, Failover, HistoryPage, Member, Progress, SentMessage, Store, StoreError, WatchBegun,
        WatchStart, WatchState,
    },
    publish::{
        ports::{Look, Published, Target},
        statistics::StatisticsPlan,
    },
    scan::ports::{Count, FoundChat, Profile, ScanStart, ScannedMessage},
};

/// A store in memory, for one job over all its attempts.
#[derive(Clone)]
pub struct MemoryStore {
    journal: Journal,
    pub(super) clock: Arc<FixedClock>,
    state: Arc<Mutex<Stored>>,
}

/// What a [`MemoryStore`] holds.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub checkpoint: Option<serde_json::Value>,
    pub progress: Vec<Progress>,
    pub chats: Vec<Chat>,
    pub effects: HashMap<i64, Effect>,
    /// Messages of other jobs, as (chat id, message id); `effect_sent` refuses them too.
    pub claimed: HashSet<(i64, i32)>,
    /// Messages that another job claims between the look and the write: only `effect_sent` refuses them.
    pub claimed_meanwhile: HashSet<(i64, i32)>,
    /// Of a publish to several chats, by position.
    pub targets: BTreeMap<i32, Target>,
    /// Chats that the session has met, by name.
    pub met: HashMap<String, i64>,
    pub plan: Option<StatisticsPlan>,
    /// What is to be looked at, and what looks have found, by chat.
    pub published: Vec<Published>,
    pub looks: Vec<(i64, Look)>,
    pub scan: Option<ScanStart>,
    pub members: BTreeMap<i64, Member>,
    /// Messages of scans, by chat and number, with the post that they comment.
    pub messages: BTreeMap<(i64, i32), (Option<i32>, ScannedMessage)>,
    /// What became of the files of those messages.
    pub files: BTreeMap<(i64, i32), KeptFile>,
    /// Telegram's ids of files that are kept already.
    pub known_files: HashSet<i64>,
    pub finds: BTreeMap<i64, FoundChat>,
    /// Chats that earlier runs of the search have found.
    pub known_finds: HashSet<i64>,
    pub profile: Option<Profile>,
    pub counts: Vec<Count>,
    /// People that were erased: nothing about them is stored.
    pub erased: HashSet<i64>,
    /// How much was not, of scans.
    pub left_out: i64,
    /// What the job watches, how far it is, and what was recorded of the history.
    pub watch_start: Option<WatchStart>,
    pub watch: Option<WatchState>,
    pub watched_by: Option<Uuid>,
    pub recorded: Vec<Message>,
    /// The newest message that the update stream left to the history.
    pub left_to_history: i32,
    /// Numbers that were looked for.
    pub checked: Vec<i32>,
    pub failover: Option<Failover>,
    pub losses: Vec<String>,
    /// What the job said; not in the journal.
    pub lines: Vec<(LogLevel, LogLine)>,
    /// Every call answers [`StoreError::Fenced`].
    pub fenced: bool,
    /// Calls of these names fail.
    pub failing: HashSet<&'static str>,
}

impl MemoryStore {
    pub(super) fn new(journal: Journal, clock: Arc<FixedClock>) -> Self {
        Self {
            journal,
            clock,
            state: Arc::default(),
        }
    }

    /// What is stored, to read and to change.
    pub fn state(&self) -> MutexGuard<'_, Stored> {
        lock(&self.state)
    }

    pub(super) fn open(&self, call: &'static str) -> Result<MutexGuard<'_, Stored>, StoreError> {
        let state = self.state();
        if state.fenced {
            return Err(StoreError::Fenced);
        }
        if state.failing.contains(call) {
            return Err(StoreError::Failed(format!("{call} was told to fail").into()));
        }
        self.journal.add(call);
        Ok(state)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn checkpoint(&self) -> Result<Option<serde_json::Value>, StoreError> {
        Ok(self.open("checkpoint")?.checkpoint.clone())
    }

    async fn save_checkpoint(&self, checkpoint: serde_json::Value) -> Result<(), StoreError> {
        self.open("save_checkpoint")?.checkpoint = Some(checkpoint);
        Ok(())
    }

    async fn progress(&self, progress: Progress) -> Result<(), StoreError> {
        self.open("progress")?.progress.push(progress);
        Ok(())
    }

    async fn log(&self, level: LogLevel, line: LogLine) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.fenced {
            return Err(StoreError::Fenced);
        }
        if state.failing.contains("log") {
            return Err(StoreError::Failed("log was told to fail".into()));
        }
        state.lines.push((level, line));
        Ok(())
    }

    async fn save_chat(&self, chat: &Chat) -> Result<(), StoreError> {
        self.open("save_chat")?.chats.push(chat.clone());
        Ok(())
    }

    async fn prepare_effect(&self, chat_id: i64) -> Result<Effect, StoreError> {
        let prepared_at = self.clock.now();
        let mut state = self.open("prepare_effect")?;
        let effect = state.effects.entry(chat_id).or_insert(Effect {
            random_id: RANDOM_ID,
            prepared_at,
            attempted_at: None,
            sent: None,
        });
        Ok(effect.clone())
    }

    async fn effect_attempted(&self, chat_id: i64) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut state = self.open("effect_attempted")?;
        let effect = state
            .effects
            .get_mut(&chat_id)
            .expect("an effect is prepared before it is attempted");
        effect.attempted_at = Some(now);
        Ok(())
    }

    async fn effect_sent(&self, chat_id: i64, sent: &SentMessage) -> Result<bool, StoreError> {
        let mut state = self.open("effect_sent")?;
        let message = (chat_id, sent.message_id);
        if state.claimed.contains(&message) || state.claimed_meanwhile.contains(&message) {
            return Ok(false);
        }
        let effect = state
            .effects
            .get_mut(&chat_id)
            .expect("an effect is prepared before it is sent");
        effect.sent = Some(sent.clone());
        Ok(true)
    }

    async fn claimed_messages(&self, chat_id: i64, message_ids: &[i32]) -> Result<HashSet<i32>, StoreError> {
        let state = self.open("claimed_messages")?;
        Ok(message_ids
            .iter()
            .copied()
            .filter(|id| state.claimed.contains(&(chat_id, *id)))
            .collect())
    }

    async fn begin_watch(&self, start: &WatchStart) -> Result<WatchBegun, StoreError> {
        let mut state = self.open("begin_watch")?;
        if let Some(watch) = state.watched_by {
            return Ok(WatchBegun::Other { watch });
        }
        let fresh = WatchState {
            filling: true,
            last_message_id: start.newest,
            ..WatchState::default()
        };
        let begun_before = state.watch_start.replace(start.clone()).is_some();
        if let (true, Some(watch)) = (begun_before, &mut state.watch) {
            watch.lost_reason = None;
        }
        Ok(WatchBegun::Watching(state.watch.get_or_insert(fresh).clone()))
    }

    async fn watch(&self) -> Result<Option<WatchState>, StoreError> {
        Ok(self.open("watch")?.watch.clone())
    }

    async fn record_history(&self, page: &HistoryPage) -> Result<(), StoreError> {
        let mut state = self.open("record_history")?;
        state.recorded.extend(page.messages.iter().cloned());
        if let Some(watch) = &mut state.watch {
            watch.last_message_id = watch.last_message_id.max(page.reaches);
        }
        Ok(())
    }

    async fn check_watch(&self, message_ids: &[i32]) -> Result<(), StoreError> {
        self.state().checked.extend(message_ids);
        Ok(())
    }

    async fn renumber_watch(&self, last_message_id: i32) -> Result<(), StoreError> {
        let mut state = self.open("renumber_watch")?;
        if let Some(watch) = &mut state.watch {
            watch.last_message_id = last_message_id;
            watch.renumbered = false;
        }
        Ok(())
    }

    async fn finish_filling(&self, gaps: i32) -> Result<bool, StoreError> {
        let mut state = self.open("finish_filling")?;
        let left = state.left_to_history;
        let Some(watch) = &mut state.watch else {
            return Ok(true);
        };
        watch.left_to_history = left;
        watch.filling = left > watch.last_message_id || watch.gaps > gaps;
        Ok(!watch.filling)
    }

    async fn lose_watch(&self, reason: &str, _failover: FailoverArgs) -> Result<Failover, StoreError> {
        let mut state = self.open("lose_watch")?;
        state.losses.push(reason.to_owned());
        Ok(state.failover.unwrap_or(Failover::Exhausted))
    }
}
