//! Secrets stay secret, however much is logged: real processes at the loudest level, with every library named, and
//! nothing of what they handle in what they wrote.

use std::{fmt::Write as _, net::Ipv4Addr};

use reqwest::{Method, StatusCode};
use serde_json::json;
use wireroom::sandbox::{Effect, Fault};

use crate::support::{
    process::Process,
    socks::{self, Socks},
    stack::{Options, START_BOUND, Stack},
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

/// Runs of digits that are a made-up phone number's.
fn phone_numbers(output: &str) -> Vec<&str> {
    output
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| {
            (10..=12).contains(&digits.len()) && ["9996", "9997"].iter().any(|zone| digits.starts_with(zone))
        })
        .collect()
}

fn assert_silent(who: &str, output: &str, secrets: &[&str]) {
    assert!(output.contains("DEBUG sqlx"), "{who} was not loud:\n{output}");
    for (index, secret) in secrets.iter().enumerate() {
        let line = output.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "secret {index} is in what {who} wrote");
    }
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
    for body in [
        json!({ "kind": "publish", "args": { "chat": MISTAKEN_PHONE, "text": REFUSED_TEXT } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": REFUSED_TEXT.repeat(300) } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "txt": REFUSED_TEXT } }),
    ] {
        let refused = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
        let refused = refused.expect("answered");
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }

    let variables: Vec<(&str, &str)> = stack
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut import = Process::wireroom(&["session", "import-sandbox", "carol"], &variables);
    assert!(import.wait_for_end(START_BOUND).await.success(), "{}", import.output());

    let master = variables.iter().find(|(name, _)| *name == "WIREROOM_MASTER_KEYS");
    let (_, master) = master.expect("one is set");
    let (_, master) = master.split_once(':').expect("id:key");
    let secrets = [TEXT, REFUSED_TEXT, MISTAKEN_PHONE, stack.key.as_str(), master];
    assert_silent("the API", &stack.api_output(), &secrets);
    assert_silent("the worker", &worker.output(), &secrets);
    assert_silent("the import", &import.output(), &secrets);
    stack.finish().await;
}

/// Typed by mistake, so that they are nowhere by chance.
const WRONG_CODE: &str = "Kq788214zz";
const WRONG_PASSWORD: &str = "Tr0ub4dor-and-3";
const PHONES: [&str; 2] = ["9996620001", "9996620003"];
const API_HASH: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Every row of every table, as text.
async fn dump(stack: &Stack) -> String {
    let pool = stack.database.pool();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .expect("the tables");
    assert!(tables.iter().any(|table| table == "errands"), "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let query = format!("SELECT string_agg(t::text, E'\\n') FROM {table} t");
        let rows: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(pool)
            .await
            .expect("its rows");
        text.push_str(&rows.unwrap_or_default());
        text.push('\n');
    }
    text
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
    let mut answers = Vec::new();
    let mut post = async |path: String, body: serde_json::Value| {
        let answer = stack.request(Method::POST, &path).json(&body).send().await;
        let text = answer.expect("answered").text().await.expect("text");
        answers.push(text.clone());
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let application = json!({ "label": "mine", "api_id": 7, "api_hash": API_HASH });
    assert_eq!(post("/v1/applications".to_owned(), application).await["api_id"], 7);
    let socks = Socks::with_credentials(Ipv4Addr::new(127, 0, 0, 2)).await;
    let body = json!({ "label": "carol", "phone": "+999 66 2 0003", "application": "mine", "proxy": socks.url() });
    let login = post("/v1/sessions".to_owned(), body).await;
    let path = format!("/v1/sessions/{}", login["session"].as_str().expect("an id"));
    for (step, field, value) in [
        ("code", "code", WRONG_CODE),
        ("code", "code", "22222"),
        ("password", "password", WRONG_PASSWORD),
        ("password", "password", "sandbox"),
    ] {
        post(format!("{path}/{step}"), json!({ field: value })).await;
    }
    // Left half open: what is kept of it is sealed.
    let body = json!({ "label": "alice", "phone": "+999 66 2 0001" });
    assert_eq!(post("/v1/sessions".to_owned(), body).await["state"], "code_needed");
    for mistaken in [
        json!({ "label": "x", "phone": ["+9996620001"] }),
        json!({ "label": "x", "phone": "+9996620001", "+9996620003": 1 }),
        json!({ "label": "x", "bot_token": WRONG_PASSWORD }),
        json!({ "label": "x", "session": WRONG_PASSWORD }),
        json!({ "label": "x", "phone": "+999 66 2 0004", "proxy": format!("socks5://{WRONG_PASSWORD}@127.0.0.1:1") }),
        json!({ "label": "x", "phone": "+999 66 2 0004", "proxy": [WRONG_PASSWORD] }),
    ] {
        post("/v1/sessions".to_owned(), mistaken.clone()).await;
        post("/v1/sessions/import".to_owned(), mistaken).await;
    }
    let exported = stack
        .request(Method::POST, &format!("{path}/export"))
        .json(&json!({ "format": "telethon" }))
        .send()
        .await
        .expect("answered");
    let exported: serde_json::Value = exported.json().await.expect("JSON");
    let text = exported["session"].as_str().expect("a string session").to_owned();
    let key = &text[text.len() - 300..text.len() - 100];

    let dump = dump(&stack).await;
    let secrets = [
        WRONG_CODE,
        WRONG_PASSWORD,
        API_HASH,
        key,
        PHONES[0],
        PHONES[1],
        socks::USER,
        socks::PASSWORD,
        socks::PASSWORD_IN_URL,
    ];
    for (index, secret) in secrets.iter().enumerate() {
        assert!(!dump.contains(secret), "secret {index} is in the database");
        let mut hex = String::new();
        for byte in secret.bytes() {
            write!(hex, "{byte:02x}").expect("a string takes anything");
        }
        assert!(!dump.contains(&hex), "secret {index} is in the database, as bytes");
    }
    let answered = answers.iter().find(|answer| {
        [WRONG_CODE, WRONG_PASSWORD, socks::USER, socks::PASSWORD]
            .iter()
            .any(|word| answer.contains(word))
    });
    assert_eq!(answered, None);
    // Nobody is told a number back, not even under a field's name: what is not known is listed by what is.
    assert!(!answers.iter().any(|answer| answer.contains(PHONES[0])), "{answers:?}");
    let secrets = [
        WRONG_CODE,
        WRONG_PASSWORD,
        API_HASH,
        key,
        stack.key.as_str(),
        socks::USER,
        socks::PASSWORD,
        socks::PASSWORD_IN_URL,
    ];
    assert_silent("the API", &stack.api_output(), &secrets);
    assert_silent("the worker", &worker.output(), &secrets);
    stack.finish().await;
}
