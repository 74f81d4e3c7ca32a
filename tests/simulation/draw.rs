//! What is done, drawn from a seed: operations, faults, and the pauses between them. Nothing here looks at what runs, so the
//! same seed draws the same list, and a longer list begins with the shorter one.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::plan::{
    ACCOUNTS, Draft, Harm, Op, Place, Plan, SLOTS, Scope, SlotState, Step, Unique, WATCHED, Work, settled,
};

const CHATS: [&str; 3] = ["@harbour_market", "@big_bazaar", "@slow_pier"];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Chatham"];
/// Evenings before clocks are set forward or back, in one of the zones or another.
const EVES: [&str; 5] = [
    "2027-03-13T22:00:00Z",
    "2027-03-27T20:00:00Z",
    "2027-04-03T10:00:00Z",
    "2027-10-30T20:00:00Z",
    "2027-11-06T22:00:00Z",
];
const CRONS: [&str; 7] = [
    "* * * * *",
    "*/5 * * * *",
    "7 * * * *",
    "30 2 * * *",
    "0 1,2,3 * * *",
    "*/20 * * * * *",
    "15 9 * * mon-fri",
];
const METHODS: [&str; 13] = [
    "messages.sendMessage",
    "messages.sendMessage",
    "messages.sendMessage",
    "messages.sendMessage",
    "channels.joinChannel",
    "channels.getParticipants",
    "contacts.resolveUsername",
    "channels.getParticipant",
    "channels.inviteToChannel",
    "messages.getHistory",
    "updates.getChannelDifference",
    "messages.search",
    "*",
];
/// Steps from one settling to the next, at most.
const SETTLE_EVERY: usize = 25;

/// The first `steps` of a seed. Two workers are up at the start; the last step settles.
pub fn steps(seed: u64, steps: usize) -> Vec<Step> {
    let mut draw = Draw {
        rng: ChaCha8Rng::seed_from_u64(seed),
        jobs: 0,
        schedules: Vec::new(),
        watches: 0,
        campaigns: 0,
        is_watching: false,
        is_inviting: false,
        then: None,
        slots: [SlotState::Up, SlotState::Up, SlotState::Down],
        since_settle: 0,
        has_begun: false,
    };
    let mut list: Vec<Step> = (0..steps).map(|_| draw.step()).collect();
    if list.last().is_some_and(|step| step.op != Op::Settle) {
        list.push(Step {
            op: Op::Settle,
            wait_ms: 0,
        });
    }
    list
}

struct Draw {
    rng: ChaCha8Rng,
    jobs: usize,
    /// By number, whether it is still there.
    schedules: Vec<bool>,
    watches: usize,
    campaigns: usize,
    /// Since the last settling, which ends both.
    is_watching: bool,
    is_inviting: bool,
    /// What comes next, whatever else.
    then: Option<Op>,
    slots: [SlotState; SLOTS],
    since_settle: usize,
    has_begun: bool,
}

impl Draw {
    fn step(&mut self) -> Step {
        self.since_settle += 1;
        let op = if !std::mem::replace(&mut self.has_begun, true) && self.rng.random_bool(0.7) {
            Op::LeapTo(self.pick(&EVES))
        } else if self.since_settle >= SETTLE_EVERY {
            self.since_settle = 0;
            self.slots = settled(self.slots);
            (self.is_watching, self.is_inviting) = (false, false);
            Op::Settle
        } else {
            self.then.take().unwrap_or_else(|| self.op())
        };
        let wait_ms = match self.rng.random_range(0..10) {
            0..4 => 0,
            4..8 => self.rng.random_range(1..150),
            _ => self.rng.random_range(150..700),
        };
        Step { op, wait_ms }
    }

    fn op(&mut self) -> Op {
        match self.rng.random_range(0..100) {
            0..20 => self.enqueue(),
            20..26 => self.about_a_job(),
            26..34 => self.about_a_schedule(),
            34..40 => self.advance(),
            40..46 => self.control(),
            46..58 => self.telegram(),
            58..74 => self.about_a_watch(),
            74..83 => self.about_outreach(),
            _ => self.worker(),
        }
    }

    fn enqueue(&mut self) -> Op {
        match self.rng.random_range(0..10) {
            0 => {
                let draft = Draft {
                    keyed: true,
                    ..self.draft()
                };
                Op::Twice(draft)
            }
            1 | 2 => {
                let count = self.rng.random_range(2..12);
                Op::Batch {
                    jobs: (0..count).map(|_| self.draft()).collect(),
                    per_item: self.rng.random(),
                }
            }
            _ => Op::Enqueue(self.draft()),
        }
    }

    fn about_a_job(&mut self) -> Op {
        if self.jobs == 0 {
            return Op::Enqueue(self.draft());
        }
        let recent = self.jobs.saturating_sub(12)..self.jobs;
        let job = self.rng.random_range(recent);
        match self.rng.random_range(0..10) {
            0..4 => Op::Cancel(job),
            4..6 => Op::Retry(job),
            6 => Op::Again(job),
            7 => Op::Clash(job),
            _ => Op::Change {
                job,
                priority: self.maybe(0.6, |rng| rng.random_range(-100..=100)),
                run_in: self.maybe(0.5, |rng| rng.random_range(-5..600)),
            },
        }
    }

    fn about_a_schedule(&mut self) -> Op {
        let there: Vec<usize> = (0..self.schedules.len()).filter(|at| self.schedules[*at]).collect();
        let some = there.choose(&mut self.rng).copied();
        let Some(schedule) = some.filter(|_| there.len() >= 4 || self.rng.random_bool(0.4)) else {
            self.schedules.push(true);
            return Op::Schedule(self.plan());
        };
        match self.rng.random_range(0..10) {
            0..3 => Op::PauseSchedule(schedule),
            3..6 => Op::ResumeSchedule(schedule),
            6 => Op::RunSchedule(schedule),
            7 | 8 => Op::Recast {
                schedule,
                cron: self.pick(&CRONS),
                zone: self.pick(&ZONES),
            },
            _ => {
                self.schedules[schedule] = false;
                Op::DeleteSchedule(schedule)
            }
        }
    }

    fn about_a_watch(&mut self) -> Op {
        let session = self.rng.random_range(0..ACCOUNTS.len());
        let chat = self.pick(&WATCHED);
        if self.rng.random_bool(0.15) || !self.is_watching {
            self.is_watching = true;
            self.watches += 1;
            return Op::Watch { chat, session };
        }
        let watch = self.rng.random_range(self.watches.saturating_sub(4)..self.watches);
        match self.rng.random_range(0..10) {
            0..6 => Op::Say {
                chat,
                count: self.rng.random_range(1..20),
            },
            6 => Op::SwitchWatch { watch, session },
            7 if self.rng.random_bool(0.5) => Op::StopWatch(watch),
            7 | 8 => Op::PutOut(session),
            _ => Op::LetIn(session),
        }
    }

    fn about_outreach(&mut self) -> Op {
        if self.rng.random_bool(0.3) || !self.is_inviting {
            self.is_inviting = true;
            self.campaigns += 1;
            return Op::Campaign {
                place: self.place(),
                adds: self.rng.random_bool(0.4),
                starts: self.rng.random(),
                people: self.rng.random_range(1..7),
            };
        }
        let campaign = self.rng.random_range(self.campaigns.saturating_sub(3)..self.campaigns);
        match self.rng.random_range(0..10) {
            0 | 1 => Op::PauseCampaign(campaign),
            2..4 => Op::ResumeCampaign(campaign),
            4..8 => Op::Suppress {
                campaign,
                person: self.rng.random_range(0..6),
                by_name: self.rng.random(),
            },
            8 => {
                // Somebody must be due for a stop to hold anything up.
                self.then = Some(Op::ResumeCampaign(campaign));
                Op::StopOutreach
            }
            _ => Op::ResumeOutreach,
        }
    }

    fn advance(&mut self) -> Op {
        Op::Advance(match self.rng.random_range(0..10) {
            0..4 => self.rng.random_range(1..30),
            4..7 => self.rng.random_range(30..900),
            7 | 8 => self.rng.random_range(900..4 * 3600),
            // Over days, also those on which clocks change.
            _ => self.rng.random_range(4 * 3600..60 * 3600),
        })
    }

    fn control(&mut self) -> Op {
        let scope = match self.rng.random_range(0..6) {
            0 => Scope::Everything,
            1 => Scope::Pool(self.pick(&["default", "outreach"])),
            2 => Scope::Session(self.rng.random_range(0..ACCOUNTS.len())),
            _ => Scope::Kind(self.pick(&["publish", "join", "scan", "invite", "monitor"])),
        };
        match self.rng.random_range(0..10) {
            0..3 => Op::Pause {
                scope,
                seconds: self.maybe(0.5, |rng| rng.random_range(1..120)),
            },
            3..6 => Op::Resume(scope),
            6..8 => {
                let scope = match scope {
                    Scope::Kind(_) | Scope::Pool(_) => scope,
                    _ => Scope::Pool("default"),
                };
                Op::LimitRunning {
                    scope,
                    most: self.maybe(0.7, |rng| rng.random_range(0..4)),
                }
            }
            _ => Op::LimitRate {
                key: self.pick(&["campaign", "campaign:a"]),
                rate: self.maybe(0.7, |rng| (rng.random_range(1..5), rng.random_range(1..60))),
            },
        }
    }

    fn telegram(&mut self) -> Op {
        let session = self.rng.random_range(0..ACCOUNTS.len());
        match self.rng.random_range(0..15) {
            0 => Op::Disconnect(session),
            1 => Op::Silence(session),
            2 => Op::ForgetRandomIds,
            3..6 => Op::Slow(self.rng.random_range(100..700)),
            _ => Op::Fault {
                session: self.maybe(0.6, |_| session),
                method: self.pick(&METHODS),
                harm: self.harm(),
                times: self.rng.random_range(1..4),
            },
        }
    }

    fn harm(&mut self) -> Harm {
        match self.rng.random_range(0..17) {
            0..3 => Harm::Flood(*[1, 2, 5, 40, 900].choose(&mut self.rng).unwrap_or(&1)),
            3 => Harm::Error(500, "INTERNAL"),
            4 => Harm::Error(400, "CHAT_WRITE_FORBIDDEN"),
            5 => Harm::ErrorAfter(500, "INTERNAL"),
            6 | 7 => Harm::LoseAnswer,
            8 => Harm::Drop,
            9..12 => Harm::DropAfter,
            12 => Harm::Blackhole,
            13 | 14 => Harm::BlackholeAfter,
            _ => Harm::Delay(self.rng.random_range(50..2500)),
        }
    }

    fn worker(&mut self) -> Op {
        let slot = self.rng.random_range(0..SLOTS);
        let free = (0..SLOTS).find(|at| self.slots[*at] == SlotState::Down);
        let (op, state) = match self.slots[slot] {
            SlotState::Down => (Op::Start(slot), SlotState::Up),
            SlotState::Frozen => (Op::Thaw(slot), SlotState::Up),
            SlotState::Cut | SlotState::Stalled if self.rng.random_bool(0.8) => (Op::HealDatabase(slot), SlotState::Up),
            SlotState::Cut | SlotState::Stalled => (Op::Kill(slot), SlotState::Down),
            SlotState::Up => match (self.rng.random_range(0..9), free) {
                (0..3, _) => (Op::Kill(slot), SlotState::Down),
                (3, Some(new)) => {
                    self.slots[new] = SlotState::Up;
                    (Op::Deploy { old: slot, new }, SlotState::Down)
                }
                (4 | 5, _) => (Op::CutDatabase(slot), SlotState::Cut),
                (6, _) => (Op::StallDatabase(slot), SlotState::Stalled),
                (7, _) => (Op::Freeze(slot), SlotState::Frozen),
                _ => (Op::Stop(slot), SlotState::Down),
            },
        };
        self.slots[slot] = state;
        op
    }

    fn draft(&mut self) -> Draft {
        self.jobs += 1;
        let place = self.place();
        let unique = self.maybe(0.15, |rng| {
            let scope = *["queued", "live", "live", "period"].choose(rng).unwrap_or(&"live");
            Unique {
                key: rng.random_range(0..3),
                scope,
                seconds: (scope == "period").then(|| rng.random_range(1..3600)),
                on_conflict: ["reject", "return_existing", "replace"]
                    .choose(rng)
                    .unwrap_or(&"reject"),
            }
        });
        Draft {
            work: self.work(),
            place,
            priority: self.rng.random_range(-100..=100),
            run_in: self.maybe(0.2, |rng| rng.random_range(1..900)),
            deadline_in: self.maybe(0.1, |rng| rng.random_range(901..7200)),
            attempts: self.maybe(0.3, |rng| rng.random_range(1..4)),
            limit_key: self.maybe(0.2, |rng| {
                *["campaign:a", "campaign:b"].choose(rng).unwrap_or(&"campaign:a")
            }),
            unique,
            keyed: self.rng.random_bool(0.3),
        }
    }

    fn place(&mut self) -> Place {
        match self.rng.random_range(0..10) {
            0..5 => Place::Pool("default"),
            5 => Place::Pool("outreach"),
            _ => Place::Session(self.rng.random_range(0..ACCOUNTS.len())),
        }
    }

    fn work(&mut self) -> Work {
        let chat = self.pick(&CHATS);
        match self.rng.random_range(0..10) {
            0..7 => Work::Publish(chat),
            7 => Work::Join(chat),
            _ => Work::Scan {
                chat: self.pick(&CHATS[..2]),
                limit: self.rng.random_range(1..1200),
            },
        }
    }

    fn plan(&mut self) -> Plan {
        Plan {
            cron: self.pick(&CRONS),
            zone: self.pick(&ZONES),
            work: match self.rng.random_range(0..3) {
                0 => Work::Publish("@harbour_market"),
                _ => Work::Join("@harbour_market"),
            },
            missed: self.pick(&["skip", "once", "once", "all"]),
            missed_max: self.rng.random_range(1..6),
            missed_after: *[1, 30, 60].choose(&mut self.rng).unwrap_or(&60),
            overlap: self.pick(&["allow", "skip", "queue"]),
            jitter: *[0, 0, 20, 400].choose(&mut self.rng).unwrap_or(&0),
        }
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }

    fn maybe<T>(&mut self, chance: f64, draw: impl FnOnce(&mut ChaCha8Rng) -> T) -> Option<T> {
        self.rng.random_bool(chance).then(|| draw(&mut self.rng))
    }
}

#[test]
fn a_seed_draws_one_list_and_a_longer_one_begins_with_it() {
    assert_eq!(steps(7, 80), steps(7, 80));
    let (short, long) = (steps(7, 40), steps(7, 80));
    assert_eq!(short[..40], long[..40]);
    assert_ne!(steps(7, 40), steps(8, 40));
}
