//! Members of channels as an account sees them.

use grammers_tl_types as tl;

use super::chats::{tl_admin_rights, tl_banned_rights};
use crate::sandbox::call::UserId;
use crate::sandbox::world::channels::Channel;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::peers::PeerKey;

/// One member.
pub fn tl_participant(viewer: UserId, channel: &Channel, member: &Member) -> tl::enums::ChannelParticipant {
    let (user_id, inviter_id, date) = (member.user, member.inviter, member.date);
    let is_self = viewer == user_id;
    match (tl_admin_rights(member.role), member.role) {
        (Some(admin_rights), Role::Creator) => tl::types::ChannelParticipantCreator {
            user_id,
            admin_rights,
            rank: None,
        }
        .into(),
        (Some(admin_rights), _) => tl::types::ChannelParticipantAdmin {
            can_edit: channel.members.get(viewer).is_some_and(|me| me.role == Role::Creator),
            is_self,
            user_id,
            inviter_id: is_self.then_some(inviter_id),
            promoted_by: inviter_id,
            date,
            admin_rights,
            rank: None,
        }
        .into(),
        (None, _) if is_self => tl::types::ChannelParticipantSelf {
            via_request: member.via_request,
            user_id,
            inviter_id,
            date,
            subscription_until_date: None,
            rank: None,
        }
        .into(),
        (None, _) => tl::types::ChannelParticipant {
            user_id,
            date,
            subscription_until_date: None,
            rank: None,
        }
        .into(),
    }
}

/// Somebody who was banned.
pub fn tl_banned_participant(user: UserId, channel: &Channel) -> tl::enums::ChannelParticipant {
    let by = channel.members.admins().next().map_or(0, |admin| admin.user);
    tl::types::ChannelParticipantBanned {
        left: true,
        peer: PeerKey::User(user).to_tl(),
        kicked_by: by,
        date: channel.created,
        banned_rights: tl_banned_rights(true, true),
        rank: None,
    }
    .into()
}
