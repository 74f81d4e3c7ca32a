//! What waits as rows: looked for by when it is due, as much as there is room for.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{BUFFER, Runner, queues::Work};
use crate::store::{
    self, PgConnection, StoreError,
    deliveries::{DeliveryState, Settled},
    event_log::{self, EventRecord},
    waiting_deliveries::{self, Due, Pending},
};

/// How often what waits is looked at when nothing asks for it.
const EVERY: Duration = Duration::from_secs(1);
/// Rows of one subject that are taken up at a time.
const EACH: usize = 50;
/// Subjects that one step of the walk looks at.
const WALK: i32 = 1_000;

/// Where the next look at what waits begins.
pub(super) struct Looking {
    /// When the next look is at the latest.
    pub at: Instant,
    /// Subjects that have left memory, and of which rows may wait: the next one's time has come.
    pub ended: HashSet<String>,
    /// The last look has left some that are due.
    pub more: bool,
    /// How far the walk through all subjects is; none: it is over.
    walked: Option<String>,
}

impl Looking {
    pub fn new() -> Self {
        Self {
            at: Instant::now(),
            ended: HashSet::new(),
            more: false,
            walked: Some(String::new()),
        }
    }
}

impl Runner {
    /// Whether to look at what waits now.
    pub(super) fn wants_look(&self) -> bool {
        let has_news = self.looking.more || !self.looking.ended.is_empty();
        Instant::now() >= self.looking.at || (has_news && self.queues.is_idle()) || self.looking.ended.len() >= BUFFER
    }

    /// Looks at what waits as rows, and takes up what is due.
    pub(super) async fn look(&mut self) -> Result<(), StoreError> {
        // What has ended since must not be found as waiting.
        self.flush().await?;
        self.looking.at = Instant::now() + EVERY;
        self.looking.more = false;
        let mut conn = store::connection(&self.shared.pool, "delivery_standing").await?;
        self.give_turns(&mut conn).await?;
        let standing = waiting_deliveries::standing(&mut conn, self.id).await?;
        self.fate.is_open = standing.is_open;
        self.has_waiting = standing.has_waiting;
        let room = BUFFER.saturating_sub(self.queues.len());
        if standing.is_open || !standing.has_waiting || room == 0 {
            return Ok(());
        }
        let heads = self.due(&mut conn, room).await?;
        if !heads.is_empty() {
            self.take_up(&mut conn, &heads, room).await?;
        }
        Ok(())
    }

    /// Gives their time to rows whose turn it is: those behind what has ended here, and those that a process before has left.
    async fn give_turns(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if !self.looking.ended.is_empty() {
            let ended = std::mem::take(&mut self.looking.ended);
            let subjects: Vec<&str> = ended.iter().map(String::as_str).collect();
            waiting_deliveries::promote(conn, self.id, &subjects).await?;
        }
        if let Some(after) = self.looking.walked.take() {
            self.looking.walked = waiting_deliveries::walk(conn, self.id, &after, WALK).await?;
            if self.looking.walked.is_some() {
                self.looking.at = Instant::now();
            }
        }
        Ok(())
    }

    /// What is due and the first of its subject.
    async fn due(&mut self, conn: &mut PgConnection, room: usize) -> Result<Vec<Due>, StoreError> {
        let busy = self.queues.subjects();
        let limit = i64::try_from(room).unwrap_or(i64::MAX);
        let due = waiting_deliveries::due(conn, self.id, &busy, self.read_to, limit).await?;
        self.looking.more = due.len() >= room;
        let (heads, behind): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|due| due.is_first);
        if !behind.is_empty() {
            let positions: Vec<i64> = behind.iter().map(|due| due.position).collect();
            waiting_deliveries::step_back(conn, self.shared.owner, self.id, &positions).await?;
        }
        Ok(heads)
    }

    async fn take_up(&mut self, conn: &mut PgConnection, heads: &[Due], room: usize) -> Result<(), StoreError> {
        let each = (room / heads.len()).clamp(1, EACH);
        let each = i64::try_from(each).unwrap_or(1);
        let subjects: Vec<&str> = heads.iter().map(|head| head.subject.as_str()).collect();
        let rows = waiting_deliveries::of_subjects(conn, self.id, &subjects, self.read_to, each).await?;
        let positions: Vec<i64> = rows.iter().map(|row| row.position).collect();
        let events = event_log::at(conn, &positions).await?;
        let mut events: HashMap<i64, EventRecord> = events.into_iter().map(|event| (event.position, event)).collect();
        for row in rows {
            match events.remove(&row.position) {
                Some(event) => self.queues.push(Work {
                    event,
                    attempts: row.attempts,
                    age: row.age,
                    since: Instant::now(),
                    is_stored: true,
                }),
                None => self.give_up(row),
            }
        }
        Ok(())
    }

    /// Ends a delivery whose event is not kept any more.
    fn give_up(&mut self, row: Pending) {
        // More of its subject may wait, and be kept.
        self.looking.ended.insert(row.subject.clone());
        self.settle(Settled {
            position: row.position,
            event_type: row.event_type,
            subject: row.subject,
            state: DeliveryState::Failed,
            attempts: row.attempts,
            status: None,
            error: Some("the event was deleted by age".to_owned()),
            took: None,
        });
    }
}
