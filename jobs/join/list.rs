//! A job about many chats, one after the other: each ends by itself, and what is in the way of one does not keep the others.
//!
//! A checkpoint follows each target, and precedes each request to Telegram, so that a job that is begun again goes on where
//! it was, and counts what an attempt did that nobody saw end. A spent cap, a flood and a closed gate put the job off; its
//! targets stay. Requests that admins have to approve are looked at when everything else is over.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    JoinAction, JoinArgs,
    approval::{self, Request},
    link::Target,
    one::{self, Asked, Look, Work},
    refusal::{self, CHANNEL_LIMIT, PEER_FLOOD, Refusal, Stop},
    report::{JoinStatus, JoinedList, JoinedOne, TargetRow},
};
use crate::{
    JobContext, JobError, Outcome, WaitReason,
    ports::Progress,
    publish::ports::{self, Decided},
};

/// An attempt that has come this far makes room for others.
const PER_ATTEMPT: usize = 25;
/// The same by time: an attempt has five minutes.
const LONGEST_ATTEMPT: TimeDelta = TimeDelta::minutes(2);
/// The pause after passing trouble.
const AFTER_TROUBLE: TimeDelta = TimeDelta::seconds(30);
/// How often a target is tried again after such trouble.
const MOST_TRIES: u32 = 3;
/// A request whose looks meet trouble is looked at after pauses that double so often.
const MOST_DOUBLINGS: u32 = 6;
/// So many requests in a row that meet trouble: it is no trouble with a chat.
const MOST_IN_A_ROW: u32 = 2;
/// A job that was woken early looks at this many requests that are not due yet.
const EARLY_LOOKS: usize = 25;

/// How far the job is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// Every target before this one is over, or waits.
    next: usize,
    /// Telegram may have been asked about `next` by an earlier attempt.
    #[serde(default)]
    trying: bool,
    /// How often trouble ended work on `next`.
    #[serde(default)]
    tries: u32,
    /// Telegram said that the account is in as many channels as it may be.
    #[serde(default)]
    full: bool,
    #[serde(default)]
    rows: Vec<TargetRow>,
    #[serde(default)]
    waiting: Vec<Waiting>,
}

/// A target whose request waits for an admin.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Waiting {
    index: usize,
    chat_id: Option<i64>,
    request: Request,
    /// The next look.
    at: DateTime<Utc>,
    /// How often in a row a look met trouble.
    #[serde(default)]
    tries: u32,
}

/// How one turn at a target ended.
enum Turn {
    Over(TargetRow),
    Waiting(Option<i64>),
}

pub(super) async fn run(args: &JoinArgs, context: &JobContext, targets: &[Target]) -> Result<JoinedList, Outcome> {
    let mut first = HashMap::new();
    for (index, target) in targets.iter().enumerate() {
        first.entry(target.key()).or_insert(index);
    }
    let kept: Kept = context.read_checkpoint().await?.unwrap_or_default();
    let list = List {
        args,
        context,
        targets,
        first,
        shown: kept.rows.len(),
        kept,
        begun: context.clock.now(),
    };
    list.work_through().await
}

struct List<'a> {
    args: &'a JoinArgs,
    context: &'a JobContext,
    targets: &'a [Target],
    /// Where each chat is named first, as far as the texts say.
    first: HashMap<String, usize>,
    kept: Kept,
    /// How many of the rows are where everybody may read them, whatever becomes of the job.
    shown: usize,
    /// When this attempt began.
    begun: DateTime<Utc>,
}

impl List<'_> {
    async fn work_through(mut self) -> Result<JoinedList, Outcome> {
        let mut turns = 0;
        while self.kept.next < self.targets.len() {
            self.context.stop_if_cancelled()?;
            if turns >= PER_ATTEMPT {
                return Err(self.make_room());
            }
            self.keep_time()?;
            self.turn().await?;
            self.show().await?;
            turns += 1;
        }
        self.look_at_requests(turns == 0).await?;
        Ok(self.report())
    }

    /// Deals with the next target.
    async fn turn(&mut self) -> Result<(), Outcome> {
        let index = self.kept.next;
        let turn = match self.one(index).await {
            Ok(turn) => turn,
            Err(Stop::Target(refusal)) => Turn::Over(self.refuse(index, refusal)),
            Err(Stop::Job(outcome)) => match self.put_off(index, outcome) {
                Ok(row) => Turn::Over(row),
                Err(outcome) => {
                    self.save().await?;
                    return Err(outcome);
                }
            },
        };
        self.kept.next = self.kept.next.max(index + 1);
        (self.kept.trying, self.kept.tries) = (false, 0);
        match turn {
            Turn::Over(row) => self.kept.rows.push(row),
            Turn::Waiting(chat_id) => self.await_approval(index, chat_id, Request::sent(self.context)),
        }
        self.save().await
    }

    async fn one(&mut self, index: usize) -> Result<Turn, Stop> {
        if let Some(first) = self
            .first
            .get(&self.targets[index].key())
            .filter(|first| **first < index)
        {
            return Ok(Turn::Over(duplicate(index, *first, None)));
        }
        let work = self.work(index);
        let look = match work.look().await {
            Err(Stop::Target(refusal)) if self.args.action == JoinAction::Leave && one::shows_outside(&refusal) => {
                return Ok(Turn::Over(row(index, self.left_or_never_in(), None)));
            }
            look => look?,
        };
        let chat_id = match &look {
            Look::Inside(chat) => Some(chat.id),
            Look::Outside(door) => door.chat_id(),
        };
        if let Some(first) = chat_id.and_then(|id| self.dealt_with(id)) {
            return Ok(Turn::Over(duplicate(index, first, chat_id)));
        }
        match self.args.action {
            JoinAction::Join => self.join(index, look).await,
            JoinAction::Leave => self.leave(index, look).await,
            JoinAction::Check => {
                let report = self.work(index).check(Ok(look)).await?;
                Ok(Turn::Over(match report.code {
                    Some(code) => row(index, &code, chat_id),
                    None => row(index, report.status.as_str(), report.chat_id()),
                }))
            }
        }
    }

    async fn join(&mut self, index: usize, look: Look) -> Result<Turn, Stop> {
        let door = match look {
            Look::Inside(chat) => {
                let status = if self.kept.trying {
                    JoinStatus::Joined
                } else {
                    JoinStatus::AlreadyMember
                };
                return Ok(over(index, &self.work(index).member(status, chat).await?));
            }
            Look::Outside(door) => door,
        };
        if self.kept.full && door.takes_room() {
            return Err(refusal::account_full().into());
        }
        self.work(index).admit(&door).await?;
        self.mark().await?;
        let work = self.work(index);
        Ok(match work.ask(&door).await? {
            Asked::Member(status, chat) => over(index, &work.member(status, chat).await?),
            Asked::Waiting => Turn::Waiting(door.chat_id()),
        })
    }

    async fn leave(&mut self, index: usize, look: Look) -> Result<Turn, Stop> {
        match look {
            Look::Inside(chat) => {
                self.mark().await?;
                Ok(over(index, &self.work(index).leave(&chat).await?))
            }
            Look::Outside(door) => {
                self.work(index).gone(door.known()).await?;
                Ok(Turn::Over(row(index, self.left_or_never_in(), door.chat_id())))
            }
        }
    }

    fn work(&self, index: usize) -> Work<'_> {
        Work {
            context: self.context,
            target: &self.targets[index],
            discussion: self.args.discussion,
            in_full: false,
        }
    }

    const fn left_or_never_in(&self) -> &'static str {
        if self.kept.trying {
            JoinStatus::Left.as_str()
        } else {
            JoinStatus::NotMember.as_str()
        }
    }

    /// The target that this chat was dealt with as.
    fn dealt_with(&self, chat_id: i64) -> Option<usize> {
        let waiting = self.kept.waiting.iter();
        let waits = waiting
            .filter(|each| each.chat_id == Some(chat_id))
            .map(|each| each.index);
        let over = self.kept.rows.iter().filter(|row| row.chat_id == Some(chat_id));
        let over = over.filter_map(|row| usize::try_from(row.index).ok());
        waits.chain(over).min()
    }

    /// The row of a target that is given up. What concerns the account rather than the chat concerns the rest, too.
    fn refuse(&mut self, index: usize, refusal: Refusal) -> TargetRow {
        let row = TargetRow {
            telegram_error: refusal.telegram_error,
            ..row(index, &refusal.code, None)
        };
        if refusal.code == CHANNEL_LIMIT {
            self.kept.full = self.kept.full || row.telegram_error.is_some();
        }
        if refusal.code == PEER_FLOOD {
            let rest = index + 1..self.targets.len();
            self.kept
                .rows
                .extend(rest.map(|index| self::row(index, "not_tried", None)));
            self.kept.next = self.targets.len();
        }
        row
    }

    /// What stops the job, or the row of a target that has met too much trouble to be tried again.
    fn put_off(&mut self, index: usize, outcome: Outcome) -> Result<TargetRow, Outcome> {
        let Some(error) = trouble(&outcome) else {
            return Err(outcome);
        };
        self.kept.tries += 1;
        if self.kept.tries >= MOST_TRIES {
            return Ok(row(index, &error.code, None));
        }
        Err(self.after_trouble(error))
    }

    fn after_trouble(&self, error: &JobError) -> Outcome {
        Outcome::Snooze {
            until: self.context.clock.now() + AFTER_TROUBLE,
            reason: WaitReason::new("trouble", error.message.clone()),
        }
    }

    fn await_approval(&mut self, index: usize, chat_id: Option<i64>, request: Request) {
        let expires = request.expires(self.context, self.args.approval_timeout);
        let others = self.kept.waiting.len();
        match request.next_look(self.context.clock.now(), expires, others) {
            Some(at) => self.kept.waiting.push(Waiting {
                index,
                chat_id,
                request: Request {
                    looks: request.looks.saturating_add(1),
                    ..request
                },
                at,
                tries: 0,
            }),
            None => self.kept.rows.push(row(index, &approval::expired().code, chat_id)),
        }
    }

    /// Looks at the requests that are due, and puts the job off while any waits. `only`: the attempt did nothing else.
    async fn look_at_requests(&mut self, only: bool) -> Result<(), Outcome> {
        let now = self.context.clock.now();
        self.kept.waiting.sort_by_key(|each| each.at);
        let due = self.kept.waiting.iter().take_while(|each| each.at <= now).count();
        // Woken early: somebody let the account in, perhaps, and what tells so names no link.
        let due = if only && due == 0 {
            self.kept.waiting.len().min(EARLY_LOOKS)
        } else {
            due
        };
        let mut troubles = 0;
        for waiting in self.kept.waiting.iter().take(due).cloned().collect::<Vec<_>>() {
            self.context.stop_if_cancelled()?;
            self.keep_time()?;
            match self.look_at_request(waiting).await? {
                None => troubles = 0,
                Some(error) => {
                    troubles += 1;
                    if troubles >= MOST_IN_A_ROW {
                        return Err(self.after_trouble(&error));
                    }
                }
            }
            self.show().await?;
        }
        let Some(at) = self.kept.waiting.iter().map(|each| each.at).min() else {
            return Ok(());
        };
        let requests = self.kept.waiting.iter().map(|each| each.request);
        let expires = requests.map(|request| request.expires(self.context, self.args.approval_timeout));
        Err(approval::pause(at, expires.max().unwrap_or(at)))
    }

    /// Returns the passing trouble that the look met: the request is looked at again later, and the others go before it.
    async fn look_at_request(&mut self, waiting: Waiting) -> Result<Option<JobError>, Outcome> {
        let Waiting {
            index,
            chat_id,
            request,
            ..
        } = waiting;
        let work = self.work(index);
        let seen = match work.look().await {
            Ok(Look::Inside(chat)) => work.member(JoinStatus::Approved, chat).await.map(Some),
            Ok(Look::Outside(_)) => Ok(None),
            Err(Stop::Target(refusal)) if approval::is_refusal(&refusal) => Err(approval::refused(refusal).into()),
            Err(stop) => Err(stop),
        };
        let row = match seen {
            Ok(Some(report)) => Some(row(index, report.status.as_str(), report.chat_id())),
            Ok(None) => None,
            Err(Stop::Target(refusal)) => Some(TargetRow {
                telegram_error: refusal.telegram_error,
                ..row(index, &refusal.code, chat_id)
            }),
            Err(Stop::Job(outcome)) => {
                let Some(error) = trouble(&outcome).cloned() else {
                    return Err(outcome);
                };
                self.put_behind(&waiting);
                self.save().await?;
                return Ok(Some(error));
            }
        };
        self.kept.waiting.retain(|each| each.index != index);
        match row {
            Some(row) => self.kept.rows.push(row),
            None => self.await_approval(index, chat_id, request),
        }
        self.save().await?;
        Ok(None)
    }

    /// After trouble: a later look, or none when the request's time is over.
    fn put_behind(&mut self, waiting: &Waiting) {
        self.kept.waiting.retain(|each| each.index != waiting.index);
        let now = self.context.clock.now();
        let expires = waiting.request.expires(self.context, self.args.approval_timeout);
        if now >= expires {
            let row = row(waiting.index, &approval::expired().code, waiting.chat_id);
            return self.kept.rows.push(row);
        }
        let pause = AFTER_TROUBLE * 2_i32.pow(waiting.tries.min(MOST_DOUBLINGS));
        self.kept.waiting.push(Waiting {
            at: expires.min(now + pause),
            tries: waiting.tries.saturating_add(1),
            ..*waiting
        });
    }

    /// Durable before Telegram is asked.
    async fn mark(&mut self) -> Result<(), Stop> {
        self.kept.trying = true;
        Ok(self.save().await?)
    }

    /// First where everybody may read it: what is in the checkpoint is not looked at again.
    async fn save(&mut self) -> Result<(), Outcome> {
        for row in self.kept.rows.iter().skip(self.shown) {
            self.context.store.keep_target(&shown(row)).await?;
        }
        self.shown = self.kept.rows.len();
        self.context.write_checkpoint(&self.kept).await
    }

    async fn show(&self) -> Result<(), Outcome> {
        let progress = Progress {
            done: i64::try_from(self.kept.rows.len()).unwrap_or(i64::MAX),
            of: i64::try_from(self.targets.len()).ok(),
            // Caps and admins say how fast it goes, not this machine.
            per_second: 0.0,
        };
        Ok(self.context.store.progress(progress).await?)
    }

    fn keep_time(&self) -> Result<(), Outcome> {
        if self.context.clock.now() - self.begun >= LONGEST_ATTEMPT {
            return Err(self.make_room());
        }
        Ok(())
    }

    fn make_room(&self) -> Outcome {
        Outcome::Snooze {
            until: self.context.clock.now(),
            reason: WaitReason::new(
                "batch_done",
                "The job makes room for others, and goes on when it is its turn.",
            ),
        }
    }

    fn report(mut self) -> JoinedList {
        self.kept.rows.sort_by_key(|row| row.index);
        let mut outcomes = BTreeMap::new();
        for row in &self.kept.rows {
            *outcomes.entry(row.outcome.clone()).or_default() += 1;
        }
        JoinedList {
            outcomes,
            targets: self.kept.rows,
        }
    }
}

/// What may pass, and is the target's rather than the session's or the database's.
fn trouble(outcome: &Outcome) -> Option<&JobError> {
    let Outcome::Retry(error) = outcome else {
        return None;
    };
    let of_the_attempt = ["fenced", "store_failed", "session_unavailable", "checkpoint_unreadable"];
    (!of_the_attempt.contains(&error.code.as_str())).then_some(error)
}

/// A row as `GET /v1/jobs/{id}/targets` has it.
fn shown(row: &TargetRow) -> ports::Target {
    let of_telegram = row.telegram_error.as_ref();
    let error = of_telegram.map(|error| format!("Telegram's error: {error}."));
    let first = row.duplicate_of;
    ports::Target {
        position: row.index,
        chat_id: row.chat_id,
        decided: Some(Decided {
            outcome: row.outcome.clone(),
            error: error.or_else(|| first.map(|first| format!("The target at position {first} names the same chat."))),
            sent: None,
        }),
        ..ports::Target::default()
    }
}

fn over(index: usize, report: &JoinedOne) -> Turn {
    Turn::Over(row(index, report.status.as_str(), report.chat_id()))
}

fn row(index: usize, outcome: &str, chat_id: Option<i64>) -> TargetRow {
    TargetRow {
        index: number(index),
        outcome: outcome.to_owned(),
        chat_id,
        duplicate_of: None,
        telegram_error: None,
    }
}

fn duplicate(index: usize, first: usize, chat_id: Option<i64>) -> TargetRow {
    TargetRow {
        duplicate_of: Some(number(first)),
        ..row(index, "duplicate", chat_id)
    }
}

/// A list has 1,000 targets at most.
fn number(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
