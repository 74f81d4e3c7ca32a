//! What can be done: operations and faults, as data. A list of them is all that a run is made of.

/// Places for workers.
pub const SLOTS: usize = 3;
/// The sessions there are, by the sandbox's accounts; the last is in a pool of its own.
pub const ACCOUNTS: [(&str, &str); 4] = [
    ("alice", "default"),
    ("bob", "default"),
    ("dave", "default"),
    ("erin", "outreach"),
];

/// The chats that are watched. Sessions are put out of the second and let in again.
pub const WATCHED: [&str; 2] = ["@harbour_market", PRIVATE_CHAT];
pub const PRIVATE_CHAT: &str = "@quiet_quay";

/// One step: what is done, and how long until it is checked, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub op: Op,
    pub wait_ms: u64,
}

/// What can be done. Jobs, schedules, sessions and workers are numbered in the order in which the list makes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Enqueue(Draft),
    /// Two equal requests with one `Idempotency-Key` at the same moment.
    Twice(Draft),
    /// The request of that job again, with its `Idempotency-Key`.
    Again(usize),
    /// Another body under that job's `Idempotency-Key`.
    Clash(usize),
    Batch {
        jobs: Vec<Draft>,
        per_item: bool,
    },
    Cancel(usize),
    Retry(usize),
    Change {
        job: usize,
        priority: Option<i64>,
        run_in: Option<i64>,
    },
    Schedule(Plan),
    /// Another expression and zone.
    Recast {
        schedule: usize,
        cron: &'static str,
        zone: &'static str,
    },
    PauseSchedule(usize),
    ResumeSchedule(usize),
    RunSchedule(usize),
    DeleteSchedule(usize),
    /// Moves every clock ahead, by seconds.
    Advance(i64),
    /// The same, to a time.
    LeapTo(&'static str),
    Pause {
        scope: Scope,
        seconds: Option<i64>,
    },
    Resume(Scope),
    /// At most so many at a time, or no limit any more.
    LimitRunning {
        scope: Scope,
        most: Option<i64>,
    },
    /// So many starts in so many seconds, or no limit any more.
    LimitRate {
        key: &'static str,
        rate: Option<(i64, i64)>,
    },
    Fault {
        session: Option<usize>,
        method: &'static str,
        harm: Harm,
        times: u32,
    },
    /// Every call that nothing else happens to takes so many milliseconds longer, until all faults end: jobs are long, and
    /// many meet what happens to their workers.
    Slow(u64),
    /// Telegram closes the connections of a session.
    Disconnect(usize),
    /// They stay open, and nothing comes of them.
    Silence(usize),
    ForgetRandomIds,
    /// A monitor job on that session, with all others behind it.
    Watch {
        chat: &'static str,
        session: usize,
    },
    /// So many messages of somebody whom no session belongs to.
    Say {
        chat: &'static str,
        count: usize,
    },
    SwitchWatch {
        watch: usize,
        session: usize,
    },
    StopWatch(usize),
    /// That session may not see [`PRIVATE_CHAT`] any more.
    PutOut(usize),
    LetIn(usize),
    /// A campaign with so many new people, which starts at once or later.
    Campaign {
        place: Place,
        adds: bool,
        starts: bool,
        people: usize,
    },
    PauseCampaign(usize),
    ResumeCampaign(usize),
    Suppress {
        campaign: usize,
        person: usize,
        by_name: bool,
    },
    StopOutreach,
    ResumeOutreach,
    Start(usize),
    /// All of it dropped at once, as by SIGKILL.
    Kill(usize),
    /// As by SIGTERM.
    Stop(usize),
    /// A new one, then the old one is stopped.
    Deploy {
        old: usize,
        new: usize,
    },
    /// None of its threads runs until it is thawed, as by SIGSTOP; longer than a lease.
    Freeze(usize),
    Thaw(usize),
    CutDatabase(usize),
    /// Its database connections stay open and fall silent; longer than a lease.
    StallDatabase(usize),
    HealDatabase(usize),
    /// Faults end, everything is resumed, and every job must end.
    Settle,
}

impl Op {
    /// The operation's name, for the tally.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.chars().take_while(char::is_ascii_alphanumeric).collect()
    }
}

/// A job to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub work: Work,
    pub place: Place,
    pub priority: i64,
    pub run_in: Option<i64>,
    pub deadline_in: Option<i64>,
    pub attempts: Option<i64>,
    pub limit_key: Option<&'static str>,
    pub unique: Option<Unique>,
    pub keyed: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A text that no other draft has.
    Publish(&'static str),
    Join(&'static str),
    Scan {
        chat: &'static str,
        limit: i64,
    },
}

impl Work {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Join(_) => "join",
            Self::Scan { .. } => "scan",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    Pool(&'static str),
    Session(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Unique {
    pub key: u8,
    pub scope: &'static str,
    pub seconds: Option<i64>,
    pub on_conflict: &'static str,
}

/// A schedule to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cron: &'static str,
    pub zone: &'static str,
    pub work: Work,
    pub missed: &'static str,
    pub missed_max: i64,
    pub missed_after: i64,
    pub overlap: &'static str,
    pub jitter: i64,
}

/// What a pause or a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    Everything,
    Pool(&'static str),
    Session(usize),
    Kind(&'static str),
}

/// What Telegram does to calls.
#[derive(Debug, Clone, PartialEq)]
pub enum Harm {
    Flood(u32),
    Error(i32, &'static str),
    ErrorAfter(i32, &'static str),
    LoseAnswer,
    Drop,
    DropAfter,
    Blackhole,
    BlackholeAfter,
    Delay(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    Down,
    Up,
    Frozen,
    Cut,
    Stalled,
}

/// What settling makes of the workers: those with a fault are well again, and two are up.
pub fn settled(slots: [SlotState; SLOTS]) -> [SlotState; SLOTS] {
    let mut slots = slots.map(|slot| match slot {
        SlotState::Down => SlotState::Down,
        _ => SlotState::Up,
    });
    for slot in 0..SLOTS {
        let up = slots.iter().filter(|state| **state == SlotState::Up).count();
        if up < 2 && slots[slot] == SlotState::Down {
            slots[slot] = SlotState::Up;
        }
    }
    slots
}
