//! Who gets which job.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wireroom::{
    ids::{JobId, SessionId, WorkerId},
    store::{
        claims::{ClaimRequest, ClaimedJob, Member, claim},
        jobs::NewJob,
        own_claims::claim_own,
    },
};
use wireroom_jobs::{Action, JobKind, Outcome};

use super::bed::{Bed, Counter, bulk, function, held, job, jobs};
use crate::support::wait::eventually;

fn ids(claimed: &[Box<ClaimedJob>]) -> BTreeSet<JobId> {
    claimed.iter().map(|job| job.id).collect()
}

fn of_kind(kind: JobKind) -> NewJob {
    NewJob::new(kind, json!({}))
}

fn member(session: SessionId, fence: i64, free: i32, group: usize) -> Member {
    Member {
        session,
        fence,
        free,
        group,
    }
}

#[tokio::test]
async fn a_claim_writes_the_fences_and_counts_the_attempt() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await;
    let job = &claimed[0];
    assert_eq!(
        (job.id, job.attempt, job.fence, job.session, job.session_fence),
        (id, 1, 1, session, fence)
    );
    let seen = bed.job(id).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.session_id),
        ("running", 1, Some(session.0))
    );
    assert!(bed.claim(worker, session, fence, "default", 1).await.is_empty());
}

#[tokio::test]
async fn pinned_jobs_go_to_their_session_and_pooled_ones_to_their_pools() {
    let bed = Bed::new().await;
    let worker = bed.worker().await;
    let [a, b, other] = [
        bed.session("default").await,
        bed.session("default").await,
        bed.session("other").await,
    ];
    let fences = [
        bed.lease(a, worker).await,
        bed.lease(b, worker).await,
        bed.lease(other, worker).await,
    ];
    let pinned = bed
        .enqueue_one(NewJob {
            session: Some(b),
            ..job()
        })
        .await;
    let pooled = bed.enqueue(&[job(), job(), job()]).await;
    let foreign = bed
        .enqueue_one(NewJob {
            pool: Some("other".into()),
            ..job()
        })
        .await;
    let request = ClaimRequest {
        worker,
        members: vec![
            member(a, fences[0], 2, 0),
            member(b, fences[1], 2, 0),
            member(other, fences[2], 5, 1),
        ],
        groups: vec![bulk("default", None), bulk("other", None)],
        take_suspect: true,
    };
    let claimed = bed.claim_with(&request).await;
    let by_session = claimed
        .iter()
        .fold(BTreeMap::<SessionId, BTreeSet<JobId>>::new(), |mut map, job| {
            map.entry(job.session).or_default().insert(job.id);
            map
        });
    assert_eq!(by_session[&other], BTreeSet::from([foreign]));
    assert!(by_session[&b].contains(&pinned));
    // Four slots for four jobs of the pool: one pinned to b, and the others where there is room.
    assert_eq!((by_session[&a].len(), by_session[&b].len()), (2, 2));
    assert!(
        pooled
            .iter()
            .all(|id| by_session[&a].contains(id) || by_session[&b].contains(id))
    );
}

#[tokio::test]
async fn a_pool_with_little_room_takes_its_first_jobs_pinned_or_not() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let pooled = bed.enqueue_one(job()).await;
    let pinned = bed
        .enqueue_one(NewJob {
            session: Some(session),
            ..job()
        })
        .await;
    assert_eq!(
        ids(&bed.claim(worker, session, fence, "default", 1).await),
        BTreeSet::from([pooled])
    );
    assert_eq!(
        ids(&bed.claim(worker, session, fence, "default", 1).await),
        BTreeSet::from([pinned])
    );
}

#[tokio::test]
async fn no_session_gets_more_than_its_free_slots() {
    let bed = Bed::new().await;
    let worker = bed.worker().await;
    let mut members = Vec::new();
    for free in [1, 2, 3] {
        let session = bed.session("default").await;
        members.push(member(session, bed.lease(session, worker).await, free, 0));
        bed.enqueue(&[0; 3].map(|_| NewJob {
            session: Some(session),
            ..job()
        }))
        .await;
    }
    bed.enqueue(&jobs(9)).await;
    let request = ClaimRequest {
        worker,
        members: members.clone(),
        groups: vec![bulk("default", None)],
        take_suspect: true,
    };
    let claimed = bed.claim_with(&request).await;
    for member in &members {
        let got = claimed.iter().filter(|job| job.session == member.session).count();
        assert_eq!(got, usize::try_from(member.free).unwrap());
    }
    assert_eq!(ids(&claimed).len(), 6);
}

#[tokio::test]
async fn a_closed_gate_leaves_its_kinds_where_they_are() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue(&[0; 5].map(|_| of_kind(JobKind::Publish))).await;
    bed.enqueue(&[0; 5].map(|_| NewJob {
        session: Some(session),
        ..of_kind(JobKind::Publish)
    }))
    .await;
    let scan = bed.enqueue_one(of_kind(JobKind::Scan)).await;
    let join = bed
        .enqueue_one(NewJob {
            session: Some(session),
            ..of_kind(JobKind::Join)
        })
        .await;
    let request = ClaimRequest {
        worker,
        members: vec![member(session, fence, 3, 0)],
        groups: vec![bulk("default", Some(vec![JobKind::Join, JobKind::Scan]))],
        take_suspect: true,
    };
    assert_eq!(ids(&bed.claim_with(&request).await), BTreeSet::from([scan, join]));
    assert_eq!(
        bed.count("SELECT count(*) FROM jobs WHERE fence > 0 AND kind = 'publish'")
            .await,
        0
    );
}

#[tokio::test]
async fn several_open_kinds_do_not_add_up_to_more_than_the_free_slots() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    for kind in [JobKind::Join, JobKind::Scan, JobKind::Join, JobKind::Scan] {
        bed.enqueue(&[
            of_kind(kind),
            NewJob {
                session: Some(session),
                ..of_kind(kind)
            },
        ])
        .await;
    }
    let request = ClaimRequest {
        worker,
        members: vec![member(session, fence, 3, 0)],
        groups: vec![bulk("default", Some(vec![JobKind::Join, JobKind::Scan]))],
        take_suspect: true,
    };
    assert_eq!(bed.claim_with(&request).await.len(), 3);
}

#[tokio::test]
async fn without_a_current_lease_nothing_is_claimed() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue(&[
        job(),
        NewJob {
            session: Some(session),
            ..job()
        },
    ])
    .await;
    let stranger = WorkerId::generate();
    assert!(bed.claim(stranger, session, fence, "default", 2).await.is_empty());
    assert!(bed.claim(worker, session, fence - 1, "default", 2).await.is_empty());
    bed.expire_lease(session).await;
    assert!(bed.claim(worker, session, fence, "default", 2).await.is_empty());
    let fence = bed.lease(session, worker).await;
    assert_eq!(bed.claim(worker, session, fence, "default", 2).await.len(), 2);
}

#[tokio::test]
async fn an_unknown_kind_waits_and_is_reported() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    bed.run("UPDATE jobs SET kind = 'teleport'").await;
    assert!(bed.claim(worker, session, fence, "default", 1).await.is_empty());
    assert_eq!(bed.job(id).await.state, "queued");
    let mut conn = bed.pool().acquire().await.unwrap();
    let unknown = wireroom::store::claims::unknown_kinds(&mut conn).await.unwrap();
    assert_eq!(unknown, [("teleport".to_owned(), 1)]);
}

#[tokio::test]
async fn a_job_past_its_deadline_is_not_claimed() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue_one(job()).await;
    bed.run("UPDATE jobs SET deadline = wireroom_now() - interval '1 second'")
        .await;
    assert!(bed.claim(worker, session, fence, "default", 1).await.is_empty());
}

#[tokio::test]
async fn of_suspects_one_is_taken_at_a_time() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue(&jobs(3)).await;
    bed.run("UPDATE jobs SET suspect = true").await;
    let fresh = bed.enqueue_one(job()).await;
    let claimed = bed.claim(worker, session, fence, "default", 10).await;
    assert_eq!(claimed.iter().filter(|job| job.suspect).count(), 1);
    assert!(ids(&claimed).contains(&fresh));
    let request = ClaimRequest {
        worker,
        members: vec![member(session, fence, 10, 0)],
        groups: vec![bulk("default", None)],
        take_suspect: false,
    };
    assert!(bed.claim_with(&request).await.is_empty());
}

#[tokio::test]
async fn two_dispatchers_never_run_one_job_twice() {
    let bed = Bed::new().await;
    let runs = Counter::default();
    let (seen, both) = watch::channel(BTreeSet::new());
    let runner = |name: u8| {
        let (runs, seen, both) = (runs.clone(), seen.clone(), both.clone());
        function(move |_| {
            runs.up();
            seen.send_modify(|names| {
                names.insert(name);
            });
            let mut both = both.clone();
            async move {
                // Neither can do it all alone.
                let _ = both.wait_for(|names| names.len() == 2).await;
                Outcome::Done(1.into())
            }
        })
    };
    let _first = bed.start(7, runner(1)).await;
    let _second = bed.start(7, runner(2)).await;
    for _ in 0..10 {
        bed.enqueue(&jobs(100)).await;
    }
    eventually(super::bed::BOUND, || async {
        let left = bed.count("SELECT count(*) FROM jobs").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(runs.get(), 1000);
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE attempt = 1 AND fence = 1")
            .await,
        1000
    );
    assert_eq!(
        bed.count("SELECT count(DISTINCT worker_id) FROM finished_jobs").await,
        2
    );
}

#[tokio::test]
async fn sessions_that_differ_in_their_gates_both_get_what_is_open_to_them() {
    let bed = Bed::new().await;
    let running = bed
        .start(
            1,
            function(|attempt| async move { Outcome::Done(attempt.session.id.to_string().into()) }),
        )
        .await;
    let gated = bed.session("default").await;
    let mut closed = held(gated, bed.lease(gated, running.worker).await, 1);
    closed.closed = BTreeSet::from([Action::Join]);
    let mut open = running.held.clone();
    open.lost = CancellationToken::new();
    running.sessions.replace(vec![open, closed]);
    let join = bed.enqueue_one(job()).await;
    let joined = bed.until_state(join, "succeeded").await;
    assert_eq!(joined.session_id, Some(running.session.0));
    let pinned = NewJob {
        session: Some(gated),
        ..of_kind(JobKind::Scan)
    };
    let scan = bed.enqueue_one(pinned).await;
    bed.until_state(scan, "succeeded").await;
}

/// What a job of [`claims::claim`] and of [`claim_own`] has in common.
fn gist(claimed: &[Box<ClaimedJob>]) -> Vec<(JobId, SessionId, i64, i64, i32, bool)> {
    let gist = |job: &Box<ClaimedJob>| {
        (
            job.id,
            job.session,
            job.session_fence,
            job.fence,
            job.attempt,
            job.pooled,
        )
    };
    claimed.iter().map(gist).collect()
}

#[tokio::test]
async fn a_claim_of_what_is_the_sessions_own_brings_what_any_claim_would_or_nothing() {
    let bed = Bed::new().await;
    let worker = bed.worker().await;
    let [a, b] = [bed.session("default").await, bed.session("default").await];
    let lost = bed.session("default").await;
    let fences = [bed.lease(a, worker).await, bed.lease(b, worker).await];
    let request = |open_kinds, take_suspect| ClaimRequest {
        worker,
        members: vec![
            member(a, fences[0], 3, 0),
            member(b, fences[1], 1, 0),
            member(lost, 1, 1, 0),
        ],
        groups: vec![bulk("default", open_kinds)],
        take_suspect,
    };
    let both = async |request: &ClaimRequest| {
        let mut conn = bed.pool().acquire().await.unwrap();
        let mut transaction = wireroom::store::begin(&mut conn, "test").await.unwrap();
        let own = claim_own(&mut transaction, request).await.unwrap();
        transaction.rollback().await.unwrap();
        let mut transaction = wireroom::store::begin(&mut conn, "test").await.unwrap();
        let any = claim(&mut transaction, request).await.unwrap();
        transaction.rollback().await.unwrap();
        (gist(&own), gist(&any))
    };
    for (nth, session) in [a, a, b, a, b, a, lost, b].into_iter().enumerate() {
        let job = NewJob {
            session: Some(session),
            priority: i16::try_from(nth % 3).unwrap(),
            kind: if nth == 2 { JobKind::Scan } else { JobKind::Join },
            ..job()
        };
        bed.enqueue_one(job).await;
    }
    let (own, any) = both(&request(None, true)).await;
    assert_eq!((own.len(), &own), (4, &any));
    // A gate that is closed for some kinds is for the other one.
    let (own, any) = both(&request(Some(vec![JobKind::Scan]), true)).await;
    assert_eq!((own.len(), any.len()), (0, 1));
    // So is what a worker died under, unless it is not asked for.
    bed.run("UPDATE jobs SET suspect = true WHERE kind = 'scan'").await;
    let (own, any) = both(&request(None, true)).await;
    assert_eq!((own.len(), any.len()), (0, 4));
    let (own, any) = both(&request(None, false)).await;
    assert_eq!((own.len(), &own), (4, &any));
    // And so is a pool's job, whatever its rank: it has to be weighed against the sessions' own.
    bed.enqueue_one(NewJob { priority: -9, ..job() }).await;
    let (own, any) = both(&request(None, false)).await;
    assert_eq!((own.len(), any.len()), (0, 4));
}
