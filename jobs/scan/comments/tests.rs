//! Of which posts the comments are read, and where it goes on.

use super::*;
use crate::{
    Job as _,
    scan::ports::MessagePage,
    testing::{Fakes, chat_message, discarded, flood, message_page, result, scanned, snoozed, supergroup},
};

const CHANNEL: i64 = 1;

fn args(comments: CommentsArgs) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::Comments,
        chat: "@morning_news".into(),
        purpose: "What readers ask".into(),
        comments: Some(comments),
        ..ScanArgs::default()
    }
}

fn channel() -> Chat {
    Chat {
        chat_type: ChatType::Channel,
        ..supergroup(CHANNEL)
    }
}

fn with() -> Fakes {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(channel()));
    fakes
}

fn post(id: i32, replies: i32) -> ScannedMessage {
    ScannedMessage {
        replies: Some(replies),
        has_comments: true,
        ..scanned(chat_message(id, "No. 1"))
    }
}

fn posts(posts: Vec<ScannedMessage>) -> MessagePage {
    MessagePage {
        oldest: posts.last().map_or(0, |post| post.message.id),
        count: None,
        messages: posts,
    }
}

async fn run(fakes: &Fakes, args: &ScanArgs) -> Outcome {
    let outcome = args.run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "a page was not read: {outcome:?}");
    outcome
}

fn calls(fakes: &Fakes) -> Vec<String> {
    let mut journal = fakes.take_journal();
    journal.retain(|call| {
        ["messages ", "posts ", "comments ", "discussion "]
            .iter()
            .any(|name| call.starts_with(name))
    });
    journal
}

#[tokio::test]
async fn comments_are_read_post_by_post() {
    let fakes = with();
    fakes
        .telegram
        .messages(Ok(posts(vec![post(30, 120), post(29, 0), post(28, 2)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(121..=220, 120)));
    fakes.telegram.comments(Ok(message_page(101..=120, 120)));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(1..=2, 2)));
    let wanted = CommentsArgs {
        last_posts: Some(3),
        ..CommentsArgs::default()
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!(
        (scanned.counted, scanned.seen, scanned.complete, scanned.reason),
        (Some(122), 122, true, None)
    );
    assert_eq!(
        calls(&fakes),
        [
            "messages 0 3",
            "discussion 30",
            "comments 30 0 100",
            "comments 30 121 100",
            "discussion 28",
            "comments 28 0 100"
        ]
    );
    let state = fakes.store.state();
    let of_post = |wanted| {
        state
            .messages
            .values()
            .filter(|(post, _)| *post == Some(wanted))
            .count()
    };
    assert_eq!((of_post(30), of_post(28)), (120, 2));
    assert!(state.messages.keys().all(|(chat, _)| *chat == supergroup(2).id));
}

#[tokio::test]
async fn named_posts_are_looked_up_and_missing_ones_told() {
    let fakes = with();
    fakes.telegram.posts(Ok(vec![post(5, 1)]));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(9..=9, 1)));
    let wanted = CommentsArgs {
        posts: vec![4, 5, 5],
        last_posts: None,
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (1, false, Some(Incomplete::CommentsClosed))
    );
    assert_eq!(calls(&fakes)[0], "posts [5, 4]");
}

#[tokio::test]
async fn posts_without_comments_are_told() {
    let fakes = with();
    let closed = ScannedMessage {
        has_comments: false,
        ..post(3, 0)
    };
    fakes.telegram.messages(Ok(posts(vec![closed])));
    fakes.telegram.messages(Ok(MessagePage::default()));
    let scanned: ScanResult = result(run(&fakes, &args(CommentsArgs::default())).await);
    assert_eq!((scanned.seen, scanned.reason), (0, Some(Incomplete::CommentsClosed)));
}

#[tokio::test]
async fn a_flood_in_the_middle_of_a_post_goes_on_there() {
    let fakes = with();
    let wanted = args(CommentsArgs {
        last_posts: Some(2),
        ..CommentsArgs::default()
    });
    fakes.telegram.messages(Ok(posts(vec![post(30, 150), post(29, 1)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(51..=150, 150)));
    fakes.telegram.comments(Err(flood(30)));
    snoozed(run(&fakes, &wanted).await);
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(channel()));
    fakes.telegram.comments(Ok(message_page(1..=50, 150)));
    fakes.telegram.messages(Ok(posts(vec![post(29, 1)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(200..=200, 1)));
    let scanned: ScanResult = result(run(&fakes, &wanted).await);
    assert_eq!((scanned.seen, scanned.complete), (151, true), "{scanned:?}");
    assert_eq!(
        calls(&fakes),
        [
            "comments 30 51 100",
            "messages 30 1",
            "discussion 29",
            "comments 29 0 100"
        ]
    );
}

#[tokio::test]
async fn a_limit_cuts_and_says_so() {
    let fakes = with();
    fakes.telegram.messages(Ok(posts(vec![post(30, 150)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(141..=150, 150)));
    let limited = ScanArgs {
        limit: Some(10),
        ..args(CommentsArgs {
            last_posts: Some(1),
            ..CommentsArgs::default()
        })
    };
    let scanned: ScanResult = result(run(&fakes, &limited).await);
    assert_eq!((scanned.seen, scanned.reason), (10, Some(Incomplete::Limit)));
}

#[tokio::test]
async fn a_group_has_no_posts() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(supergroup(1)));
    let outcome = run(&fakes, &args(CommentsArgs::default())).await;
    assert_eq!(discarded(outcome).code, "not_a_channel");
}

#[tokio::test]
async fn a_limit_reached_before_the_last_post_is_told() {
    let fakes = with();
    fakes
        .telegram
        .messages(Ok(posts(vec![post(30, 10), post(29, 4), post(28, 0)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(141..=150, 10)));
    let limited = |limit, last_posts| ScanArgs {
        limit: Some(limit),
        ..args(CommentsArgs {
            last_posts: Some(last_posts),
            ..CommentsArgs::default()
        })
    };
    let scanned: ScanResult = result(run(&fakes, &limited(10, 3)).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (10, false, Some(Incomplete::Limit))
    );

    let fakes = with();
    fakes.telegram.messages(Ok(posts(vec![post(30, 10), post(28, 0)])));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(141..=150, 10)));
    let scanned: ScanResult = result(run(&fakes, &limited(10, 2)).await);
    assert_eq!(
        (scanned.seen, scanned.complete),
        (10, true),
        "nobody commented the last one"
    );

    let fakes = with();
    fakes.telegram.posts(Ok(vec![post(30, 10)]));
    fakes.telegram.discussion(Ok(Some(supergroup(2))));
    fakes.telegram.comments(Ok(message_page(141..=150, 10)));
    let named = ScanArgs {
        limit: Some(10),
        ..args(CommentsArgs {
            posts: vec![30],
            last_posts: None,
        })
    };
    let scanned: ScanResult = result(run(&fakes, &named).await);
    assert_eq!((scanned.seen, scanned.complete), (10, true), "there is no other post");
}
