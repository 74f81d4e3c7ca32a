//! A world of four accounts, until there is a larger one.

use grammers_tl_types::{self as tl, Deserializable as _};

use super::call::{Push, UserId};

pub struct World {
    pushes: Vec<Push>,
}

impl World {
    pub fn new(_seed: u64) -> Self {
        Self { pushes: Vec::new() }
    }

    pub fn account_by_phone(&self, phone: &str) -> Option<UserId> {
        let number: UserId = phone.strip_prefix("+99900000")?.parse().ok()?;
        (1..=4).contains(&number).then_some(1000 + number)
    }

    pub fn password_of(&self, account: UserId) -> Option<&str> {
        (account == 1004).then_some("sandbox")
    }

    pub fn tl_self(&self, account: UserId) -> tl::enums::User {
        let mut user = tl::types::User::from_bytes(&[0; 512]).expect("zeros are a user without flags");
        user.is_self = true;
        user.id = account;
        user.access_hash = Some(account);
        user.first_name = Some("Ada".into());
        user.into()
    }

    pub fn take_pushes(&mut self) -> Vec<Push> {
        std::mem::take(&mut self.pushes)
    }
}
