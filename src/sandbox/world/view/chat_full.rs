//! The full pages of groups and channels, and what an invite link shows.

use grammers_tl_types as tl;

use super::users::tl_notify_settings;
use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::channels::Channel;
use crate::sandbox::world::groups::Group;
use crate::sandbox::world::invites::Invite;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::peers::PeerKey;

/// How many waiting people a chat's page names.
const REQUESTERS_SHOWN: usize = 9;

impl World {
    /// A channel's page as `viewer` sees it.
    pub fn tl_channel_full(&self, viewer: UserId, channel: &Channel) -> tl::enums::ChatFull {
        let admin = channel.members.is_admin(viewer);
        let key = PeerKey::Channel(channel.id);
        let waiting = (admin && !channel.requests.is_empty()).then_some(&channel.requests);
        let left = self.slow_mode_left(viewer, channel);
        let bots = channel.members.oldest_first().filter(|member| self.is_bot(member.user));
        tl::types::ChannelFull {
            can_view_participants: channel.shows_members_to(viewer),
            can_set_username: admin,
            can_set_stickers: false,
            hidden_prehistory: channel.username.is_none()
                && (channel.settings.hidden_members || channel.settings.hidden_history),
            can_set_location: false,
            has_scheduled: false,
            can_view_stats: false,
            blocked: false,
            can_delete_channel: channel
                .members
                .get(viewer)
                .is_some_and(|member| member.role == Role::Creator),
            antispam: false,
            participants_hidden: channel.settings.hidden_members,
            translations_disabled: false,
            stories_pinned_available: false,
            view_forum_as_messages: false,
            restricted_sponsored: false,
            can_view_revenue: false,
            paid_media_allowed: false,
            can_view_stars_revenue: false,
            paid_reactions_available: false,
            stargifts_available: false,
            paid_messages_available: false,
            has_welcome_messages: false,
            id: channel.id,
            about: channel.about.clone(),
            participants_count: Some(channel.members.count()),
            admins_count: admin.then(|| i32::try_from(channel.members.admins().count()).unwrap_or(i32::MAX)),
            kicked_count: admin.then(|| i32::try_from(channel.banned.len()).unwrap_or(i32::MAX)),
            banned_count: admin.then_some(0),
            online_count: None,
            read_inbox_max_id: channel.read.get(&viewer).copied().unwrap_or(0),
            read_outbox_max_id: self.channel_read_by_others(viewer, channel),
            unread_count: self.unread_in_channel(viewer, channel),
            chat_photo: tl::types::PhotoEmpty { id: 0 }.into(),
            notify_settings: tl_notify_settings(),
            exported_invite: self.own_invite(viewer, key).map(tl_invite),
            bot_info: bots.map(|bot| tl_bot_info(bot.user)).collect(),
            migrated_from_chat_id: None,
            migrated_from_max_id: None,
            pinned_msg_id: None,
            stickerset: None,
            available_min_id: None,
            folder_id: None,
            linked_chat_id: channel.settings.linked,
            location: None,
            slowmode_seconds: channel.settings.slow_mode,
            slowmode_next_send_date: (left > 0).then(|| self.now() + left),
            stats_dc: None,
            pts: channel.posts.pts(),
            call: None,
            ttl_period: None,
            pending_suggestions: None,
            groupcall_default_join_as: None,
            theme_emoticon: None,
            requests_pending: waiting.map(|all| i32::try_from(all.len()).unwrap_or(i32::MAX)),
            recent_requesters: waiting.map(|all| {
                all.iter()
                    .rev()
                    .take(REQUESTERS_SHOWN)
                    .map(|request| request.user)
                    .collect()
            }),
            default_send_as: None,
            available_reactions: None,
            reactions_limit: None,
            stories: None,
            wallpaper: None,
            boosts_applied: None,
            boosts_unrestrict: None,
            emojiset: None,
            bot_verification: None,
            stargifts_count: None,
            send_paid_messages_stars: None,
            main_tab: None,
            guard_bot_id: None,
        }
        .into()
    }

    /// A basic group's page as `viewer` sees it.
    pub fn tl_group_full(&self, viewer: UserId, group: &Group) -> tl::enums::ChatFull {
        let bots = group.members.oldest_first().filter(|member| self.is_bot(member.user));
        tl::types::ChatFull {
            can_set_username: false,
            has_scheduled: false,
            translations_disabled: false,
            has_welcome_messages: false,
            id: group.id,
            about: String::new(),
            participants: tl_group_participants(viewer, group),
            chat_photo: Some(tl::types::PhotoEmpty { id: 0 }.into()),
            notify_settings: tl_notify_settings(),
            exported_invite: self.own_invite(viewer, PeerKey::Group(group.id)).map(tl_invite),
            bot_info: Some(bots.map(|bot| tl_bot_info(bot.user)).collect()),
            pinned_msg_id: None,
            folder_id: None,
            call: None,
            ttl_period: None,
            groupcall_default_join_as: None,
            theme_emoticon: None,
            requests_pending: None,
            recent_requesters: None,
            available_reactions: None,
            reactions_limit: None,
        }
        .into()
    }

    /// What somebody who follows a link sees before joining.
    pub fn tl_invite_preview(&self, channel: &Channel, invite: &Invite) -> tl::enums::ChatInvite {
        tl::types::ChatInvite {
            channel: true,
            broadcast: channel.is_broadcast(),
            public: channel.username.is_some(),
            megagroup: !channel.is_broadcast(),
            request_needed: invite.request_needed,
            verified: false,
            scam: false,
            fake: false,
            can_refulfill_subscription: false,
            title: channel.title.clone(),
            about: Some(channel.about.clone()).filter(|about| !about.is_empty()),
            photo: tl::types::PhotoEmpty { id: 0 }.into(),
            participants_count: channel.members.count(),
            participants: None,
            color: 0,
            subscription_pricing: invite.subscription.map(tl_pricing),
            subscription_form_id: None,
            bot_verification: None,
        }
        .into()
    }

    /// The same for a basic group.
    pub fn tl_group_invite_preview(&self, group: &Group, invite: &Invite) -> tl::enums::ChatInvite {
        tl::types::ChatInvite {
            channel: false,
            broadcast: false,
            public: false,
            megagroup: false,
            request_needed: invite.request_needed,
            verified: false,
            scam: false,
            fake: false,
            can_refulfill_subscription: false,
            title: group.title.clone(),
            about: None,
            photo: tl::types::PhotoEmpty { id: 0 }.into(),
            participants_count: group.members.count(),
            participants: None,
            color: 0,
            subscription_pricing: invite.subscription.map(tl_pricing),
            subscription_form_id: None,
            bot_verification: None,
        }
        .into()
    }

    /// The newest link that `viewer` made into a chat and that still works.
    fn own_invite(&self, viewer: UserId, chat: PeerKey) -> Option<&Invite> {
        let own = self
            .invites
            .values()
            .filter(|invite| invite.chat == chat && invite.creator == viewer);
        own.filter(|invite| self.live_invite(&invite.hash).is_ok())
            .max_by_key(|invite| invite.date)
    }

    fn is_bot(&self, user: UserId) -> bool {
        self.people
            .get(&user)
            .is_some_and(crate::sandbox::world::people::Person::is_bot)
    }
}

/// A link as its maker sees it.
pub fn tl_invite(invite: &Invite) -> tl::enums::ExportedChatInvite {
    tl::types::ChatInviteExported {
        revoked: invite.revoked,
        permanent: false,
        request_needed: invite.request_needed,
        link: format!("https://t.me/+{}", invite.hash),
        admin_id: invite.creator,
        date: invite.date,
        start_date: None,
        expire_date: invite.expires,
        usage_limit: invite.usage_limit,
        usage: Some(invite.usage),
        requested: None,
        subscription_expired: None,
        title: invite.title.clone(),
        subscription_pricing: invite.subscription.map(tl_pricing),
    }
    .into()
}

fn tl_pricing(amount: i64) -> tl::enums::StarsSubscriptionPricing {
    tl::types::StarsSubscriptionPricing {
        period: 30 * 24 * 60 * 60,
        amount,
    }
    .into()
}

/// The members of a basic group, for those who are in it.
pub fn tl_group_participants(viewer: UserId, group: &Group) -> tl::enums::ChatParticipants {
    if !group.members.contains(viewer) {
        return tl::types::ChatParticipantsForbidden {
            chat_id: group.id,
            self_participant: None,
        }
        .into();
    }
    tl::types::ChatParticipants {
        chat_id: group.id,
        participants: group.members.oldest_first().map(tl_group_participant).collect(),
        version: group.version,
    }
    .into()
}

fn tl_group_participant(member: &Member) -> tl::enums::ChatParticipant {
    let (user_id, inviter_id, date) = (member.user, member.inviter, member.date);
    match member.role {
        Role::Creator => tl::types::ChatParticipantCreator { user_id, rank: None }.into(),
        Role::Admin => tl::types::ChatParticipantAdmin {
            user_id,
            inviter_id,
            date,
            rank: None,
        }
        .into(),
        Role::Member => tl::types::ChatParticipant {
            user_id,
            inviter_id,
            date,
            rank: None,
        }
        .into(),
    }
}

fn tl_bot_info(user: UserId) -> tl::enums::BotInfo {
    tl::types::BotInfo {
        has_preview_medias: false,
        user_id: Some(user),
        description: Some("A bot of the sandbox.".to_owned()),
        description_photo: None,
        description_document: None,
        commands: None,
        menu_button: None,
        privacy_policy_url: None,
        app_settings: None,
        verifier_settings: None,
    }
    .into()
}
