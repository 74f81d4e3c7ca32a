//! What the door refuses, by field.

use chrono::{TimeZone, Utc};

use super::*;
use crate::{
    Job as _,
    scan::{Bound, Incomplete},
};

fn args() -> ScanArgs {
    ScanArgs {
        chat: "@reading_club".into(),
        purpose: "Yearly count".into(),
        ..ScanArgs::default()
    }
}

fn filtered(filter: MemberFilter, query: Option<&str>) -> ScanArgs {
    ScanArgs {
        members: Some(MembersArgs {
            filter,
            query: query.map(str::to_owned),
            by_letters: false,
        }),
        ..args()
    }
}

fn history(history: HistoryArgs) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::History,
        history: Some(history),
        ..args()
    }
}

fn comments(posts: &[i32], last_posts: Option<i32>) -> ScanArgs {
    let posts = posts.to_vec();
    ScanArgs {
        what: ScanWhat::Comments,
        comments: Some(CommentsArgs { posts, last_posts }),
        ..args()
    }
}

fn search(queries: &[&str]) -> SearchArgs {
    SearchArgs {
        queries: queries.iter().map(|query| (*query).to_owned()).collect(),
        ..SearchArgs::default()
    }
}

fn chats(search: SearchArgs) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::Chats,
        chat: String::new(),
        search: Some(search),
        ..args()
    }
}

fn refused(cases: Vec<(ScanArgs, &str)>) {
    for (wrong, field) in cases {
        assert_eq!(wrong.validate().unwrap_err().field, field, "{wrong:?}");
    }
}

#[test]
fn what_is_said_of_another_kind_of_scan_is_refused() {
    let of_members = |other: ScanArgs| ScanArgs {
        what: ScanWhat::Members,
        chat: "@reading_club".into(),
        ..other
    };
    let of_history = ScanArgs {
        what: ScanWhat::History,
        ..filtered(MemberFilter::Bots, None)
    };
    let nothing = ScanArgs {
        search: None,
        ..chats(search(&["chess"]))
    };
    let with_chat = ScanArgs {
        chat: "@reading_club".into(),
        ..chats(search(&["chess"]))
    };
    refused(vec![
        (of_history, "args.members"),
        (of_members(history(HistoryArgs::default())), "args.history"),
        (of_members(comments(&[], None)), "args.comments"),
        (of_members(chats(search(&["chess"]))), "args.search"),
        (nothing, "args.search"),
        (with_chat, "args.chat"),
    ]);
}

#[test]
fn a_wrong_list_of_members_is_named() {
    let mut letters = filtered(MemberFilter::Bots, None);
    letters.members = letters.members.map(|members| MembersArgs {
        by_letters: true,
        ..members
    });
    refused(vec![
        (filtered(MemberFilter::Search, None), "args.members.query"),
        (filtered(MemberFilter::Bots, Some("a")), "args.members.query"),
        (filtered(MemberFilter::Search, Some(" ")), "args.members.query"),
        (letters, "args.members.by_letters"),
    ]);
}

#[test]
fn a_wrong_part_of_a_history_is_named() {
    let day = |day| Utc.with_ymd_and_hms(2026, 1, day, 0, 0, 0).single();
    let part = |(from, to), (min_id, max_id), last| {
        history(HistoryArgs {
            from,
            to,
            min_id,
            max_id,
            last,
            media: vec![],
        })
    };
    let none: (Option<i32>, Option<i32>) = (None, None);
    assert_eq!(part((day(1), day(2)), (Some(1), Some(1)), Some(1)).validate(), Ok(()));
    refused(vec![
        (part((day(2), day(1)), none, None), "args.history.from"),
        (part((None, None), (Some(0), None), None), "args.history.min_id"),
        (part((None, None), (None, Some(-1)), None), "args.history.max_id"),
        (part((None, None), (Some(2), Some(1)), None), "args.history.min_id"),
        (part((None, None), none, Some(0)), "args.history.last"),
    ]);
}

#[test]
fn wrong_posts_and_searches_are_named() {
    assert_eq!(comments(&[], None).validate(), Ok(()));
    assert_eq!(chats(search(&["chess"])).validate(), Ok(()));
    let standing = SearchArgs {
        standing: Some("My search".into()),
        ..search(&["chess"])
    };
    let few = SearchArgs {
        min_members: Some(0),
        ..search(&["chess"])
    };
    let nobody = ScanArgs {
        what: ScanWhat::Profile,
        chat: "0".into(),
        ..args()
    };
    let person = ScanArgs {
        chat: "777000".into(),
        ..nobody.clone()
    };
    assert_eq!(person.validate(), Ok(()));
    refused(vec![
        (comments(&[1], Some(1)), "args.comments.last_posts"),
        (comments(&[1, 0], None), "args.comments.posts[1]"),
        (comments(&[], Some(1_001)), "args.comments.last_posts"),
        (chats(search(&[])), "args.search.queries"),
        (chats(search(&["chess", "a"])), "args.search.queries[1]"),
        (chats(standing), "args.search.standing"),
        (chats(few), "args.search.min_members"),
        (nobody, "args.chat"),
    ]);
}

#[test]
fn no_scan_is_without_a_bound() {
    assert_eq!(args().bound(), (MAX_ROWS, false));
    let limited = |limit| ScanArgs {
        limit: Some(limit),
        ..args()
    };
    assert_eq!(limited(500).bound(), (500, true));
    assert_eq!(limited(MAX_ROWS + 1).bound(), (MAX_ROWS, false));
    assert_eq!(Bound::new(&limited(MAX_ROWS + 1)).reason(), Incomplete::RowBound);
}

#[test]
fn the_door_names_the_field_that_is_wrong() {
    assert_eq!(args().validate(), Ok(()));
    for (wrong, field) in [
        (
            ScanArgs {
                chat: "reading_club".into(),
                ..args()
            },
            "args.chat",
        ),
        (
            ScanArgs {
                purpose: "  ".into(),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                purpose: "a\0b".into(),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                purpose: "я".repeat(201),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                retention_days: 0,
                ..args()
            },
            "args.retention_days",
        ),
        (
            ScanArgs {
                retention_days: 366,
                ..args()
            },
            "args.retention_days",
        ),
        (
            ScanArgs {
                limit: Some(0),
                ..args()
            },
            "args.limit",
        ),
    ] {
        assert_eq!(wrong.validate().unwrap_err().field, field);
    }
    assert_eq!(
        ScanArgs {
            purpose: "я".repeat(200),
            ..args()
        }
        .validate(),
        Ok(())
    );
}
