//! Campaigns meanwhile: nobody is invited twice whatever crashes, nobody who is to be left alone is contacted, and nothing is
//! sent while all outreach is stopped.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use wireroom::sandbox::world::PeerKey;

use super::{
    act::id_of,
    bed::Bed,
    plan::{ACCOUNTS, Op, Place},
};

/// A campaign, and whom it may contact.
pub struct Campaigned {
    id: Uuid,
    /// What its messages say; none where people are added.
    text: Option<String>,
    people: Vec<Invitee>,
}

struct Invitee {
    user: i64,
    username: String,
    /// Was to be left alone before anything was begun.
    never: bool,
}

#[derive(Debug, FromRow)]
struct PersonRow {
    campaign_id: Uuid,
    username: String,
    #[expect(dead_code, reason = "shown by failures")]
    outcome: Option<String>,
    class: Option<String>,
}

impl Bed {
    pub async fn act_on_outreach(&mut self, op: &Op) {
        match op {
            Op::Campaign {
                place,
                adds,
                starts,
                people,
            } => {
                let number = self.campaign(place, *adds, *people).await;
                if *starts {
                    self.resume_campaign(number).await;
                }
            }
            Op::PauseCampaign(number) => self.pause_campaign(*number).await,
            Op::ResumeCampaign(number) => self.resume_campaign(*number).await,
            Op::Suppress {
                campaign,
                person,
                by_name,
            } => self.suppress(*campaign, *person, *by_name).await,
            Op::StopOutreach => self.stop_outreach().await,
            Op::ResumeOutreach => self.resume_outreach().await,
            _ => unreachable!("no operation on campaigns: {op:?}"),
        }
    }

    /// Makes a campaign with a list of new people; its number.
    async fn campaign(&mut self, place: &Place, adds: bool, count: usize) -> usize {
        let number = self.model.campaigns.len();
        let text = (!adds).then(|| format!("Invitation {}.{number}: ", self.seed));
        let mut body = json!({
            "name": format!("campaign {number}"), "chat": "@harbour_market", "mode": if adds { "add" } else { "message" },
            "per_day": 1_000_000, "stop_after": 1_000_000, "stop_ratio": 1.0,
        });
        match place {
            Place::Pool(pool) => body["pool"] = json!(pool),
            Place::Session(session) => body["session"] = json!(ACCOUNTS[*session].0),
        }
        if let Some(text) = &text {
            body["text"] = json!(format!("{text}{{link}}"));
        }
        let made = self.expect(Method::POST, "/v1/campaigns", Some(&body), &[201]).await;
        let accounts = self.sandbox.controls().with_world(|world| world.add_accounts(count));
        let people: Vec<Invitee> = accounts
            .into_iter()
            .map(|account| Invitee {
                user: account.id,
                username: account.username.expect("a name"),
                never: false,
            })
            .collect();
        let id = id_of(&made);
        let items: Vec<Value> = people
            .iter()
            .map(|person| json!({ "username": person.username, "basis": "import", "proof": "a form", "supplied_by": "Maria" }))
            .collect();
        let path = format!("/v1/campaigns/{id}/people");
        self.expect(Method::POST, &path, Some(&json!({ "items": items })), &[200])
            .await;
        self.model.campaigns.push(Campaigned { id, text, people });
        number
    }

    async fn pause_campaign(&mut self, number: usize) {
        let path = format!("/v1/campaigns/{}/pause", self.model.campaigns[number].id);
        let body = json!({ "reason": "simulated" });
        self.expect(Method::POST, &path, Some(&body), &[200]).await;
    }

    async fn resume_campaign(&mut self, number: usize) {
        let path = format!("/v1/campaigns/{}/resume", self.model.campaigns[number].id);
        let running = self.expect(Method::POST, &path, None, &[200]).await;
        if let Some(job) = running["job"].as_str() {
            self.model.acknowledged.insert(job.parse().expect("an id"));
        }
    }

    /// Somebody of a campaign's list is to be left alone, by id or by name.
    async fn suppress(&mut self, number: usize, person: usize, by_name: bool) {
        let campaign = &self.model.campaigns[number];
        let at = person % campaign.people.len();
        let who = &campaign.people[at];
        let mut body = json!({ "reason": "simulated" });
        if by_name {
            body["username"] = json!(who.username);
        } else {
            body["user_id"] = json!(who.user);
        }
        self.expect(Method::POST, "/v1/suppressions", Some(&body), &[200, 201])
            .await;
        // A call that was let through before may still arrive.
        let begun: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM campaign_ledger WHERE user_id = $1 AND attempted_at IS NOT NULL)",
        )
        .bind(who.user)
        .fetch_one(&self.pool)
        .await
        .expect("the ledger");
        self.model.campaigns[number].people[at].never |= !begun;
    }

    async fn stop_outreach(&mut self) {
        let body = json!({ "state": "stopped", "reason": "simulated" });
        let stopped = self.expect(Method::PUT, "/v1/outreach", Some(&body), &[200]).await;
        assert_eq!(stopped["state"], "stopped", "{stopped}");
        if stopped["calls_in_flight"] == 0 {
            self.model.invitations_when_stopped = Some(self.invitations());
        }
    }

    pub async fn resume_outreach(&mut self) {
        self.model.invitations_when_stopped = None;
        let body = json!({ "state": "running", "reason": "simulated" });
        self.expect(Method::PUT, "/v1/outreach", Some(&body), &[200]).await;
    }

    /// Lets every campaign go on that has not dealt with everybody.
    pub async fn resume_campaigns(&mut self) {
        for number in 0..self.model.campaigns.len() {
            let path = format!("/v1/campaigns/{}", self.model.campaigns[number].id);
            let view = self.expect(Method::GET, &path, None, &[200]).await;
            if view["code"] != "done" {
                self.resume_campaign(number).await;
            }
        }
    }

    /// How many messages of a campaign somebody has.
    fn received(&self, campaign: &Campaigned, person: &Invitee) -> usize {
        let Some(text) = &campaign.text else { return 0 };
        let messages = self
            .sandbox
            .controls()
            .with_world(|world| world.messages_of(PeerKey::User(person.user)));
        messages
            .iter()
            .filter(|message| message.text.starts_with(text.as_str()))
            .count()
    }

    /// All messages and additions of all campaigns.
    pub fn invitations(&self) -> usize {
        let members = self.members();
        let campaigns = self.model.campaigns.iter();
        campaigns
            .flat_map(|campaign| campaign.people.iter().map(move |person| (campaign, person)))
            .map(|(campaign, person)| self.received(campaign, person) + usize::from(members.contains(&person.user)))
            .sum()
    }

    fn members(&self) -> Vec<i64> {
        self.sandbox.controls().with_world(|world| {
            let chat = world.find_peer("@harbour_market").expect("the chat");
            world.members_of(chat)
        })
    }

    pub async fn check_outreach(&self) {
        // What was decided before the look at the messages stays decided.
        let rows = people(&self.pool).await;
        let members = self.members();
        for campaign in &self.model.campaigns {
            for person in &campaign.people {
                let row = rows
                    .get(&(campaign.id, person.username.clone()))
                    .expect("they are listed");
                let received = self.received(campaign, person);
                let is_in = members.contains(&person.user);
                assert!(received <= 1, "invited twice: {row:?}");
                assert!(
                    !person.never || (received == 0 && !is_in),
                    "was to be left alone, and was invited: {row:?}"
                );
                let reached = if campaign.text.is_some() { received == 1 } else { is_in };
                match row.class.as_deref() {
                    Some("invited") => assert!(reached, "invited, and nothing has come: {row:?}"),
                    Some("refused" | "skipped") => assert!(!reached, "reached, and not by {row:?}"),
                    _ => {}
                }
            }
        }
        if let Some(before) = self.model.invitations_when_stopped {
            assert_eq!(
                self.invitations(),
                before,
                "somebody was invited while all outreach was stopped"
            );
        }
    }

    /// No job of a campaign is left: one that says it is done has nobody waiting.
    pub async fn check_campaigns_are_done(&self) {
        for campaign in &self.model.campaigns {
            let view = self
                .expect(Method::GET, &format!("/v1/campaigns/{}", campaign.id), None, &[200])
                .await;
            assert_ne!(view["state"], "running", "it has no job: {view}");
            if view["code"] == "done" {
                let report = self
                    .expect(
                        Method::GET,
                        &format!("/v1/campaigns/{}/report", campaign.id),
                        None,
                        &[200],
                    )
                    .await;
                assert_eq!(report["waiting"], 0, "{report}");
            }
        }
    }
}

async fn people(pool: &PgPool) -> HashMap<(Uuid, String), PersonRow> {
    let rows: Vec<PersonRow> = sqlx::query_as("SELECT campaign_id, username, outcome, class FROM campaign_people")
        .fetch_all(pool)
        .await
        .expect("people");
    rows.into_iter()
        .map(|row| ((row.campaign_id, row.username.clone()), row))
        .collect()
}
