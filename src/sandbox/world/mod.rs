//! The made-up Telegram: people, accounts, chats, messages and update logs, all in memory and all from one seed.
//!
//! Data is kept compact; what a client sees is built on demand by `view`, because nearly everything in an answer
//! (access hashes, rights, names of contacts) depends on who looks. Methods change the world and return what
//! happened; whoever must hear of it is told by a [`Push`].

pub mod accounts;
pub mod arranging;
pub mod boxes;
pub mod channels;
pub mod clock;
pub mod control;
pub mod directory;
pub mod files;
mod founding;
pub mod groups;
pub mod hearing;
pub mod history;
pub mod invites;
pub mod joining;
pub mod links;
pub mod marks;
pub mod members;
pub mod messages;
mod names;
pub mod peers;
pub mod people;
pub mod posting;
pub mod random_ids;
pub mod reacting;
pub mod refusal;
pub mod rights;
pub mod scheduling;
pub mod text;
pub mod uploads;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use grammers_tl_types as tl;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::call::{Answer, Push, RpcError, UserId};

pub use founding::{KnownAccount, known_accounts};
pub use links::known_links;
pub use peers::PeerKey;

use accounts::Account;
use channels::Channel;
use clock::Clock;
use groups::Group;
use invites::Invite;
use marks::Marks;
use people::Person;
use random_ids::RandomIds;
use scheduling::Scheduled;
use uploads::Uploads;

/// Everything the sandbox knows. One lock around it makes each call atomic.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    /// The only source of randomness after the founding, so that a run repeats from its seed.
    pub(crate) rng: ChaCha8Rng,
    pub(crate) people: BTreeMap<UserId, Person>,
    pub(crate) accounts: BTreeMap<UserId, Account>,
    pub(crate) channels: BTreeMap<i64, Channel>,
    pub(crate) groups: BTreeMap<i64, Group>,
    /// Lower-case usernames.
    pub(crate) usernames: HashMap<Box<str>, PeerKey>,
    pub(crate) invites: BTreeMap<String, Invite>,
    pub(crate) random_ids: RandomIds,
    pub(crate) marks: Marks,
    pub(crate) uploads: Uploads,
    pub(crate) scheduled: Scheduled,
    /// Links the copies of one message in several accounts' boxes.
    pub(crate) last_origin: u64,
    pub(crate) pushes: Vec<Push>,
    /// How many channels and supergroups one account may be in.
    pub(crate) channels_limit: usize,
    /// Those who pay for Telegram Premium, and may be in twice as many.
    pub(crate) premium: BTreeSet<UserId>,
}

impl World {
    /// Founds the world of `seed`. The same seed gives the same people, chats, messages and access hashes.
    ///
    /// Links into its private chats are in [`known_links`].
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            clock: Clock::default(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            people: BTreeMap::new(),
            accounts: BTreeMap::new(),
            channels: BTreeMap::new(),
            groups: BTreeMap::new(),
            usernames: HashMap::new(),
            invites: BTreeMap::new(),
            random_ids: RandomIds::default(),
            marks: Marks::default(),
            uploads: Uploads::default(),
            scheduled: Scheduled::default(),
            last_origin: 0,
            pushes: Vec::new(),
            channels_limit: joining::MOST_CHANNELS,
            premium: BTreeSet::new(),
        };
        founding::found(&mut world);
        world
    }

    /// The sandbox's time, in Unix seconds.
    pub fn now(&self) -> i32 {
        self.clock.now()
    }

    /// Moves the sandbox's clock by `seconds` from the system's: expires links, slow mode and `random_id`s.
    pub fn set_clock_offset(&mut self, seconds: i64) {
        self.clock.set_offset(seconds);
    }

    /// The account that signs in with `phone`, in any notation.
    pub fn account_by_phone(&self, phone: &str) -> Option<UserId> {
        let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
        self.accounts
            .values()
            .find(|account| account.phone == digits)
            .map(|account| account.id)
    }

    /// The account's two-factor password; `None` when it has none, or when there is no such account.
    pub fn password_of(&self, account: UserId) -> Option<&str> {
        self.accounts.get(&account)?.password.as_deref()
    }

    /// The data centre an account lives in, when it was moved from the main one.
    pub fn home_dc_of(&self, account: UserId) -> Option<i32> {
        self.accounts.get(&account)?.home_dc
    }

    /// Lets an account, or a bot, live in another data centre.
    pub fn set_home_dc(&mut self, account: UserId, dc: i32) -> Answer<()> {
        if self.person(account)?.is_bot() {
            self.open_bot(account);
        }
        let account = self
            .accounts
            .get_mut(&account)
            .ok_or_else(|| RpcError::new(400, "USER_ID_INVALID"))?;
        account.home_dc = Some(dc);
        Ok(())
    }

    /// Gives a bot that signs in a message box of its own, unless it has one.
    pub fn open_bot(&mut self, bot: UserId) {
        self.accounts
            .entry(bot)
            .or_insert_with(|| Account::new(bot, String::new(), None));
    }

    /// An account as it sees itself, for `auth.authorization`; `userEmpty` for an id nobody has.
    pub fn tl_self(&self, account: UserId) -> tl::enums::User {
        self.tl_user(account, account)
    }

    /// Takes the updates that calls have caused since the last time.
    pub fn take_pushes(&mut self) -> Vec<Push> {
        std::mem::take(&mut self.pushes)
    }
}
