//! What the simulation was told and must hold the product to: acknowledged jobs, versions of schedules, pauses, limits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    outreach::Campaigned,
    plan::{Draft, Scope},
    watches::Watched,
};

/// A draft and what became of its request.
pub struct Drafted {
    pub draft: Draft,
    /// As it was sent.
    pub body: Value,
    /// The `Idempotency-Key`, if it had one.
    pub key: Option<String>,
    /// The job that was acknowledged, and when.
    pub job: Option<(Uuid, DateTime<Utc>)>,
}

/// A schedule and its versions.
pub struct Scheduled {
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub missed: &'static str,
    pub missed_max: usize,
    pub missed_after: i64,
    pub overlap: &'static str,
    pub jitter: i64,
    pub versions: BTreeMap<i32, Version>,
    pub was_run: bool,
    pub deleted: bool,
}

/// A schedule between two edits.
#[derive(Clone)]
pub struct Version {
    pub cron: String,
    pub zone: String,
    pub paused: bool,
    /// When it began, by the database's clock.
    pub at: DateTime<Utc>,
    /// Its next tick then.
    pub next: Option<DateTime<Utc>>,
}

/// A limit on starts; what was started is counted from its first look on.
pub struct Rated {
    pub starts: i64,
    pub period: i64,
    pub since: Instant,
    pub base: HashMap<String, (i64, DateTime<Utc>)>,
}

#[derive(Default)]
pub struct Model {
    pub drafts: Vec<Drafted>,
    /// Every job that a request was told of.
    pub acknowledged: BTreeSet<Uuid>,
    pub batches: Vec<Uuid>,
    pub schedules: Vec<Option<Scheduled>>,
    /// What was paused or limited, and not resumed.
    pub pauses: HashSet<Scope>,
    pub limits: HashSet<Scope>,
    pub rates: HashMap<&'static str, Rated>,
    /// Accounts whose sessions a silent worker held, until when a second connection beside its own is no misuse.
    pub frozen: Vec<(i64, Option<Instant>)>,
    pub watches: Vec<Watched>,
    /// How many messages were written where nobody's session did.
    pub said: usize,
    pub campaigns: Vec<Campaigned>,
    /// How many invitations there were when all outreach was stopped with no call on its way.
    pub invitations_when_stopped: Option<usize>,
}

impl Model {
    pub fn acknowledge(&mut self, number: usize, job: Uuid, at: DateTime<Utc>) {
        self.acknowledged.insert(job);
        self.drafts[number].job = Some((job, at));
    }

    /// The jobs of drafts with a unique key of the scope `live`, by kind and key.
    pub fn live_keys(&self) -> HashMap<(&'static str, u8), BTreeSet<Uuid>> {
        let mut keys: HashMap<_, BTreeSet<Uuid>> = HashMap::new();
        for drafted in &self.drafts {
            let unique = drafted.draft.unique.as_ref().filter(|unique| unique.scope == "live");
            if let (Some(unique), Some((job, _))) = (unique, drafted.job) {
                keys.entry((drafted.draft.work.kind(), unique.key))
                    .or_default()
                    .insert(job);
            }
        }
        keys
    }
}
