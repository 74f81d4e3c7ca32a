//! One target: looking at it, asking to be let in, leaving, and what the result says of it.

use super::{
    link::Target,
    port::{Left, Standing},
    refusal::{Refusal, Stop, channel_limit},
    report::{Access, Discussion, JoinStatus, JoinedChat, JoinedOne, Standpoint, Topic},
};
use crate::{
    JobContext, JobError, LogLevel, LogLine, Outcome,
    ports::{Chat, ChatType, Decision, Invite, Joined, TelegramError},
    target::ChatRef,
};

/// Said before Telegram is asked.
const ASKING: LogLine = LogLine::new("joining", "The session is not in the chat yet, and asks to join it.");
const LEAVING: LogLine = LogLine::new("leaving", "The session leaves the chat.");

/// What a look at a target shows.
pub(super) enum Look {
    Inside(Chat),
    Outside(Door),
}

/// The way into a chat that the session is not in.
pub(super) struct Door {
    /// Null when a link shows no more than a preview.
    chat: Option<Chat>,
    preview: Option<JoinedChat>,
    access: Access,
    request_needed: bool,
    subscription: bool,
}

/// What asking to join came to.
pub(super) enum Asked {
    Member(JoinStatus, Chat),
    Waiting,
}

/// The work on one target.
pub(super) struct Work<'a> {
    pub context: &'a JobContext,
    pub target: &'a Target,
    /// The channel's discussion group is joined too.
    pub discussion: bool,
    /// Telegram is asked for all that the result of a single chat says.
    pub in_full: bool,
}

impl Door {
    /// The chat's id, as far as it is known.
    pub fn chat_id(&self) -> Option<i64> {
        self.chat.as_ref().map(|chat| chat.id)
    }

    pub const fn known(&self) -> Option<&Chat> {
        self.chat.as_ref()
    }

    /// Whether it leads into what is counted towards the account's limit of channels.
    pub fn takes_room(&self) -> bool {
        let known = self.chat.as_ref().map(|chat| chat.chat_type);
        let chat_type = known.or(self.preview.as_ref().map(|preview| preview.chat_type));
        matches!(chat_type, Some(ChatType::Supergroup | ChatType::Channel))
    }
}

impl Work<'_> {
    /// Finds the chat and whether the session is in it, without any effect.
    pub async fn look(&self) -> Result<Look, Stop> {
        let telegram = &self.context.telegram;
        let (chat, access) = match &self.target.chat {
            ChatRef::Username(name) => (self.resolve(name).await?, Access::Public),
            ChatRef::Id(id) => (telegram.chat_by_id(*id).await?, Access::Private),
            ChatRef::Invite(hash) => match telegram.check_invite(hash).await? {
                Invite::Member(chat) => (chat, Access::Invite),
                Invite::Peek(chat) => (chat, Access::Peek),
                Invite::Preview {
                    title,
                    chat_type,
                    member_count,
                    request_needed,
                    subscription,
                } => {
                    return Ok(Look::Outside(behind_link(
                        title,
                        chat_type,
                        member_count,
                        request_needed,
                        subscription,
                    )));
                }
            },
        };
        let chat = self.present(chat).await?;
        if chat.chat_type == ChatType::Private {
            return Err(Refusal::new(
                "chat_is_person",
                "The target names a person or a bot; only groups and channels are joined and left.",
            )
            .into());
        }
        if chat.member && access != Access::Peek {
            return Ok(Look::Inside(chat));
        }
        if access == Access::Public && chat.username.is_none() {
            // To everybody else a chat of that name is public.
            return Err(banned(None).into());
        }
        Ok(Look::Outside(Door {
            chat: Some(chat),
            preview: None,
            access,
            request_needed: false,
            subscription: false,
        }))
    }

    /// A basic group that was made into a supergroup is that supergroup.
    async fn present(&self, chat: Chat) -> Result<Chat, Stop> {
        if chat.member || chat.chat_type != ChatType::Group {
            return Ok(chat);
        }
        // One that the session may not even ask about is what it is.
        let successor = self.context.telegram.successor(&chat).await;
        Ok(successor.or_else(none_if_refused)?.unwrap_or(chat))
    }

    async fn resolve(&self, name: &str) -> Result<Chat, Stop> {
        let found = self.context.telegram.resolve_username(name).await;
        found.map_err(|error| match error.code.as_str() {
            "CHANNEL_PRIVATE" => banned(Some(error.code)).into(),
            _ => error.into(),
        })
    }

    /// Refuses what would be refused, before anything is asked.
    pub async fn admit(&self, door: &Door) -> Result<(), Stop> {
        if door.subscription {
            return Err(Refusal::new(
                "payment_required",
                "Members of this chat pay for a subscription; Wireroom does not pay.",
            )
            .into());
        }
        if door.takes_room() {
            let room = self.context.telegram.channel_room().await?;
            if room.is_full() {
                return Err(channel_limit(room.used, room.limit).into());
            }
        }
        Ok(())
    }

    /// Asks to join. What a crash leaves of it is found by the next look.
    pub async fn ask(&self, door: &Door) -> Result<Asked, Stop> {
        self.context.stop_if_cancelled()?;
        self.context.log(LogLevel::Info, ASKING).await;
        let telegram = &self.context.telegram;
        let hash = match &self.target.chat {
            ChatRef::Invite(hash) => Some(hash),
            ChatRef::Username(_) | ChatRef::Id(_) => None,
        };
        let answer = match (hash, &door.chat) {
            (Some(hash), _) => telegram.join_by_invite(hash).await,
            (None, Some(chat)) => telegram.join_chat(chat).await,
            (None, None) => return Err(Stop::Job(nameless())),
        };
        match (answer_of(answer)?, &door.chat, hash) {
            (Joined::Joined(chat), ..) => Ok(Asked::Member(JoinStatus::Joined, chat)),
            (Joined::ApprovalPending, ..) => Ok(Asked::Waiting),
            (Joined::AlreadyMember, Some(chat), _) => Ok(Asked::Member(JoinStatus::AlreadyMember, chat.clone())),
            // The answer names no chat; the link does, now that Telegram says that the session is in.
            (Joined::AlreadyMember, None, Some(hash)) => match telegram.check_invite(hash).await? {
                Invite::Member(chat) | Invite::Peek(chat) => Ok(Asked::Member(JoinStatus::AlreadyMember, chat)),
                Invite::Preview { .. } => Err(Stop::Job(nameless())),
            },
            (Joined::AlreadyMember, None, None) => Err(Stop::Job(nameless())),
        }
    }

    /// What the result says of a chat that the session is in; stores it as one.
    pub async fn member(&self, status: JoinStatus, mut chat: Chat) -> Result<JoinedOne, Stop> {
        chat.member = true;
        let standing = self.standing(&chat).await?;
        if let Some(standing) = &standing {
            chat.member_count = standing.chat.member_count.or(chat.member_count);
        }
        let mut told = self.facts(&chat, standing.as_ref()).await;
        told.access = if told.username.is_some() {
            Access::Public
        } else {
            self.access()
        };
        self.context.store.save_chat(&chat).await?;
        let discussion = match standing {
            Some(standing) if self.discussion && chat.chat_type == ChatType::Channel => {
                self.join_discussion(&standing).await?
            }
            _ => None,
        };
        self.context
            .log(
                LogLevel::Info,
                LogLine::new("member", "The session is a member of the chat."),
            )
            .await;
        Ok(JoinedOne {
            discussion,
            ..JoinedOne::new(status, Some(told))
        })
    }

    /// Leaves a chat that the session is in.
    pub async fn leave(&self, chat: &Chat) -> Result<JoinedOne, Stop> {
        let standing = self.standing(chat).await?;
        self.context.stop_if_cancelled()?;
        self.context.log(LogLevel::Info, LEAVING).await;
        let left = self.context.telegram.leave_chat(chat).await?;
        let mut report = self.gone(Some(chat)).await?;
        if left == Left::Left {
            report.status = JoinStatus::Left;
            report.was = standing.as_ref().map(standpoint);
        }
        Ok(report)
    }

    /// What the result says of a chat that the session is not in.
    pub async fn gone(&self, chat: Option<&Chat>) -> Result<JoinedOne, Stop> {
        let Some(chat) = chat else {
            return Ok(JoinedOne::new(JoinStatus::NotMember, None));
        };
        let mut chat = chat.clone();
        chat.member = false;
        self.context.store.save_chat(&chat).await?;
        let told = JoinedChat::plain(&chat, self.access());
        Ok(JoinedOne::new(JoinStatus::NotMember, Some(told)))
    }

    /// What a join would do, without doing it.
    pub async fn check(&self, look: Result<Look, Stop>) -> Result<JoinedOne, Stop> {
        match self.would(look).await {
            Err(Stop::Target(refusal)) => Ok(JoinedOne {
                code: Some(refusal.code),
                message: Some(refusal.message),
                ..JoinedOne::new(JoinStatus::WouldFail, None)
            }),
            other => other,
        }
    }

    async fn would(&self, look: Result<Look, Stop>) -> Result<JoinedOne, Stop> {
        let door = match look? {
            Look::Inside(chat) => {
                let standing = self.standing(&chat).await?;
                let mut told = self.facts(&chat, standing.as_ref()).await;
                told.access = if told.username.is_some() {
                    Access::Public
                } else {
                    self.access()
                };
                return Ok(JoinedOne::new(JoinStatus::AlreadyMember, Some(told)));
            }
            Look::Outside(door) => door,
        };
        let (told, asks) = match &door.chat {
            // A preview says all there is.
            None => (door.preview.clone(), door.request_needed),
            Some(chat) => {
                let standing = self.context.telegram.standing(chat).await?;
                let mut told = self.facts(chat, Some(&standing)).await;
                told.access = door.access;
                (Some(told), standing.asks_admins && door.access == Access::Public)
            }
        };
        let status = if asks || door.request_needed {
            JoinStatus::WouldRequest
        } else {
            JoinStatus::WouldJoin
        };
        match self.admit(&door).await {
            Ok(()) => Ok(JoinedOne::new(status, told)),
            Err(Stop::Target(refusal)) => Ok(JoinedOne {
                code: Some(refusal.code),
                message: Some(refusal.message),
                ..JoinedOne::new(JoinStatus::WouldFail, told)
            }),
            Err(stop) => Err(stop),
        }
    }

    /// What Telegram says of the chat itself; nothing where it may be left out, or cannot be had: the session is in, and
    /// that is no reason to run the job again.
    async fn standing(&self, chat: &Chat) -> Result<Option<Standing>, Stop> {
        if self.discussion {
            return Ok(Some(self.context.telegram.standing(chat).await?));
        }
        if !self.in_full {
            return Ok(None);
        }
        Ok(self.context.telegram.standing(chat).await.ok())
    }

    async fn facts(&self, chat: &Chat, standing: Option<&Standing>) -> JoinedChat {
        let mut told = JoinedChat::plain(chat, self.access());
        let Some(standing) = standing else { return told };
        told.complete(standing);
        if let (Some(id), true) = (self.target.topic, standing.forum) {
            let title = self.context.telegram.topic_title(chat, id).await;
            told.topic = title.ok().flatten().map(|title| Topic { id, title });
        }
        told
    }

    const fn access(&self) -> Access {
        match &self.target.chat {
            ChatRef::Username(_) => Access::Public,
            ChatRef::Id(_) => Access::Private,
            ChatRef::Invite(_) => Access::Invite,
        }
    }

    /// Joins the discussion group. What is in the way of that is told, and does not undo the rest.
    async fn join_discussion(&self, channel: &Standing) -> Result<Option<Discussion>, Stop> {
        let Some(chat_id) = channel.linked_chat_id else {
            return Ok(None);
        };
        let told = |outcome: &str| {
            Ok(Some(Discussion {
                chat_id,
                outcome: outcome.to_owned(),
            }))
        };
        let Some(group) = &channel.linked_chat else {
            return told("chat_inaccessible");
        };
        if group.member {
            return told("already_member");
        }
        self.context.stop_if_cancelled()?;
        let joined = match self.enter(group).await {
            Ok(joined) => joined,
            Err(Stop::Target(refusal)) => return told(&refusal.code),
            Err(stop) => return Err(stop),
        };
        let (outcome, chat) = match joined {
            Joined::Joined(chat) => ("joined", chat),
            Joined::AlreadyMember => ("already_member", group.clone()),
            Joined::ApprovalPending => return told("requested"),
        };
        self.context.store.save_chat(&Chat { member: true, ..chat }).await?;
        told(outcome)
    }

    async fn enter(&self, group: &Chat) -> Result<Joined, Stop> {
        let room = self.context.telegram.channel_room().await?;
        if room.is_full() {
            return Err(channel_limit(room.used, room.limit).into());
        }
        answer_of(self.context.telegram.join_chat(group).await)
    }
}

/// Whether what a look met says that the session is not in the chat.
pub(super) fn shows_outside(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "chat_inaccessible" | "banned_from_chat")
}

/// A public chat hides from those it banned.
pub(super) fn banned(telegram_error: Option<String>) -> Refusal {
    Refusal {
        telegram_error,
        ..Refusal::new(
            "banned_from_chat",
            "The chat is public, and closed to this session: it was banned there.",
        )
    }
}

fn behind_link(
    title: String,
    chat_type: ChatType,
    member_count: Option<i64>,
    request_needed: bool,
    subscription: bool,
) -> Door {
    Door {
        chat: None,
        preview: Some(JoinedChat {
            id: None,
            chat_type,
            title,
            username: None,
            member_count,
            access: Access::Invite,
            rights: None,
            slow_mode_seconds: None,
            linked_chat_id: None,
            forum: None,
            topic: None,
            joined_at: None,
        }),
        access: Access::Invite,
        request_needed,
        subscription,
    }
}

/// An implementation may leave "already there" and "request sent" as the errors they are in Telegram.
fn answer_of(joined: Result<Joined, TelegramError>) -> Result<Joined, Stop> {
    joined.or_else(|error| match error.decision {
        Decision::Done => Ok(Joined::AlreadyMember),
        Decision::Pending => Ok(Joined::ApprovalPending),
        _ => Err(error.into()),
    })
}

fn none_if_refused(error: TelegramError) -> Result<Option<Chat>, Stop> {
    match Stop::from(error) {
        Stop::Target(_) => Ok(None),
        stop @ Stop::Job(_) => Err(stop),
    }
}

fn nameless() -> Outcome {
    Outcome::Retry(JobError::transient(
        "chat_unknown",
        "Telegram says that the session is a member already, and does not say of which chat.",
    ))
}

fn standpoint(standing: &Standing) -> Standpoint {
    match standing.rights {
        rights if rights.creator => Standpoint::Creator,
        rights if rights.admin && standing.admins.is_some_and(|admins| admins <= 1) => Standpoint::LastAdmin,
        rights if rights.admin => Standpoint::Admin,
        _ => Standpoint::Member,
    }
}
