//! Groups and channels as an account sees them.

use grammers_tl_types as tl;

use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::channels::Channel;
use crate::sandbox::world::groups::Group;
use crate::sandbox::world::members::Role;
use crate::sandbox::world::peers::PeerKey;

impl World {
    /// A chat as `viewer` sees it; `None` for a person or an unknown id.
    ///
    /// A private chat that `viewer` is not in is a `channelForbidden`; `left` marks a public one.
    pub fn tl_chat(&self, viewer: UserId, chat: PeerKey) -> Option<tl::enums::Chat> {
        match chat {
            PeerKey::User(_) => None,
            PeerKey::Group(id) => self.groups.get(&id).map(|group| self.tl_group(viewer, group)),
            PeerKey::Channel(id) => self.channels.get(&id).map(|channel| self.tl_channel(viewer, channel)),
        }
    }

    fn tl_channel(&self, viewer: UserId, channel: &Channel) -> tl::enums::Chat {
        let hash = self.access_hash(viewer, PeerKey::Channel(channel.id));
        if !channel.is_open_to(viewer) {
            return tl::types::ChannelForbidden {
                broadcast: channel.is_broadcast(),
                megagroup: !channel.is_broadcast(),
                monoforum: false,
                id: channel.id,
                access_hash: hash,
                title: channel.title.clone(),
                until_date: None,
            }
            .into();
        }
        let role = channel.members.get(viewer).map(|member| member.role);
        tl::types::Channel {
            creator: role == Some(Role::Creator),
            left: role.is_none(),
            broadcast: channel.is_broadcast(),
            verified: false,
            megagroup: !channel.is_broadcast(),
            restricted: false,
            signatures: false,
            min: false,
            scam: false,
            has_link: channel.settings.linked.is_some(),
            has_geo: false,
            slowmode_enabled: channel.settings.slow_mode.is_some(),
            call_active: false,
            call_not_empty: false,
            fake: false,
            gigagroup: false,
            noforwards: false,
            join_to_send: false,
            join_request: channel.settings.join_request,
            forum: !channel.settings.topics.is_empty(),
            stories_hidden: false,
            stories_hidden_min: false,
            stories_unavailable: false,
            signature_profiles: false,
            autotranslation: false,
            broadcast_messages_allowed: false,
            monoforum: false,
            forum_tabs: false,
            id: channel.id,
            access_hash: Some(hash),
            title: channel.title.clone(),
            username: channel.username.clone(),
            photo: tl::enums::ChatPhoto::Empty,
            date: channel
                .members
                .get(viewer)
                .map_or(channel.created, |member| member.date),
            restriction_reason: None,
            admin_rights: role.and_then(tl_admin_rights),
            banned_rights: None,
            default_banned_rights: (!channel.is_broadcast())
                .then(|| tl_banned_rights(channel.settings.read_only, false)),
            participants_count: None,
            usernames: None,
            stories_max_id: None,
            color: None,
            profile_color: None,
            emoji_status: None,
            level: None,
            subscription_until_date: None,
            bot_verification_icon: None,
            send_paid_messages_stars: None,
            linked_monoforum_id: None,
            linked_community_id: None,
        }
        .into()
    }

    fn tl_group(&self, viewer: UserId, group: &Group) -> tl::enums::Chat {
        let Some(member) = group.members.get(viewer) else {
            return tl::types::ChatForbidden {
                id: group.id,
                title: group.title.clone(),
            }
            .into();
        };
        tl::types::Chat {
            creator: member.role == Role::Creator,
            left: false,
            deactivated: group.migrated_to.is_some(),
            call_active: false,
            call_not_empty: false,
            noforwards: false,
            id: group.id,
            title: group.title.clone(),
            photo: tl::enums::ChatPhoto::Empty,
            participants_count: group.members.count(),
            date: group.created,
            version: group.version,
            migrated_to: group.migrated_to.map(|channel_id| self.successor(viewer, channel_id)),
            admin_rights: tl_admin_rights(member.role),
            default_banned_rights: Some(tl_banned_rights(false, false)),
        }
        .into()
    }

    fn successor(&self, viewer: UserId, channel_id: i64) -> tl::enums::InputChannel {
        let access_hash = self.access_hash(viewer, PeerKey::Channel(channel_id));
        tl::types::InputChannel {
            channel_id,
            access_hash,
        }
        .into()
    }
}

/// All rights of an admin; `None` for an ordinary member.
pub fn tl_admin_rights(role: Role) -> Option<tl::enums::ChatAdminRights> {
    let creator = match role {
        Role::Member => return None,
        Role::Admin => false,
        Role::Creator => true,
    };
    let rights = tl::types::ChatAdminRights {
        change_info: true,
        post_messages: true,
        edit_messages: true,
        delete_messages: true,
        ban_users: true,
        invite_users: true,
        pin_messages: true,
        add_admins: creator,
        anonymous: false,
        manage_call: true,
        other: true,
        manage_topics: false,
        post_stories: false,
        edit_stories: false,
        delete_stories: false,
        manage_direct_messages: false,
        manage_ranks: false,
        manage_linked_peers: false,
        manage_welcome_messages: false,
    };
    Some(rights.into())
}

/// What members may not do: nothing, or write (`mute`), or even look (`ban`).
pub fn tl_banned_rights(mute: bool, ban: bool) -> tl::enums::ChatBannedRights {
    let silent = mute || ban;
    tl::types::ChatBannedRights {
        view_messages: ban,
        send_messages: silent,
        send_media: silent,
        send_stickers: silent,
        send_gifs: silent,
        send_games: silent,
        send_inline: silent,
        embed_links: silent,
        send_polls: silent,
        change_info: true,
        invite_users: silent,
        pin_messages: true,
        manage_topics: silent,
        send_photos: silent,
        send_videos: silent,
        send_roundvideos: silent,
        send_audios: silent,
        send_voices: silent,
        send_docs: silent,
        send_plain: silent,
        edit_rank: false,
        send_reactions: false,
        manage_linked_peers: false,
        until_date: 0,
    }
    .into()
}
