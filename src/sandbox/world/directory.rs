//! Finding people and chats by name.

use super::World;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

const LONGEST_USERNAME: usize = 32;
const SHORTEST_USERNAME: usize = 3;

impl World {
    /// Who or what has a username, in any case and without the `@`.
    ///
    /// # Errors
    /// `USERNAME_INVALID` for what cannot be one, `USERNAME_NOT_OCCUPIED`.
    pub fn resolve_username(&self, me: UserId, username: &str) -> Answer<PeerKey> {
        let letters = username.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let starts = username.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        if !letters || !starts || !(SHORTEST_USERNAME..=LONGEST_USERNAME).contains(&username.len()) {
            return Err(bad("USERNAME_INVALID"));
        }
        match self.usernames.get(username.to_lowercase().as_str()) {
            // A chat hides from those it banned.
            Some(PeerKey::Channel(id)) if self.channel(*id)?.banned.contains(&me) => Err(bad("CHANNEL_PRIVATE")),
            Some(peer) => Ok(*peer),
            None => Err(bad("USERNAME_NOT_OCCUPIED")),
        }
    }

    /// The contacts and chats of `me` whose names match.
    pub fn search_own(&self, me: UserId, query: &str, limit: usize) -> Vec<PeerKey> {
        let query = query.to_lowercase();
        let contacts = self.accounts.get(&me).into_iter().flat_map(|account| &account.contacts);
        let people = contacts
            .filter_map(|id| self.people.get(id))
            .filter(|person| person.matches(&query));
        let channels = self.channels.values().filter(|channel| channel.members.contains(me));
        let channels = channels.filter(|channel| title_matches(&channel.title, channel.username.as_deref(), &query));
        let groups = self.groups.values().filter(|group| group.members.contains(me));
        let groups = groups.filter(|group| title_matches(&group.title, None, &query));
        people
            .map(|person| PeerKey::User(person.id))
            .chain(channels.map(|channel| PeerKey::Channel(channel.id)))
            .chain(groups.map(|group| PeerKey::Group(group.id)))
            .take(limit)
            .collect()
    }

    /// Everyone and everything public whose username or title matches, other than what [`World::search_own`] finds.
    pub fn search_public(&self, me: UserId, query: &str, limit: usize) -> Vec<PeerKey> {
        let query = query.to_lowercase();
        let own = self.search_own(me, &query, usize::MAX);
        let channels = self
            .channels
            .values()
            .filter(|channel| channel.username.is_some() && channel.is_open_to(me));
        let channels = channels.filter(|channel| title_matches(&channel.title, channel.username.as_deref(), &query));
        let people = self.people.values().filter(|person| {
            person
                .username
                .as_deref()
                .is_some_and(|username| username.to_lowercase().starts_with(&query))
        });
        channels
            .map(|channel| PeerKey::Channel(channel.id))
            .chain(people.map(|person| PeerKey::User(person.id)))
            .filter(|peer| !own.contains(peer))
            .take(limit)
            .collect()
    }
}

/// Titles match by the beginning of any word.
fn title_matches(title: &str, username: Option<&str>, query: &str) -> bool {
    let title = title.to_lowercase();
    title.starts_with(query)
        || title.split_whitespace().any(|word| word.starts_with(query))
        || username.is_some_and(|username| username.to_lowercase().starts_with(query))
}
