//! Who is in a chat, in the order they came.

use std::collections::HashMap;

use crate::sandbox::call::UserId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Creator,
    Admin,
    Member,
}

#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub user: UserId,
    /// Who added them; themselves when they came by a link or a username.
    pub inviter: UserId,
    pub date: i32,
    pub role: Role,
    /// An admin let them in.
    pub via_request: bool,
}

/// The members of one chat. Looking somebody up is constant; leaving is linear, and rare.
#[derive(Debug, Default)]
pub struct Members {
    rows: Vec<Member>,
    index: HashMap<UserId, usize>,
}

impl Members {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of members as Telegram's `int`.
    pub fn count(&self) -> i32 {
        i32::try_from(self.rows.len()).unwrap_or(i32::MAX)
    }

    pub fn get(&self, user: UserId) -> Option<&Member> {
        self.index.get(&user).map(|at| &self.rows[*at])
    }

    pub fn contains(&self, user: UserId) -> bool {
        self.index.contains_key(&user)
    }

    /// Whether `user` is the creator or an admin.
    pub fn is_admin(&self, user: UserId) -> bool {
        self.get(user).is_some_and(|member| member.role != Role::Member)
    }

    /// Adds a member; `false` when they were one already, which changes nothing.
    pub fn add(&mut self, member: Member) -> bool {
        if self.contains(member.user) {
            return false;
        }
        self.index.insert(member.user, self.rows.len());
        self.rows.push(member);
        true
    }

    /// Takes a member out, and returns them.
    pub fn remove(&mut self, user: UserId) -> Option<Member> {
        let at = self.index.remove(&user)?;
        let member = self.rows.remove(at);
        for (moved, row) in self.rows.iter().enumerate().skip(at) {
            self.index.insert(row.user, moved);
        }
        Some(member)
    }

    pub fn oldest_first(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter()
    }

    pub fn newest_first(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().rev()
    }

    pub fn admins(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().filter(|member| member.role != Role::Member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user: UserId) -> Member {
        Member {
            user,
            inviter: user,
            date: 0,
            role: Role::Member,
            via_request: false,
        }
    }

    #[test]
    fn leaving_keeps_the_order_and_the_index() {
        let mut members = Members::default();
        for user in 1..=5 {
            assert!(members.add(member(user)));
        }
        assert!(!members.add(member(3)));
        assert_eq!(members.remove(2).map(|m| m.user), Some(2));
        assert!(members.remove(2).is_none());
        assert_eq!(members.newest_first().map(|m| m.user).collect::<Vec<_>>(), [5, 4, 3, 1]);
        assert_eq!(members.get(5).map(|m| m.user), Some(5));
        assert_eq!(members.count(), 4);
    }
}
