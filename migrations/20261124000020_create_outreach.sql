-- Inviting people, and leaving them alone: who may not be contacted, one switch for all outreach, campaigns with the people
-- they are about, and a ledger that lets nobody be invited twice. Expand only: the releases before neither read nor write any
-- of it, and know no jobs of the kind `invite`.

-- ---------------------------------------------------------------- the switch

-- One row. While it is `stopped`, no invitation and no first message begins.
CREATE TABLE outreach_switch (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'stopped')),
    reason text,
    -- `key:<id>`; null: as it came.
    changed_by text,
    changed_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- Invitations into one chat in a day (UTC), over all campaigns and sessions.
    per_target_per_day integer NOT NULL DEFAULT 50 CHECK (per_target_per_day BETWEEN 0 AND 1000000),
    -- A person whom any campaign has contacted is contacted by no other one for so many days.
    person_rest_days integer NOT NULL DEFAULT 30 CHECK (person_rest_days BETWEEN 0 AND 3650),
    -- A known text marked with the key that marks phone numbers and erased people: another key would find nobody.
    key_check bytea CHECK (octet_length(key_check) = 32)
);
INSERT INTO outreach_switch DEFAULT VALUES;

-- Calls of outreach that were let through and have not been answered yet: whoever stops outreach waits for them.
CREATE TABLE outreach_calls (
    id uuid PRIMARY KEY,
    session_id uuid NOT NULL,
    job_id uuid NOT NULL,
    -- No answer can come after that.
    until timestamptz NOT NULL
);

-- ---------------------------------------------------------------- suppressions

-- People who must not be contacted, by anyone, from any session. A phone number is kept as its keyed hash.
CREATE TABLE suppressions (
    id uuid PRIMARY KEY,
    user_id bigint,
    -- In lower case, without `@`.
    username text CHECK (username = lower(username)),
    phone_hash bytea CHECK (octet_length(phone_hash) = 32),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    source text NOT NULL CHECK (source IN ('api', 'import', 'blocked_us', 'said_stop')),
    added_by text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT wireroom_now(),
    CHECK (num_nonnulls(user_id, username, phone_hash) = 1)
);
CREATE UNIQUE INDEX suppressions_user ON suppressions (user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX suppressions_username ON suppressions (username) WHERE username IS NOT NULL;
CREATE UNIQUE INDEX suppressions_phone ON suppressions (phone_hash) WHERE phone_hash IS NOT NULL;

-- People who were erased: nothing but a keyed hash of their user id, so that they do not come back.
CREATE TABLE erased_people (
    user_hash bytea PRIMARY KEY CHECK (octet_length(user_hash) = 32),
    erased_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- ---------------------------------------------------------------- campaigns

CREATE TABLE campaigns (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    -- As a client names it, and its id once a job has found it.
    chat text NOT NULL,
    chat_id bigint,
    mode text NOT NULL CHECK (mode IN ('message', 'add')),
    -- What is sent in the mode `message`, with the link in it.
    text text,
    format text NOT NULL DEFAULT 'plain' CHECK (format IN ('plain', 'markdown', 'html')),
    -- Where its jobs run.
    pool text,
    session_id uuid,
    per_day integer NOT NULL CHECK (per_day BETWEEN 1 AND 1000000),
    -- In the person's time zone where it is known, in the campaign's otherwise.
    quiet_from time,
    quiet_until time,
    time_zone text NOT NULL DEFAULT 'UTC',
    -- It stops by itself when more than this part of at least `stop_after` people refused.
    stop_ratio double precision NOT NULL CHECK (stop_ratio > 0 AND stop_ratio <= 1),
    stop_after integer NOT NULL CHECK (stop_after BETWEEN 1 AND 1000000),
    state text NOT NULL DEFAULT 'paused' CHECK (state IN ('running', 'paused', 'stopped')),
    -- Why, as a program reads it, and as a person does.
    state_code text NOT NULL DEFAULT 'new',
    state_reason text NOT NULL DEFAULT 'Nobody has started it yet.',
    state_by text NOT NULL,
    state_since timestamptz NOT NULL DEFAULT wireroom_now(),
    -- Refusals before this are forgiven: a person looked at them and resumed the campaign.
    judged_since timestamptz NOT NULL DEFAULT wireroom_now(),
    -- The job that works on it, while there is one.
    job_id uuid,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    CHECK ((quiet_from IS NULL) = (quiet_until IS NULL)),
    CHECK (mode = 'add' OR text IS NOT NULL)
);

-- Whom a campaign is about, and why each of them may be contacted.
CREATE TABLE campaign_people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id uuid NOT NULL REFERENCES campaigns (id) ON DELETE CASCADE,
    user_id bigint,
    -- In lower case, without `@`.
    username text CHECK (username = lower(username)),
    -- Whom a name turned out to be.
    resolved_id bigint,
    basis text NOT NULL CHECK (basis IN ('contact', 'join_request', 'dialogue', 'import')),
    proof text,
    supplied_by text,
    time_zone text,
    added_by text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT wireroom_now(),
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done')),
    -- The job that is about this person now.
    job_id uuid,
    outcome text,
    -- `invited`, `refused`, `skipped` or `outcome_unknown`.
    class text CHECK (class IN ('invited', 'refused', 'skipped', 'outcome_unknown')),
    -- Telegram's own name, where there is one.
    why text,
    decided_at timestamptz,
    CHECK (num_nonnulls(user_id, username) = 1),
    CHECK ((state = 'done') = (outcome IS NOT NULL) AND (outcome IS NULL) = (class IS NULL)),
    CHECK (basis <> 'import' OR (proof IS NOT NULL AND supplied_by IS NOT NULL))
);
CREATE UNIQUE INDEX campaign_people_user ON campaign_people (campaign_id, user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX campaign_people_username ON campaign_people (campaign_id, username) WHERE username IS NOT NULL;
CREATE INDEX campaign_people_waiting ON campaign_people (campaign_id, id) WHERE state = 'waiting';
CREATE INDEX campaign_people_taken ON campaign_people (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX campaign_people_by_id ON campaign_people (coalesce(user_id, resolved_id));

-- One row per campaign and person, before anything is sent: nobody is invited twice, whatever crashes.
CREATE TABLE campaign_ledger (
    campaign_id uuid NOT NULL REFERENCES campaigns (id) ON DELETE CASCADE,
    user_id bigint NOT NULL,
    chat_id bigint,
    -- `prepared`: nothing was sent. `attempted`: something may have been. The rest are ends.
    state text NOT NULL CHECK (state IN ('prepared', 'attempted', 'invited', 'refused', 'outcome_unknown', 'imported')),
    outcome text,
    session_id uuid,
    job_id uuid,
    random_id bigint,
    tries integer NOT NULL DEFAULT 0,
    prepared_at timestamptz NOT NULL DEFAULT wireroom_now(),
    attempted_at timestamptz,
    decided_at timestamptz,
    message_id integer,
    -- Who says that an imported person was invited.
    supplied_by text,
    PRIMARY KEY (campaign_id, user_id)
);
CREATE INDEX campaign_ledger_attempts ON campaign_ledger (campaign_id, attempted_at) WHERE attempted_at IS NOT NULL;
CREATE INDEX campaign_ledger_open ON campaign_ledger (campaign_id) WHERE state = 'attempted';
CREATE INDEX campaign_ledger_people ON campaign_ledger (user_id, attempted_at);
CREATE INDEX campaign_ledger_targets ON campaign_ledger (chat_id, attempted_at) WHERE attempted_at IS NOT NULL;

-- Whether a person is known to be left alone; one question, asked in every place that is about to contact somebody.
CREATE FUNCTION is_suppressed(person bigint, names text[], phone bytea) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM suppressions WHERE user_id = person)
        OR EXISTS (SELECT FROM suppressions WHERE username = ANY (names))
        OR EXISTS (SELECT FROM suppressions WHERE phone_hash = phone)
$$;

-- When it is no longer quiet in that zone; null: it is not quiet now.
CREATE FUNCTION quiet_ends(quiet_from time, quiet_until time, zone text, moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN quiet_from IS NULL OR quiet_from = quiet_until THEN NULL
        WHEN quiet_from < quiet_until AND l.t::time >= quiet_from AND l.t::time < quiet_until
            THEN (l.t::date + quiet_until) AT TIME ZONE zone
        WHEN quiet_from > quiet_until AND l.t::time >= quiet_from THEN (l.t::date + 1 + quiet_until) AT TIME ZONE zone
        WHEN quiet_from > quiet_until AND l.t::time < quiet_until THEN (l.t::date + quiet_until) AT TIME ZONE zone
    END
    FROM (SELECT moment AT TIME ZONE zone AS t) l
$$;

-- The release before reads none of it.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000020, 20261120000015);
