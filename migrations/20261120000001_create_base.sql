-- What two processes compare is timed by the database. Tests replace this function to move the clock.
CREATE FUNCTION wireroom_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT clock_timestamp()';

CREATE TABLE pools (
    name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);

INSERT INTO pools (name) VALUES ('default');

-- ---------------------------------------------------------------- keys and audit

CREATE TABLE api_keys (
    -- The public part, by which a key is found.
    id text PRIMARY KEY,
    -- SHA-256 of the whole key; 256 random bits need no slow hash.
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    label text NOT NULL CHECK (length(label) BETWEEN 1 AND 100),
    scope text NOT NULL CHECK (scope IN ('viewer', 'operator', 'admin')),
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    revoked_at timestamptz
);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- `key:<id>`, `cli` or `worker:<id>`.
    actor text NOT NULL,
    -- `job.created`, `key.revoked`, `session.auth_key_duplicated`, …
    action text NOT NULL,
    subject text NOT NULL,
    request_id text,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_subject ON audit_log (subject, id DESC);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''% is append-only'', TG_TABLE_NAME; END';
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------- workers

CREATE TABLE workers (
    -- Fresh for every process start, so that a restart under the same name strands nothing.
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'draining', 'stopped')),
    started_at timestamptz NOT NULL DEFAULT wireroom_now(),
    heartbeat_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- ---------------------------------------------------------------- sessions

CREATE TABLE applications (
    id uuid PRIMARY KEY,
    label text NOT NULL,
    api_id integer NOT NULL,
    api_hash_sealed bytea NOT NULL,
    sealed_with text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    label text NOT NULL UNIQUE CHECK (length(label) BETWEEN 1 AND 100),
    pool text NOT NULL REFERENCES pools (name),
    application_id uuid REFERENCES applications (id),
    state text NOT NULL CHECK (state IN ('new', 'code_needed', 'password_needed', 'ready', 'limited', 'logged_out',
        'banned', 'frozen', 'quarantined', 'disabled')),
    state_reason text,
    state_since timestamptz NOT NULL DEFAULT wireroom_now(),
    -- Telegram's user id of the account; set at login.
    account_id bigint,
    username text,
    is_bot boolean NOT NULL DEFAULT false,
    home_dc integer NOT NULL,
    interactive_slots integer NOT NULL DEFAULT 1 CHECK (interactive_slots BETWEEN 0 AND 10000),
    bulk_slots integer NOT NULL DEFAULT 1 CHECK (bulk_slots BETWEEN 0 AND 10000),
    watch_slots integer NOT NULL DEFAULT 10000 CHECK (watch_slots BETWEEN 0 AND 100000),
    -- When a call last came back. Connected is not healthy; this is.
    last_call_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE INDEX sessions_pool ON sessions (pool);

-- Where a session's data centres are, and the sealed auth key of each.
CREATE TABLE session_dcs (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    dc_id integer NOT NULL,
    ipv4 text NOT NULL,
    ipv6 text NOT NULL,
    auth_key_sealed bytea,
    sealed_with text,
    PRIMARY KEY (session_id, dc_id),
    CHECK ((auth_key_sealed IS NULL) = (sealed_with IS NULL))
);

-- Access hashes differ per account, so peers are kept per session.
CREATE TABLE session_peers (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- The Bot API's dialog id.
    peer_id bigint NOT NULL,
    access_hash bigint,
    -- grammers' `PeerInfo` beside the hash: is_self, is_bot, channel kind.
    info jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (session_id, peer_id)
);

-- `box` 0 is the account's own message box, any other a channel's id.
CREATE TABLE session_update_states (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    box bigint NOT NULL,
    pts integer NOT NULL,
    qts integer,
    date integer,
    seq integer,
    PRIMARY KEY (session_id, box)
);

-- The exclusive right to use a session. The row stays, so that the fence only grows.
CREATE TABLE session_leases (
    session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    owner uuid,
    fence bigint NOT NULL DEFAULT 0,
    acquired_at timestamptz,
    renewed_at timestamptz,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
CREATE INDEX session_leases_owner ON session_leases (owner) WHERE owner IS NOT NULL;

-- A closed door: this session may not do this action until then.
CREATE TABLE gates (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    action text NOT NULL CHECK (action IN ('resolve', 'join', 'send', 'read', 'other')),
    -- A chat's id for a gate of one chat (slow mode); 0 closes the action everywhere.
    chat_id bigint NOT NULL DEFAULT 0,
    reason text NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT wireroom_now(),
    opens_at timestamptz NOT NULL,
    PRIMARY KEY (session_id, action, chat_id)
);

-- Every flood, however short.
CREATE TABLE floods (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    job_id uuid,
    method text NOT NULL,
    -- Telegram's own name, such as FLOOD_WAIT.
    error text NOT NULL,
    seconds integer NOT NULL,
    waited_in_place boolean NOT NULL
);
CREATE INDEX floods_session ON floods (session_id, id DESC);
CREATE INDEX floods_at ON floods (at);

-- A known text sealed under each master key that was ever used here: a wrong key is noticed before anything is touched.
CREATE TABLE vault_keys (
    id text PRIMARY KEY,
    check_sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);
