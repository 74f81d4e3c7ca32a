//! Secrets stay secret, however much is logged: real processes at the loudest level, with every library named, and
//! nothing of what they handle in what they wrote.

mod traces;

use std::net::Ipv4Addr;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault, LOGIN_CODE};

use self::traces::{Secret, Traces};
use crate::support::{
    process::Process,
    socks::{self, Socks},
    stack::{JOB_BOUND, Options, START_BOUND, Stack},
    wait::eventually,
};

/// Everything, and by name what is quiet or cut off by itself.
const LOUD: &str = "trace,wireroom=trace,wireroom_jobs=trace,sqlx=trace,poem=trace,apalis=trace,apalis_core=trace,\
                    hyper=trace,tower=trace,grammers_client=trace,grammers_mtproto=trace,grammers_mtsender=trace,\
                    grammers_session=trace";

/// Words that stand in messages and in bodies, and nowhere else.
const TEXT: &str = "Quixotic zephyrs";
const REFUSED_TEXT: &str = "Vexing jackdaws";
/// In the place of a chat's name, by mistake.
const MISTAKEN_PHONE: &str = "+9996629999";
/// What somebody else writes in a chat that is watched: kept and told as it is, and nowhere else.
const WATCHED_TEXT: &str = "Jinxed wizards pluck ivy";
const OF_MESSAGES: [&str; 4] = ["messages", "event_log", "outbox", "deliveries"];

/// Runs of digits that are a made-up phone number's.
fn phone_numbers(output: &str) -> Vec<&str> {
    output
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| {
            (10..=12).contains(&digits.len()) && ["9996", "9997"].iter().any(|zone| digits.starts_with(zone))
        })
        .collect()
}

fn assert_silent(who: &str, output: &str) {
    assert!(output.contains("DEBUG sqlx"), "{who} was not loud:\n{output}");
    assert_eq!(phone_numbers(output), [] as [&str; 0], "in what {who} wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged_at_the_loudest_level() {
    let stack = Stack::with(Options {
        variables: vec![("WIREROOM_LOG", LOUD.to_owned())],
        ..Options::default()
    })
    .await;
    let worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack
        .succeed("publish", json!({ "chat": "@harbour_market", "text": TEXT }))
        .await;
    stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    stack
        .fail("publish", json!({ "chat": "@harbour_notices", "text": TEXT }))
        .await;
    stack
        .succeed(
            "scan",
            json!({ "chat": "@harbour_market", "what": "members", "purpose": "a test" }),
        )
        .await;
    // A call that fails in transit is where a library would print the request.
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    stack
        .succeed(
            "publish",
            json!({ "chat": "@harbour_market", "text": format!("{TEXT}!") }),
        )
        .await;
    let mut answers = String::new();
    for body in [
        json!({ "kind": "publish", "args": { "chat": MISTAKEN_PHONE, "text": REFUSED_TEXT } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": REFUSED_TEXT.repeat(300) } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "txt": REFUSED_TEXT } }),
    ] {
        let refused = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
        let refused = refused.expect("answered");
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        answers.push_str(&refused.text().await.expect("text"));
    }
    watch_a_message(&stack).await;

    let variables: Vec<(&str, &str)> = stack
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut import = Process::wireroom(&["session", "import-sandbox", "carol"], &variables);
    assert!(import.wait_for_end(START_BOUND).await.success(), "{}", import.output());

    assert_silent("the API", &stack.api_output());
    assert_silent("the worker", &worker.output());
    assert_silent("the import", &import.output());
    let mut traces = Traces::of(&stack).await;
    traces.add("the refusals", answers);
    traces.add("the worker's log", worker.output());
    traces.add("the import's log", import.output());
    let mut secrets = of_the_operator(&stack);
    secrets.extend([
        Secret::text("a refused text", REFUSED_TEXT),
        Secret::text("a mistaken phone", &MISTAKEN_PHONE[1..]),
    ]);
    traces.assert_free_of(&secrets);
    assert_kept_in(&traces, TEXT, &["jobs", "finished_jobs"]);
    assert_kept_in(&traces, WATCHED_TEXT, &OF_MESSAGES);
    stack.finish().await;
}

/// What the operator gave: the key of the API, and the master key.
fn of_the_operator(stack: &Stack) -> Vec<Secret> {
    let master = stack
        .variables()
        .iter()
        .find(|(name, _)| name == "WIREROOM_MASTER_KEYS");
    let (_, master) = master.expect("one is set");
    let (_, master) = master.split_once(':').expect("id:key");
    let secret = stack.key.splitn(3, '_').nth(2).expect("wr_<id>_<secret>");
    vec![
        Secret::text("the key of the API", secret),
        Secret::text("the master key's text", master),
        Secret::bytes("the master key", &STANDARD.decode(master).expect("base64")),
    ]
}

/// Lets the session watch the chat, in which somebody else writes, and stops that once it was told.
async fn watch_a_message(stack: &Stack) {
    let id = stack.post("monitor", json!({ "chat": "@harbour_market" })).await;
    let path = format!("/v1/watches/{id}");
    eventually(JOB_BOUND, async || {
        let answer = stack.request(Method::GET, &path).send().await.expect("answered");
        let watch: Value = answer.json().await.expect("JSON");
        let reads = watch["running"] == true && watch["filling"] == false;
        if reads { Ok(()) } else { Err(watch) }
    })
    .await;
    let (writer, chat) = (stack.account("judy"), stack.chat("harbour_market"));
    let controls = stack.sandbox.controls();
    let posted = controls.with_world(|world| world.post_as(writer, chat, WATCHED_TEXT));
    posted.expect("posted");
    eventually(JOB_BOUND, async || {
        let told = "SELECT count(*) FROM events WHERE type = 'message.new'";
        match stack.figure(told).await {
            0 => Err("nothing was told"),
            _ => Ok(()),
        }
    })
    .await;
    let stopped = stack.request(Method::POST, &format!("{path}/stop")).send().await;
    assert_eq!(stopped.expect("answered").status(), StatusCode::OK);
    stack.finished(&id).await;
}

/// The text stands in some of these tables (or their partitions), and nowhere else.
#[track_caller]
fn assert_kept_in(traces: &Traces, text: &str, tables: &[&str]) {
    let places = traces.places_of(&Secret::text("a message", text));
    assert!(!places.is_empty(), "{text} is kept nowhere");
    let (_, elsewhere): (Vec<&str>, Vec<&str>) = places.into_iter().partition(|place| {
        let table = place.strip_prefix("table ").unwrap_or_default();
        tables.iter().any(|known| {
            let partition = table.strip_prefix(known);
            partition.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
    });
    assert!(elsewhere.is_empty(), "{text} stands in {elsewhere:?}");
}

/// Typed by mistake, so that they are nowhere by chance.
const WRONG_CODE: &str = "Kq788214zz";
const WRONG_PASSWORD: &str = "Tr0ub4dor-and-3";
const PHONES: [&str; 3] = ["9996620001", "9996620002", "9996620003"];
const API_HASH: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// The second factor's password: nothing else is called like it.
const PASSWORD: &str = "Correct-h0rse-battery";

/// A caller who keeps every answer but those of exports.
struct Caller<'a> {
    stack: &'a Stack,
    answers: String,
}

impl Caller<'_> {
    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, body).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Value) -> Value {
        let answer = self.stack.request(method, path).json(&body).send().await;
        let text = answer.expect("answered").text().await.expect("text");
        self.answers.push_str(&text);
        self.answers.push('\n');
        serde_json::from_str(&text).expect("JSON")
    }

    /// Logs a user in by a phone, through a proxy, with everything typed wrongly first.
    async fn by_phone(&mut self, proxy: &str) -> String {
        let body = json!({ "label": "carol", "phone": "+999 66 2 0003", "application": "mine", "proxy": proxy });
        let login = self.post("/v1/sessions", body).await;
        let path = path_of(&login);
        for (step, field, value, state) in [
            ("code", "code", WRONG_CODE, Value::Null),
            ("code", "code", LOGIN_CODE, json!("password_needed")),
            ("password", "password", WRONG_PASSWORD, Value::Null),
            ("password", "password", PASSWORD, json!("done")),
        ] {
            let answer = self.post(&format!("{path}/{step}"), json!({ field: value })).await;
            assert_eq!(answer["state"], state, "{step}");
        }
        path
    }

    async fn by_qr(&mut self) -> String {
        let login = self.post("/v1/sessions/qr", json!({ "label": "bob" })).await;
        let url = login["qr"]["url"].as_str().expect("a URL");
        let bob = self.stack.account("bob");
        self.stack.sandbox.controls().accept_login(url, bob).expect("scanned");
        let path = path_of(&login);
        eventually(JOB_BOUND, async || {
            let login = self.stack.get(&format!("{path}/login")).await;
            if login["state"] == "done" { Ok(()) } else { Err(login) }
        })
        .await;
        path
    }

    /// Every way to begin a login, with something secret where it does not belong.
    async fn mistakes(&mut self) {
        for mistaken in [
            json!({ "label": "x", "phone": ["+9996620001"] }),
            json!({ "label": "x", "phone": "+9996620001", "+9996620003": 1 }),
            json!({ "label": "x", "bot_token": WRONG_PASSWORD }),
            json!({ "label": "x", "session": WRONG_PASSWORD }),
            json!({ "label": "x", "session_file": WRONG_PASSWORD }),
            json!({ "label": "x", "phone": "+999 66 2 0004", "proxy": format!("socks5://{WRONG_PASSWORD}@127.0.0.1:1") }),
            json!({ "label": "x", "phone": "+999 66 2 0004", "proxy": [WRONG_PASSWORD] }),
        ] {
            self.post("/v1/sessions", mistaken.clone()).await;
            self.post("/v1/sessions/qr", mistaken.clone()).await;
            self.post("/v1/sessions/import", mistaken).await;
        }
    }

    /// The string session that Telethon is given.
    async fn export(&self, path: &str) -> String {
        let body = json!({ "format": "telethon" });
        let answer = self.stack.request(Method::POST, &format!("{path}/export")).json(&body);
        let exported: Value = answer.send().await.expect("answered").json().await.expect("JSON");
        let text = exported["session"].as_str();
        text.unwrap_or_else(|| panic!("no export: {}", exported["code"]))
            .to_owned()
    }

    /// The session under another label, as if it came from somebody's script.
    async fn import(&mut self, path: &str, text: &str) {
        self.send(Method::DELETE, &format!("{path}?log_out=false"), json!({}))
            .await;
        let imported = self
            .post("/v1/sessions/import", json!({ "label": "copy", "session": text }))
            .await;
        assert_eq!(imported["state"], "done", "{imported}");
        let enable = format!("{}/enable", path_of(&imported));
        let enabled = self.post(&enable, json!({ "stopped_elsewhere": true })).await;
        assert_eq!(enabled["state"], "done", "{enabled}");
    }
}

fn path_of(login: &Value) -> String {
    let id = login["session"].as_str();
    format!("/v1/sessions/{}", id.unwrap_or_else(|| panic!("no session in {login}")))
}

/// The auth key is the end of it.
fn auth_key(string_session: &str) -> Vec<u8> {
    let text = string_session[1..].trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64");
    bytes[bytes.len() - 256..].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_login_is_logged_stored_or_answered() {
    let stack = Stack::with(Options {
        accounts: vec![],
        variables: vec![("WIREROOM_LOG", LOUD.to_owned())],
        ..Options::default()
    })
    .await;
    let worker = stack.worker().await;
    let carol = stack.account("carol");
    let controls = stack.sandbox.controls();
    controls.with_world(|world| world.set_password(carol, PASSWORD));
    let mut caller = Caller {
        stack: &stack,
        answers: String::new(),
    };
    let application = json!({ "label": "mine", "api_id": 7, "api_hash": API_HASH });
    assert_eq!(caller.post("/v1/applications", application).await["api_id"], 7);
    let socks = Socks::with_credentials(Ipv4Addr::new(127, 0, 0, 2)).await;
    let by_phone = caller.by_phone(&socks.url()).await;
    let by_qr = caller.by_qr().await;
    let token = format!("{}:harbour_bot-sandbox", stack.account("harbour_bot"));
    let bot = json!({ "label": "bot", "bot_token": token });
    let bot = path_of(&caller.post("/v1/sessions", bot).await);
    // Left half open: what is kept of it is sealed.
    let body = json!({ "label": "alice", "phone": "+999 66 2 0001" });
    assert_eq!(caller.post("/v1/sessions", body).await["state"], "code_needed");
    caller.mistakes().await;
    let mut secrets = of_the_operator(&stack);
    for (path, name) in [
        (&by_phone, "carol's key"),
        (&by_qr, "bob's key"),
        (&bot, "the bot's key"),
    ] {
        let text = caller.export(path).await;
        secrets.push(Secret::bytes(name, &auth_key(&text)));
        if path == &by_qr {
            caller.import(path, &text).await;
        }
    }
    for (name, text) in [
        ("a wrong code", WRONG_CODE),
        ("a wrong password", WRONG_PASSWORD),
        ("the password", PASSWORD),
        ("the bot's token", "harbour_bot-sandbox"),
        ("the API hash", API_HASH),
        ("alice's phone", PHONES[0]),
        ("bob's phone", PHONES[1]),
        ("carol's phone", PHONES[2]),
        ("a proxy's user", socks::USER),
        ("a proxy's password", socks::PASSWORD),
        ("a proxy's password in a URL", socks::PASSWORD_IN_URL),
    ] {
        secrets.push(Secret::text(name, text));
    }
    secrets.push(Secret::word("the code", LOGIN_CODE));
    let answers = caller.answers;
    let mut traces = Traces::of(&stack).await;
    traces.add("the worker's log", worker.output());
    traces.add("the answers", answers);
    traces.assert_free_of(&secrets);
    assert_silent("the API", &stack.api_output());
    assert_silent("the worker", &worker.output());
    stack.finish().await;
}
