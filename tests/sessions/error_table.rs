//! Every name of `docs/TELEGRAM-ERRORS.md`, answered by the sandbox to a call that meets it in the whole program: what becomes of
//! the job, of its session and of everything else is what the row says. A row without a case fails the test, and so does a
//! case without a row.

mod logins;
mod rests;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use wireroom_jobs::JobKind;

use super::*;
use crate::support::{
    process::Process,
    stack::{Options, Stack},
};

const TABLE: &str = include_str!("../../docs/TELEGRAM-ERRORS.md");
const GROUP: &str = "@harbour_market";
const OTHER_GROUP: &str = "@big_bazaar";
/// They take turns: while one is put right again, the next one is used.
const ACCOUNTS: [&str; 6] = ["alice", "bob", "dave", "erin", "frank", "grace"];

/// What a row does, by its meaning.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// A login is refused at this method, with this problem for the name.
    Login(&'static str, fn(&str) -> &'static str),
    /// A login asks for the password.
    PasswordNeeded,
    /// The job fails at once with this code for the name, and nothing else changes.
    Refused(JobKind, &'static str, fn(&str) -> &'static str),
    /// The job succeeds at once.
    Done(JobKind, &'static str),
    /// The job succeeds with its next attempt, and a message is there once.
    Retried,
    /// As [`Case::Retried`]; at the last attempt the job fails, and the session is degraded until it answers.
    Degraded,
    /// The session is in this state for good. Its job ends, or in `quarantined` waits for a person.
    Lost(&'static str),
    /// The action's gate closes.
    Gated,
    /// The gate of the action in this chat closes.
    GatedInChat,
    /// The account contacts nobody until a person resumes it.
    Limited,
    /// The job fails, and the session joins nothing more.
    Full,
    /// The job waits for an admin.
    Pending,
    /// The job fails, and the chat is lost.
    ChatLost,
    /// The chat is resolved again with this session, once; then the job fails.
    ResolvedAgain,
    /// The update stream starts over, and says so.
    PlaceLost,
    /// No session of the application is connected until a person resumes it.
    ApplicationStopped,
}

fn telegram_error(_: &str) -> &'static str {
    "telegram_error"
}

fn case_of(meaning: &str) -> Option<Case> {
    use Case::{
        ApplicationStopped, ChatLost, Degraded, Done, Full, Gated, GatedInChat, Limited, Login, Lost, PasswordNeeded,
        Pending, PlaceLost, Refused, ResolvedAgain, Retried,
    };
    const SEND: &str = "messages.sendMessage";
    Some(match meaning {
        // No call of a job leaves the home data centre, and logins follow it (`tests/logins`).
        "other_dc" => Refused(JobKind::Publish, SEND, telegram_error),
        "login_code" => Login("auth.signIn", |name| match name {
            "PHONE_CODE_EXPIRED" => "login_code_expired",
            _ => "login_code_wrong",
        }),
        "password_needed" => PasswordNeeded,
        "password_wrong" => Login("auth.checkPassword", |_| "password_wrong"),
        "login_refused" => Login("auth.sendCode", |name| match name {
            "PHONE_NUMBER_INVALID" => "phone_number_invalid",
            "PHONE_NUMBER_BANNED" => "phone_number_banned",
            _ => "phone_number_flooded",
        }),
        "logged_out" => Lost("logged_out"),
        "key_duplicated" => Lost("quarantined"),
        "banned" => Lost("banned"),
        "frozen" => Lost("frozen"),
        "flood" | "must_age" => Gated,
        "slow_mode" => GatedInChat,
        "peer_flood" => Limited,
        "person_refused" | "person_blocked_us" | "we_blocked_person" | "person_not_eligible" => {
            Refused(JobKind::Publish, SEND, |name| match name {
                "CHAT_SEND_PLAIN_FORBIDDEN" => "write_forbidden",
                _ => "person_refused",
            })
        }
        "already_so" => Done(JobKind::Join, "channels.joinChannel"),
        "account_full" => Full,
        "chat_full" => Refused(JobKind::Join, "channels.joinChannel", |_| "chat_full"),
        "dead_link" => Refused(JobKind::Join, "messages.checkChatInvite", |name| match name {
            "INVITE_HASH_EXPIRED" => "invite_link_expired",
            "INVITE_HASH_INVALID" => "invite_link_invalid",
            _ => "invite_link_empty",
        }),
        "pending" => Pending,
        "no_access" => ChatLost,
        "no_right" => Refused(JobKind::Publish, SEND, |name| match name {
            "USER_CREATOR" => "creator_cannot_leave",
            "MESSAGE_DELETE_FORBIDDEN" => "delete_forbidden",
            _ => "admin_required",
        }),
        "may_not_post" => Refused(JobKind::Publish, SEND, |name| match name {
            "PRIVACY_PREMIUM_REQUIRED" | "ALLOW_PAYMENT_REQUIRED" | "STARS_PAYMENT_REQUIRED" => "payment_required",
            "TOPIC_CLOSED" | "TOPIC_DELETED" => "topic_closed",
            "CHAT_SEND_PHOTOS_FORBIDDEN"
            | "CHAT_SEND_VIDEOS_FORBIDDEN"
            | "CHAT_SEND_DOCS_FORBIDDEN"
            | "CHAT_SEND_VOICES_FORBIDDEN" => "media_forbidden",
            _ => "write_forbidden",
        }),
        "sent_before" => Done(JobKind::Publish, SEND),
        "after_failed_call" => Retried,
        "their_trouble" => Degraded,
        "lost_place" => PlaceLost,
        "stale_peer" => ResolvedAgain,
        "nobody_there" => Refused(JobKind::Join, "contacts.resolveUsername", |name| match name {
            "CHAT_INVALID" => "chat_invalid",
            _ => "chat_not_found",
        }),
        "bad_content" => Refused(JobKind::Publish, SEND, |name| match name {
            "MESSAGE_TOO_LONG" | "MEDIA_CAPTION_TOO_LONG" => "message_too_long",
            "MESSAGE_EMPTY" => "message_empty",
            "MESSAGE_ID_INVALID" | "REPLY_MESSAGE_ID_INVALID" => "message_not_found",
            "MESSAGE_AUTHOR_REQUIRED" => "not_the_author",
            "MESSAGE_EDIT_TIME_EXPIRED" => "edit_too_late",
            "CHAT_FORWARDS_RESTRICTED" => "forwards_restricted",
            "SCHEDULE_DATE_INVALID" | "SCHEDULE_DATE_TOO_LATE" | "SCHEDULE_TOO_MUCH" => "schedule_invalid",
            "BUTTON_URL_INVALID" | "BUTTON_DATA_INVALID" => "buttons_invalid",
            "MEDIA_EMPTY" | "PHOTO_INVALID_DIMENSIONS" | "PHOTO_EXT_INVALID" | "IMAGE_PROCESS_FAILED" => {
                "media_invalid"
            }
            _ => "message_invalid",
        }),
        // A message without media; with them it is sent again (`publishing::media`).
        "stale_media" => Refused(JobKind::Publish, SEND, |_| "media_invalid"),
        "wrong_application" => ApplicationStopped,
        _ => return None,
    })
}

/// One name of the table, with a number for `X`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    code: i32,
    name: String,
    meaning: String,
}

impl Named {
    /// As `RpcError` tells it: without the number.
    fn word(&self) -> String {
        let parts = self.name.split('_').filter(|part| *part != "90");
        parts.collect::<Vec<_>>().join("_")
    }
}

/// The rows of the table, and those it has in words alone.
fn table() -> Vec<Named> {
    let mut names = Vec::new();
    let rows = TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| error ") && !line.starts_with("| --- "));
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for group in cells[1].split(';') {
            let (code, list) = group.trim().split_once(' ').expect("a code and names");
            for name in list.split(',') {
                names.push(Named {
                    code: code.parse().expect("a code"),
                    name: name.trim().replace("_X", "_90"),
                    meaning: cells[2].trim_matches('`').to_owned(),
                });
            }
        }
    }
    names
}

struct Bench {
    stack: Stack,
    _worker: Process,
    turn: usize,
    /// Accounts to be put right before they are used again.
    spoilt: HashSet<&'static str>,
    ids: BTreeMap<&'static str, String>,
}

impl Bench {
    async fn new() -> Self {
        let stack = Stack::with(Options {
            accounts: ACCOUNTS.to_vec(),
            variables: vec![
                ("WIREROOM_SESSIONS_RENEW_SECONDS", "0.3".to_owned()),
                ("WIREROOM_SESSIONS_BREAKER_REST_SECONDS", "0.3".to_owned()),
                ("TELEGRAM_API_ID", "12345".to_owned()),
                ("TELEGRAM_API_HASH", "0123456789abcdef0123456789abcdef".to_owned()),
            ],
            ..Options::default()
        })
        .await;
        let worker = stack.worker().await;
        let mut bench = Self {
            stack,
            _worker: worker,
            turn: 0,
            spoilt: HashSet::new(),
            ids: BTreeMap::new(),
        };
        let list = bench.stack.get("/v1/sessions").await;
        for session in list["items"].as_array().expect("items") {
            let label = ACCOUNTS
                .into_iter()
                .find(|label| session["label"] == *label)
                .expect("ours");
            bench
                .ids
                .insert(label, session["id"].as_str().expect("an id").to_owned());
        }
        for account in ACCOUNTS {
            let joined = bench.run(JobKind::Join, account, json!({ "chat": GROUP })).await;
            assert_eq!(joined["state"], "succeeded", "{joined}");
        }
        bench
    }

    /// The next account, as it was at first.
    async fn account(&mut self) -> &'static str {
        self.turn += 1;
        let account = ACCOUNTS[self.turn % ACCOUNTS.len()];
        if self.spoilt.remove(account) {
            let free = async || {
                let query = "SELECT count(*) FROM session_leases l JOIN sessions s ON s.id = l.session_id
                    WHERE s.label = $1 AND l.expires_at <= wireroom_now()";
                let free: i64 = sqlx::query_scalar(query)
                    .bind(account)
                    .fetch_one(self.stack.database.pool())
                    .await
                    .expect("counted");
                (free == 1).then_some(())
            };
            until("let go", free).await;
            self.execute("UPDATE sessions SET state = 'ready' WHERE label = $1", account)
                .await;
        }
        account
    }

    /// Takes an account out of use, so that nothing is left of what was done to it.
    async fn spoil(&mut self, account: &'static str) {
        self.execute(
            "DELETE FROM gates USING sessions s WHERE s.id = session_id AND s.label = $1",
            account,
        )
        .await;
        self.execute(
            "DELETE FROM jobs USING sessions s WHERE s.id = session_id AND s.label = $1",
            account,
        )
        .await;
        self.execute(
            "UPDATE sessions SET state = 'disabled', state_reason = NULL WHERE label = $1",
            account,
        )
        .await;
        self.spoilt.insert(account);
    }

    async fn execute(&self, statement: &'static str, account: &str) {
        let done = sqlx::query(statement)
            .bind(account)
            .execute(self.stack.database.pool())
            .await;
        done.expect("done");
    }

    fn answer(&self, method: &str, error: &Named, account: &str) {
        let effect = Effect::Error {
            code: error.code,
            name: error.name.clone(),
        };
        let fault = Fault::once(method, effect).of(self.stack.account(account));
        self.stack.fault(fault);
    }

    async fn post(&self, kind: JobKind, account: &str, args: Value, attempts: Option<i32>) -> String {
        let body = json!({ "kind": kind.as_str(), "session": account, "args": args, "max_attempts": attempts });
        self.stack.post_job(body).await
    }

    async fn run(&self, kind: JobKind, account: &str, args: Value) -> Value {
        let id = self.post(kind, account, args, None).await;
        self.stack.finished(&id).await
    }

    async fn session(&self, account: &str) -> Value {
        self.stack.get(&format!("/v1/sessions/{}", self.ids[account])).await
    }

    /// The session is as it was: nothing but the job was touched.
    async fn unharmed(&self, account: &str, error: &Named) {
        let session = self.session(account).await;
        assert_eq!(
            (&session["state"], &session["gates"], &session["lease"]["held"]),
            (&json!("ready"), &json!([]), &json!(true)),
            "{error:?}: {session}"
        );
    }

    async fn until_session(&self, account: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async || Some(self.session(account).await).filter(|session| wanted(session));
        until(what, look).await
    }

    async fn put_off(&self, job: &str, reason: &str, error: &Named) {
        let job = self
            .stack
            .job_when(job, "put off", |job| job["state"] == "scheduled")
            .await;
        assert_eq!(
            (&job["wait_reason"]["code"], &job["attempt"]),
            (&json!(reason), &json!(0)),
            "{error:?}: {job}"
        );
    }

    async fn figure(&self, query: &'static str) -> i64 {
        self.stack.figure(query).await
    }

    async fn why(&self, job: &str) -> Value {
        self.stack.get(&format!("/v1/jobs/{job}/why")).await
    }
}

const LOSSES: &str = "SELECT count(*) FROM events WHERE type = 'session.access_lost'";

/// Args of a job of that kind, about a chat the account is in, or, to join, one that it is not.
fn args(kind: JobKind, error: &Named) -> Value {
    match kind {
        JobKind::Join if error.meaning == "dead_link" => json!({ "chat": format!("https://t.me/+{}", INVITES[0]) }),
        JobKind::Join => json!({ "chat": OTHER_GROUP }),
        JobKind::Scan => json!({ "chat": GROUP, "what": "members", "purpose": "a test" }),
        JobKind::Publish => json!({ "chat": GROUP, "text": text(error) }),
        // It takes a campaign: tests/outreach has what each error means to it.
        JobKind::Invite => json!({ "campaign": uuid::Uuid::nil() }),
        JobKind::Monitor => json!({ "chat": GROUP }),
    }
}

fn text(error: &Named) -> String {
    format!("about {} {}", error.code, error.name)
}

#[test]
fn every_row_has_a_case_and_every_name_is_of_a_row() {
    let names = table();
    assert!(names.len() > 80, "the table was not read: {}", names.len());
    for named in &names {
        assert!(case_of(&named.meaning).is_some(), "{} has no case", named.meaning);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_table_does_what_its_row_says() {
    let mut bench = Bench::new().await;
    for error in table() {
        let case = case_of(&error.meaning).unwrap_or_else(|| panic!("{} has no case", error.meaning));
        try_case(&mut bench, case, &error).await;
    }
    // The rows without names.
    for (code, name, case) in [
        (
            400,
            "SOMETHING_NEW",
            Case::Refused(JobKind::Publish, "messages.sendMessage", telegram_error),
        ),
        (500, "SOMETHING_NEW", Case::Retried),
        (-503, "Timeout", Case::Degraded),
    ] {
        let error = Named {
            code,
            name: name.to_owned(),
            meaning: "unknown".to_owned(),
        };
        try_case(&mut bench, case, &error).await;
    }
    bench.stack.finish().await;
}

async fn try_case(bench: &mut Bench, case: Case, error: &Named) {
    match case {
        Case::Login(method, problem) => logins::login_refused(bench, method, problem(&error.name), error).await,
        Case::PasswordNeeded => logins::password_needed(bench, error).await,
        Case::Refused(kind, method, code) => refused(bench, kind, method, code(&error.name), error).await,
        Case::Done(kind, method) => done(bench, kind, method, error).await,
        Case::Retried => retried(bench, error).await,
        Case::Degraded => {
            retried(bench, error).await;
            rests::degraded(bench, error).await;
        }
        Case::Lost(state) => rests::lost(bench, state, error).await,
        Case::Gated => rests::gated(bench, error).await,
        Case::GatedInChat => rests::gated_in_chat(bench, error).await,
        Case::Limited => rests::limited(bench, error).await,
        Case::Full => rests::full(bench, error).await,
        Case::Pending => pending(bench, error).await,
        Case::ChatLost => chat_lost(bench, error).await,
        Case::ResolvedAgain => resolved_again(bench, error).await,
        Case::PlaceLost => place_lost(bench, error).await,
        Case::ApplicationStopped => rests::application_stopped(bench, error).await,
    }
}

async fn refused(bench: &mut Bench, kind: JobKind, method: &str, code: &str, error: &Named) {
    let account = bench.account().await;
    bench.answer(method, error, account);
    let job = bench.run(kind, account, args(kind, error)).await;
    let told = &job["error"];
    assert_eq!(
        (&job["state"], &told["code"], &told["retryable"], &job["attempt"]),
        (&json!("failed"), &json!(code), &json!(false), &json!(1)),
        "{error:?}: {job}"
    );
    let message = told["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(&error.word()),
        "{error:?}: Telegram's name is kept: {message}"
    );
    assert_eq!(
        bench.stack.count_messages("harbour_market", &text(error)),
        0,
        "{error:?}"
    );
    bench.unharmed(account, error).await;
}

async fn done(bench: &mut Bench, kind: JobKind, method: &str, error: &Named) {
    let account = bench.account().await;
    bench.answer(method, error, account);
    let job = bench.run(kind, account, args(kind, error)).await;
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&json!("succeeded"), &json!(1)),
        "{error:?}: {job}"
    );
    match kind {
        JobKind::Join => assert_eq!(job["result"]["status"], "already_member", "{job}"),
        // Looked for, and not sent again.
        _ => assert_eq!(job["result"]["message_id"], json!(null), "{job}"),
    }
    assert_eq!(
        bench.stack.count_messages("harbour_market", &text(error)),
        0,
        "{error:?}"
    );
    bench.unharmed(account, error).await;
}

async fn retried(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .run(JobKind::Publish, account, args(JobKind::Publish, error))
        .await;
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&json!("succeeded"), &json!(2)),
        "{error:?}: {job}"
    );
    assert_eq!(
        bench.stack.count_messages("harbour_market", &text(error)),
        1,
        "{error:?}"
    );
    bench.unharmed(account, error).await;
}

async fn pending(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("messages.importChatInvite", error, account);
    let link = json!({ "chat": format!("https://t.me/+{}", INVITES[0]) });
    let job = bench.post(JobKind::Join, account, link, None).await;
    bench.put_off(&job, "approval_pending", error).await;
    bench.unharmed(account, error).await;
    bench.spoil(account).await;
}

async fn chat_lost(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench
        .execute(
            "UPDATE session_chats SET member = true FROM sessions s WHERE s.id = session_id AND s.label = $1",
            account,
        )
        .await;
    let losses = bench.figure(LOSSES).await;
    bench.answer("channels.getParticipants", error, account);
    let job = bench.run(JobKind::Scan, account, args(JobKind::Scan, error)).await;
    assert_eq!(job["error"]["code"], "chat_inaccessible", "{error:?}: {job}");
    assert_eq!(bench.figure(LOSSES).await - losses, 1, "{error:?}");
    let about = "SELECT count(*) FROM events WHERE type = 'session.access_lost' AND data ->> 'chat' IS NOT NULL";
    assert!(bench.figure(about).await >= 1);
    bench.unharmed(account, error).await;
}

async fn resolved_again(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    let looked_up = bench.stack.calls("contacts.resolveUsername");
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .run(JobKind::Publish, account, args(JobKind::Publish, error))
        .await;
    assert_eq!(job["error"]["code"], "chat_not_found", "{error:?}: {job}");
    assert_eq!(
        bench.stack.calls("contacts.resolveUsername") - looked_up,
        2,
        "{error:?}: once again"
    );
    bench.unharmed(account, error).await;
}

async fn place_lost(bench: &mut Bench, error: &Named) {
    const GAPS: &str = "SELECT count(*) FROM events WHERE type = 'session.updates_gap'";
    let account = bench.account().await;
    let gaps = bench.figure(GAPS).await;
    bench.answer("updates.getDifference", error, account);
    let id = bench.stack.account(account);
    bench.stack.sandbox.controls().drop_connections(Some(id));
    let told = async || (bench.figure(GAPS).await == gaps + 1).then_some(());
    until("the gap is told", told).await;
    let scan = bench.run(JobKind::Scan, account, args(JobKind::Scan, error)).await;
    assert_eq!(scan["state"], "succeeded", "{error:?}: {scan}");
    bench.unharmed(account, error).await;
}
