-- Live jobs only: a finished job moves to finished_jobs in the statement that completes it, so this table stays small
-- and its indexes cover live states alone.
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('scheduled', 'queued', 'running')),
    lane text NOT NULL CHECK (lane IN ('interactive', 'bulk', 'watch')),
    pool text NOT NULL,
    -- The session the job runs on: named by the client (pinned), or written by the claim of a pooled job.
    session_id uuid,
    -- The session cannot change any more: named by the client, or a Telegram call was reached on it.
    session_bound boolean NOT NULL,
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    -- run_at in microseconds minus priority times the ageing step: the order of the ready, stored once.
    rank bigint NOT NULL,
    run_at timestamptz NOT NULL,
    deadline timestamptz,
    -- {code, message} of what made a scheduled job wait.
    wait_reason jsonb,
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
    -- Grows with every claim; every write of an attempt names it.
    fence bigint NOT NULL DEFAULT 0,
    -- The fence of the session's lease at the claim.
    session_fence bigint,
    worker_id uuid,
    claimed_at timestamptz,
    started_at timestamptz,
    cancel_requested_at timestamptz,
    -- How many workers died under this job.
    crashes smallint NOT NULL DEFAULT 0,
    -- A worker died while it held the job: until an attempt ends cleanly it runs alone among such jobs, and its start is
    -- stored before its function is called, so that a job that kills its worker is told from its neighbours.
    suspect boolean NOT NULL DEFAULT false,
    progress jsonb,
    checkpoint jsonb,
    last_error jsonb,
    tags text[] NOT NULL DEFAULT '{}',
    -- `key:<id>` of the client.
    created_by text,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- The claim of a session's own jobs, of a pool's, and the same for a session with some gates closed: those two have lane
-- and kind in one value, so that the planner cannot answer for them with the other two and read past a backlog of other
-- kinds.
CREATE INDEX jobs_ready_session ON jobs (session_id, lane, rank, id) WHERE state = 'queued' AND session_id IS NOT NULL;
CREATE INDEX jobs_ready_pool ON jobs (pool, lane, rank, id) WHERE state = 'queued' AND session_id IS NULL;
CREATE INDEX jobs_ready_session_kind ON jobs (session_id, (lane || '/' || kind), rank, id)
    WHERE state = 'queued' AND session_id IS NOT NULL;
CREATE INDEX jobs_ready_pool_kind ON jobs (pool, (lane || '/' || kind), rank, id)
    WHERE state = 'queued' AND session_id IS NULL;
CREATE INDEX jobs_scheduled ON jobs (run_at) WHERE state = 'scheduled';
CREATE INDEX jobs_running ON jobs (worker_id) WHERE state = 'running';
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND state <> 'running';
CREATE INDEX jobs_session ON jobs (session_id) WHERE session_id IS NOT NULL AND state <> 'running';

CREATE TABLE finished_jobs (
    id uuid NOT NULL,
    kind text NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('succeeded', 'failed', 'cancelled')),
    lane text NOT NULL,
    pool text NOT NULL,
    session_id uuid,
    priority smallint NOT NULL,
    run_at timestamptz NOT NULL,
    deadline timestamptz,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    fence bigint NOT NULL,
    worker_id uuid,
    started_at timestamptz,
    finished_at timestamptz NOT NULL,
    progress jsonb,
    result jsonb,
    error jsonb,
    tags text[] NOT NULL,
    created_by text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (finished_at, id)
) PARTITION BY RANGE (finished_at);
CREATE INDEX finished_jobs_id ON finished_jobs (id);
CREATE TABLE finished_jobs_default PARTITION OF finished_jobs DEFAULT;

-- Earlier attempts; the last one is in the job's own row.
CREATE TABLE job_attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    fence bigint NOT NULL,
    worker_id uuid,
    session_id uuid,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    -- retry, snooze, handed_over, orphaned
    outcome text NOT NULL,
    error jsonb,
    wait_reason jsonb,
    PRIMARY KEY (ended_at, job_id, fence)
) PARTITION BY RANGE (ended_at);
CREATE INDEX job_attempts_job ON job_attempts (job_id, fence);
CREATE TABLE job_attempts_default PARTITION OF job_attempts DEFAULT;

-- One row per message a job sends, made before it is sent.
CREATE TABLE job_effects (
    job_id uuid NOT NULL,
    chat_id bigint NOT NULL,
    session_id uuid NOT NULL,
    random_id bigint NOT NULL,
    prepared_at timestamptz NOT NULL DEFAULT wireroom_now(),
    attempted_at timestamptz,
    message_id integer,
    message_date timestamptz,
    PRIMARY KEY (job_id, chat_id),
    UNIQUE (session_id, random_id),
    -- A message belongs to one job.
    UNIQUE (session_id, chat_id, message_id)
);
CREATE INDEX job_effects_prepared ON job_effects (prepared_at);

-- Creates the partitions of the days from today to `ahead` days on; called before a process is ready and each hour.
CREATE FUNCTION ensure_day_partitions(ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    parent text;
    day date;
    child text;
BEGIN
    -- Two processes at once would wait for each other's DDL; one does the work, the other finds it done.
    PERFORM pg_advisory_xact_lock(hashtext('wireroom.ensure_day_partitions'));
    FOREACH parent IN ARRAY ARRAY['finished_jobs', 'job_attempts'] LOOP
        FOR day IN SELECT (wireroom_now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, ahead) n LOOP
            child := parent || to_char(day, '_YYYYMMDD');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                    day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
SELECT ensure_day_partitions(7);

-- The day partitions of days that ended before `keep` days ago, with their parent when they are still attached.
CREATE FUNCTION expired_day_partitions(keep integer) RETURNS TABLE (child text, parent text) LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, p.relname::text
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class p ON p.oid = i.inhparent
    WHERE c.relkind = 'r' AND c.relname ~ '^(finished_jobs|job_attempts)_[0-9]{8}$'
        AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - keep
    ORDER BY 1
$$;

-- Detaches one expired partition, or drops one that a former call detached: two short transactions, so that no query waits
-- for the removal of a large file. Postgres refuses DETACH CONCURRENTLY beside a DEFAULT partition, so the lock on the
-- parent is a full one: it is taken only when it is to be had at once. Returns the partition's name, or nothing.
CREATE FUNCTION retire_day_partition(keep integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    expired record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('wireroom.ensure_day_partitions')) THEN
        RETURN NULL;
    END IF;
    SET LOCAL lock_timeout = '200ms';
    SELECT * INTO expired FROM expired_day_partitions(keep) ORDER BY parent NULLS FIRST, child LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF expired.parent IS NULL THEN
        EXECUTE format('DROP TABLE %I', expired.child);
    ELSE
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', expired.parent, expired.child);
    END IF;
    RETURN expired.child;
END $$;

CREATE VIEW all_jobs AS
SELECT id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, wait_reason, attempt, max_attempts,
    fence, worker_id, started_at, NULL::timestamptz AS finished_at, cancel_requested_at, progress, NULL::jsonb AS result,
    last_error AS error, tags, created_by, created_at
FROM jobs
UNION ALL
SELECT id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, NULL::jsonb, attempt, max_attempts,
    fence, worker_id, started_at, finished_at, NULL::timestamptz, progress, result, error, tags, created_by, created_at
FROM finished_jobs;
