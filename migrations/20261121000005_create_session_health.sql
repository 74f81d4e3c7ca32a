-- How sessions are kept well: caps on what they do, a breaker for those that keep failing, the record of their terms, and
-- checks on demand. Expand only: processes of the release before neither read nor write any of it.

-- ---------------------------------------------------------------- settings

ALTER TABLE sessions
    -- In which its days begin: caps per day and hour are counted in it.
    ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC' CHECK (length(time_zone) BETWEEN 1 AND 64),
    -- When an update last came in.
    ADD COLUMN last_update_at timestamptz,
    -- It moves to this pool as soon as its running jobs have ended.
    ADD COLUMN next_pool text REFERENCES pools (name),
    -- Grows when something is changed or asked that its holder must know of; read with every renewal of its lease.
    ADD COLUMN settings_version bigint NOT NULL DEFAULT 0;

-- ---------------------------------------------------------------- caps

-- What a session may do in a minute, an hour and a day where nothing else is set for it. Low: nobody publishes how much is
-- too much, and an account that was limited once is hard to get back.
CREATE TABLE session_cap_defaults (
    action text PRIMARY KEY CHECK (action IN ('join', 'invite', 'message', 'dialogue')),
    per_minute integer NOT NULL CHECK (per_minute BETWEEN 0 AND 1000000),
    per_hour integer NOT NULL CHECK (per_hour BETWEEN 0 AND 1000000),
    per_day integer NOT NULL CHECK (per_day BETWEEN 0 AND 1000000),
    -- Null: as it came.
    set_by text,
    set_at timestamptz NOT NULL DEFAULT wireroom_now()
);
INSERT INTO session_cap_defaults (action, per_minute, per_hour, per_day) VALUES
    ('join', 3, 10, 20), ('invite', 2, 10, 30), ('message', 10, 60, 300), ('dialogue', 2, 10, 20);

-- The same for one session.
CREATE TABLE session_caps (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    action text NOT NULL REFERENCES session_cap_defaults (action),
    per_minute integer NOT NULL CHECK (per_minute BETWEEN 0 AND 1000000),
    per_hour integer NOT NULL CHECK (per_hour BETWEEN 0 AND 1000000),
    per_day integer NOT NULL CHECK (per_day BETWEEN 0 AND 1000000),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (session_id, action)
);

-- What a session has done in the minute, hour and day that begin at those times.
CREATE TABLE session_cap_usage (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    action text NOT NULL REFERENCES session_cap_defaults (action),
    minute_at timestamptz NOT NULL,
    minute_used integer NOT NULL,
    hour_at timestamptz NOT NULL,
    hour_used integer NOT NULL,
    day_at timestamptz NOT NULL,
    day_used integer NOT NULL,
    -- A cap is spent, and until when: with the window that says so and what it allows.
    closed_until timestamptz,
    closed_by text CHECK (closed_by IN ('minute', 'hour', 'day')),
    closed_cap integer,
    PRIMARY KEY (session_id, action),
    CHECK ((closed_until IS NULL) = (closed_by IS NULL) AND (closed_until IS NULL) = (closed_cap IS NULL))
) WITH (fillfactor = 50);

-- People a session has written to: the first message to one opens a dialogue, and is counted as one.
CREATE TABLE session_dialogues (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    user_id bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (session_id, user_id)
);

-- ---------------------------------------------------------------- breaker

-- Sessions that keep failing to connect. No row: closed. A row whose time has come: half-open, and one attempt decides.
CREATE TABLE session_breakers (
    session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    -- How often it opened since the session last answered: each rest is twice as long as the one before.
    trips integer NOT NULL CHECK (trips > 0),
    opened_at timestamptz NOT NULL DEFAULT wireroom_now(),
    open_until timestamptz NOT NULL,
    -- What it failed with, as a person reads it.
    error text NOT NULL
);

-- ---------------------------------------------------------------- terms

-- Every term of every lease: who had a session when. What an incident is explained with.
CREATE TABLE session_terms (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    fence bigint NOT NULL,
    owner uuid NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- When it was given back, after the socket was closed; null: it ran out, or runs.
    released_at timestamptz,
    PRIMARY KEY (session_id, fence)
);
CREATE INDEX session_terms_acquired_at ON session_terms (acquired_at);

-- ---------------------------------------------------------------- checks

-- Self-tests on demand: asked for by the API, made and answered by the holder.
CREATE TABLE session_checks (
    id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT wireroom_now(),
    answered_at timestamptz,
    worker_id uuid,
    -- {ok, milliseconds, code, message}
    answer jsonb,
    CHECK ((answered_at IS NULL) = (answer IS NULL))
);
CREATE INDEX session_checks_open ON session_checks (session_id) WHERE answered_at IS NULL;
CREATE INDEX session_checks_requested_at ON session_checks (requested_at);

-- ---------------------------------------------------------------- floods

-- How often and how long sessions were told to wait, over all time: rows of `floods` go, counters must not.
CREATE TABLE flood_totals (
    method text NOT NULL,
    error text NOT NULL,
    waited_in_place boolean NOT NULL,
    floods bigint NOT NULL,
    seconds bigint NOT NULL,
    PRIMARY KEY (method, error, waited_in_place)
) WITH (fillfactor = 50);
INSERT INTO flood_totals SELECT method, error, waited_in_place, count(*), sum(seconds) FROM floods GROUP BY 1, 2, 3;

-- Which master keys a worker has, so that nothing is sealed under one that a running worker cannot open.
CREATE TABLE worker_keys (
    worker_id uuid PRIMARY KEY,
    key_ids text[] NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- Jobs that invite have a gate of their own.
ALTER TABLE gates DROP CONSTRAINT gates_action_check,
    ADD CONSTRAINT gates_action_check CHECK (action IN ('resolve', 'join', 'send', 'read', 'invite', 'other'));

-- The release before reads none of it; the gate of invitations is closed by no kind yet.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261121000005, 20261120000015);
