-- Where events go by themselves, what became of each, and the events of jobs that end. Expands.

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY,
    url text NOT NULL CHECK (length(url) BETWEEN 1 AND 2000),
    description text NOT NULL DEFAULT '',
    -- `session.*` or `session.state_changed`; empty: every type.
    types text[] NOT NULL DEFAULT '{}',
    -- `session:<id>` and the like; empty: every subject.
    subjects text[] NOT NULL DEFAULT '{}',
    wants_jobs boolean NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    -- Why it was disabled by itself.
    disabled_reason text,
    -- A letter for the workers, and the key that opens it.
    secret_sealed bytea NOT NULL,
    sealed_with text NOT NULL,
    -- The secret before, which signs beside it until then.
    old_secret_sealed bytea,
    old_sealed_with text,
    old_secret_until timestamptz,
    -- Grows with each change: so that its deliverer reads it again.
    version integer NOT NULL DEFAULT 1,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    CHECK ((old_secret_sealed IS NULL) = (old_secret_until IS NULL)),
    CHECK ((old_secret_sealed IS NULL) = (old_sealed_with IS NULL))
);

-- How far each has come, and which process is at it: one at a time, which every write of it names.
CREATE TABLE subscription_progress (
    subscription_id uuid PRIMARY KEY REFERENCES subscriptions (id) ON DELETE CASCADE,
    -- Every event up to it was delivered, or has a row in `deliveries`.
    position bigint NOT NULL,
    owner uuid,
    owned_until timestamptz,
    -- Attempts that failed since the last that did not, and since when.
    failures integer NOT NULL DEFAULT 0,
    failing_since timestamptz,
    -- Nothing is sent until then.
    open_until timestamptz,
    last_success_at timestamptz
) WITH (fillfactor = 50);

-- What became of each event that was sent, or has to be.
CREATE TABLE deliveries (
    subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    position bigint NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    -- From when its three days count.
    first_at timestamptz NOT NULL DEFAULT wireroom_now(),
    last_at timestamptz,
    -- Of a pending one: not before.
    next_at timestamptz,
    last_status smallint,
    last_error text,
    last_millis integer,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (subscription_id, position)
);
CREATE INDEX deliveries_pending ON deliveries (subscription_id, subject, position) WHERE state = 'pending';
CREATE INDEX deliveries_ended ON deliveries (updated_at) WHERE state <> 'pending';

-- Test events that somebody asked for; any process that delivers sends one. They go when they are a day old.
CREATE TABLE subscription_tests (
    id uuid PRIMARY KEY,
    subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    asked_at timestamptz NOT NULL DEFAULT wireroom_now(),
    taken_at timestamptz,
    done_at timestamptz,
    status smallint,
    error text,
    millis integer
);
CREATE INDEX subscription_tests_waiting ON subscription_tests (asked_at) WHERE taken_at IS NULL;

-- The end of a job, for those whom it concerns: nothing but a look at two small tables when there is nobody.
CREATE FUNCTION tell_job_ends() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    recent timestamptz;
BEGIN
    IF NOT EXISTS (SELECT FROM event_consumers WHERE wants_jobs)
        AND NOT EXISTS (SELECT FROM subscriptions WHERE wants_jobs AND enabled) THEN
        RETURN NULL;
    END IF;
    recent := wireroom_now() - interval '1 hour';
    INSERT INTO outbox (type, subject, data)
    SELECT 'job.' || f.state, 'job:' || f.id, jsonb_build_object('job', f.id, 'kind', f.kind, 'state', f.state,
        'session', f.session_id, 'attempt', f.attempt, 'finished_at', f.finished_at, 'error', f.error -> 'code',
        'batch', g.batch_id, 'tags', f.tags)
    FROM gone g CROSS JOIN LATERAL (
        SELECT * FROM finished_jobs WHERE id = g.id AND finished_at >= recent LIMIT 1) f
    ORDER BY f.finished_at, f.id;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_tell_ends AFTER DELETE ON jobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tell_job_ends();

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000011, 20261120000015);
