//! One table: what each RPC error means, and what a job does about it. `docs/TELEGRAM-ERRORS.md` is the same table for
//! people; a test compares the two. A new name is a new variant of [`KnownError`], and the compiler asks what it means.

use std::time::Duration;

use grammers_mtsender::RpcError;
use wireroom_jobs::ports::Decision;

macro_rules! known_errors {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// The RPC errors this version knows, by the name Telegram sends, without its number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum KnownError {
            $($variant),+
        }

        impl KnownError {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name as Telegram sends it; a number in it is left out (`FLOOD_WAIT`).
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

known_errors! {
    PhoneMigrate = "PHONE_MIGRATE",
    NetworkMigrate = "NETWORK_MIGRATE",
    UserMigrate = "USER_MIGRATE",
    FileMigrate = "FILE_MIGRATE",
    StatsMigrate = "STATS_MIGRATE",
    PhoneCodeInvalid = "PHONE_CODE_INVALID",
    PhoneCodeExpired = "PHONE_CODE_EXPIRED",
    PhoneCodeEmpty = "PHONE_CODE_EMPTY",
    SessionPasswordNeeded = "SESSION_PASSWORD_NEEDED",
    PasswordHashInvalid = "PASSWORD_HASH_INVALID",
    PhoneNumberFlood = "PHONE_NUMBER_FLOOD",
    PhonePasswordFlood = "PHONE_PASSWORD_FLOOD",
    PhoneNumberInvalid = "PHONE_NUMBER_INVALID",
    PhoneNumberBanned = "PHONE_NUMBER_BANNED",
    AuthKeyUnregistered = "AUTH_KEY_UNREGISTERED",
    SessionRevoked = "SESSION_REVOKED",
    SessionExpired = "SESSION_EXPIRED",
    AuthKeyDuplicated = "AUTH_KEY_DUPLICATED",
    UserDeactivated = "USER_DEACTIVATED",
    UserDeactivatedBan = "USER_DEACTIVATED_BAN",
    FrozenMethodInvalid = "FROZEN_METHOD_INVALID",
    FloodWait = "FLOOD_WAIT",
    FloodPremiumWait = "FLOOD_PREMIUM_WAIT",
    SlowmodeWait = "SLOWMODE_WAIT",
    TakeoutInitDelay = "TAKEOUT_INIT_DELAY",
    FreshChangeAdminsForbidden = "FRESH_CHANGE_ADMINS_FORBIDDEN",
    PeerFlood = "PEER_FLOOD",
    UserPrivacyRestricted = "USER_PRIVACY_RESTRICTED",
    UserNotMutualContact = "USER_NOT_MUTUAL_CONTACT",
    ChatSendPlainForbidden = "CHAT_SEND_PLAIN_FORBIDDEN",
    UserIsBlocked = "USER_IS_BLOCKED",
    UserBlocked = "USER_BLOCKED",
    YouBlockedUser = "YOU_BLOCKED_USER",
    UserKicked = "USER_KICKED",
    UserBot = "USER_BOT",
    UserBotsTooMuch = "USER_BOTS_TOO_MUCH",
    InputUserDeactivated = "INPUT_USER_DEACTIVATED",
    UserIdInvalid = "USER_ID_INVALID",
    UserChannelsTooMuch = "USER_CHANNELS_TOO_MUCH",
    UserAlreadyParticipant = "USER_ALREADY_PARTICIPANT",
    ChannelsTooMuch = "CHANNELS_TOO_MUCH",
    UserNotParticipant = "USER_NOT_PARTICIPANT",
    UserCreator = "USER_CREATOR",
    ChatInvalid = "CHAT_INVALID",
    StarsPaymentRequired = "STARS_PAYMENT_REQUIRED",
    UsersTooMuch = "USERS_TOO_MUCH",
    InviteHashExpired = "INVITE_HASH_EXPIRED",
    InviteHashInvalid = "INVITE_HASH_INVALID",
    InviteHashEmpty = "INVITE_HASH_EMPTY",
    InviteRequestSent = "INVITE_REQUEST_SENT",
    ChannelPrivate = "CHANNEL_PRIVATE",
    ChatForbidden = "CHAT_FORBIDDEN",
    ChannelPublicGroupNa = "CHANNEL_PUBLIC_GROUP_NA",
    ChatAdminRequired = "CHAT_ADMIN_REQUIRED",
    ChatAdminInviteRequired = "CHAT_ADMIN_INVITE_REQUIRED",
    RightForbidden = "RIGHT_FORBIDDEN",
    ChatWriteForbidden = "CHAT_WRITE_FORBIDDEN",
    ChatSendMediaForbidden = "CHAT_SEND_MEDIA_FORBIDDEN",
    ChatGuestSendForbidden = "CHAT_GUEST_SEND_FORBIDDEN",
    PrivacyPremiumRequired = "PRIVACY_PREMIUM_REQUIRED",
    AllowPaymentRequired = "ALLOW_PAYMENT_REQUIRED",
    UserBannedInChannel = "USER_BANNED_IN_CHANNEL",
    ChatRestricted = "CHAT_RESTRICTED",
    RandomIdDuplicate = "RANDOM_ID_DUPLICATE",
    MsgWaitFailed = "MSG_WAIT_FAILED",
    MsgWaitTimeout = "MSG_WAIT_TIMEOUT",
    PersistentTimestampOutdated = "PERSISTENT_TIMESTAMP_OUTDATED",
    HistoryGetFailed = "HISTORY_GET_FAILED",
    RpcCallFail = "RPC_CALL_FAIL",
    InterdcCallError = "INTERDC_CALL_ERROR",
    PersistentTimestampEmpty = "PERSISTENT_TIMESTAMP_EMPTY",
    PersistentTimestampInvalid = "PERSISTENT_TIMESTAMP_INVALID",
    PeerIdInvalid = "PEER_ID_INVALID",
    ChannelInvalid = "CHANNEL_INVALID",
    ChatIdInvalid = "CHAT_ID_INVALID",
    UserInvalid = "USER_INVALID",
    UsernameNotOccupied = "USERNAME_NOT_OCCUPIED",
    UsernameInvalid = "USERNAME_INVALID",
    MessageTooLong = "MESSAGE_TOO_LONG",
    MessageEmpty = "MESSAGE_EMPTY",
    MediaInvalid = "MEDIA_INVALID",
    EntityBoundsInvalid = "ENTITY_BOUNDS_INVALID",
    MessageNotModified = "MESSAGE_NOT_MODIFIED",
    ChatNotModified = "CHAT_NOT_MODIFIED",
    MessageIdInvalid = "MESSAGE_ID_INVALID",
    ReplyMessageIdInvalid = "REPLY_MESSAGE_ID_INVALID",
    MessageAuthorRequired = "MESSAGE_AUTHOR_REQUIRED",
    MessageEditTimeExpired = "MESSAGE_EDIT_TIME_EXPIRED",
    MessageDeleteForbidden = "MESSAGE_DELETE_FORBIDDEN",
    ChatForwardsRestricted = "CHAT_FORWARDS_RESTRICTED",
    TopicClosed = "TOPIC_CLOSED",
    TopicDeleted = "TOPIC_DELETED",
    ScheduleDateInvalid = "SCHEDULE_DATE_INVALID",
    ScheduleDateTooLate = "SCHEDULE_DATE_TOO_LATE",
    ScheduleTooMuch = "SCHEDULE_TOO_MUCH",
    ButtonUrlInvalid = "BUTTON_URL_INVALID",
    ButtonDataInvalid = "BUTTON_DATA_INVALID",
    MediaCaptionTooLong = "MEDIA_CAPTION_TOO_LONG",
    MediaEmpty = "MEDIA_EMPTY",
    PhotoInvalidDimensions = "PHOTO_INVALID_DIMENSIONS",
    PhotoExtInvalid = "PHOTO_EXT_INVALID",
    ImageProcessFailed = "IMAGE_PROCESS_FAILED",
    FileReferenceExpired = "FILE_REFERENCE_EXPIRED",
    FileReferenceInvalid = "FILE_REFERENCE_INVALID",
    FileReferenceEmpty = "FILE_REFERENCE_EMPTY",
    ChatSendPhotosForbidden = "CHAT_SEND_PHOTOS_FORBIDDEN",
    ChatSendVideosForbidden = "CHAT_SEND_VIDEOS_FORBIDDEN",
    ChatSendDocsForbidden = "CHAT_SEND_DOCS_FORBIDDEN",
    ChatSendVoicesForbidden = "CHAT_SEND_VOICES_FORBIDDEN",
    ApiIdInvalid = "API_ID_INVALID",
    ApiIdPublishedFlood = "API_ID_PUBLISHED_FLOOD",
}

/// What an RPC error says: a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    OtherDc,
    LoginCode,
    PasswordNeeded,
    PasswordWrong,
    LoginRefused,
    LoggedOut,
    KeyDuplicated,
    Banned,
    Frozen,
    Flood,
    SlowMode,
    MustAge,
    PeerFlood,
    PersonRefused,
    PersonBlockedUs,
    WeBlockedPerson,
    PersonNotEligible,
    AlreadySo,
    AccountFull,
    ChatFull,
    DeadLink,
    Pending,
    NoAccess,
    NoRight,
    MayNotPost,
    SentBefore,
    AfterFailedCall,
    TheirTrouble,
    LostPlace,
    StalePeer,
    NobodyThere,
    BadContent,
    StaleMedia,
    WrongApplication,
    UnknownOutcome,
    UnknownRefusal,
}

impl KnownError {
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::PhoneMigrate | Self::NetworkMigrate | Self::UserMigrate | Self::FileMigrate | Self::StatsMigrate => {
                Meaning::OtherDc
            }
            Self::PhoneCodeInvalid | Self::PhoneCodeExpired | Self::PhoneCodeEmpty => Meaning::LoginCode,
            Self::SessionPasswordNeeded => Meaning::PasswordNeeded,
            Self::PasswordHashInvalid => Meaning::PasswordWrong,
            Self::PhoneNumberFlood | Self::PhonePasswordFlood | Self::PhoneNumberInvalid | Self::PhoneNumberBanned => {
                Meaning::LoginRefused
            }
            Self::AuthKeyUnregistered | Self::SessionRevoked | Self::SessionExpired => Meaning::LoggedOut,
            Self::AuthKeyDuplicated => Meaning::KeyDuplicated,
            Self::UserDeactivated | Self::UserDeactivatedBan => Meaning::Banned,
            Self::FrozenMethodInvalid => Meaning::Frozen,
            Self::FloodWait | Self::FloodPremiumWait => Meaning::Flood,
            Self::SlowmodeWait => Meaning::SlowMode,
            Self::TakeoutInitDelay | Self::FreshChangeAdminsForbidden => Meaning::MustAge,
            Self::PeerFlood => Meaning::PeerFlood,
            Self::UserPrivacyRestricted | Self::UserNotMutualContact | Self::ChatSendPlainForbidden => {
                Meaning::PersonRefused
            }
            Self::UserIsBlocked | Self::UserBlocked => Meaning::PersonBlockedUs,
            Self::YouBlockedUser => Meaning::WeBlockedPerson,
            Self::UserKicked
            | Self::UserBot
            | Self::UserBotsTooMuch
            | Self::InputUserDeactivated
            | Self::UserIdInvalid
            | Self::UserChannelsTooMuch => Meaning::PersonNotEligible,
            Self::UserAlreadyParticipant
            | Self::UserNotParticipant
            | Self::MessageNotModified
            | Self::ChatNotModified => Meaning::AlreadySo,
            Self::ChannelsTooMuch => Meaning::AccountFull,
            Self::UsersTooMuch => Meaning::ChatFull,
            Self::InviteHashExpired | Self::InviteHashInvalid | Self::InviteHashEmpty => Meaning::DeadLink,
            Self::InviteRequestSent => Meaning::Pending,
            Self::ChannelPrivate | Self::ChatForbidden | Self::ChannelPublicGroupNa => Meaning::NoAccess,
            Self::ChatAdminRequired
            | Self::ChatAdminInviteRequired
            | Self::RightForbidden
            | Self::MessageDeleteForbidden
            | Self::UserCreator => Meaning::NoRight,
            Self::ChatWriteForbidden
            | Self::ChatSendMediaForbidden
            | Self::ChatSendPhotosForbidden
            | Self::ChatSendVideosForbidden
            | Self::ChatSendDocsForbidden
            | Self::ChatSendVoicesForbidden
            | Self::TopicClosed
            | Self::TopicDeleted
            | Self::ChatGuestSendForbidden
            | Self::PrivacyPremiumRequired
            | Self::AllowPaymentRequired
            | Self::StarsPaymentRequired
            | Self::UserBannedInChannel
            | Self::ChatRestricted => Meaning::MayNotPost,
            Self::RandomIdDuplicate => Meaning::SentBefore,
            Self::MsgWaitFailed | Self::MsgWaitTimeout => Meaning::AfterFailedCall,
            Self::PersistentTimestampOutdated | Self::HistoryGetFailed | Self::RpcCallFail | Self::InterdcCallError => {
                Meaning::TheirTrouble
            }
            Self::PersistentTimestampEmpty | Self::PersistentTimestampInvalid => Meaning::LostPlace,
            Self::PeerIdInvalid | Self::ChannelInvalid | Self::ChatIdInvalid | Self::UserInvalid => Meaning::StalePeer,
            Self::UsernameNotOccupied | Self::UsernameInvalid | Self::ChatInvalid => Meaning::NobodyThere,
            Self::MessageTooLong
            | Self::MessageEmpty
            | Self::MediaInvalid
            | Self::EntityBoundsInvalid
            | Self::MessageIdInvalid
            | Self::ReplyMessageIdInvalid
            | Self::MessageAuthorRequired
            | Self::MessageEditTimeExpired
            | Self::ChatForwardsRestricted
            | Self::ScheduleDateInvalid
            | Self::ScheduleDateTooLate
            | Self::ScheduleTooMuch
            | Self::ButtonUrlInvalid
            | Self::ButtonDataInvalid
            | Self::MediaCaptionTooLong
            | Self::MediaEmpty
            | Self::PhotoInvalidDimensions
            | Self::PhotoExtInvalid
            | Self::ImageProcessFailed => Meaning::BadContent,
            Self::FileReferenceExpired | Self::FileReferenceInvalid | Self::FileReferenceEmpty => Meaning::StaleMedia,
            Self::ApiIdInvalid | Self::ApiIdPublishedFlood => Meaning::WrongApplication,
        }
    }
}

/// Where no seconds are named, a login that must age waits this long.
const AGE: Duration = Duration::from_hours(24);
/// How long an account that is in too many chats joins nothing.
const FULL: Duration = Duration::from_hours(24);

/// How far a closed gate reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The action, everywhere.
    Action,
    /// The action in this chat.
    Chat,
}

/// What the port does about a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Answer the job with this decision.
    Answer(Decision),
    /// Wait `seconds`, in place or behind a gate.
    Wait { seconds: u32, reach: Reach },
    /// The account is in as many channels as it may be: it joins none for so long, or until it leaves one. Answer the job with
    /// this decision.
    Full { span: Duration, decision: Decision },
    /// The session is lost, or its application: hang up, and never connect again before a person has mended that.
    Lose,
    /// Answer the job with `Retry`; when no attempt is left, the session gets no jobs until it answers again.
    Degrade,
    /// The account is limited: stop outreach until a person resumes it.
    Limit,
    /// This session is not in the chat: remember it, and answer the job with `Target`.
    LoseChat,
    /// Resolve the chat again with this session, once.
    ResolveAgain,
}

impl Meaning {
    /// What an RPC error means; unknown ones by their code.
    pub fn of(error: &RpcError) -> Self {
        match KnownError::parse(&error.name) {
            Some(known) => known.meaning(),
            None if error.code == -503 => Self::TheirTrouble,
            None if error.code >= 500 || error.code < 0 => Self::UnknownOutcome,
            None => Self::UnknownRefusal,
        }
    }

    /// What the port does about it; `value` is the number in the error's name.
    pub fn response(self, value: Option<u32>) -> Response {
        let seconds = value.unwrap_or(0);
        match self {
            Self::Flood => Response::Wait {
                seconds,
                reach: Reach::Action,
            },
            Self::SlowMode => Response::Wait {
                seconds,
                reach: Reach::Chat,
            },
            Self::MustAge => Response::Wait {
                seconds: value.unwrap_or_else(|| u32::try_from(AGE.as_secs()).unwrap_or(u32::MAX)),
                reach: Reach::Action,
            },
            Self::LoggedOut | Self::KeyDuplicated | Self::Banned | Self::Frozen | Self::WrongApplication => {
                Response::Lose
            }
            Self::PeerFlood => Response::Limit,
            Self::NoAccess => Response::LoseChat,
            Self::StalePeer => Response::ResolveAgain,
            Self::AccountFull => Response::Full {
                span: FULL,
                decision: Decision::Target,
            },
            Self::PersonRefused | Self::WeBlockedPerson | Self::PersonNotEligible => {
                Response::Answer(Decision::Person { suppress: false })
            }
            Self::PersonBlockedUs => Response::Answer(Decision::Person { suppress: true }),
            Self::AlreadySo | Self::SentBefore => Response::Answer(Decision::Done),
            Self::Pending => Response::Answer(Decision::Pending),
            Self::ChatFull | Self::DeadLink | Self::NoRight | Self::MayNotPost | Self::NobodyThere => {
                Response::Answer(Decision::Target)
            }
            Self::TheirTrouble => Response::Degrade,
            Self::AfterFailedCall | Self::UnknownOutcome => Response::Answer(Decision::Retry),
            Self::BadContent => Response::Answer(Decision::Content),
            Self::StaleMedia => Response::Answer(Decision::StaleMedia),
            // A login's errors are answered by the login, a lost place by the update stream, and of a job's calls only
            // those for files leave the home data centre, which see to it themselves: a job that meets one of these has
            // done something it must not.
            Self::LoginCode
            | Self::PasswordNeeded
            | Self::PasswordWrong
            | Self::LoginRefused
            | Self::OtherDc
            | Self::LostPlace
            | Self::UnknownRefusal => Response::Answer(Decision::Bug),
        }
    }

    /// One sentence for a person. Never any content.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OtherDc => "Telegram sent the request to another data centre.",
            Self::LoginCode => "The login code is wrong, old or missing.",
            Self::PasswordNeeded => "The account has a second factor: a password is needed.",
            Self::PasswordWrong => "The password is not that one.",
            Self::LoginRefused => "Telegram does not let this number log in.",
            Self::LoggedOut => "The session was logged out.",
            Self::KeyDuplicated => "The session's key was used from two places and is dead.",
            Self::Banned => "The account was deleted or banned.",
            Self::Frozen => "The account is frozen.",
            Self::Flood => "Telegram asks to wait before this is done again.",
            Self::SlowMode => "The chat is in slow mode.",
            Self::MustAge => "The login is too young for this.",
            Self::PeerFlood => "The account is limited: it may not contact strangers.",
            Self::PersonRefused => "This person cannot be reached or added by this account.",
            Self::PersonBlockedUs => "This person has blocked the account.",
            Self::WeBlockedPerson => "The account has blocked this person.",
            Self::PersonNotEligible => "This person cannot be added.",
            Self::AlreadySo => "It was so already.",
            Self::AccountFull => "The account is in as many chats as it may be.",
            Self::ChatFull => "The chat takes nobody else.",
            Self::DeadLink => "The invite link leads nowhere: it expired or was revoked.",
            Self::Pending => "An admin of the chat has to approve.",
            Self::NoAccess => "The session is not in this chat.",
            Self::NoRight => "The session lacks the right to do this in the chat.",
            Self::MayNotPost => "The session may not write in this chat.",
            Self::SentBefore => "The account sent this message already.",
            Self::AfterFailedCall => "A call that this one waited for failed.",
            Self::TheirTrouble => "Telegram has trouble of its own.",
            Self::LostPlace => "Telegram does not know our place in the updates.",
            Self::StalePeer => "Telegram does not know the chat by the reference this session has.",
            Self::NobodyThere => "There is nobody by that name.",
            Self::BadContent => "Telegram does not take the content.",
            Self::StaleMedia => "Telegram wants the file again.",
            Self::WrongApplication => "Telegram does not take the application's api id.",
            Self::UnknownOutcome => "Telegram failed; what became of the request is not known.",
            Self::UnknownRefusal => "Telegram refused for a reason that is not known here.",
        }
    }
}

#[cfg(test)]
mod tests;
