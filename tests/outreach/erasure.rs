//! A person who was erased is in no table, and does not come back.

use wireroom::{config::Secret, person_key::PersonKey};

use super::*;

/// Every row of every table that holds `needle`.
async fn rows_with(stack: &Stack, needle: &str) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(stack.database.pool())
    .await
    .expect("tables");
    assert!(tables.len() > 40, "the whole database");
    let mut found = Vec::new();
    for table in tables {
        let statement = format!("SELECT t::text FROM {table} t WHERE t::text ILIKE '%{needle}%'");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .fetch_all(stack.database.pool())
            .await
            .expect("rows");
        found.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_is_in_no_table_and_does_not_come_back() {
    let stack = stack_of(vec!["alice"]).await;
    let worker = stack.worker().await;
    // Frank is in the group that is scanned, on a list, in a job's args, on the list of suppressions and in a ledger.
    join(&stack, "frank");
    let frank = stack.account("frank");
    let scan = json!({ "chat": CHAT, "purpose": "a count for the yearly report" });
    let first = stack.post("scan", scan.clone()).await;
    stack.finished(&first).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["frank", "dave"]).await;
    let ids = json!({ "items": [{ "user_id": frank, "basis": "join_request" }] });
    post(&stack, &format!("{path}/people"), &ids).await;
    done(&stack, &resume(&stack, &path).await).await;
    suppress(&stack, json!({ "user_id": frank })).await;
    let id = path.rsplit('/').next().expect("an id");
    let named = json!({ "campaign": id, "people": ["@frank", frank.to_string()] });
    stack.run("invite", named).await;
    worker.kill();
    let exported = stack.get(&format!("/v1/people/{frank}/export")).await;
    let tables: Vec<&String> = exported["tables"].as_object().expect("tables").keys().collect();
    for table in [
        "campaign_people",
        "finished_jobs",
        "people",
        "scan_members",
        "suppressions",
    ] {
        assert!(
            tables.iter().any(|known| *known == table),
            "{table} is not in {tables:?}"
        );
    }
    assert_eq!(exported["truncated"], json!([]));
    let (status, erased) = send(&stack, Method::DELETE, &format!("/v1/people/{frank}"), &Value::Null).await;
    assert_eq!((status, &erased["state"]), (StatusCode::OK, &json!("done")), "{erased}");
    for needle in [frank.to_string().as_str(), "frank"] {
        assert_eq!(rows_with(&stack, needle).await, Vec::<String>::new(), "{needle}");
    }
    assert_eq!(stack.figure("SELECT count(*) FROM erased_people").await, 1);
    assert!(!rows_with(&stack, "dave").await.is_empty(), "and nobody else is gone");
    // He is in the group as before, and somebody puts him on a list again.
    let _worker = stack.worker().await;
    let second = stack.post("scan", scan).await;
    stack.finished(&second).await;
    assert!(stack.figure("SELECT count(*) FROM scan_members").await > 1000);
    let again = post(&stack, &format!("{path}/people"), &ids).await;
    assert_eq!(again["refused"][0]["code"], "erased", "{again}");
    list(&stack, &path, &["frank"]).await;
    let result = done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(result["outcomes"], json!({ "erased": 1 }), "{result}");
    assert_eq!(rows_with(&stack, "frank").await, Vec::<String>::new());
    // Telegram's reference to a member of a chat is the session's, and says nothing but that there is one.
    let left: Vec<String> = rows_with(&stack, &frank.to_string()).await;
    assert!(left.iter().all(|row| row.starts_with("session_peers")), "{left:?}");
    let (status, refused) = send(
        &stack,
        Method::DELETE,
        &format!("/v1/people/{}", stack.account("alice")),
        &Value::Null,
    )
    .await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::CONFLICT, &json!("person_is_session"))
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_takes_longer_is_gone_on_with_by_the_workers() {
    const STEP: &str = "SELECT continue_erasure(id, '0 s') FROM erasures";
    let stack = stack_of(vec!["alice"]).await;
    let pool = stack.database.pool();
    let frank = stack.account("frank");
    // Finished work that names him here and there.
    let work = "INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence, finished_at,
            result, tags, created_at)
        SELECT gen_random_uuid(), 'join', jsonb_build_object('chat', 'c' || n), 'succeeded', 'bulk', 'default', 0, t, 1, 1, 1, t,
            CASE WHEN n % 500 = 7 THEN jsonb_build_object('user_id', $1::bigint, 'note', 'for @frank') END, '{}', t
        FROM generate_series(1, 4000) n, wireroom_now() t";
    sqlx::query(work).bind(frank).execute(pool).await.expect("stored");
    let person = "INSERT INTO people (id, username, first_name, is_bot, is_deleted, is_premium, expires_at)
        VALUES ($1, 'frank', 'Frank', false, false, false, wireroom_now() + interval '1 day')";
    sqlx::query(person).bind(frank).execute(pool).await.expect("stored");
    let named = "SELECT count(*) FROM finished_jobs WHERE result::text LIKE '%frank%'";
    assert_eq!(stack.figure(named).await, 8);
    // Begun, and somebody is at it: who asks meanwhile is told where it stands.
    let key = PersonKey::parse(&Secret::new(KEY.to_owned())).expect("a key");
    let begun: uuid::Uuid = sqlx::query_scalar("SELECT begin_erasure(gen_random_uuid(), $1, $2, 'cli')")
        .bind(frank)
        .bind(key.user(frank).to_vec())
        .fetch_one(pool)
        .await
        .expect("begun");
    let mut step = pool.begin().await.expect("begun");
    sqlx::query("SELECT FROM erasures FOR UPDATE")
        .execute(&mut *step)
        .await
        .expect("locked");
    let asked = stack.request(Method::DELETE, &format!("/v1/people/{frank}"));
    let answer = asked.send().await.expect("answered");
    let place = format!("/v1/erasures/{begun}");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.headers()["location"], place.as_str());
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!((&answer["id"], &answer["state"]), (&json!(begun), &json!("working")));
    // Steps are bounded.
    loop {
        let is_done: bool = sqlx::query_scalar(STEP).fetch_one(&mut *step).await.expect("a step");
        assert!(!is_done, "it takes more than one step");
        let part: i64 = sqlx::query_scalar(named).fetch_one(&mut *step).await.expect("answered");
        if part < 8 {
            assert!(part > 0, "a part of them");
            break;
        }
    }
    step.commit().await.expect("committed");
    assert_eq!(stack.get(&place).await["state"], "working");
    let _worker = stack.worker().await;
    let done = eventually(JOB_BOUND, async || {
        let erasure = stack.get(&place).await;
        if erasure["state"] == "done" {
            Ok(erasure)
        } else {
            Err(erasure)
        }
    })
    .await;
    assert_eq!(
        (
            &done["tables"]["finished_jobs"],
            &done["tables"]["people"],
            &done["tables_left"]
        ),
        (&json!(8), &json!(1), &json!(0)),
        "{done}"
    );
    for needle in [frank.to_string().as_str(), "frank"] {
        assert_eq!(rows_with(&stack, needle).await, Vec::<String>::new(), "{needle}");
    }
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM finished_jobs WHERE kind = 'join'")
            .await,
        4000
    );
    let noted =
        "SELECT count(*) FROM audit_log WHERE action = 'person.erased' AND actor = 'cli' AND details ? 'erasure'";
    assert_eq!(stack.figure(noted).await, 1);
    let unknown = stack.request(Method::GET, &format!("/v1/erasures/{}", uuid::Uuid::nil()));
    let unknown = unknown.send().await.expect("answered");
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    // Whoever asks again finds nothing more.
    let (status, again) = send(&stack, Method::DELETE, &format!("/v1/people/{frank}"), &Value::Null).await;
    assert_eq!((status, &again["tables"]), (StatusCode::OK, &json!({})));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_who_writes_on_in_a_watched_chat_is_counted_and_not_recorded() {
    let stack = stack_of(vec!["alice"]).await;
    for name in ["frank", "dave"] {
        join(&stack, name);
    }
    let (chat, alice) = (stack.chat("harbour_market"), stack.chat("alice"));
    let (frank, dave) = (stack.account("frank"), stack.account("dave"));
    let say = |who, place, text: &str| {
        let said = stack
            .sandbox
            .controls()
            .with_world(|world| world.post_as(who, place, text));
        said.expect("said");
    };
    let _worker = stack.worker().await;
    let watches = [json!({ "chat": CHAT }), json!({ "chat": "private" })];
    let mut ids = Vec::new();
    for args in watches {
        let job = json!({ "kind": "monitor", "session": "alice", "args": args });
        ids.push(stack.post_job(job).await);
    }
    let seen = async |at: usize, wanted: i64| {
        until("seen", async || {
            let path = format!("/v1/watches/{}", ids[at]);
            let answer = stack.request(Method::GET, &path).send().await.expect("answered");
            let watch: Value = answer.json().await.unwrap_or_default();
            watch["running"] == true && watch["filling"] == false && watch["completeness"]["seen"] == wanted
        })
        .await;
    };
    seen(0, 0).await;
    seen(1, 0).await;
    say(frank, chat, "Frank here");
    say(frank, alice, "Frank here, too");
    seen(0, 1).await;
    seen(1, 1).await;
    let (status, erased) = send(&stack, Method::DELETE, &format!("/v1/people/{frank}"), &Value::Null).await;
    assert_eq!((status, &erased["state"]), (StatusCode::OK, &json!("done")), "{erased}");
    let nobodys = "SELECT count(*) FROM messages WHERE sender_id IS NULL AND content IS NULL";
    assert_eq!(stack.figure(nobodys).await, 1, "his message in the group still counts");
    say(frank, chat, "Frank again");
    say(frank, alice, "stop it");
    say(dave, chat, "Dave here");
    seen(0, 3).await;
    seen(1, 2).await;
    assert_eq!(stack.figure(nobodys).await, 3);
    let told = "SELECT count(*) FROM events WHERE type = 'message.new'";
    assert_eq!(stack.figure(told).await, 3, "two from before, without him, and Dave's");
    for text in ["Frank", "stop it"] {
        let rows = rows_with(&stack, text).await;
        assert_eq!(rows, Vec::<String>::new(), "{text}");
    }
    let rows = rows_with(&stack, &frank.to_string()).await;
    assert!(rows.iter().all(|row| row.starts_with("session_peers")), "{rows:?}");
    for id in &ids {
        let stop = format!("/v1/watches/{id}/stop");
        post(&stack, &stop, &json!({})).await;
        stack.finished(id).await;
    }
    stack.finish().await;
}
