//! People as an account sees them.

use grammers_tl_types as tl;

use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::{Nature, Person};

impl World {
    /// A user as `viewer` sees them: the phone number only of oneself and of contacts. `userEmpty` for an unknown id.
    pub fn tl_user(&self, viewer: UserId, id: UserId) -> tl::enums::User {
        match self.people.get(&id) {
            Some(person) => self.tl_person(viewer, person).into(),
            None => tl::types::UserEmpty { id }.into(),
        }
    }

    /// Several users.
    pub fn tl_users(&self, viewer: UserId, ids: impl IntoIterator<Item = UserId>) -> Vec<tl::enums::User> {
        ids.into_iter().map(|id| self.tl_user(viewer, id)).collect()
    }

    fn tl_person(&self, viewer: UserId, person: &Person) -> tl::types::User {
        let contact = self.is_contact(viewer, person.id);
        let shown = !person.is_deleted();
        tl::types::User {
            is_self: viewer == person.id,
            contact: contact && shown,
            mutual_contact: contact && shown && self.is_contact(person.id, viewer),
            deleted: !shown,
            bot: person.is_bot(),
            bot_chat_history: false,
            bot_nochats: false,
            verified: false,
            restricted: false,
            min: false,
            bot_inline_geo: false,
            support: false,
            scam: false,
            apply_min_photo: false,
            fake: false,
            bot_attach_menu: false,
            premium: self.premium.contains(&person.id),
            attach_menu_enabled: false,
            bot_can_edit: false,
            close_friend: false,
            stories_hidden: false,
            stories_unavailable: false,
            contact_require_premium: person.nature == Nature::PremiumOnly && !contact,
            bot_business: false,
            bot_has_main_app: false,
            bot_forum_view: false,
            bot_forum_can_manage_topics: false,
            bot_can_manage_bots: false,
            bot_guestchat: false,
            bot_guard: false,
            id: person.id,
            access_hash: Some(self.access_hash(viewer, PeerKey::User(person.id))),
            first_name: shown.then(|| person.first_name().to_owned()),
            last_name: person.last_name().filter(|_| shown).map(str::to_owned),
            username: person.username.as_deref().filter(|_| shown).map(str::to_owned),
            phone: self.shown_phone(viewer, person, contact),
            photo: None,
            status: shown_status(person),
            bot_info_version: person.is_bot().then_some(1),
            restriction_reason: None,
            bot_inline_placeholder: None,
            lang_code: None,
            emoji_status: None,
            usernames: None,
            stories_max_id: None,
            color: None,
            profile_color: None,
            bot_active_users: None,
            bot_verification_icon: None,
            send_paid_messages_stars: None,
            linked_community_id: None,
        }
    }

    fn shown_phone(&self, viewer: UserId, person: &Person, contact: bool) -> Option<String> {
        if person.is_deleted() || !(contact || viewer == person.id) {
            return None;
        }
        match self.accounts.get(&person.id) {
            Some(account) => Some(account.phone.clone()),
            None => person.phone.map(|phone| phone.to_string()),
        }
    }

    /// Whether `id` is in the address book of the account `owner`.
    pub fn is_contact(&self, owner: UserId, id: UserId) -> bool {
        self.accounts
            .get(&owner)
            .is_some_and(|account| account.contacts.contains(&id))
    }

    /// A user's full page.
    pub fn tl_user_full(&self, person: &Person) -> tl::enums::UserFull {
        tl::types::UserFull {
            blocked: false,
            phone_calls_available: false,
            phone_calls_private: false,
            can_pin_message: true,
            has_scheduled: false,
            video_calls_available: false,
            voice_messages_forbidden: false,
            translations_disabled: false,
            stories_pinned_available: false,
            blocked_my_stories_from: false,
            wallpaper_overridden: false,
            contact_require_premium: person.nature == Nature::PremiumOnly,
            read_dates_private: false,
            sponsored_enabled: false,
            can_view_revenue: false,
            bot_can_manage_emoji_status: false,
            display_gifts_button: false,
            noforwards_my_enabled: false,
            noforwards_peer_enabled: false,
            unofficial_security_risk: false,
            id: person.id,
            about: (!person.is_deleted()).then(|| "Made up for the sandbox.".to_owned()),
            settings: tl_peer_settings(),
            personal_photo: None,
            profile_photo: None,
            fallback_photo: None,
            notify_settings: tl_notify_settings(),
            bot_info: None,
            pinned_msg_id: None,
            common_chats_count: 0,
            folder_id: None,
            ttl_period: None,
            theme: None,
            private_forward_name: None,
            bot_group_admin_rights: None,
            bot_broadcast_admin_rights: None,
            wallpaper: None,
            stories: None,
            business_work_hours: None,
            business_location: None,
            business_greeting_message: None,
            business_away_message: None,
            business_intro: None,
            birthday: None,
            personal_channel_id: None,
            personal_channel_message: None,
            stargifts_count: None,
            starref_program: None,
            bot_verification: None,
            send_paid_messages_stars: None,
            disallowed_gifts: None,
            stars_rating: None,
            stars_my_pending_rating: None,
            stars_my_pending_rating_date: None,
            main_tab: None,
            saved_music: None,
            note: None,
            bot_manager_id: None,
        }
        .into()
    }
}

fn shown_status(person: &Person) -> Option<tl::enums::UserStatus> {
    match person.nature {
        Nature::Bot | Nature::Deleted => None,
        _ => Some(tl::types::UserStatusRecently { by_me: false }.into()),
    }
}

/// Settings nobody changed.
pub fn tl_notify_settings() -> tl::enums::PeerNotifySettings {
    tl::types::PeerNotifySettings {
        show_previews: None,
        silent: None,
        mute_until: None,
        ios_sound: None,
        android_sound: None,
        other_sound: None,
        stories_muted: None,
        stories_hide_sender: None,
        stories_ios_sound: None,
        stories_android_sound: None,
        stories_other_sound: None,
    }
    .into()
}

fn tl_peer_settings() -> tl::enums::PeerSettings {
    tl::types::PeerSettings {
        report_spam: false,
        add_contact: false,
        block_contact: false,
        share_contact: false,
        need_contacts_exception: false,
        report_geo: false,
        autoarchived: false,
        invite_members: false,
        request_chat_broadcast: false,
        business_bot_paused: false,
        business_bot_can_reply: false,
        geo_distance: None,
        request_chat_title: None,
        request_chat_date: None,
        business_bot_id: None,
        business_bot_manage_url: None,
        charge_paid_message_stars: None,
        registration_month: None,
        phone_country: None,
        name_change_date: None,
        photo_change_date: None,
    }
    .into()
}
