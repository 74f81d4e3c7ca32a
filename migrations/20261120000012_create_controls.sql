-- What an operator holds back, what an admin limits, and where a job came from.

-- A pause with no end stays until it is resumed; the others end by themselves at `until`.
CREATE TABLE pauses (
    scope text NOT NULL CHECK (scope IN ('everything', 'pool', 'session', 'kind')),
    -- The pool's or the kind's name, or the session's id; empty for everything.
    target text NOT NULL CHECK ((target = '') = (scope = 'everything')),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    until timestamptz,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (scope, target)
);

-- How many jobs of a kind or a pool run at a time, over all workers. `version` grows with every claim under the limit: a
-- claim that sees another version than its snapshot does not know all that runs, and leaves the limited jobs alone.
CREATE TABLE concurrency_limits (
    scope text NOT NULL CHECK (scope IN ('kind', 'pool')),
    target text NOT NULL,
    max_running integer NOT NULL CHECK (max_running BETWEEN 0 AND 1000000),
    version bigint NOT NULL DEFAULT 0,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (scope, target)
) WITH (fillfactor = 50);

-- How fast jobs with a limit key start. `name` is a whole key, such as `campaign:spring`, or a class of keys, such as
-- `campaign`: what stands before the first colon. Every key has a bucket of its own.
CREATE TABLE rate_limits (
    name text PRIMARY KEY,
    -- Starts allowed in each period, evenly spread.
    starts integer NOT NULL CHECK (starts BETWEEN 1 AND 1000000),
    period_seconds double precision NOT NULL CHECK (period_seconds BETWEEN 0.001 AND 31622400),
    -- Starts that may come at once after a quiet time.
    burst integer NOT NULL CHECK (burst BETWEEN 1 AND 1000000),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- The token bucket of one key, shared by all workers, and its line: jobs that found the bucket empty wait as `scheduled`,
-- one behind the other, until their turn comes, so that they are looked at once and not again and again.
CREATE TABLE rate_buckets (
    key text PRIMARY KEY,
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL,
    -- The turn of the last in line.
    line_until timestamptz NOT NULL,
    -- Of the latest claim: asked for by jobs whose turn has come, by others, and granted.
    wanted_in_turn integer NOT NULL DEFAULT 0,
    wanted integer NOT NULL DEFAULT 0,
    granted integer NOT NULL DEFAULT 0,
    -- Tokens a second, and the most it holds, as of the latest claim.
    rate double precision NOT NULL,
    burst double precision NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX rate_buckets_refilled ON rate_buckets (refilled_at);

-- What a bucket holds at the time of an asking, and how much of what is asked for it gives: to those whose turn has come,
-- and to the others only when nobody stands in line any more.
CREATE FUNCTION bucket_level(bucket rate_buckets, asked rate_buckets) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(asked.burst, bucket.tokens
        + greatest(extract(epoch FROM asked.refilled_at - bucket.refilled_at)::double precision, 0) * asked.rate)
$$;
CREATE FUNCTION bucket_grant(bucket rate_buckets, asked rate_buckets) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- A millionth more, since a token that is refilled over a second may come out as almost one.
    SELECT least(floor(bucket_level(bucket, asked) + 0.000001), asked.wanted_in_turn
        + CASE WHEN bucket.line_until <= asked.refilled_at THEN asked.wanted ELSE 0 END)::integer
$$;

-- `limit_key` is what a rate limit counts by. `limit_turn`: the job has stood in its key's line.
ALTER TABLE jobs ADD COLUMN limit_key text CHECK (length(limit_key) BETWEEN 1 AND 128),
    ADD COLUMN limit_turn boolean NOT NULL DEFAULT false;
CREATE INDEX jobs_limit_key ON jobs (limit_key, rank, id) WHERE limit_key IS NOT NULL AND state <> 'running';
-- The cancels that are waited for.
CREATE INDEX jobs_cancelling ON jobs (cancel_requested_at) WHERE cancel_requested_at IS NOT NULL AND state = 'running';

-- What is kept of few jobs for as long as the job is: which one it repeats, and its limit key when it is finished.
CREATE TABLE job_origins (
    job_id uuid PRIMARY KEY,
    retry_of uuid,
    limit_key text,
    made_at timestamptz NOT NULL DEFAULT wireroom_now()
);
-- A job is retried once; whoever wants more retries its retry.
CREATE UNIQUE INDEX job_origins_retry_of ON job_origins (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX job_origins_made_at ON job_origins (made_at);

-- A UUIDv7 of this moment.
CREATE FUNCTION new_job_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_byte(b, 6, (get_byte(b, 6) & 15) | 112), 'hex')::uuid
    FROM (SELECT overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM wireroom_now()) * 1000)::bigint) FROM 3) FROM 1 FOR 6) AS b) bytes
$$;
