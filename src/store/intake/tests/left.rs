//! What the stream says of messages while the history is read, which may have been read before it.

use super::*;

impl Bed {
    /// The texts that were told as new, and how often each type was.
    async fn told_texts(&self) -> Vec<(String, String)> {
        let told = self.told().await.into_iter().map(|(event, data)| {
            let text = data["message"]["text"].as_str().unwrap_or_default().to_owned();
            (event, text)
        });
        told.collect()
    }

    async fn fills(&self) {
        self.execute("UPDATE watches SET filling = true").await;
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.pool()).await.unwrap();
    }

    async fn finish(&self, watch: Uuid) -> bool {
        let mut connection = self.pool().acquire().await.unwrap();
        let gaps = self.state(watch).await.gaps;
        finish_filling(&mut connection, self.lease, watch, gaps).await.unwrap()
    }
}

const KEPT: &str = "SELECT count(*) FROM watch_changes";

fn gone(chat: Option<i64>, ids: &[i32]) -> Incoming {
    Incoming::Deleted {
        chat,
        message_ids: ids.to_vec(),
    }
}

fn told(event: &str, text: &str) -> (String, String) {
    (event.to_owned(), text.to_owned())
}

fn counted(count: i32) -> Vec<Reaction> {
    vec![Reaction {
        reaction: "👍".into(),
        count,
    }]
}

#[tokio::test]
async fn what_becomes_of_a_message_between_the_reading_of_a_page_and_its_storing_is_not_undone() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    bed.fills().await;
    bed.told().await;
    let page: Vec<Message> = (6..=9).map(|id| said(id, "hello")).collect();
    let reacted = Incoming::Reactions {
        chat: CHAT,
        message_id: 9,
        reactions: counted(2),
    };
    bed.take(vec![
        new(6),
        Incoming::Edited(edit(6, "hello there")),
        gone(Some(CHAT), &[7]),
        reacted,
    ])
    .await;
    // In another transaction, after a crash for all that is known.
    bed.take(vec![Incoming::Edited(edit(6, "hello there, you"))]).await;
    assert_eq!(bed.told_ids().await, [], "they were not told yet");
    assert_eq!(bed.history(watch, &page, Some(9)).await, 3);
    let told_of = bed.told().await;
    assert_eq!(told_of[2].1["message"]["reactions"], json!(counted(2)));
    let texts: Vec<&Value> = told_of.iter().map(|(_, data)| &data["message"]["text"]).collect();
    assert_eq!(texts, ["hello there, you", "hello", "hello"]);
    assert!(told_of.iter().all(|(event, _)| event == "message.new"));
    let stored = "SELECT count(*) FROM messages WHERE content ->> 'text' = 'hello there, you' OR message_id = 7";
    assert_eq!(bed.figure(stored).await, 1);
    // What was brought is as the stream says, so that is told no more.
    bed.take(vec![Incoming::Edited(edit(6, "hello there, you"))]).await;
    assert!(bed.finish(watch).await);
    assert_eq!(bed.told_ids().await, []);
    assert_eq!(bed.figure(KEPT).await, 0, "nothing is kept of it");
}

#[tokio::test]
async fn the_later_of_a_page_and_the_stream_holds() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    bed.fills().await;
    let long = edit(5, "a text that was edited later");
    bed.take(vec![
        Incoming::Edited(edit(5, "early")),
        Incoming::Edited(edit(6, "first")),
        gone(Some(CHAT), &[6]),
        Incoming::Edited(edit(6, "cannot be")),
    ])
    .await;
    bed.history(watch, &[long, said(6, "first")], Some(6)).await;
    assert_eq!(
        bed.told_texts().await,
        [told("message.new", "a text that was edited later")]
    );
    // A session that is behind tells of an edit that was overtaken.
    bed.take(vec![Incoming::Edited(edit(5, "early"))]).await;
    assert_eq!(bed.told_ids().await, []);
    let hidden = Message {
        edited_at: None,
        ..said(5, "Telegram does not show when")
    };
    bed.take(vec![Incoming::Edited(hidden)]).await;
    assert_eq!(
        bed.told_texts().await,
        [told("message.edited", "Telegram does not show when")]
    );
}

#[tokio::test]
async fn deletions_without_a_chat_reach_the_watches_of_the_accounts_own_chats_that_fill() {
    let mut bed = Bed::new().await;
    let private = bed.watch(None, json!({})).await;
    let group = bed.watch(Some(GROUP), json!({})).await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.fills().await;
    bed.take(vec![gone(None, &[5, 6])]).await;
    assert_eq!(bed.figure(KEPT).await, 4, "the supergroup numbers its own");
    let of = |id, chat_id| Message {
        chat_id,
        ..said(id, "hi")
    };
    bed.history(private, &[of(5, PERSON), of(8, PERSON)], Some(8)).await;
    bed.history(group, &[of(6, GROUP), of(7, GROUP)], Some(8)).await;
    assert_eq!(bed.told_ids().await, events("message.new", [8, 7]));
    assert_eq!(bed.figure("SELECT count(*) FROM messages").await, 2);
}

#[tokio::test]
async fn nothing_is_kept_of_messages_that_the_history_does_not_bring() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![
        new(5),
        gone(Some(CHAT), &[77]),
        Incoming::Edited(edit(9, "early")),
    ])
    .await;
    bed.fills().await;
    bed.take(vec![gone(Some(CHAT), &[3])]).await;
    assert_eq!(bed.figure(KEPT).await, 0);
    // A watch that has ended, or filled otherwise, keeps none either.
    bed.take(vec![gone(Some(CHAT), &[8])]).await;
    bed.execute("UPDATE watches SET state = 'stopped'").await;
    let mut connection = bed.pool().acquire().await.unwrap();
    crate::store::watches::expire(&mut connection, 30, 100).await.unwrap();
    assert_eq!(bed.figure(KEPT).await, 0);
}

#[tokio::test]
async fn numbers_of_another_account_say_nothing_about_the_place() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(GROUP), json!({})).await;
    bed.execute("UPDATE watches SET filling = true, renumbered = true, last_message_id = 900, begun_after = 900")
        .await;
    let of = |message: Message| Message {
        chat_id: GROUP,
        ..message
    };
    bed.take(vec![
        Incoming::New(of(said(41, "hello"))),
        Incoming::Edited(of(edit(41, "hello you"))),
    ])
    .await;
    assert_eq!(bed.told_ids().await, [], "it is the history's");
    bed.execute("UPDATE watches SET renumbered = false, last_message_id = 40, begun_after = 40")
        .await;
    bed.history(watch, &[of(said(41, "hello"))], Some(41)).await;
    assert_eq!(bed.told_texts().await, [told("message.new", "hello you")]);
}
