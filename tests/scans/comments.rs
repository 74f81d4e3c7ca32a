//! What was written under the posts of a channel.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn comments_are_read_with_their_posts() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (news, market) = (stack.chat("morning_news"), stack.chat("harbour_market"));
    let bob = stack.account("bob");
    stack.sandbox.controls().with_world(|world| {
        world.link_discussion(news, market).expect("linked");
        world.put_in(market, bob).expect("in the chat");
        for number in 0..130 {
            let text = format!("Comment {number}");
            world.comment_as(bob, news, 300, &text).expect("commented");
        }
        world.comment_as(bob, news, 297, "One more").expect("commented");
    });
    let args = |comments: Value| scan("comments", "@morning_news", json!({ "comments": comments }));
    let (id, result) = scanned(&stack, args(json!({ "last_posts": 5 }))).await;
    assert_eq!(
        (&result["counted"], &result["seen"], &result["complete"]),
        (&json!(131), &json!(131), &json!(true)),
        "{result}"
    );
    let path = format!("/v1/jobs/{id}/messages");
    assert_eq!(rows(&stack, &format!("{path}?post_id=300")).await.len(), 130);
    let one = rows(&stack, &format!("{path}?post_id=297")).await;
    assert_eq!((one.len(), &one[0]["text"]), (1, &json!("One more")));
    assert_ne!(
        one[0]["chat_id"], result["chat"]["id"],
        "they are in the discussion group"
    );
    // Named posts, of which one does not exist.
    let (_, named) = scanned(&stack, args(json!({ "posts": [297, 9999] }))).await;
    assert_eq!((&named["seen"], &named["new"]), (&json!(1), &json!(0)), "{named}");
    assert_eq!(
        (&named["complete"], &named["reason"]),
        (&json!(false), &json!("comments_closed"))
    );
    let counts = rows(
        &stack,
        &format!("/v1/chats/{}/counts?what=comments", result["chat"]["id"]),
    )
    .await;
    assert_eq!(counts.len(), 2);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_a_discussion_says_so() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (_, result) = scanned(&stack, scan("comments", "@morning_news", json!({}))).await;
    assert_eq!(
        (&result["seen"], &result["reason"]),
        (&json!(0), &json!("comments_closed")),
        "{result}"
    );
    assert_eq!(
        stack.fail("scan", scan("comments", "@harbour_market", json!({}))).await,
        "not_a_channel"
    );
    stack.finish().await;
}
