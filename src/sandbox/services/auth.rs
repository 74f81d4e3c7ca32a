//! Sign-in by code and password, and sign-out.
//!
//! Phone numbers begin with +999, every account's login code is [`LOGIN_CODE`], and no number can sign up. Numbers that begin with
//! +999 00 decide themselves what becomes of a login: see [`NUMBERS`]; so does the code [`EXPIRED_CODE`]. A code is sent to the app,
//! and by SMS when it is asked for again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use grammers_tl_types as tl;

use crate::sandbox::{
    auth_keys::KeyId,
    call::{Answer, Call, RpcError, UserId},
    clock, random,
    server::{MAIN_DC, Server},
    srp::{Algorithm, Challenge, Verifier},
    world::World,
};

/// The code of every account: the number of the data centre five times, as on Telegram's test servers.
pub const LOGIN_CODE: &str = "22222";
/// The code that is always too old.
pub const EXPIRED_CODE: &str = "99999";
/// What the account's owner wrote beside its password.
pub const PASSWORD_HINT: &str = "where you play";
/// Numbers that decide what Telegram answers to `auth.sendCode`: (digits, code, error).
pub const NUMBERS: [(&str, i32, &str); 6] = [
    ("9990000001", 400, "PHONE_NUMBER_BANNED"),
    ("9990000002", 400, "PHONE_NUMBER_FLOOD"),
    ("9990000003", 406, "PHONE_NUMBER_INVALID"),
    ("9990000004", 420, "FLOOD_WAIT_600"),
    ("9990000005", 400, "PHONE_PASSWORD_FLOOD"),
    ("9990000006", 400, "API_ID_PUBLISHED_FLOOD"),
];
/// Seconds until a code may be asked for again.
const RESEND_AFTER: i32 = 30;
/// Seconds for which a code can be used.
const CODE_LIFETIME: i32 = 300;
/// How many codes and challenges are kept; the oldest make room.
const MOST_PENDING: usize = 10_000;

/// Sign-ins that have begun.
#[derive(Default)]
pub(in crate::sandbox) struct Logins(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    /// By `phone_code_hash`.
    codes: HashMap<String, SentCode>,
    /// The account whose password is awaited, by the key that gave its code.
    passwords: HashMap<KeyId, UserId>,
    /// By `srp_id`.
    challenges: HashMap<i64, (KeyId, UserId, Challenge)>,
    /// By account, with the password it was made from.
    verifiers: HashMap<UserId, (String, Verifier)>,
}

struct SentCode {
    phone: String,
    sent_at: i32,
}

impl Logins {
    /// The account whose password is awaited from a key.
    pub fn awaited_password(&self, key: KeyId) -> Option<UserId> {
        self.lock().passwords.get(&key).copied()
    }

    /// Lets a code expire before its time: that of one phone number, or of all.
    pub fn expire_codes(&self, phone: Option<&str>) {
        self.lock()
            .codes
            .retain(|_, code| phone.is_some_and(|phone| digits(phone) != Some(&code.phone)));
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn send_code(&mut self, phone: &str, again: bool) -> tl::enums::auth::SentCode {
        let now = clock::unix_seconds();
        self.codes
            .retain(|_, code| now - code.sent_at < CODE_LIFETIME && code.phone != phone);
        if self.codes.len() >= MOST_PENDING {
            self.codes.clear();
        }
        let hash = format!("{:016x}", random::number());
        self.codes.insert(
            hash.clone(),
            SentCode {
                phone: phone.to_owned(),
                sent_at: now,
            },
        );
        let length = i32::try_from(LOGIN_CODE.len()).expect("a login code is short");
        let (way, next_type) = if again {
            (tl::types::auth::SentCodeTypeSms { length }.into(), None)
        } else {
            let next = tl::enums::auth::CodeType::Sms;
            (tl::types::auth::SentCodeTypeApp { length }.into(), Some(next))
        };
        tl::types::auth::SentCode {
            r#type: way,
            phone_code_hash: hash,
            timeout: next_type.is_some().then_some(RESEND_AFTER),
            next_type,
        }
        .into()
    }

    fn is_pending(&self, phone: &str, hash: &str) -> bool {
        let now = clock::unix_seconds();
        self.codes
            .get(hash)
            .is_some_and(|code| code.phone == phone && now - code.sent_at < CODE_LIFETIME)
    }

    fn verifier(&mut self, account: UserId, password: &str) -> Verifier {
        match self.verifiers.get(&account) {
            Some((known, verifier)) if known == password => verifier.clone(),
            _ => {
                let verifier = Verifier::new(password);
                self.verifiers.insert(account, (password.to_owned(), verifier.clone()));
                verifier
            }
        }
    }
}

/// The account a phone number signs in to, however it is written.
pub(in crate::sandbox) fn account_of_phone(world: &World, phone: &str) -> Option<UserId> {
    world.account_by_phone(digits(phone)?)
}

pub(in crate::sandbox) fn send_code(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::SendCode,
) -> Answer<tl::enums::auth::SentCode> {
    let phone = digits(&request.phone_number).ok_or_else(phone_invalid)?;
    if let Some((_, code, error)) = NUMBERS.into_iter().find(|(number, ..)| *number == phone) {
        return Err(RpcError::new(code, error));
    }
    if let Some(account) = account_of_phone(call.world, phone) {
        lives_here(call, account, "PHONE")?;
    }
    Ok(server.logins.lock().send_code(phone, false))
}

pub(in crate::sandbox) fn resend_code(
    server: &Server,
    _: &mut Call<'_>,
    request: tl::functions::auth::ResendCode,
) -> Answer<tl::enums::auth::SentCode> {
    let phone = digits(&request.phone_number).ok_or_else(phone_invalid)?;
    let mut pending = server.logins.lock();
    if !pending.is_pending(phone, &request.phone_code_hash) {
        return Err(RpcError::new(400, "PHONE_CODE_EXPIRED"));
    }
    Ok(pending.send_code(phone, true))
}

pub(in crate::sandbox) fn cancel_code(
    server: &Server,
    _: &mut Call<'_>,
    request: tl::functions::auth::CancelCode,
) -> Answer<bool> {
    let phone = digits(&request.phone_number).ok_or_else(phone_invalid)?;
    let mut pending = server.logins.lock();
    if !pending.is_pending(phone, &request.phone_code_hash) {
        return Err(RpcError::new(400, "PHONE_CODE_EXPIRED"));
    }
    pending.codes.remove(&request.phone_code_hash);
    Ok(true)
}

pub(in crate::sandbox) fn sign_in(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::SignIn,
) -> Answer<tl::enums::auth::Authorization> {
    let phone = digits(&request.phone_number).ok_or_else(phone_invalid)?;
    let code = request.phone_code.as_deref().unwrap_or_default();
    if code.is_empty() {
        return Err(RpcError::new(400, "PHONE_CODE_EMPTY"));
    }
    let mut pending = server.logins.lock();
    if !pending.is_pending(phone, &request.phone_code_hash) || code == EXPIRED_CODE {
        return Err(RpcError::new(400, "PHONE_CODE_EXPIRED"));
    }
    if code != LOGIN_CODE {
        return Err(RpcError::new(400, "PHONE_CODE_INVALID"));
    }
    let Some(account) = account_of_phone(call.world, phone) else {
        return Err(RpcError::new(400, "PHONE_NUMBER_UNOCCUPIED"));
    };
    lives_here(call, account, "PHONE")?;
    pending.codes.remove(&request.phone_code_hash);
    drop(pending);
    enter(server, call, account)
}

/// The data centre an account lives in.
pub(in crate::sandbox) fn home_dc(world: &World, account: UserId) -> i32 {
    world.home_dc_of(account).unwrap_or(MAIN_DC)
}

/// Sends whoever would sign in on to the account's data centre: `PHONE_MIGRATE_4`, `USER_MIGRATE_4`.
pub(super) fn lives_here(call: &Call<'_>, account: UserId, what: &str) -> Answer<()> {
    match home_dc(call.world, account) {
        home if home == call.caller.dc => Ok(()),
        home => Err(RpcError::new(303, format!("{what}_MIGRATE_{home}"))),
    }
}

/// Signs a key in, or asks for the account's password first.
pub(super) fn enter(server: &Server, call: &Call<'_>, account: UserId) -> Answer<tl::enums::auth::Authorization> {
    let mut pending = server.logins.lock();
    if call.world.password_of(account).is_some() {
        pending.passwords.insert(call.caller.key_id, account);
        return Err(RpcError::new(401, "SESSION_PASSWORD_NEEDED"));
    }
    pending.passwords.remove(&call.caller.key_id);
    Ok(signed_in(server, call, account))
}

pub(in crate::sandbox) fn get_password(
    server: &Server,
    call: &mut Call<'_>,
    _: tl::functions::account::GetPassword,
) -> Answer<tl::enums::account::Password> {
    let mut pending = server.logins.lock();
    let key = call.caller.key_id;
    let account = match pending.passwords.get(&key) {
        Some(account) => *account,
        None => call.caller.signed_in()?,
    };
    let mut answer = no_password();
    if let Some(password) = call.world.password_of(account) {
        let challenge = Challenge::new(pending.verifier(account, password));
        let srp_id = random::number();
        answer.has_password = true;
        answer.hint = Some(PASSWORD_HINT.to_owned());
        answer.current_algo = Some(challenge_algorithm(&mut pending, account, password));
        answer.srp_b = Some(challenge.public().to_vec());
        answer.srp_id = Some(srp_id);
        pending.challenges.retain(|_, (asked, ..)| *asked != key);
        if pending.challenges.len() >= MOST_PENDING {
            pending.challenges.clear();
        }
        pending.challenges.insert(srp_id, (key, account, challenge));
    }
    Ok(answer.into())
}

fn challenge_algorithm(pending: &mut Pending, account: UserId, password: &str) -> tl::enums::PasswordKdfAlgo {
    pending.verifier(account, password).algorithm.to_tl()
}

pub(in crate::sandbox) fn check_password(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::CheckPassword,
) -> Answer<tl::enums::auth::Authorization> {
    let tl::enums::InputCheckPasswordSrp::Srp(proof) = request.password else {
        return Err(RpcError::new(400, "PASSWORD_HASH_INVALID"));
    };
    let mut pending = server.logins.lock();
    let key = call.caller.key_id;
    let Some(awaited) = pending.passwords.get(&key).copied() else {
        return Err(RpcError::new(401, "AUTH_KEY_UNREGISTERED"));
    };
    // A challenge is good for one answer, right or wrong.
    let (asked, account, challenge) = pending
        .challenges
        .remove(&proof.srp_id)
        .ok_or_else(|| RpcError::new(400, "SRP_ID_INVALID"))?;
    if asked != key || account != awaited {
        return Err(RpcError::new(400, "SRP_ID_INVALID"));
    }
    if !challenge.is_answered_by(&proof.a, &proof.m1) {
        return Err(RpcError::new(400, "PASSWORD_HASH_INVALID"));
    }
    pending.passwords.remove(&key);
    Ok(signed_in(server, call, account))
}

pub(in crate::sandbox) fn log_out(
    server: &Server,
    call: &mut Call<'_>,
    _: tl::functions::auth::LogOut,
) -> Answer<tl::enums::auth::LoggedOut> {
    call.caller.signed_in()?;
    server.keys.sign_out(call.caller.key_id);
    Ok(tl::types::auth::LoggedOut {
        future_auth_token: None,
    }
    .into())
}

pub(super) fn signed_in(server: &Server, call: &Call<'_>, account: UserId) -> tl::enums::auth::Authorization {
    server.keys.sign_in(call.caller.key_id, account);
    tl::types::auth::Authorization {
        setup_password_required: false,
        otherwise_relogin_days: None,
        tmp_sessions: None,
        future_auth_token: None,
        user: call.world.tl_self(account),
    }
    .into()
}

fn no_password() -> tl::types::account::Password {
    tl::types::account::Password {
        has_recovery: false,
        has_secure_values: false,
        has_password: false,
        current_algo: None,
        srp_b: None,
        srp_id: None,
        hint: None,
        email_unconfirmed_pattern: None,
        new_algo: Algorithm::new().to_tl(),
        new_secure_algo: tl::types::SecurePasswordKdfAlgoPbkdf2Hmacsha512iter100000 {
            salt: random::bytes::<8>().to_vec(),
        }
        .into(),
        secure_random: random::bytes::<256>().to_vec(),
        pending_reset_date: None,
        login_email_pattern: None,
    }
}

/// The digits of a number the sandbox can know: +999 and some more, with or without the plus.
fn digits(phone: &str) -> Option<&str> {
    let digits = phone.strip_prefix('+').unwrap_or(phone);
    let well_formed = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (well_formed && digits.starts_with("999")).then_some(digits)
}

fn phone_invalid() -> RpcError {
    RpcError::new(400, "PHONE_NUMBER_INVALID")
}
