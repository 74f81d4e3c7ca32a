//! What to ask for in a claim: which sessions have room, grouped so that one statement serves them all.

use std::{collections::BTreeSet, sync::Arc};

use wireroom_jobs::{Action, JobKind, Lane};

use super::{control::Control, ports::HeldSession};
use crate::{
    ids::{SessionId, WorkerId},
    store::claims::{ClaimRequest, Group, Member},
};

/// Most watches of one session in one claim.
const WATCHES: i32 = 10;

/// A worker's wish list for one claim.
pub struct Plan {
    pub request: ClaimRequest,
    /// Sessions of the same pool whose open kinds differ compete for the same jobs and take turns: there are more.
    pub more_turns: bool,
    /// Something that was left out (a session without room, or past the batch) may have ready jobs too.
    pub left_out: bool,
}

/// The facts a plan is made from.
pub struct Room<'a> {
    pub worker: WorkerId,
    pub held: &'a [Arc<HeldSession>],
    /// Which session is asked for first; it moves, so that equally free sessions share their pool's jobs.
    pub first: usize,
    /// Most slots of one claim.
    pub batch: i32,
    pub take_suspect: bool,
    /// What operators and admins hold back.
    pub control: &'a Control,
}

/// The lanes that some kind uses.
pub fn lanes() -> Vec<Lane> {
    let used = |lane: &Lane| JobKind::ALL.iter().any(|kind| kind.lane() == *lane);
    Lane::ALL.into_iter().filter(used).collect()
}

/// Plans the claim of one turn; `None` when no session of that turn has room. `taken` tells how many slots of a session
/// are in use.
pub fn plan(room: &Room<'_>, lanes: &[Lane], turn: usize, taken: impl Fn(SessionId, Lane) -> i32) -> Option<Plan> {
    let mut planner = Planner::new(room.control);
    let order = (0..room.held.len()).map(|n| &room.held[(room.first + n) % room.held.len()]);
    for session in order {
        for &lane in lanes {
            let free = session.slots.of(lane) - taken(session.id, lane);
            planner.offer(session, lane, free, turn, room.batch);
        }
    }
    if planner.members.is_empty() && !planner.more_turns {
        return None;
    }
    Some(Plan {
        request: ClaimRequest {
            worker: room.worker,
            members: planner.members,
            groups: planner.groups.into_iter().map(|variant| variant.group).collect(),
            take_suspect: room.take_suspect,
        },
        more_turns: planner.more_turns,
        left_out: planner.left_out,
    })
}

struct Variant {
    group: Group,
    closed: BTreeSet<Action>,
}

/// What tells sessions of one pool and lane apart: the closed actions, and whether they take jobs of the pool.
type Takes<'a> = (&'a BTreeSet<Action>, bool);

struct Planner<'a> {
    control: &'a Control,
    members: Vec<Member>,
    groups: Vec<Variant>,
    /// (pool, lane) and what its sessions met so far take, in order: the n-th gets the n-th turn.
    variants: Vec<(&'a str, Lane, Vec<Takes<'a>>)>,
    asked: i32,
    more_turns: bool,
    left_out: bool,
}

impl<'a> Planner<'a> {
    fn new(control: &'a Control) -> Self {
        Self {
            control,
            members: Vec::new(),
            groups: Vec::new(),
            variants: Vec::new(),
            asked: 0,
            more_turns: false,
            left_out: false,
        }
    }

    fn offer(&mut self, session: &'a HeldSession, lane: Lane, free: i32, turn: usize, batch: i32) {
        if session.slots.of(lane) <= 0 || session.lost.is_cancelled() || self.control.holds_session(session) {
            return;
        }
        // Before anything else, so that a session without room does not shift the turns of the others.
        let of_turn = self.turn_of(session, lane);
        if of_turn != turn {
            self.more_turns |= of_turn > turn;
            return;
        }
        if free <= 0 || self.asked >= batch {
            self.left_out = true;
            return;
        }
        let Some(group) = self.group_of(session, lane) else {
            return;
        };
        // A session has room for thousands of watches: by their number one would leave nothing of the batch for the others.
        let free = if lane == Lane::Watch {
            free.min(WATCHES)
        } else {
            free.min(batch - self.asked)
        };
        self.asked += if lane == Lane::Watch { 1 } else { free };
        self.members.push(Member {
            session: session.id,
            fence: session.fence,
            free,
            group,
        });
    }

    fn turn_of(&mut self, session: &'a HeldSession, lane: Lane) -> usize {
        let known = self
            .variants
            .iter()
            .position(|(pool, of_lane, _)| *pool == session.pool && *of_lane == lane);
        let index = known.unwrap_or_else(|| {
            self.variants.push((&session.pool, lane, Vec::new()));
            self.variants.len() - 1
        });
        let takes = (&session.closed, takes_pooled(session, lane));
        let met = &mut self.variants[index].2;
        met.iter().position(|known| *known == takes).unwrap_or_else(|| {
            met.push(takes);
            met.len() - 1
        })
    }

    /// The session's group in this claim, made when it is the first of it; `None` when every kind is closed to it.
    fn group_of(&mut self, session: &HeldSession, lane: Lane) -> Option<usize> {
        let known = self.groups.iter().position(|variant| {
            let group = &variant.group;
            group.lane == lane
                && group.pool == session.pool
                && group.pooled == takes_pooled(session, lane)
                && variant.closed == session.closed
        });
        if known.is_some() {
            return known;
        }
        let open_kinds = open_kinds(session, lane, self.control);
        if open_kinds.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        self.groups.push(Variant {
            group: Group {
                pool: session.pool.clone(),
                lane,
                open_kinds,
                pooled: takes_pooled(session, lane),
            },
            closed: session.closed.clone(),
        });
        Some(self.groups.len() - 1)
    }
}

/// Whether the session gets jobs of its pool in that lane, beside its own.
fn takes_pooled(session: &HeldSession, lane: Lane) -> bool {
    session.pooled && (session.watches || lane != Lane::Watch)
}

/// The kinds of a lane that no closed gate of the session and no pause keeps back; `None` when that is all of them, and
/// none is counted.
fn open_kinds(session: &HeldSession, lane: Lane, control: &Control) -> Option<Vec<JobKind>> {
    let of_lane = || JobKind::ALL.into_iter().filter(move |kind| kind.lane() == lane);
    let open: Vec<JobKind> = of_lane()
        .filter(|kind| !session.closed.contains(&kind.action()) && !control.holds_kind(*kind))
        .collect();
    let by_kind = open.len() < of_lane().count() || open.iter().any(|kind| control.counts_kind(*kind));
    by_kind.then_some(open)
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{
        queue::ports::Slots,
        store::pauses::{Pause, PauseScope},
    };

    fn session(pool: &str, bulk: i32, closed: &[Action]) -> Arc<HeldSession> {
        Arc::new(HeldSession {
            id: SessionId::generate(),
            pool: pool.to_owned(),
            fence: 1,
            slots: Slots {
                bulk,
                ..Slots::default()
            },
            closed: closed.iter().copied().collect(),
            pooled: true,
            watches: true,
            lost: CancellationToken::new(),
            leaving: CancellationToken::new(),
            in_use: TaskTracker::new(),
            watching: TaskTracker::new(),
        })
    }

    fn room(held: &[Arc<HeldSession>], batch: i32) -> Room<'_> {
        static NOTHING: std::sync::OnceLock<Control> = std::sync::OnceLock::new();
        Room {
            control: NOTHING.get_or_init(Control::default),
            worker: WorkerId::generate(),
            held,
            first: 0,
            batch,
            take_suspect: true,
        }
    }

    fn asked(plan: &Plan) -> i32 {
        plan.request.members.iter().map(|member| member.free).sum()
    }

    #[test]
    fn sessions_of_one_pool_share_a_group_and_the_batch_bounds_them() {
        let held = [session("a", 3, &[]), session("a", 3, &[]), session("b", 3, &[])];
        let plan = plan(&room(&held, 7), &lanes(), 0, |_, _| 1).expect("there is room");
        assert_eq!(plan.request.groups.len(), 2);
        let free: Vec<i32> = plan.request.members.iter().map(|member| member.free).collect();
        assert_eq!((free, plan.left_out), (vec![2, 2, 2], false));
        let plan = super::plan(&room(&held, 3), &lanes(), 0, |_, _| 1).expect("there is room");
        assert_eq!((asked(&plan), plan.left_out), (3, true));
    }

    #[test]
    fn room_for_thousands_of_watches_leaves_room_for_the_other_sessions() {
        let watching = |_| {
            Arc::new(HeldSession {
                slots: Slots {
                    bulk: 1,
                    watch: 10_000,
                    ..Slots::default()
                },
                ..HeldSession::clone(&session("a", 1, &[]))
            })
        };
        let held: Vec<_> = (0..12).map(watching).collect();
        let plan = plan(&room(&held, 100), &lanes(), 0, |_, _| 0).expect("there is room");
        let of = |lane: Lane| -> Vec<i32> {
            let members = plan.request.members.iter();
            let members = members.filter(|member| plan.request.groups[member.group].lane == lane);
            members.map(|member| member.free).collect()
        };
        assert_eq!(
            (of(Lane::Bulk), of(Lane::Watch), plan.left_out),
            (vec![1; 12], vec![WATCHES; 12], false)
        );
    }

    #[test]
    fn a_session_with_a_closed_gate_gets_its_open_kinds_in_a_turn_of_its_own() {
        let held = [session("a", 1, &[]), session("a", 1, &[Action::Send])];
        let first = plan(&room(&held, 10), &lanes(), 0, |_, _| 0).expect("there is room");
        assert_eq!(first.request.members.len(), 1);
        assert!(first.more_turns && first.request.groups[0].open_kinds.is_none());
        let second = plan(&room(&held, 10), &lanes(), 1, |_, _| 0).expect("there is room");
        assert_eq!(second.request.members[0].session, held[1].id);
        assert_eq!(
            second.request.groups[0].open_kinds.as_deref(),
            Some([JobKind::Join, JobKind::Scan, JobKind::Invite].as_slice())
        );
        assert!(!second.more_turns);
    }

    #[test]
    fn a_session_that_takes_no_jobs_of_its_pool_is_asked_for_its_own_in_a_turn_of_its_own() {
        let held = [session("a", 1, &[]), session("a", 1, &[])];
        let apart = Arc::new(HeldSession {
            pooled: false,
            ..HeldSession::clone(&held[1])
        });
        let held = [held[0].clone(), apart];
        let first = plan(&room(&held, 10), &lanes(), 0, |_, _| 0).expect("there is room");
        assert!(first.more_turns && first.request.groups[0].pooled);
        let second = plan(&room(&held, 10), &lanes(), 1, |_, _| 0).expect("there is room");
        assert_eq!(second.request.members[0].session, held[1].id);
        assert!(!second.request.groups[0].pooled && second.request.groups[0].open_kinds.is_none());
    }

    #[test]
    fn a_bot_takes_jobs_of_its_pool_but_no_watches() {
        let bot = Arc::new(HeldSession {
            slots: Slots {
                bulk: 1,
                watch: 1,
                ..Slots::default()
            },
            watches: false,
            ..HeldSession::clone(&session("a", 1, &[]))
        });
        let plan = plan(&room(&[bot], 10), &lanes(), 0, |_, _| 0).expect("there is room");
        let takes: Vec<(Lane, bool)> = plan
            .request
            .groups
            .iter()
            .map(|group| (group.lane, group.pooled))
            .collect();
        assert_eq!(takes, [(Lane::Bulk, true), (Lane::Watch, false)]);
    }

    #[test]
    fn nothing_is_asked_for_lost_full_or_closed_sessions() {
        let lost = session("a", 1, &[]);
        lost.lost.cancel();
        let closed = session("a", 1, &[Action::Join, Action::Send, Action::Read, Action::Invite]);
        assert!(plan(&room(&[lost, closed], 10), &lanes(), 0, |_, _| 0).is_none_or(|plan| asked(&plan) == 0));
        let full = [session("a", 1, &[])];
        assert!(plan(&room(&full, 10), &lanes(), 0, |_, _| 1).is_none());
        assert!(plan(&room(&[], 10), &lanes(), 0, |_, _| 0).is_none());
    }

    #[test]
    fn a_pause_leaves_out_what_it_names_and_nothing_else() {
        let held = [session("a", 1, &[]), session("a", 1, &[]), session("b", 1, &[])];
        let asked_under = |scope: PauseScope, target: String| {
            let control = Control::with_pauses(vec![Pause {
                scope,
                target,
                reason: "tests".to_owned(),
                until: None,
                paused_by: "key:test".to_owned(),
                paused_at: chrono::DateTime::UNIX_EPOCH,
            }]);
            let paused = Room {
                control: &control,
                ..room(&held, 10)
            };
            let plan = plan(&paused, &lanes(), 0, |_, _| 0)?;
            let kinds = plan.request.groups[0].open_kinds.clone();
            let sessions: Vec<SessionId> = plan.request.members.iter().map(|member| member.session).collect();
            Some((sessions, kinds))
        };
        assert_eq!(asked_under(PauseScope::Everything, String::new()), None);
        let (sessions, kinds) = asked_under(PauseScope::Pool, "a".to_owned()).expect("pool b works");
        assert_eq!((sessions, kinds), (vec![held[2].id], None));
        let (sessions, _) = asked_under(PauseScope::Session, held[0].id.to_string()).expect("the others work");
        assert_eq!(sessions, [held[1].id, held[2].id]);
        let (sessions, kinds) = asked_under(PauseScope::Kind, "join".to_owned()).expect("other kinds go on");
        assert_eq!(sessions.len(), 3);
        let others = [JobKind::Scan, JobKind::Publish, JobKind::Invite];
        assert_eq!(kinds.as_deref(), Some(others.as_slice()));
    }

    #[test]
    fn the_first_session_moves() {
        let held = [session("a", 1, &[]), session("a", 1, &[])];
        let moved = Room {
            first: 3,
            ..room(&held, 10)
        };
        let plan = plan(&moved, &lanes(), 0, |_, _| 0).expect("there is room");
        assert_eq!(plan.request.members[0].session, held[1].id);
    }
}
