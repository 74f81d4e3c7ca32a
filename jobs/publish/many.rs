//! One message to many chats: each is a target with an outcome of its own, kept as soon as it is known.
//!
//! Before a send begins, the target's chat and the effect's `random_id` are durable; what became of it is kept in the
//! transaction that settles the effect. So whatever crashes, the next attempt skips what is decided, looks for the message
//! that is in doubt before it does anything else, and goes on. Slow mode of one chat puts off that chat alone, and so does
//! trouble with it; a flood or a cap of the session puts off the job, with everything it has done.
//!
//! What is in doubt is never said to be refused: until a look has found no message, every end of its target is
//! `outcome_unknown`.

mod files;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    OUTCOME_UNKNOWN, PublishArgs, PublishResult, PublishStatus, TargetReport, personal,
    ports::{Decided, Target},
    sending::{self, Message},
};
use crate::{
    JobContext, JobError, LogLevel, LogLine, Outcome, WaitReason,
    ports::{Chat, Decision, Progress, SentMessage, StoreError, TelegramError},
    target::{self, ChatRef},
};

/// The word for a message that is in its chat.
pub const SENT: &str = "sent";
/// An attempt that takes longer makes room for others: everything it did is kept.
const LONGEST_ATTEMPT: TimeDelta = TimeDelta::seconds(150);
/// The pause after passing trouble; each further one with the same chat is four times as long.
const AFTER_TROUBLE: TimeDelta = TimeDelta::seconds(15);
const MOST_DOUBLINGS: u32 = 3;
/// A chat whose look-up met trouble so often is given up, and so is a send that was begun so often without anybody seeing it
/// end.
const MOST_TRIES: i32 = 3;
/// Looking for a message that is in doubt is worth more of them.
const MOST_LOOKS: i32 = 6;
/// So many chats in a row that meet trouble: it is no trouble with a chat.
const MOST_IN_A_ROW: u32 = 2;
/// How many decided targets are shown at once.
const SHOWN_EACH: i64 = 10;
/// How many chats are looked up by one call. What is said of a chat is so much older than its turn.
const LOOKED_UP: usize = 100;

pub(super) async fn run(args: &PublishArgs, context: &JobContext) -> Outcome {
    let mut broadcast = Broadcast {
        args,
        context,
        message: Message::of(args),
        media_ready: args.media.is_empty(),
        chats: args.places(),
        met: HashMap::new(),
        looked_up: HashMap::new(),
        looked_until: 0,
        media_renewed: false,
        targets: Vec::new(),
        places: HashMap::new(),
        decided: 0,
        troubles: 0,
        begun_at: context.clock.now(),
    };
    match broadcast.attempt().await {
        Ok(result) => Outcome::done(&result),
        Err(outcome) => {
            let outcome = broadcast.forgive(outcome);
            context.log_stop(&outcome).await;
            outcome
        }
    }
}

/// One attempt over all targets that are left.
struct Broadcast<'a> {
    args: &'a PublishArgs,
    context: &'a JobContext,
    message: Message,
    media_ready: bool,
    /// As the job names them.
    chats: Vec<&'a str>,
    /// The ids of chats that the session has met by their names.
    met: HashMap<String, i64>,
    /// What Telegram said of chats whose turn is to come.
    looked_up: HashMap<i64, Chat>,
    /// The first place that was not looked up yet.
    looked_until: usize,
    /// Telegram has asked for them again in this attempt.
    media_renewed: bool,
    targets: Vec<Target>,
    /// Which target has a chat.
    places: HashMap<i64, i32>,
    /// How many this attempt has decided.
    decided: i64,
    /// How many turns in a row met trouble.
    troubles: u32,
    begun_at: DateTime<Utc>,
}

/// How a target's turn ended.
enum Turn {
    Decided,
    /// Its own chat makes it wait, or trouble with it does.
    PutOff,
}

impl Broadcast<'_> {
    async fn attempt(&mut self) -> Result<PublishResult, Outcome> {
        self.check()?;
        self.read().await?;
        if let Some(plan) = self.args.statistics {
            self.context.store.follow(plan).await?;
        }
        if self
            .targets
            .iter()
            .all(|target| target.chat_id.is_none() && target.decided.is_none())
        {
            self.check_time().map_err(Outcome::Discard)?;
        }
        for place in self.order() {
            if self.targets[place].decided.is_some() {
                continue;
            }
            self.context.stop_if_cancelled()?;
            let now = self.context.clock.now();
            if now - self.begun_at > LONGEST_ATTEMPT {
                return Err(make_room(now));
            }
            if self.targets[place].not_before.is_some_and(|until| until > now) {
                continue;
            }
            if let Turn::Decided = Box::pin(self.turn(place)).await? {
                self.decided += 1;
                self.troubles = 0;
                if self.decided % SHOWN_EACH == 0 {
                    self.show().await?;
                }
            }
        }
        self.show().await?;
        match self.next_turn() {
            None => Ok(self.report()),
            Some((until, troubled)) => Err(Outcome::Snooze {
                until,
                reason: if troubled {
                    WaitReason::new(
                        "trouble",
                        "Telegram did not answer well for a chat that is left; the job tries it again.",
                    )
                } else {
                    WaitReason::new(
                        "slow_mode",
                        "The chats that are left are in slow mode; the job goes on when the first of them takes a message.",
                    )
                },
            }),
        }
    }

    /// Each target's own text was checked when the job was taken: the first one's stands for them here.
    fn check(&mut self) -> Result<(), Outcome> {
        self.use_text_of(0)?;
        self.message.check(self.context, self.args)
    }

    fn use_text_of(&mut self, place: usize) -> Result<(), Outcome> {
        if self.args.targets.is_empty() {
            return Ok(());
        }
        let text = personal::text_of(self.args, place)
            .map_err(|error| Outcome::Discard(JobError::permanent("args_invalid", error.to_string())))?;
        self.message.use_text(text);
        Ok(())
    }

    /// What is in doubt comes first: nothing that a look goes by changes before it.
    fn order(&self) -> Vec<usize> {
        let (begun, others): (Vec<usize>, Vec<usize>) =
            (0..self.targets.len()).partition(|place| self.targets[*place].begun);
        [begun, others].concat()
    }

    fn check_time(&self) -> Result<(), JobError> {
        Message::check_time(self.context, self.args)
    }

    async fn read(&mut self) -> Result<(), Outcome> {
        let known = self.context.store.targets().await?;
        let mut known: HashMap<i32, Target> = known.into_iter().map(|target| (target.position, target)).collect();
        for position in 0..self.chats.len() {
            let position = i32::try_from(position).unwrap_or(i32::MAX);
            let target = known.remove(&position).unwrap_or(Target {
                position,
                ..Target::default()
            });
            if let Some(chat) = target.chat_id {
                self.places.entry(chat).or_insert(position);
            }
            self.targets.push(target);
        }
        let names = self.chats.iter().filter_map(|chat| match ChatRef::parse(chat) {
            Ok(ChatRef::Username(name)) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        if !names.is_empty() {
            self.met = self.context.store.met_by_name(&names).await?;
        }
        Ok(())
    }

    /// Looks the next chats up together, of those whose id is known. It is a saving and no more: whatever it does not find is
    /// looked up when its turn comes.
    async fn look_ahead(&mut self, place: usize) -> Result<(), Outcome> {
        if place < self.looked_until {
            return Ok(());
        }
        self.looked_until = (place + LOOKED_UP).min(self.chats.len());
        let ids: Vec<i64> = (place..self.looked_until)
            .filter(|place| self.targets[*place].decided.is_none())
            .filter_map(|place| self.expected(place))
            .collect();
        self.looked_up.clear();
        // One is as quickly asked for by itself.
        if ids.len() < 2 {
            return Ok(());
        }
        match self.context.telegram.chats_by_id(&ids).await {
            Ok(chats) => self.looked_up.extend(chats.into_iter().map(|chat| (chat.id, chat))),
            // A closed gate of reading is none of sending, one chat that is wrong is not all of them, and trouble is met again
            // where it can be told whose it is.
            Err(error) if error.decision != Decision::Session => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Which chat a place is, as far as that is known without asking Telegram.
    fn expected(&self, place: usize) -> Option<i64> {
        let known = self.targets[place].chat_id;
        known.or_else(|| match ChatRef::parse(self.chats[place]) {
            Ok(ChatRef::Id(id)) => Some(id),
            Ok(ChatRef::Username(name)) => self.met.get(&name.to_ascii_lowercase()).copied(),
            _ => None,
        })
    }

    /// The chat of a place, if it was looked up and is still what the job names.
    fn seen(&self, place: usize, reference: &ChatRef) -> Option<Chat> {
        let chat = self.looked_up.get(&self.expected(place)?)?;
        let is_it = self.targets[place].chat_id.is_some()
            || match reference {
                ChatRef::Id(id) => *id == chat.id,
                ChatRef::Username(name) => {
                    let now = chat.username.as_deref();
                    now.is_some_and(|now| now.eq_ignore_ascii_case(name))
                }
                ChatRef::Invite(_) => false,
            };
        is_it.then(|| chat.clone())
    }

    /// When the first undecided target may be tried, and whether it is trouble that it waits for.
    fn next_turn(&self) -> Option<(DateTime<Utc>, bool)> {
        let waiting = self.targets.iter().filter(|target| target.decided.is_none());
        waiting
            .map(|target| {
                let until = target.not_before.unwrap_or_else(|| self.context.clock.now());
                (until, target.tries > 0)
            })
            .min()
    }

    async fn turn(&mut self, place: usize) -> Result<Turn, Outcome> {
        self.use_text_of(place)?;
        let begun = self.targets[place].begun;
        if !begun && let Err(error) = self.check_time() {
            return self.refuse(place, error).await;
        }
        self.look_ahead(place).await?;
        let chat = match self.find(place).await {
            Ok(chat) => chat,
            Err(outcome) => return self.stopped(place, outcome).await,
        };
        let position = self.targets[place].position;
        if *self.places.entry(chat.id).or_insert(position) != position {
            let error = JobError::permanent("duplicate", "Another of the job's chats is the same one.");
            return self.refuse(place, error).await;
        }
        self.targets[place].chat_id = Some(chat.id);
        self.context.store.save_chat(&chat).await?;
        if !begun {
            match self.context.telegram.access(&chat).await {
                Ok(access) if !access.may_write => return self.refuse(place, sending::may_not_write()).await,
                Ok(access) => {
                    if let Some(until) = access.not_before.filter(|until| *until > self.context.clock.now()) {
                        return self.put_off(place, until).await;
                    }
                }
                Err(error) => return self.failed(place, &chat, error, false).await,
            }
        }
        if let Some(refused) = self.make_ready(&chat).await? {
            return self.refuse(place, refused).await;
        }
        self.send(place, &chat).await
    }

    async fn find(&self, place: usize) -> Result<Chat, Outcome> {
        let reference = target::parse_for_run(self.chats[place])?;
        if let Some(chat) = self.seen(place, &reference) {
            target::refuse_person(&chat)?;
            return Ok(chat);
        }
        let chat = match self.targets[place].chat_id {
            Some(id) => target::resolve_again(self.context, &reference, id).await?,
            None => target::resolve(self.context, &reference).await?,
        };
        target::refuse_person(&chat)?;
        Ok(chat)
    }

    async fn send(&mut self, place: usize, chat: &Chat) -> Result<Turn, Outcome> {
        let context = self.context;
        self.targets[place].not_before = None;
        let effect = context.store.begin_target(&self.targets[place], chat.id).await?;
        if let Some(sent) = effect.sent {
            return self.sent(place, Some(sent)).await;
        }
        if effect.attempted_at.is_some() {
            // An earlier attempt began it, and nobody saw how that ended.
            self.targets[place].begun = true;
            match self.look(place, chat, effect.prepared_at).await {
                Ok(true) => return Ok(Turn::Decided),
                Ok(false) if self.targets[place].tries >= MOST_TRIES => return self.refuse(place, unknown()).await,
                Ok(false) => self.targets[place].begun = false,
                Err(outcome) => return self.stopped(place, outcome).await,
            }
            if let Err(error) = self.check_time() {
                return self.refuse(place, error).await;
            }
        }
        match self.message.send(context, chat, effect.random_id).await {
            Ok(sent) => self.sent(place, Some(sent)).await,
            Err(error) if error.decision == Decision::Done => {
                // Telegram had it already: never again. Its number is worth a look, no more.
                match self.look(place, chat, effect.prepared_at).await {
                    Ok(true) => Ok(Turn::Decided),
                    Ok(false) | Err(_) => self.sent(place, None).await,
                }
            }
            Err(error) if error.decision == Decision::StaleMedia && self.media_ready && !self.args.media.is_empty() => {
                self.renew(place, chat, &error).await
            }
            Err(error) => self.failed(place, chat, error, true).await,
        }
    }

    /// Whether the target's message is in its chat; then it is decided. The oldest that no other job has claimed is it.
    async fn look(&mut self, place: usize, chat: &Chat, prepared_at: DateTime<Utc>) -> Result<bool, Outcome> {
        let message = "It is not certain how an earlier send ended: the chat is searched for the message.";
        let line = LogLine::new("looking_for_message", message);
        self.context.log(LogLevel::Warn, line).await;
        for sent in self.message.look(self.context, chat, prepared_at).await? {
            self.targets[place].decided = Some(sent_as(Some(sent)));
            match self.context.store.claim_target(&self.targets[place]).await {
                Ok(true) => return Ok(true),
                Ok(false) => self.targets[place].decided = None,
                Err(error) => {
                    self.targets[place].decided = None;
                    return Err(error.into());
                }
            }
        }
        Ok(false)
    }

    /// A call about a target failed. `begun`: it was its send.
    async fn failed(&mut self, place: usize, chat: &Chat, error: TelegramError, begun: bool) -> Result<Turn, Outcome> {
        let decision = error.decision;
        match decision {
            Decision::Retry | Decision::Session => {
                self.targets[place].begun |= begun;
                self.stopped(place, error.into()).await
            }
            Decision::Gate { until } => {
                self.not_sent(place, chat, begun).await?;
                match Outcome::from(error) {
                    Outcome::Snooze { reason, .. } if reason.code == "slow_mode" => self.put_off(place, until).await,
                    outcome => Err(outcome),
                }
            }
            Decision::Elsewhere { .. } | Decision::Campaign => {
                self.not_sent(place, chat, begun).await?;
                Err(error.into())
            }
            // What one chat refuses the others would too, and none has it yet: the job is wrong, and not the chat.
            Decision::Content if begun && self.sent_so_far() == 0 => {
                self.not_sent(place, chat, begun).await?;
                Err(error.into())
            }
            Decision::Person { .. }
            | Decision::Target
            | Decision::Content
            | Decision::StaleMedia
            | Decision::Bug
            | Decision::Pending
            | Decision::Done => match Outcome::from(error) {
                Outcome::Discard(error) => self.refuse(place, error).await,
                outcome => Err(outcome),
            },
        }
    }

    async fn not_sent(&self, place: usize, chat: &Chat, begun: bool) -> Result<(), StoreError> {
        if begun {
            self.context.store.refuse_target(&self.targets[place], chat.id).await?;
        }
        Ok(())
    }

    /// What kept a target from its send, or from the look for it. A refusal ends it; passing trouble puts it off, and ends it
    /// when it comes again and again; anything else is the whole job's.
    async fn stopped(&mut self, place: usize, outcome: Outcome) -> Result<Turn, Outcome> {
        let error = match outcome {
            Outcome::Discard(error) => return self.refuse(place, error).await,
            Outcome::Retry(error) if is_of_target(&error) => error,
            outcome => return Err(outcome),
        };
        let target = &mut self.targets[place];
        target.tries += 1;
        let most = if target.begun { MOST_LOOKS } else { MOST_TRIES };
        if target.tries >= most {
            return self.refuse(place, error).await;
        }
        let longer = 4_i32.pow(target.tries.unsigned_abs().saturating_sub(1).min(MOST_DOUBLINGS));
        let now = self.context.clock.now();
        let turn = self.put_off(place, now + AFTER_TROUBLE * longer).await?;
        self.troubles += 1;
        if self.troubles >= MOST_IN_A_ROW {
            return Err(Outcome::Snooze {
                until: now + AFTER_TROUBLE,
                reason: WaitReason::new("trouble", error.message),
            });
        }
        Ok(turn)
    }

    async fn put_off(&mut self, place: usize, until: DateTime<Utc>) -> Result<Turn, Outcome> {
        self.targets[place].not_before = Some(until);
        self.context.store.keep_target(&self.targets[place]).await?;
        Ok(Turn::PutOff)
    }

    async fn sent(&mut self, place: usize, sent: Option<SentMessage>) -> Result<Turn, Outcome> {
        self.decide(place, sent_as(sent)).await
    }

    async fn refuse(&mut self, place: usize, error: JobError) -> Result<Turn, Outcome> {
        let error = if self.targets[place].begun { unknown() } else { error };
        let decided = Decided {
            outcome: error.code,
            error: Some(error.message),
            sent: None,
        };
        self.decide(place, decided).await
    }

    async fn decide(&mut self, place: usize, decided: Decided) -> Result<Turn, Outcome> {
        self.targets[place].decided = Some(decided);
        if let Err(error) = self.context.store.decide_target(&self.targets[place]).await {
            self.targets[place].decided = None;
            return Err(error.into());
        }
        Ok(Turn::Decided)
    }

    fn sent_so_far(&self) -> usize {
        let outcomes = self.targets.iter().filter_map(|target| target.decided.as_ref());
        outcomes.filter(|decided| decided.outcome == SENT).count()
    }

    async fn show(&self) -> Result<(), Outcome> {
        let done = self.targets.iter().filter(|target| target.decided.is_some()).count();
        let seconds = (self.context.clock.now() - self.begun_at).as_seconds_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate to be shown")]
        let per_second = if seconds > 0.0 {
            self.decided as f64 / seconds
        } else {
            0.0
        };
        let progress = Progress {
            done: i64::try_from(done).unwrap_or(i64::MAX),
            of: i64::try_from(self.targets.len()).ok(),
            per_second,
        };
        Ok(self.context.store.progress(progress).await?)
    }

    fn report(&self) -> PublishResult {
        let mut counts = BTreeMap::new();
        let mut targets = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let Some(decided) = &target.decided else { continue };
            *counts.entry(decided.outcome.clone()).or_default() += 1;
            targets.push(TargetReport {
                position: target.position,
                chat_id: target.chat_id,
                outcome: decided.outcome.clone(),
                message_id: decided.sent.as_ref().map(|sent| sent.message_id.abs()),
                date: decided.sent.as_ref().map(|sent| sent.date),
            });
        }
        PublishResult {
            status: PublishStatus::Finished,
            chat: None,
            message_id: None,
            date: None,
            link: None,
            message_ids: Vec::new(),
            deleted: None,
            targets,
            counts,
        }
    }

    /// Trouble after progress costs no attempt: a thousand chats meet more of it than a job has attempts.
    fn forgive(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Retry(error) if self.decided > 0 && error.code != "fenced" => Outcome::Snooze {
                until: self.context.clock.now() + AFTER_TROUBLE,
                reason: WaitReason::new("trouble", error.message),
            },
            outcome => outcome,
        }
    }
}

fn sent_as(sent: Option<SentMessage>) -> Decided {
    Decided {
        outcome: SENT.into(),
        error: None,
        sent,
    }
}

/// What may pass, and is the chat's rather than the session's or the database's.
fn is_of_target(error: &JobError) -> bool {
    let of_the_attempt = ["fenced", "store_failed", "session_unavailable", "checkpoint_unreadable"];
    !of_the_attempt.contains(&error.code.as_str())
}

fn make_room(now: DateTime<Utc>) -> Outcome {
    Outcome::Snooze {
        until: now,
        reason: WaitReason::new(
            "batch_done",
            "The job makes room for others, and goes on when it is its turn.",
        ),
    }
}

fn unknown() -> JobError {
    JobError::permanent(
        OUTCOME_UNKNOWN,
        "The message may or may not have been sent, and the job could not find out. Look in the chat before you send it \
         again.",
    )
}

#[cfg(test)]
mod tests;
