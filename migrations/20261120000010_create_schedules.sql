-- A cron expression in a time zone that enqueues a job per tick. Workers take due rows with SKIP LOCKED; none leads.
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    cron text NOT NULL,
    -- IANA's name.
    time_zone text NOT NULL,

    -- The job of a tick.
    kind text NOT NULL,
    args jsonb NOT NULL,
    pool text,
    session_id uuid,
    priority smallint NOT NULL CHECK (priority BETWEEN -100 AND 100),
    -- NULL is as the kind says.
    max_attempts integer CHECK (max_attempts BETWEEN 1 AND 100),
    tags text[] NOT NULL,
    -- Counted from the tick.
    deadline_seconds integer CHECK (deadline_seconds > 0),

    missed text NOT NULL CHECK (missed IN ('skip', 'once', 'all')),
    -- Most jobs that `all` makes up for.
    missed_max integer NOT NULL CHECK (missed_max BETWEEN 1 AND 1000),
    -- How late a tick may be taken before it counts as missed.
    missed_after_seconds integer NOT NULL CHECK (missed_after_seconds BETWEEN 1 AND 86400),
    overlap text NOT NULL CHECK (overlap IN ('allow', 'skip', 'queue')),
    jitter_seconds integer NOT NULL CHECK (jitter_seconds BETWEEN 0 AND 3600),
    starts_at timestamptz,
    ends_at timestamptz,
    paused_at timestamptz,
    pause_reason text,
    paused_by text,

    -- Grows with every edit; a tick says which version it was taken under.
    version integer NOT NULL DEFAULT 1,
    -- The first tick that was not taken yet, and the same with its jitter; NULL when none is to come. Only ever moves on, so a
    -- clock that is set back fires nothing again.
    next_tick_at timestamptz,
    next_due_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK ((next_tick_at IS NULL) = (next_due_at IS NULL)),
    CHECK ((paused_at IS NULL) = (pause_reason IS NULL))
);
CREATE INDEX schedules_due ON schedules (next_due_at) WHERE next_due_at IS NOT NULL;

-- Each tick that was taken, with its job or the reason why it had none.
CREATE TABLE schedule_ticks (
    schedule_id uuid NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    tick_at timestamptz NOT NULL,
    -- `manual` is a run that a person asked for.
    trigger text NOT NULL CHECK (trigger IN ('cron', 'manual')),
    due_at timestamptz NOT NULL,
    decided_at timestamptz NOT NULL,
    version integer NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('job', 'waiting', 'skipped', 'failed')),
    job_id uuid,
    -- The job was not seen to have ended yet.
    job_open boolean NOT NULL,
    -- {code, message}
    reason jsonb,
    -- `key:<id>` of whoever asked for a manual run.
    requested_by text,
    -- One row, and so one job, per tick.
    PRIMARY KEY (schedule_id, tick_at, trigger),
    CHECK ((outcome = 'job') = (job_id IS NOT NULL)),
    CHECK (outcome = 'job' OR NOT job_open)
);
CREATE INDEX schedule_ticks_open ON schedule_ticks (schedule_id) WHERE job_open;
CREATE INDEX schedule_ticks_waiting ON schedule_ticks (schedule_id, tick_at) WHERE outcome = 'waiting';
CREATE INDEX schedule_ticks_tick_at ON schedule_ticks (tick_at);
