//! Every way a person's turn can end, above all when nobody saw what became of the call.

use super::*;
use crate::{
    outreach::{Added, Basis, InviteMode, Leave, Presence, VerdictClass},
    ports::{Decision, TelegramError},
    testing::{
        Fakes, RANDOM_ID, contact, discarded, flood, message, result, retried, snoozed, start_of_time, supergroup,
        target_error, telegram_error, unknown_outcome,
    },
};

const ADA: i64 = 7_100_000_001;

fn args() -> InviteArgs {
    InviteArgs {
        campaign: Uuid::nil(),
        people: Vec::new(),
        limit: None,
    }
}

fn chat() -> Chat {
    Chat {
        username: Some("reading_club".into()),
        ..supergroup(5)
    }
}

/// Fakes with Ada on the list, on that basis, and the chat to be found.
fn with_ada(mode: InviteMode, basis: Basis) -> Fakes {
    let fakes = Fakes::new();
    if let Some(campaign) = &mut fakes.outreach.state().campaign {
        campaign.mode = mode;
    }
    fakes.outreach.list(ADA, basis);
    fakes.telegram.resolve_username(Ok(chat()));
    fakes
}

/// The next attempt, which finds the chat by its id.
fn again(fakes: &mut Fakes) {
    fakes.attempt += 1;
    fakes.telegram.chat_by_id(Ok(chat()));
}

fn seen(fakes: &Fakes, presence: Presence) {
    fakes.telegram.person(Ok(contact(ADA)));
    fakes.telegram.presence(Ok(presence));
}

async fn run(fakes: &Fakes) -> Outcome {
    let outcome = args().run(&fakes.context()).await;
    assert_eq!(
        fakes.telegram.unused_answers(),
        0,
        "an answer was not asked for: {outcome:?}"
    );
    outcome
}

/// The outcome of the only person there is.
async fn outcome_of(fakes: &Fakes) -> String {
    let report: InviteResult = result(run(fakes).await);
    assert_eq!(report.ended, InviteEnd::Exhausted);
    let mut outcomes = report.outcomes.into_iter();
    let (outcome, count) = outcomes.next().expect("an outcome");
    assert_eq!((count, outcomes.next()), (1, None));
    outcome
}

fn sends(fakes: &Fakes) -> usize {
    let journal = fakes.take_journal();
    let sends = journal
        .iter()
        .filter(|call| call.starts_with("send_message") || call.starts_with("add_to_chat"));
    sends.count()
}

fn refusal(name: &str, suppress: bool) -> TelegramError {
    telegram_error(name, Decision::Person { suppress })
}

#[tokio::test]
async fn the_ledger_knows_before_telegram_does() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes.telegram.send_message(Ok(message(7, 1)));
    assert_eq!(outcome_of(&fakes).await, "invited");
    assert_eq!(
        fakes.take_journal(),
        [
            "resolve_username reading_club".to_owned(),
            "save_chat".into(),
            "person".into(),
            "prepare".into(),
            "presence".into(),
            "begin".into(),
            format!("send_message {ADA} {RANDOM_ID}"),
            "decide".into(),
            "progress".into(),
        ]
    );
    let state = fakes.outreach.state();
    assert_eq!(state.verdicts[0].1.message, Some(message(7, 1)));
}

#[tokio::test]
async fn a_basis_that_telegram_does_not_confirm_is_none() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    let mut stranger = contact(ADA);
    stranger.is_contact = false;
    fakes.telegram.person(Ok(stranger.clone()));
    assert_eq!(outcome_of(&fakes).await, "basis_unconfirmed");
    assert_eq!(sends(&fakes), 0);
    let fakes = with_ada(InviteMode::Message, Basis::Dialogue);
    fakes.telegram.person(Ok(stranger.clone()));
    fakes.telegram.wrote_before(Ok(false));
    assert_eq!(outcome_of(&fakes).await, "basis_unconfirmed");
    let fakes = with_ada(InviteMode::Message, Basis::Dialogue);
    fakes.telegram.person(Ok(stranger));
    fakes.telegram.wrote_before(Ok(true));
    fakes.telegram.presence(Ok(Presence::Absent));
    fakes.telegram.send_message(Ok(message(7, 1)));
    assert_eq!(outcome_of(&fakes).await, "invited");
}

#[tokio::test]
async fn a_request_to_be_let_in_is_looked_for_among_those_who_wait() {
    for (presence, asked, expected) in [
        (Presence::Absent, Ok(true), "added"),
        (Presence::Gone, Ok(true), "added"),
        (Presence::Absent, Ok(false), "basis_unconfirmed"),
        (
            Presence::Absent,
            Err(telegram_error("CHAT_ADMIN_REQUIRED", Decision::Target)),
            "basis_unconfirmed",
        ),
    ] {
        let fakes = with_ada(InviteMode::Add, Basis::JoinRequest);
        seen(&fakes, presence);
        fakes.telegram.asked_to_join(asked);
        if expected == "added" {
            fakes.telegram.add_to_chat(Ok(Added::Added));
        }
        assert_eq!(outcome_of(&fakes).await, expected);
    }
    // Let in meanwhile: nobody need look.
    let fakes = with_ada(InviteMode::Add, Basis::JoinRequest);
    seen(&fakes, Presence::Member);
    assert_eq!(outcome_of(&fakes).await, "already_member");
}

#[tokio::test]
async fn whoever_is_not_to_be_contacted_is_left_out_without_a_call() {
    for (presence, outcome) in [(Presence::Member, "already_member"), (Presence::Gone, "left_before")] {
        let fakes = with_ada(InviteMode::Add, Basis::Import);
        seen(&fakes, presence);
        assert_eq!(outcome_of(&fakes).await, outcome);
        assert_eq!(sends(&fakes), 0);
    }
    let fakes = with_ada(InviteMode::Add, Basis::Import);
    fakes.outreach.state().kept_out.insert(ADA, "suppressed");
    fakes.telegram.person(Ok(contact(ADA)));
    assert_eq!(outcome_of(&fakes).await, "suppressed");
    let fakes = with_ada(InviteMode::Message, Basis::Import);
    fakes.telegram.person(Ok(crate::outreach::Person {
        is_deleted: true,
        ..contact(ADA)
    }));
    assert_eq!(outcome_of(&fakes).await, "not_eligible");
    let fakes = with_ada(InviteMode::Message, Basis::Import);
    fakes.telegram.person(Err(target_error("USERNAME_NOT_OCCUPIED")));
    assert_eq!(outcome_of(&fakes).await, "not_found");
    assert_eq!(fakes.outreach.state().verdicts[0].0, None);
}

#[tokio::test]
async fn suppressed_between_the_look_and_the_call_is_not_called() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes.outreach.state().leaves.push_back(Leave::Decided("suppressed"));
    assert_eq!(outcome_of(&fakes).await, "suppressed");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn refusals_are_the_persons_and_the_campaign_goes_on() {
    for (name, suppress, outcome) in [
        ("USER_PRIVACY_RESTRICTED", false, "privacy"),
        ("USER_KICKED", false, "not_eligible"),
        ("USER_IS_BLOCKED", true, "blocked_us"),
    ] {
        let fakes = with_ada(InviteMode::Add, Basis::Import);
        seen(&fakes, Presence::Absent);
        fakes.telegram.add_to_chat(Err(refusal(name, suppress)));
        assert_eq!(outcome_of(&fakes).await, outcome, "{name}");
        let verdict = fakes.outreach.state().verdicts[0].1.clone();
        assert_eq!((verdict.suppress, verdict.why.as_deref()), (suppress, Some(name)));
    }
}

#[tokio::test]
async fn somebody_left_out_of_a_call_that_succeeded_is_refused() {
    for (would, required, outcome) in [
        (false, false, "privacy"),
        (true, false, "message_only"),
        (true, true, "premium_needed"),
    ] {
        let fakes = with_ada(InviteMode::Add, Basis::Import);
        seen(&fakes, Presence::Absent);
        fakes.telegram.add_to_chat(Ok(Added::Missing {
            premium_would_allow_invite: would,
            premium_required_for_pm: required,
        }));
        assert_eq!(outcome_of(&fakes).await, outcome);
        assert_eq!(fakes.outreach.state().verdicts[0].1.class, VerdictClass::Refused);
    }
}

#[tokio::test]
async fn peer_flood_stops_the_campaign_and_nothing_was_sent() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes
        .telegram
        .send_message(Err(telegram_error("PEER_FLOOD", Decision::Campaign)));
    assert_eq!(discarded(run(&fakes).await).code, "peer_flood");
    let state = fakes.outreach.state();
    assert_eq!(state.halted.as_deref(), Some("peer_flood"));
    assert!(state.in_doubt.is_empty() && state.verdicts.is_empty());
}

#[tokio::test]
async fn an_answer_that_would_be_the_same_each_time_ends_the_person_and_not_the_job() {
    for decision in [Decision::Bug, Decision::Target, Decision::Content] {
        let fakes = with_ada(InviteMode::Message, Basis::Contact);
        fakes.telegram.person(Err(telegram_error("SOMETHING_NEW", decision)));
        assert_eq!(outcome_of(&fakes).await, "not_found");
        let why = fakes.outreach.state().verdicts[0].1.why.clone();
        assert_eq!(why.as_deref(), Some("SOMETHING_NEW"));
        let fakes = with_ada(InviteMode::Message, Basis::Dialogue);
        fakes.telegram.person(Ok(contact(ADA)));
        fakes
            .telegram
            .wrote_before(Err(telegram_error("SOMETHING_NEW", decision)));
        assert_eq!(outcome_of(&fakes).await, "basis_unconfirmed");
        let why = fakes.outreach.state().verdicts[0].1.why.clone();
        assert_eq!(why.as_deref(), Some("SOMETHING_NEW"));
    }
}

#[tokio::test]
async fn whoever_is_left_alone_since_a_moment_ago_was_not_asked() {
    for outcome in ["suppressed", "erased"] {
        let fakes = with_ada(InviteMode::Message, Basis::Contact);
        seen(&fakes, Presence::Absent);
        fakes.telegram.send_message(Err(refusal(outcome, false)));
        assert_eq!(outcome_of(&fakes).await, outcome);
        let state = fakes.outreach.state();
        assert_eq!(state.verdicts[0].1.class, VerdictClass::Skipped);
        assert!(state.in_doubt.is_empty(), "the ledger says that nothing was sent");
    }
}

#[tokio::test]
async fn what_stops_the_session_before_the_call_stops_the_campaign_too() {
    let flooded = || telegram_error("PEER_FLOOD", Decision::Campaign);
    for place in 0..4 {
        let basis = match place {
            1 => Basis::Dialogue,
            3 => Basis::JoinRequest,
            _ => Basis::Contact,
        };
        let fakes = with_ada(InviteMode::Message, basis);
        match place {
            0 => {
                fakes.telegram.person(Err(flooded()));
            }
            1 => {
                fakes.telegram.person(Ok(contact(ADA)));
                fakes.telegram.wrote_before(Err(flooded()));
            }
            2 => {
                fakes.telegram.person(Ok(contact(ADA)));
                fakes.telegram.presence(Err(flooded()));
            }
            _ => {
                seen(&fakes, Presence::Absent);
                fakes.telegram.asked_to_join(Err(flooded()));
            }
        }
        assert_eq!(discarded(run(&fakes).await).code, "peer_flood");
        let state = fakes.outreach.state();
        assert_eq!(state.halted.as_deref(), Some("peer_flood"), "{place}");
        assert_eq!(state.waiting.len(), 1, "the person stays on the list");
    }
}

#[tokio::test]
async fn a_chat_that_takes_nobody_else_stops_the_campaign() {
    let fakes = with_ada(InviteMode::Add, Basis::Import);
    seen(&fakes, Presence::Absent);
    fakes.telegram.add_to_chat(Err(target_error("USERS_TOO_MUCH")));
    assert_eq!(discarded(run(&fakes).await).code, "chat_full");
    assert_eq!(fakes.outreach.state().halted.as_deref(), Some("chat_full"));
}

#[tokio::test]
async fn a_flood_waits_and_the_person_stays_next() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes.telegram.send_message(Err(flood(60)));
    let (until, reason) = snoozed(run(&fakes).await);
    assert_eq!(
        (until, reason.code.as_str()),
        (start_of_time() + TimeDelta::seconds(60), "flood")
    );
    let state = fakes.outreach.state();
    assert!(state.in_doubt.is_empty(), "refused by name: nothing was sent");
    assert_eq!(state.waiting.len(), 1);
}

#[tokio::test]
async fn an_answer_that_never_came_is_looked_up_and_found() {
    let mut fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes.telegram.send_message(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, "call_deadline");
    assert_eq!(sends(&fakes), 1);
    again(&mut fakes);
    fakes.telegram.person(Ok(contact(ADA)));
    fakes.telegram.own_messages_like(Ok(vec![message(7, 1)]));
    assert_eq!(outcome_of(&fakes).await, "invited");
    assert_eq!(sends(&fakes), 0, "found by looking, not by sending again");
    assert_eq!(
        fakes.telegram.searched_since(),
        [start_of_time() - TimeDelta::seconds(60)]
    );
}

#[tokio::test]
async fn what_looking_did_not_find_is_sent_again_under_the_same_key() {
    let mut fakes = with_ada(InviteMode::Message, Basis::Contact);
    seen(&fakes, Presence::Absent);
    fakes.telegram.send_message(Err(unknown_outcome()));
    retried(run(&fakes).await);
    fakes.take_journal();
    again(&mut fakes);
    fakes.telegram.person(Ok(contact(ADA)));
    fakes.telegram.own_messages_like(Ok(Vec::new()));
    fakes.telegram.send_message(Ok(message(8, 9)));
    assert_eq!(outcome_of(&fakes).await, "invited");
    assert!(
        fakes
            .take_journal()
            .contains(&format!("send_message {ADA} {RANDOM_ID}"))
    );
}

#[tokio::test]
async fn where_nobody_may_look_nothing_is_repeated() {
    for mode in InviteMode::ALL {
        let fakes = with_ada(mode, Basis::Import);
        fakes.outreach.state().in_doubt.insert(ADA, 1);
        fakes.telegram.person(Ok(contact(ADA)));
        let error = target_error("CHANNEL_PRIVATE");
        match mode {
            InviteMode::Message => fakes.telegram.own_messages_like(Err(error)),
            InviteMode::Add => fakes.telegram.presence(Err(error)),
        };
        assert_eq!(outcome_of(&fakes).await, "outcome_unknown");
        assert_eq!(sends(&fakes), 0);
    }
}

#[tokio::test]
async fn a_call_that_is_never_answered_is_given_up() {
    let fakes = with_ada(InviteMode::Add, Basis::Import);
    fakes.outreach.state().in_doubt.insert(ADA, 3);
    seen(&fakes, Presence::Absent);
    fakes.telegram.has_added(Ok(false));
    assert_eq!(outcome_of(&fakes).await, "outcome_unknown");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn somebody_added_who_left_at_once_is_not_added_again() {
    for (recorded, expected) in [
        (Ok(true), "added"),
        (Err(target_error("history_too_long")), "outcome_unknown"),
    ] {
        let fakes = with_ada(InviteMode::Add, Basis::Import);
        fakes.outreach.state().in_doubt.insert(ADA, 1);
        seen(&fakes, Presence::Absent);
        fakes.telegram.has_added(recorded);
        assert_eq!(outcome_of(&fakes).await, expected);
        assert_eq!(sends(&fakes), 0);
    }
}

#[tokio::test]
async fn somebody_added_by_an_attempt_nobody_saw_end_counts_as_added() {
    for presence in [Presence::Member, Presence::Gone] {
        let fakes = with_ada(InviteMode::Add, Basis::Import);
        fakes.outreach.state().in_doubt.insert(ADA, 1);
        seen(&fakes, presence);
        assert_eq!(outcome_of(&fakes).await, "added");
        assert_eq!(sends(&fakes), 0);
    }
}

#[tokio::test]
async fn the_last_attempt_leaves_nobody_in_doubt() {
    let mut fakes = with_ada(InviteMode::Add, Basis::Import);
    fakes.attempt = fakes.max_attempts;
    seen(&fakes, Presence::Absent);
    fakes.telegram.add_to_chat(Err(unknown_outcome()));
    retried(run(&fakes).await);
    let state = fakes.outreach.state();
    assert_eq!(state.verdicts[0].1.class, VerdictClass::Unknown);
}

#[tokio::test]
async fn a_job_waits_ends_and_is_bounded_as_its_campaign_says() {
    let fakes = Fakes::new();
    let until = start_of_time() + TimeDelta::hours(8);
    let reason = WaitReason::new("quiet_hours", "It is night.");
    fakes.outreach.state().turn = Some(Turn::Wait { until, reason });
    assert_eq!(snoozed(run(&fakes).await).1.code, "quiet_hours");
    fakes.outreach.state().halted = Some("paused".into());
    let report: InviteResult = result(run(&fakes).await);
    assert_eq!(
        (report.ended, report.code.as_deref()),
        (InviteEnd::Halted, Some("paused"))
    );
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    fakes.outreach.list(ADA + 1, Basis::Contact);
    seen(&fakes, Presence::Member);
    let limited = InviteArgs {
        limit: Some(1),
        ..args()
    };
    let report: InviteResult = result(limited.run(&fakes.context()).await);
    assert_eq!(report.ended, InviteEnd::Limit);
    assert_eq!(fakes.outreach.state().waiting.len(), 1);
}

#[tokio::test]
async fn trouble_after_progress_costs_no_attempt() {
    let fakes = with_ada(InviteMode::Message, Basis::Contact);
    fakes.outreach.list(ADA + 1, Basis::Contact);
    seen(&fakes, Presence::Member);
    fakes.telegram.person(Err(unknown_outcome()));
    assert_eq!(snoozed(run(&fakes).await).1.code, "trouble");
}

#[tokio::test]
async fn without_a_campaign_there_is_nothing_to_do() {
    let fakes = Fakes::new();
    fakes.outreach.state().campaign = None;
    assert_eq!(discarded(run(&fakes).await).code, "campaign_not_found");
}

#[test]
fn people_are_named_by_name_or_id() {
    assert_eq!(
        parse_person("@Reading_Club"),
        Some(PersonRef::Username("reading_club".into()))
    );
    assert_eq!(parse_person(" 42 "), Some(PersonRef::Id(42)));
    for wrong in [
        "",
        "@",
        "@x",
        "bare",
        "-42",
        "0",
        "+999662",
        "99999999999999999999",
        "@1abc",
    ] {
        assert_eq!(parse_person(wrong), None, "{wrong}");
    }
    let args = InviteArgs {
        people: vec!["nobody".into()],
        ..args()
    };
    assert_eq!(args.validate().expect_err("no person").field, "args.people[0]");
}
