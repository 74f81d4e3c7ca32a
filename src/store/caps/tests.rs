use chrono::TimeDelta;

use super::*;
use crate::cluster::testing::TestDatabase;

struct Bed {
    database: TestDatabase,
    session: SessionId,
}

impl Bed {
    /// One session, and a clock that stands still.
    async fn at(now: &str) -> Self {
        let database = TestDatabase::new().await;
        let bed = Self {
            database,
            session: SessionId::generate(),
        };
        sqlx::query("INSERT INTO sessions (id, label, pool, state, home_dc) VALUES ($1, 'a', 'default', 'ready', 2)")
            .bind(bed.session.0)
            .execute(bed.database.pool())
            .await
            .unwrap();
        bed.now(now).await;
        bed
    }

    async fn now(&self, now: &str) {
        let function = format!(
            "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''{now}''::timestamptz'"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(function))
            .execute(self.database.pool())
            .await
            .unwrap();
    }

    async fn cap(&self, capped: Capped, per_minute: i32, per_hour: i32, per_day: i32) {
        let cap = Cap {
            per_minute,
            per_hour,
            per_day,
        };
        let mut conn = self.database.pool().acquire().await.unwrap();
        set(&mut conn, Some(self.session), capped, cap, "key:test")
            .await
            .unwrap();
    }

    async fn take(&self, capped: Capped, opens: Option<i64>) -> Use {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let taken = take(&mut transaction, self.session, capped, 1, opens).await.unwrap();
        transaction.commit().await.unwrap();
        taken.used
    }

    /// So many messages by one call.
    async fn take_messages(&self, units: i32) -> Taken {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let taken = take(&mut transaction, self.session, Capped::Message, units, None).await;
        transaction.commit().await.unwrap();
        taken.unwrap()
    }

    /// A message to a person that is granted, and what gives it back.
    async fn message_to(&self, person: i64) -> Receipt {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let taken = take(&mut transaction, self.session, Capped::Message, 1, Some(person))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        taken.receipt.expect("granted")
    }

    async fn give_back(&self, receipt: &Receipt) {
        let mut transaction = self.database.pool().begin().await.unwrap();
        give_back(&mut transaction, self.session, receipt).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn used_today(&self, capped: Capped) -> i32 {
        let mut conn = self.database.pool().acquire().await.unwrap();
        let caps = of_session(&mut conn, self.session).await.unwrap();
        caps.iter().find(|cap| cap.capped == capped).unwrap().day_used
    }

    async fn spent(&self) -> Vec<Spent> {
        let mut conn = self.database.pool().acquire().await.unwrap();
        let spent = spent(&mut conn, &[self.session]).await.unwrap();
        spent.into_iter().map(|(_, spent)| spent).collect()
    }
}

fn spent_by(used: &Use) -> Option<(Window, String)> {
    let spent = match used {
        Use::Granted { spent } => spent.as_ref(),
        Use::Refused(spent) | Use::TooMany(spent) | Use::Never(spent) => Some(spent),
    };
    spent.map(|spent| (spent.window, spent.until.to_rfc3339()))
}

#[tokio::test]
async fn the_last_use_closes_its_window_and_the_next_one_opens_it() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Join, 2, 3, 10).await;
    assert_eq!(bed.take(Capped::Join, None).await, Use::Granted { spent: None });
    let last = bed.take(Capped::Join, None).await;
    let minute = (Window::Minute, "2026-11-20T10:01:00+00:00".to_owned());
    assert!(matches!(&last, Use::Granted { .. }));
    assert_eq!(spent_by(&last), Some(minute.clone()));
    let refused = bed.take(Capped::Join, None).await;
    assert!(matches!(&refused, Use::Refused(spent) if spent.left == Duration::from_secs(30) && spent.cap == 2));
    assert_eq!(bed.spent().await.len(), 1, "another holder knows it too");
    bed.now("2026-11-20T10:01:00Z").await;
    assert_eq!(bed.spent().await, []);
    let last = bed.take(Capped::Join, None).await;
    assert_eq!(
        spent_by(&last),
        Some((Window::Hour, "2026-11-20T11:00:00+00:00".to_owned()))
    );
    assert!(matches!(bed.take(Capped::Join, None).await, Use::Refused(_)));
    // Set back, a clock gives nothing new.
    bed.now("2026-11-20T09:00:00Z").await;
    assert!(matches!(bed.take(Capped::Join, None).await, Use::Refused(_)));
}

#[tokio::test]
async fn a_day_is_one_of_the_sessions_time_zone() {
    // 23:30 in Lisbon; the clocks went back that night in Auckland's spring, forward.
    let bed = Bed::at("2026-09-26T11:30:00Z").await;
    let mut conn = bed.database.pool().acquire().await.unwrap();
    assert!(set_time_zone(&mut conn, bed.session, "Pacific/Auckland").await.unwrap());
    drop(conn);
    bed.cap(Capped::Message, 10, 10, 1).await;
    let last = bed.take(Capped::Message, None).await;
    // Midnight there is 12:00Z; the day that begins then has 23 hours.
    assert_eq!(
        spent_by(&last),
        Some((Window::Day, "2026-09-26T12:00:00+00:00".to_owned()))
    );
    bed.now("2026-09-26T12:00:00Z").await;
    let last = bed.take(Capped::Message, None).await;
    assert_eq!(
        spent_by(&last),
        Some((Window::Day, "2026-09-27T11:00:00+00:00".to_owned()))
    );
}

#[tokio::test]
async fn of_racing_uses_no_more_are_granted_than_there_are() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Message, 100, 100, 7).await;
    let uses = futures::future::join_all((0..12).map(|_| bed.take(Capped::Message, None))).await;
    let granted = uses.iter().filter(|used| matches!(used, Use::Granted { .. })).count();
    assert_eq!(granted, 7);
}

#[tokio::test]
async fn a_first_message_counts_as_a_dialogue_and_both_are_counted_or_none() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Message, 3, 100, 100).await;
    bed.cap(Capped::Dialogue, 1, 100, 100).await;
    assert!(matches!(
        bed.take(Capped::Message, Some(1)).await,
        Use::Granted { spent: None }
    ));
    assert!(
        matches!(bed.take(Capped::Message, Some(1)).await, Use::Granted { .. }),
        "no new dialogue"
    );
    let refused = bed.take(Capped::Message, Some(2)).await;
    assert!(matches!(&refused, Use::Refused(spent) if spent.capped == Capped::Dialogue));
    // It was not counted as a message: there is one left.
    assert!(matches!(
        bed.take(Capped::Message, None).await,
        Use::Granted { spent: Some(_) }
    ));
    assert!(matches!(bed.take(Capped::Message, None).await, Use::Refused(spent) if spent.capped == Capped::Message));
    bed.now("2026-11-20T10:01:30Z").await;
    assert!(
        matches!(bed.take(Capped::Message, Some(2)).await, Use::Granted { .. }),
        "still a new one"
    );
}

#[tokio::test]
async fn a_first_message_that_never_left_is_given_back_with_its_dialogue_unless_there_is_one() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Message, 10, 100, 100).await;
    bed.cap(Capped::Dialogue, 1, 100, 100).await;
    let used = async || {
        (
            bed.used_today(Capped::Message).await,
            bed.used_today(Capped::Dialogue).await,
        )
    };
    let first = bed.message_to(1).await;
    assert_eq!(used().await, (1, 1));
    bed.give_back(&first).await;
    assert_eq!(used().await, (0, 0));
    // There is room for another person, and the first one would be new again.
    bed.message_to(2).await;
    let refused = bed.take(Capped::Message, Some(1)).await;
    assert!(matches!(&refused, Use::Refused(spent) if spent.capped == Capped::Dialogue));

    bed.now("2026-11-20T10:01:30Z").await;
    let opening = bed.message_to(3).await;
    let second = bed.message_to(3).await;
    assert_eq!(used().await, (3, 2));
    bed.give_back(&opening).await;
    assert_eq!(used().await, (2, 2), "the other message opened it");
    bed.give_back(&second).await;
    assert_eq!(used().await, (1, 2), "one too many, and never one too few");
}

#[tokio::test]
async fn a_raised_cap_opens_at_once_and_zero_forbids() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Invite, 1, 1, 1).await;
    bed.take(Capped::Invite, None).await;
    assert_eq!(bed.spent().await.len(), 1);
    bed.cap(Capped::Invite, 2, 2, 2).await;
    assert_eq!(bed.spent().await, []);
    assert!(matches!(
        bed.take(Capped::Invite, None).await,
        Use::Granted { spent: Some(_) }
    ));
    bed.cap(Capped::Join, 0, 10, 10).await;
    let Use::Refused(spent) = bed.take(Capped::Join, None).await else {
        panic!("it is forbidden");
    };
    assert_eq!(
        spent.until - TimeDelta::seconds(30),
        DateTime::parse_from_rfc3339("2026-11-20T10:00:30Z").unwrap()
    );
    let versions: i64 = sqlx::query_scalar("SELECT settings_version FROM sessions")
        .fetch_one(bed.database.pool())
        .await
        .unwrap();
    assert_eq!(versions, 3, "the holder looks again");
}

#[tokio::test]
async fn what_is_left_is_shown_for_this_moment() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Join, 2, 3, 10).await;
    bed.take(Capped::Join, None).await;
    bed.now("2026-11-20T10:02:00Z").await;
    let mut conn = bed.database.pool().acquire().await.unwrap();
    let caps = of_session(&mut conn, bed.session).await.unwrap();
    let join = caps.iter().find(|cap| cap.capped == Capped::Join).unwrap();
    assert_eq!((join.minute_used, join.hour_used, join.day_used), (0, 1, 1));
    assert!(!join.is_default && join.set_by.as_deref() == Some("key:test"));
    assert!(remove(&mut conn, bed.session, Capped::Join).await.unwrap());
    assert!(!remove(&mut conn, bed.session, Capped::Join).await.unwrap());
    let caps = of_session(&mut conn, bed.session).await.unwrap();
    assert!(caps.len() == 4 && caps.iter().all(|cap| cap.is_default));
}

#[tokio::test]
async fn a_call_of_many_messages_takes_as_many_uses() {
    let bed = Bed::at("2026-11-20T10:00:30Z").await;
    bed.cap(Capped::Message, 10, 60, 100).await;
    assert!(matches!(bed.take_messages(101).await.used, Use::Never(spent) if spent.cap == 100));
    // More than a minute allows, in one that has seen none.
    let album = bed.take_messages(40).await;
    assert!(matches!(&album.used, Use::Granted { spent: Some(spent) } if spent.window == Window::Minute));
    assert_eq!(bed.used_today(Capped::Message).await, 40);
    bed.now("2026-11-20T10:01:30Z").await;
    let refused = bed.take_messages(30).await.used;
    assert!(
        matches!(&refused, Use::TooMany(spent) if spent.window == Window::Hour),
        "{refused:?}"
    );
    assert_eq!(bed.spent().await, [], "one message may still go out");
    assert!(matches!(
        bed.take(Capped::Message, None).await,
        Use::Granted { spent: None }
    ));
    bed.now("2026-11-20T11:01:30Z").await;
    let refused = bed.take_messages(60).await.used;
    assert!(
        matches!(&refused, Use::TooMany(spent) if spent.window == Window::Day),
        "{refused:?}"
    );
    let last = bed.take_messages(59).await;
    assert!(matches!(&last.used, Use::Granted { spent: Some(spent) } if spent.window == Window::Day));
    bed.give_back(&last.receipt.expect("granted")).await;
    assert_eq!(bed.used_today(Capped::Message).await, 41);
    assert_eq!(bed.spent().await, []);
}
