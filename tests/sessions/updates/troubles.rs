//! What Telegram refuses of one sequence of updates, and what becomes of the others.

use super::*;

impl Scene<'_> {
    /// A watch of alice's private messages from here on.
    async fn watch_private(&self) {
        sqlx::query(
            "INSERT INTO watches (id, session_id, owner, events, filter, retention_days, filling)
            VALUES ($1, $2, $3, $4, '{}', 30, false)",
        )
        .bind(uuid::Uuid::now_v7())
        .bind(self.session.0)
        .bind(self.alice)
        .bind(EVERYTHING.map(str::to_owned).to_vec())
        .execute(&self.pool)
        .await
        .expect("stored");
    }

    fn write_to_alice(&self, text: &str) {
        let posted = self
            .sandbox
            .controls()
            .with_world(|world| world.post_as(self.writer, PeerKey::User(self.alice), text));
        posted.expect("posted");
    }

    /// Waits until a figure is this.
    async fn comes_to(&self, what: &str, sql: &'static str, figure: i64) {
        until(what, async || (self.figure(sql).await == figure).then_some(())).await;
    }
}

#[tokio::test]
async fn a_channel_that_is_not_given_now_holds_nothing_else_up() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    scene.watch_private().await;
    let refuse = |seconds| {
        let refused = Fault::once("updates.getChannelDifference", Effect::flood_wait(seconds));
        stage.world.sandbox.controls().add_fault(refused);
        scene.lose_updates(Some(1));
    };
    refuse(1);
    let texts = numbered("message", 4);
    scene.post_all(texts[..2].to_vec());
    scene.told_in_order(&texts[..2]).await;
    refuse(3_600);
    scene.post_all(texts[2..].to_vec());
    let floods = "SELECT count(*) FROM floods WHERE method = 'updates.getChannelDifference' AND seconds IN (1, 3600)";
    scene.comes_to("both floods are recorded", floods, 2).await;
    scene.write_to_alice("hello");
    let told = "SELECT count(*) FROM events WHERE data -> 'message' ->> 'text' = 'hello'";
    scene.comes_to("the private message is told", told, 1).await;
    scene.told_in_order(&texts[..2]).await;
    stage.end().await;
}

#[tokio::test]
async fn a_flood_about_one_channel_is_met_once_however_many_there_are() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch_private().await;
    let other = Scene {
        pool: scene.pool.clone(),
        chat: scene
            .sandbox
            .controls()
            .with_world(|world| world.find_peer("big_bazaar"))
            .expect("there"),
        ..scene
    };
    other.admit(scene.alice);
    other.reads(scene.session, other.channel()).await;
    let controls = stage.world.sandbox.controls();
    controls.add_fault(Fault::once("updates.getChannelDifference", Effect::flood_wait(3_600)).forever());
    let floods = "SELECT count(*) FROM floods WHERE method = 'updates.getChannelDifference'";
    for (chat, met) in [(&scene, 1), (&other, 1)] {
        chat.lose_updates(Some(1));
        chat.post("lost");
        chat.post("shows the gap");
        scene.comes_to("the flood is recorded", floods, met).await;
    }
    scene.write_to_alice("hello");
    let told = "SELECT count(*) FROM events WHERE data -> 'message' ->> 'text' = 'hello'";
    scene.comes_to("what came after the gaps is told", told, 1).await;
    assert_eq!(controls.calls().by_method.get("updates.getChannelDifference"), Some(&1));
    stage.end().await;
}

#[tokio::test]
async fn a_gap_of_the_account_goes_up_to_the_new_place() {
    const NO_PLACE: &str = "SELECT count(*) FROM session_update_states WHERE box = 0";
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch_private().await;
    let faults = stage.world.sandbox.controls();
    let lost = Effect::Error {
        code: 400,
        name: "PERSISTENT_TIMESTAMP_INVALID".to_owned(),
    };
    faults.add_fault(Fault::once("updates.getDifference", lost));
    let not_now = faults.add_fault(Fault {
        method: "updates.getState".to_owned(),
        account: None,
        count: None,
        effect: Effect::Error {
            code: 500,
            name: "INTERDC_CALL_ERROR".to_owned(),
        },
    });
    faults.drop_connections(Some(scene.alice));
    scene.comes_to("the place is forgotten", NO_PLACE, 0).await;
    // A watch that is filled by now is so without this message.
    sqlx::query("UPDATE watches SET filling = false")
        .execute(&scene.pool)
        .await
        .expect("filled");
    scene.write_to_alice("between");
    faults.remove_fault(not_now);
    scene.comes_to("the new place is stored", NO_PLACE, 1).await;
    let gaps = "SELECT count(*) FROM events WHERE type = 'watch.gap'";
    let filling = "SELECT count(*) FROM watches WHERE filling";
    assert_eq!((scene.figure(filling).await, scene.figure(gaps).await), (1, 1));
    stage.end().await;
}

#[tokio::test]
async fn a_channel_that_is_not_answered_or_not_readable_is_asked_again_and_holds_nothing_else_up() {
    for effect in [Effect::LoseAnswer, Effect::Unreadable] {
        let stage = Stage::with(1, |telegram| telegram.call_deadline = Duration::from_secs(1)).await;
        let scene = stage.scene().await;
        scene.watch().await;
        scene.watch_private().await;
        // However often it is asked until it is told what to do.
        let fault = Fault::once("updates.getChannelDifference", effect.clone());
        let controls = stage.world.sandbox.controls();
        let fault = controls.add_fault(fault.of(scene.alice).forever());
        let lost = scene.lose_updates(Some(1));
        let texts = numbered("message", 3);
        scene.post_all(texts[..2].to_vec());
        let asked = || controls.calls().by_method.get("updates.getChannelDifference").copied();
        until("it was asked", async || {
            (controls.faults().len() == 1 && asked().is_some()).then_some(())
        })
        .await;
        scene.find_updates(lost);
        scene.write_to_alice("hello");
        let told = "SELECT count(*) FROM events WHERE data -> 'message' ->> 'text' = 'hello'";
        scene.comes_to("the private message is told", told, 1).await;
        assert_eq!(scene.told().await, [], "the channel rests: {effect:?}");
        controls.remove_fault(fault);
        scene.post(&texts[2]);
        // Each rest is twice as long as the one before.
        eventually(Duration::from_mins(2), async || match scene.told().await {
            told if told.len() < texts.len() => Err(told),
            _ => Ok(()),
        })
        .await;
        scene.told_in_order(&texts).await;
        assert_eq!(
            scene
                .figure("SELECT count(*) FROM watches WHERE lost_reason IS NOT NULL")
                .await,
            0
        );
        stage.end().await;
    }
}

#[tokio::test]
async fn reactions_of_a_time_away_are_not_told_and_the_next_ones_are_whole() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let first = scene.post("a boat");
    scene.told_times(1).await;
    let react = |count| {
        let controls = stage.world.sandbox.controls();
        let reacted =
            controls.with_world(|world| world.react(scene.writer, scene.chat, first, &[("\u{1f44d}", count)]));
        reacted.expect("told");
    };
    let lost = scene.lose_updates(None);
    react(2);
    scene.post("unheard");
    scene.find_updates(lost);
    scene.post("heard");
    scene.told_times(3).await;
    react(3);
    let seen = scene.told_times(4).await;
    let types: Vec<&str> = seen.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(
        types,
        ["message.new", "message.new", "message.new", "message.reactions"]
    );
    let counted = "SELECT (data -> 'reactions' -> 0 ->> 'count')::bigint FROM events WHERE type = 'message.reactions'";
    assert_eq!(scene.figure(counted).await, 3);
    stage.end().await;
}
