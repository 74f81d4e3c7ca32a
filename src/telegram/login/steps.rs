//! The calls of a login, and what their answers mean. Errors stay Telegram's; whoever runs the login decides.

use grammers_crypto::two_factor_auth::{calculate_2fa, check_p_and_g};
use grammers_tl_types::{self as tl, enums::auth as answers, functions as f};

use zeroize::Zeroizing;

use super::{Link, LinkError};
use crate::config::Secret;

/// Whom a call is made as.
#[derive(Debug, Clone)]
pub struct Application {
    pub api_id: i32,
    pub api_hash: Secret,
}

/// Who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Telegram's user id.
    pub id: i64,
    pub username: Option<String>,
    pub is_bot: bool,
}

/// How far a sign-in came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedIn {
    Yes(Account),
    /// The account has a second factor.
    PasswordNeeded,
    /// Nobody has that number.
    Unregistered,
}

/// A login code on its way.
#[derive(Debug, Clone)]
pub struct SentCode {
    /// What the code goes by: a secret of the login.
    pub hash: Secret,
    /// One word for the way it was sent.
    pub sent_by: &'static str,
    pub length: Option<i32>,
    /// The way a resend would take.
    pub next: Option<&'static str>,
    /// Seconds until a resend makes sense.
    pub timeout: Option<i32>,
}

/// What a QR login shows, or that it has been scanned.
#[derive(Debug, Clone)]
pub enum LoginToken {
    /// To be shown; good for so many seconds.
    Show {
        token: Vec<u8>,
        seconds: u32,
    },
    /// Scanned; the account lives in another data centre.
    Migrate {
        dc: i32,
        token: Vec<u8>,
    },
    Scanned(SignedIn),
}

/// An authorisation on its way to another data centre.
pub struct Exported {
    account: i64,
    bytes: Zeroizing<Vec<u8>>,
}

impl From<tl::types::auth::ExportedAuthorization> for Exported {
    fn from(exported: tl::types::auth::ExportedAuthorization) -> Self {
        Self {
            account: exported.id,
            bytes: exported.bytes.into(),
        }
    }
}

impl Link {
    /// Asks for a code. An account that need not enter one is logged in at once.
    pub async fn send_code(&self, phone: &Secret, as_: &Application) -> Result<Result<SentCode, Account>, LinkError> {
        let request = f::auth::SendCode {
            phone_number: phone.expose().to_owned(),
            api_id: as_.api_id,
            api_hash: as_.api_hash.expose().to_owned(),
            settings: tl::enums::CodeSettings::Settings(tl::types::CodeSettings {
                allow_flashcall: false,
                current_number: false,
                allow_app_hash: false,
                allow_missed_call: false,
                allow_firebase: false,
                unknown_number: false,
                logout_tokens: None,
                token: None,
                app_sandbox: None,
            }),
        };
        sent(self.call(&request).await?)
    }

    /// Asks for the code once more, by the next way.
    pub async fn resend_code(&self, phone: &Secret, hash: &Secret) -> Result<Result<SentCode, Account>, LinkError> {
        let request = f::auth::ResendCode {
            phone_number: phone.expose().to_owned(),
            phone_code_hash: hash.expose().to_owned(),
            reason: None,
        };
        sent(self.call(&request).await?)
    }

    /// Answers with the code.
    pub async fn sign_in(&self, phone: &Secret, hash: &Secret, code: &Secret) -> Result<SignedIn, LinkError> {
        let request = f::auth::SignIn {
            phone_number: phone.expose().to_owned(),
            phone_code_hash: hash.expose().to_owned(),
            phone_code: Some(code.expose().to_owned()),
            email_verification: None,
        };
        signed_in(self.call(&request).await)
    }

    /// Logs a bot in.
    pub async fn sign_in_bot(&self, token: &Secret, as_: &Application) -> Result<SignedIn, LinkError> {
        let request = f::auth::ImportBotAuthorization {
            flags: 0,
            api_id: as_.api_id,
            api_hash: as_.api_hash.expose().to_owned(),
            bot_auth_token: token.expose().to_owned(),
        };
        signed_in(self.call(&request).await)
    }

    /// Asks for a token to show as a QR code, or learns that the last one was scanned.
    pub async fn export_token(&self, as_: &Application, now: i64) -> Result<LoginToken, LinkError> {
        let request = f::auth::ExportLoginToken {
            api_id: as_.api_id,
            api_hash: as_.api_hash.expose().to_owned(),
            except_ids: Vec::new(),
        };
        token(self.call(&request).await, now)
    }

    /// Brings a scanned token to the account's data centre.
    pub async fn import_token(&self, scanned: Vec<u8>, now: i64) -> Result<LoginToken, LinkError> {
        token(self.call(&f::auth::ImportLoginToken { token: scanned }).await, now)
    }

    /// The hint of the password that is asked for.
    pub async fn password_hint(&self) -> Result<Option<String>, LinkError> {
        let tl::enums::account::Password::Password(asked) = self.call(&f::account::GetPassword {}).await?;
        Ok(asked.hint.filter(|hint| !hint.is_empty()))
    }

    /// Answers with the password, by its proof (SRP): the password itself is not sent.
    pub async fn check_password(&self, password: &Secret) -> Result<SignedIn, LinkError> {
        let tl::enums::account::Password::Password(asked) = self.call(&f::account::GetPassword {}).await?;
        let (
            Some(tl::enums::PasswordKdfAlgo::Sha256Sha256Pbkdf2Hmacsha512iter100000Sha256ModPow(algorithm)),
            Some(b),
            Some(srp_id),
        ) = (asked.current_algo, asked.srp_b, asked.srp_id)
        else {
            return Err(LinkError::Unsupported("a password check of another kind"));
        };
        if b.len() > 256 || algorithm.p.len() > 256 {
            return Err(LinkError::Unsupported("password parameters that are too long"));
        }
        let mut secret = vec![0_u8; 256];
        getrandom::fill(&mut secret).map_err(|_| LinkError::Randomness)?;
        let password = password.clone();
        let proof = tokio::task::spawn_blocking(move || {
            let (p, g) = (&algorithm.p, &algorithm.g);
            let plain = password.expose().as_bytes();
            check_p_and_g(p, g).then(|| calculate_2fa(&algorithm.salt1, &algorithm.salt2, p, g, b, secret, plain))
        });
        let (m1, g_a) = proof
            .await
            .ok()
            .flatten()
            .ok_or(LinkError::Unsupported("password parameters that are not safe"))?;
        let request = f::auth::CheckPassword {
            password: tl::enums::InputCheckPasswordSrp::Srp(tl::types::InputCheckPasswordSrp {
                srp_id,
                a: g_a.to_vec(),
                m1: m1.to_vec(),
            }),
        };
        signed_in(self.call(&request).await)
    }

    /// Who is logged in with the key: one cheap call.
    pub async fn who_am_i(&self) -> Result<Account, LinkError> {
        let request = f::users::GetUsers {
            id: vec![tl::enums::InputUser::UserSelf],
        };
        let users = self.call(&request).await?;
        users
            .into_iter()
            .find_map(|user| match user {
                tl::enums::User::User(user) if user.is_self => Some(account_of(user)),
                _ => None,
            })
            .ok_or(LinkError::Unreadable)
    }

    /// Takes the authorisation out for the data centre `dc` to take in: good for a moment, and once.
    pub async fn export_authorization(&self, dc: i32) -> Result<Exported, LinkError> {
        let request = f::auth::ExportAuthorization { dc_id: dc };
        let answers::ExportedAuthorization::Authorization(exported) = self.call(&request).await?;
        Ok(exported.into())
    }

    /// Takes an authorisation in that was exported elsewhere: this link's key is authorised from then on.
    pub async fn import_authorization(&self, exported: Exported) -> Result<Account, LinkError> {
        let request = f::auth::ImportAuthorization {
            id: exported.account,
            bytes: exported.bytes.to_vec(),
        };
        match signed_in(self.call(&request).await)? {
            SignedIn::Yes(account) => Ok(account),
            SignedIn::PasswordNeeded | SignedIn::Unregistered => {
                Err(LinkError::Unsupported("a login where an authorisation was taken along"))
            }
        }
    }

    /// Ends the authorisation.
    pub async fn log_out(&self) -> Result<(), LinkError> {
        self.call(&f::auth::LogOut {}).await.map(|_| ())
    }
}

fn account_of(user: tl::types::User) -> Account {
    Account {
        id: user.id,
        username: user.username,
        is_bot: user.bot,
    }
}

fn authorised(authorization: answers::Authorization) -> Result<SignedIn, LinkError> {
    match authorization {
        answers::Authorization::Authorization(authorization) => match authorization.user {
            tl::enums::User::User(user) => Ok(SignedIn::Yes(account_of(user))),
            tl::enums::User::Empty(_) => Err(LinkError::Unsupported("an account without a description")),
        },
        answers::Authorization::SignUpRequired(_) => Ok(SignedIn::Unregistered),
    }
}

fn signed_in(answer: Result<answers::Authorization, LinkError>) -> Result<SignedIn, LinkError> {
    match answer {
        Ok(authorization) => authorised(authorization),
        Err(LinkError::Rpc(error)) if error.name == "SESSION_PASSWORD_NEEDED" => Ok(SignedIn::PasswordNeeded),
        Err(LinkError::Rpc(error)) if error.name == "PHONE_NUMBER_UNOCCUPIED" => Ok(SignedIn::Unregistered),
        Err(error) => Err(error),
    }
}

fn token(answer: Result<answers::LoginToken, LinkError>, now: i64) -> Result<LoginToken, LinkError> {
    match answer {
        Ok(answers::LoginToken::Token(shown)) => Ok(LoginToken::Show {
            token: shown.token,
            seconds: u32::try_from(i64::from(shown.expires) - now).unwrap_or(0),
        }),
        Ok(answers::LoginToken::MigrateTo(other)) => Ok(LoginToken::Migrate {
            dc: other.dc_id,
            token: other.token,
        }),
        Ok(answers::LoginToken::Success(success)) => authorised(success.authorization).map(LoginToken::Scanned),
        Err(LinkError::Rpc(error)) if error.name == "SESSION_PASSWORD_NEEDED" => {
            Ok(LoginToken::Scanned(SignedIn::PasswordNeeded))
        }
        Err(error) => Err(error),
    }
}

fn sent(answer: answers::SentCode) -> Result<Result<SentCode, Account>, LinkError> {
    match answer {
        answers::SentCode::Code(code) => {
            let (sent_by, length) = way(&code.r#type);
            if sent_by == "set_up_email" {
                return Err(LinkError::Unsupported("an e-mail address for the account first"));
            }
            Ok(Ok(SentCode {
                hash: Secret::new(code.phone_code_hash),
                sent_by,
                length,
                next: code.next_type.as_ref().map(next_way),
                timeout: code.timeout,
            }))
        }
        answers::SentCode::Success(success) => match authorised(success.authorization)? {
            SignedIn::Yes(account) => Ok(Err(account)),
            SignedIn::PasswordNeeded | SignedIn::Unregistered => Err(LinkError::Unreadable),
        },
        answers::SentCode::PaymentRequired(_) => Err(LinkError::Unsupported("a paid login")),
    }
}

fn way(sent: &answers::SentCodeType) -> (&'static str, Option<i32>) {
    use answers::SentCodeType as Way;
    match sent {
        Way::App(way) => ("app", Some(way.length)),
        Way::Sms(way) => ("sms", Some(way.length)),
        Way::Call(way) => ("call", Some(way.length)),
        Way::FlashCall(_) => ("flash_call", None),
        Way::MissedCall(way) => ("missed_call", Some(way.length)),
        Way::EmailCode(way) => ("email", Some(way.length)),
        Way::SetUpEmailRequired(_) => ("set_up_email", None),
        Way::FragmentSms(way) => ("fragment_sms", Some(way.length)),
        Way::FirebaseSms(way) => ("other", Some(way.length)),
        Way::SmsWord(_) | Way::SmsPhrase(_) => ("word", None),
    }
}

fn next_way(next: &answers::CodeType) -> &'static str {
    use answers::CodeType as Way;
    match next {
        Way::Sms => "sms",
        Way::Call => "call",
        Way::FlashCall => "flash_call",
        Way::MissedCall => "missed_call",
        Way::FragmentSms => "fragment_sms",
    }
}
