//! The demo's campaign: a reason for each person, two who are left out for theirs, one who answers that it is enough.

use anyhow::Context;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use wireroom_jobs::JobKind;

use super::{Demo, brief, said, text, webhooks::Webhooks};

/// The one who follows no link and says so.
const ANSWERS: &str = "friendly_person";
const ANSWER: &str = "Thank you, but please stop";
/// The one who said so before.
const LEFT_ALONE: &str = "dave";

impl Demo {
    /// Invites people into the demo's chat, as far as there is a reason to contact them. `scan` is a job whose rows name people
    /// of whom nothing else is known.
    pub(super) async fn campaign(&self, scan: Option<&str>, webhooks: &Webhooks) -> anyhow::Result<()> {
        let begun = Instant::now();
        let say = |what: String| said(begun, JobKind::Invite.as_str(), &what);
        let calls = &self.calls;
        let suppressed = json!({ "username": LEFT_ALONE, "reason": "Asked by letter not to be contacted" });
        let answers = [StatusCode::OK, StatusCode::CREATED];
        calls.post_any("/v1/suppressions", &suppressed, &answers).await?;
        say(format!("@{LEFT_ALONE} is on the list of those to leave alone"))?;

        let path = self.make_campaign().await?;
        say(format!("a campaign into {}, which does not run yet", self.chat))?;
        let people = self.people_to_ask(scan).await?;
        let added = calls
            .post(&format!("{path}/people"), &json!({ "items": people }), StatusCode::OK)
            .await?;
        for (index, person) in people.iter().enumerate() {
            let refused = added["refused"].as_array().into_iter().flatten();
            let code = refused
                .filter(|one| one["index"] == index)
                .find_map(|one| one["code"].as_str());
            let why = person["proof"].as_str().map(|proof| format!(" ({proof})"));
            say(match code {
                Some(code) => format!("{} is refused: {code}", name(person)),
                None => format!(
                    "{} is listed: {}{}",
                    name(person),
                    text(person, "basis"),
                    why.unwrap_or_default()
                ),
            })?;
        }
        let preflight = calls.get(&format!("{path}/preflight")).await?;
        say(format!(
            "preflight: {} eligible, left out {}",
            preflight["eligible"], preflight["left_out"]
        ))?;

        let resumed = calls
            .post(&format!("{path}/resume"), &Value::Null, StatusCode::OK)
            .await?;
        let job = calls.get(&format!("/v1/jobs/{}", text(&resumed, "job"))).await?;
        say(format!("resumed, with job {}", text(&job, "id")))?;
        calls.follow(job, JobKind::Invite.as_str(), begun).await?;
        self.tell_outcomes(&path, begun, webhooks).await
    }

    /// Makes the campaign; its path.
    async fn make_campaign(&self) -> anyhow::Result<String> {
        let body = json!({
            // Each demo makes one of its own, and no two have the same name.
            "name": format!("Demo {}", uuid::Uuid::now_v7()),
            "chat": self.chat,
            "text": "You asked about the market. Come in: {link}",
            "session": self.session,
        });
        let made = self.calls.post("/v1/campaigns", &body, StatusCode::CREATED).await?;
        Ok(format!("/v1/campaigns/{}", text(&made, "id")))
    }

    /// The list, with a basis for each but one, of whom there is only a scan.
    async fn people_to_ask(&self, scan: Option<&str>) -> anyhow::Result<Vec<Value>> {
        let import = |name: &str, proof: &str| json!({ "username": format!("@{name}"), "basis": "import", "proof": proof, "supplied_by": "the harbour office" });
        let mut people = vec![
            import(ANSWERS, "ticked `invite me` in a form"),
            json!({ "username": "@mallory", "basis": "contact" }),
            json!({ "username": "@heidi", "basis": "contact" }),
            import(LEFT_ALONE, "wrote a letter"),
        ];
        if let Some(scan) = scan {
            let members = self.calls.get(&format!("/v1/jobs/{scan}/members?limit=1")).await?;
            let id = &members["items"][0]["user_id"];
            id.as_i64().context("the scan has seen nobody")?;
            people.push(json!({ "user_id": id }));
        }
        Ok(people)
    }

    /// What became of everybody, the answer of one of them, and what follows from it.
    async fn tell_outcomes(&self, path: &str, begun: Instant, webhooks: &Webhooks) -> anyhow::Result<()> {
        let say = |what: String| said(begun, JobKind::Invite.as_str(), &what);
        let people = self.calls.get(&format!("{path}/people?limit=1000")).await?;
        let people = people["items"].as_array().context("the campaign has no list")?;
        for person in people {
            let (outcome, class) = (text(person, "outcome"), text(person, "class"));
            say(format!("@{}: {outcome} ({class})", text(person, "username")))?;
        }
        // In a later demo over the same database they were contacted before, and nobody writes to them again.
        let is_new = |person: &Value| person["username"] == ANSWERS && person["outcome"] == "invited";
        if people.iter().any(is_new) {
            self.writes(ANSWERS, &self.account.to_string(), ANSWER)?;
            say(format!("@{ANSWERS} answers: {ANSWER}"))?;
            let told = webhooks
                .when(|event| event["type"] == "suppression.added")
                .await
                .context("no webhook told that somebody is left alone")?;
            say(format!("webhook  {}: nobody contacts them again", brief(&told)))?;
        }
        let report = self.calls.get(&format!("{path}/report")).await?;
        let figures = ["people", "invited", "refused", "skipped", "waiting"];
        let figures = figures.map(|figure| format!("{} {figure}", report[figure]));
        say(format!("report: {}", figures.join(", ")))
    }
}

/// As the list names somebody.
fn name(person: &Value) -> String {
    person["username"].as_str().map_or_else(
        || format!("{}, of whom there is a scan alone,", person["user_id"]),
        str::to_owned,
    )
}
