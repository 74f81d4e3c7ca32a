//! Basic groups: at most 200 members, no access hash, and a copy of each message in every member's own box.

use std::collections::BTreeSet;

use super::members::Members;
use crate::sandbox::call::UserId;

/// How many members a basic group has room for.
pub const MOST_MEMBERS: usize = 200;

pub struct Group {
    pub id: i64,
    pub title: String,
    pub created: i32,
    /// Grows with each change of members.
    pub version: i32,
    pub members: Members,
    /// Those who left or were put out: they still see that it existed.
    pub former: BTreeSet<UserId>,
    /// The supergroup it was made into: nothing happens in it any more.
    pub migrated_to: Option<i64>,
}

impl Group {
    pub fn new(id: i64, title: impl Into<String>, created: i32) -> Self {
        Self {
            id,
            title: title.into(),
            created,
            version: 1,
            members: Members::default(),
            former: BTreeSet::new(),
            migrated_to: None,
        }
    }

    /// Whether `user` is or was in it.
    pub fn was_member(&self, user: UserId) -> bool {
        self.members.contains(user) || self.former.contains(&user)
    }
}
