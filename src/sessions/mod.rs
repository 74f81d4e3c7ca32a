//! The Telegram sessions of one process: which it holds, that nobody else does, and how new ones come to be.
//!
//! `holder` takes, renews and shares leases; `term` is the life of one of them; `stagger` lets them connect one after the
//! other; `held` is what the queue sees. `settings` takes in what is changed or asked while a session is held. `errands` logs
//! accounts in and out, imports and exports; `proxies` opens what a session is connected through; `import` logs accounts of a
//! configured server in. `master_keys` refuses a wrong vault before anything is touched, and `rotation` seals everything under
//! another key.

pub mod errands;
pub mod held;
pub mod holder;
pub mod import;
pub mod master_keys;
mod proxies;
pub mod rotation;
mod settings;
mod stagger;
mod term;
mod troubles;

pub use errands::{Desk, DeskError, DeskSettings, reseal_applications};
pub use held::{HeldSession, Slots};
pub use holder::{Holder, HolderError, HolderSettings};
pub use import::{ImportAccount, ImportError, Imported, import};
pub use master_keys::{MasterKeyError, check_master_keys, verify_master_keys};
pub use rotation::{Rotated, RotationError, rotate_master_keys};
