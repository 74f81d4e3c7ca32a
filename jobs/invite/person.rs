//! One person of a campaign: who they are, whether they may be contacted, the one call, and what became of it.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    halt_for,
    verdict::{self, Judged},
};
use crate::{
    JobContext, JobError, LogLevel, LogLine, Outcome,
    outreach::{
        Added, Basis, Campaign, InviteMode, Leave, Listed, Person, Prepared, Presence, Verdict, VerdictClass, Wording,
    },
    ports::{Chat, Decision, Draft, SentMessage, TelegramError},
};

/// A call that was begun so often without anybody seeing how it ended is given up.
const MOST_TRIES: i32 = 3;
/// How far the database's clock may be ahead of Telegram's.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// One person's turn.
pub(super) struct Invitation<'a> {
    context: &'a JobContext,
    campaign: &'a Campaign,
    chat: &'a Chat,
    listed: &'a Listed,
}

/// What looking came to after an attempt that nobody saw end.
enum Looked {
    /// It reached them.
    Reached(Verdict),
    /// It did not.
    NotReached,
    CannotLook,
}

impl<'a> Invitation<'a> {
    pub fn new(context: &'a JobContext, campaign: &'a Campaign, chat: &'a Chat, listed: &'a Listed) -> Self {
        Self {
            context,
            campaign,
            chat,
            listed,
        }
    }

    /// The outcome; `None`: not decided yet, and the campaign's next turn says what to do.
    pub async fn attempt(&self) -> Result<Option<&'static str>, Outcome> {
        let person = match self.context.telegram.person(&self.listed.person).await {
            Ok(person) => person,
            Err(error) => return self.not_found(error).await,
        };
        let prepared = self
            .context
            .outreach
            .prepare(self.campaign.id, self.listed, &person)
            .await?;
        let (random_id, was_begun) = match prepared {
            Prepared::Decided(outcome) => return Ok(Some(outcome)),
            Prepared::Fresh { random_id } => {
                if let Some(verdict) = self.unfit(&person).await? {
                    return self.decide(Some(&person), verdict).await.map(Some);
                }
                (random_id, false)
            }
            Prepared::InDoubt {
                random_id,
                since,
                tries,
                wording,
            } => {
                self.say(
                    LogLevel::Warn,
                    "looking_for_invitation",
                    "It is not certain how an earlier attempt ended: Telegram is asked before anything is repeated.",
                )
                .await;
                match self.look(&person, since, &wording).await? {
                    Looked::Reached(verdict) => return self.decide(Some(&person), verdict).await.map(Some),
                    Looked::NotReached if tries < MOST_TRIES => {}
                    Looked::NotReached | Looked::CannotLook => {
                        return self.decide(Some(&person), verdict::unknown()).await.map(Some);
                    }
                }
                (random_id, true)
            }
        };
        self.context.stop_if_cancelled()?;
        match self
            .context
            .outreach
            .begin(self.campaign.id, self.listed, &person)
            .await?
        {
            Leave::Granted(wording) => self.call(&person, random_id, was_begun, &wording).await,
            Leave::Decided(outcome) => Ok(Some(outcome)),
            Leave::NotNow => Ok(None),
        }
    }

    async fn not_found(&self, error: TelegramError) -> Result<Option<&'static str>, Outcome> {
        if is_final(&error) {
            let verdict = verdict::skipped("not_found", Some(error.code));
            return self.decide(None, verdict).await.map(Some);
        }
        Err(self.trouble(error).await)
    }

    /// What is nobody's outcome. The next person would meet what the session may not do at all: then the campaign stops.
    async fn trouble(&self, error: TelegramError) -> Outcome {
        if error.decision == Decision::Campaign {
            return halt_for(self.context, self.campaign, error.into()).await;
        }
        error.into()
    }

    /// Why somebody who may be contacted is not to be, as Telegram shows them.
    async fn unfit(&self, person: &Person) -> Result<Option<Verdict>, Outcome> {
        if person.is_deleted || person.is_bot {
            let why = if person.is_deleted { "deleted" } else { "bot" };
            return Ok(Some(verdict::skipped("not_eligible", Some(why.to_owned()))));
        }
        let confirmed = match self.listed.basis {
            Basis::Contact => person.is_contact,
            Basis::Dialogue => match self.context.telegram.wrote_before(person).await {
                Ok(wrote) => wrote,
                Err(error) if is_final(&error) => {
                    return Ok(Some(verdict::skipped("basis_unconfirmed", Some(error.code))));
                }
                Err(error) => return Err(self.trouble(error).await),
            },
            // The one is recorded with who vouches for it. The other is asked for last: whoever was let in meanwhile is a member.
            Basis::Import | Basis::JoinRequest => true,
        };
        if !confirmed {
            return Ok(Some(verdict::skipped("basis_unconfirmed", None)));
        }
        match self.presence(person).await? {
            Some(Presence::Member) => Ok(Some(verdict::skipped("already_member", None))),
            // Whoever left and asks to come back does ask.
            _ if self.listed.basis == Basis::JoinRequest => self.unasked(person).await,
            Some(Presence::Gone) => Ok(Some(verdict::skipped("left_before", None))),
            Some(Presence::Absent) | None => Ok(None),
        }
    }

    /// Why a request to be let in is no basis: Telegram shows none, or does not show them to this session.
    async fn unasked(&self, person: &Person) -> Result<Option<Verdict>, Outcome> {
        let why = match self.context.telegram.asked_to_join(self.chat, person).await {
            Ok(true) => return Ok(None),
            Ok(false) => None,
            Err(error) if is_final(&error) => Some(error.code),
            Err(error) => return Err(self.trouble(error).await),
        };
        Ok(Some(verdict::skipped("basis_unconfirmed", why)))
    }

    /// `None`: the session may not look.
    async fn presence(&self, person: &Person) -> Result<Option<Presence>, Outcome> {
        match self.context.telegram.presence(self.chat, person).await {
            Ok(presence) => Ok(Some(presence)),
            Err(error) if is_final(&error) => Ok(None),
            Err(error) => Err(self.trouble(error).await),
        }
    }

    async fn look(&self, person: &Person, since: DateTime<Utc>, wording: &Wording) -> Result<Looked, Outcome> {
        if self.campaign.mode == InviteMode::Add {
            return match self.presence(person).await? {
                // Whoever was in it before was not asked at all.
                Some(Presence::Member | Presence::Gone) => Ok(Looked::Reached(verdict::invited("added", None))),
                Some(Presence::Absent) => self.look_for_departed(person, since - CLOCK_SKEW).await,
                None => Ok(Looked::CannotLook),
            };
        }
        let telegram = &self.context.telegram;
        let looked = telegram
            .own_messages_like(&person.chat, &draft(wording), since - CLOCK_SKEW)
            .await;
        match looked {
            Ok(messages) => Ok(messages.into_iter().next().map_or(Looked::NotReached, |message| {
                Looked::Reached(verdict::invited("invited", Some(message)))
            })),
            Err(error) if is_final(&error) => Ok(Looked::CannotLook),
            Err(error) => Err(self.trouble(error).await),
        }
    }

    /// Somebody may have been added and have left at once, which Telegram's list does not tell from never having come. To add
    /// them once more would be against their will.
    async fn look_for_departed(&self, person: &Person, since: DateTime<Utc>) -> Result<Looked, Outcome> {
        match self.context.telegram.has_added(self.chat, person, since).await {
            Ok(true) => Ok(Looked::Reached(verdict::invited("added", None))),
            Ok(false) => Ok(Looked::NotReached),
            Err(error) if is_final(&error) => Ok(Looked::CannotLook),
            Err(error) => Err(self.trouble(error).await),
        }
    }

    async fn call(
        &self,
        person: &Person,
        random_id: i64,
        was_begun: bool,
        wording: &Wording,
    ) -> Result<Option<&'static str>, Outcome> {
        let answer = match self.campaign.mode {
            InviteMode::Message => self.send(person, random_id, wording).await,
            InviteMode::Add => self.add(person, was_begun).await,
        };
        let error = match answer {
            Ok(verdict) => return self.decide(Some(person), verdict).await.map(Some),
            Err(error) => error,
        };
        match verdict::judge(&error, self.campaign.mode) {
            Judged::Person(verdict) => self.decide(Some(person), verdict).await.map(Some),
            Judged::LeftAlone(verdict) => {
                self.release(person).await?;
                self.decide(Some(person), verdict).await.map(Some)
            }
            Judged::AlreadySo => {
                let verdict = self.already_so(person, was_begun, wording).await;
                self.decide(Some(person), verdict).await.map(Some)
            }
            Judged::NotSent => {
                self.release(person).await?;
                Err(error.into())
            }
            Judged::Halt => {
                self.release(person).await?;
                Err(halt_for(self.context, self.campaign, error.into()).await)
            }
            Judged::Unknown if self.context.is_last_attempt() => {
                // Nobody comes after this attempt to look.
                self.decide(Some(person), verdict::unknown()).await?;
                Err(error.into())
            }
            Judged::Unknown => Err(in_doubt(error)),
        }
    }

    async fn send(&self, person: &Person, random_id: i64, wording: &Wording) -> Result<Verdict, TelegramError> {
        let telegram = &self.context.telegram;
        let sent = telegram.send_message(&person.chat, random_id, &draft(wording)).await?;
        Ok(verdict::invited("invited", Some(sent)))
    }

    async fn add(&self, person: &Person, was_begun: bool) -> Result<Verdict, TelegramError> {
        Ok(match self.context.telegram.add_to_chat(self.chat, person).await? {
            Added::Added => verdict::invited("added", None),
            Added::AlreadyMember => verdict::already(was_begun),
            Added::Missing {
                premium_would_allow_invite,
                premium_required_for_pm,
            } => verdict::missing(premium_would_allow_invite, premium_required_for_pm),
        })
    }

    /// Telegram says that it is so already: by an earlier attempt of ours, or by itself.
    async fn already_so(&self, person: &Person, was_begun: bool, wording: &Wording) -> Verdict {
        if self.campaign.mode == InviteMode::Add {
            return verdict::already(was_begun);
        }
        verdict::invited("invited", self.find_sent(person, wording).await)
    }

    /// The id of a message that Telegram confirmed to have; it is worth no second attempt.
    async fn find_sent(&self, person: &Person, wording: &Wording) -> Option<SentMessage> {
        let since = self.context.created_at - CLOCK_SKEW;
        let telegram = &self.context.telegram;
        let found = telegram.own_messages_like(&person.chat, &draft(wording), since).await;
        found.ok()?.into_iter().next()
    }

    async fn decide(&self, person: Option<&Person>, verdict: Verdict) -> Result<&'static str, Outcome> {
        let user_id = person.map(|person| person.user_id);
        let outreach = &self.context.outreach;
        let stopped = outreach
            .decide(self.campaign.id, self.listed, user_id, &verdict)
            .await?;
        match verdict.class {
            VerdictClass::Invited => self.say(LogLevel::Info, "invited", "A person was invited.").await,
            VerdictClass::Refused => {
                self.say(LogLevel::Info, "refused", "A person was not invited: refused.")
                    .await;
            }
            VerdictClass::Skipped => self.say(LogLevel::Info, "skipped", "A person was left out.").await,
            VerdictClass::Unknown => {
                self.say(
                    LogLevel::Warn,
                    "outcome_unknown",
                    "It is not known whether an invitation reached a person; they are not asked again.",
                )
                .await;
            }
        }
        if stopped.is_some() {
            self.say(
                LogLevel::Warn,
                "campaign_stopped",
                "The campaign has stopped by itself.",
            )
            .await;
        }
        Ok(verdict.outcome)
    }

    async fn release(&self, person: &Person) -> Result<(), Outcome> {
        Ok(self.context.outreach.release(self.campaign.id, person.user_id).await?)
    }

    async fn say(&self, level: LogLevel, code: &'static str, message: &'static str) {
        self.context.log(level, LogLine::new(code, message)).await;
    }
}

fn draft(wording: &Wording) -> Draft {
    Draft {
        text: wording.text.clone(),
        format: wording.format,
        silent: false,
        link_preview: true,
        ..Draft::default()
    }
}

/// The same question would be answered the same way.
fn is_final(error: &TelegramError) -> bool {
    matches!(
        error.decision,
        Decision::Person { .. } | Decision::Target | Decision::Content | Decision::Bug
    )
}

fn in_doubt(error: TelegramError) -> Outcome {
    match Outcome::from(error) {
        Outcome::Retry(error) if error.code != "fenced" => Outcome::Retry(JobError::transient(
            error.code,
            format!(
                "An invitation may have been made; the next attempt asks Telegram before anything is repeated. {}",
                error.message
            ),
        )),
        outcome => outcome,
    }
}
