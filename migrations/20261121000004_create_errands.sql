-- Where anybody may seal for the workers: the public half of a key that is derived from the master key. The key whose
-- `sealing_at` is newest is the one to seal with.
ALTER TABLE vault_keys
    ADD COLUMN slot bytea CHECK (octet_length(slot) = 32),
    ADD COLUMN sealing_at timestamptz;

-- `environment`: workers keep it as their variables say; `api`: an admin made it.
ALTER TABLE applications
    ADD COLUMN origin text NOT NULL DEFAULT 'api' CHECK (origin IN ('api', 'environment')),
    ADD COLUMN is_default boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX applications_label ON applications (label);
CREATE UNIQUE INDEX applications_default ON applications (is_default) WHERE is_default;

-- What somebody asked of the workers for one session outside of its lease: a login with its challenges, an import, an
-- export, a log-out. One worker does it, under a lease of its own, and another goes on when that one dies.
CREATE TABLE errands (
    id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    task text NOT NULL CHECK (task IN ('phone', 'bot', 'qr', 'import', 'enable', 'export', 'log_out', 'delete')),
    state text NOT NULL DEFAULT 'working'
        CHECK (state IN ('working', 'code_needed', 'password_needed', 'scan_needed', 'done', 'failed')),
    -- The step asked for last. Steps are counted: there is one to do while `asked` is ahead of `answered`.
    step text NOT NULL CHECK (step IN ('start', 'resend', 'code', 'password')),
    asked integer NOT NULL DEFAULT 1,
    answered integer NOT NULL DEFAULT 0,
    -- What the step needs (a phone number, a code, a password): sealed by whoever asked, erased by the answer.
    input_sealed bytea,
    input_sealed_with text,
    -- What the next worker needs to go on (the half-open login's auth key, the number, the code's hash), sealed by a worker
    -- and erased at the end.
    progress_sealed bytea,
    progress_sealed_with text,
    -- The slot of whoever waits for what comes out, and that, sealed for it.
    reply_to bytea,
    output_sealed bytea,
    -- The session's state before.
    was text NOT NULL,
    -- Why the last step did not do what was asked: a stable word, Telegram's own name, and when it may be tried again.
    problem text,
    reason text,
    retry_at timestamptz,
    -- How the code was sent.
    code_info jsonb,
    password_hint text,
    qr_url text,
    qr_expires_at timestamptz,
    -- Wrong codes and passwords so far.
    tries integer NOT NULL DEFAULT 0,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- It fails by itself then.
    expires_at timestamptz NOT NULL,
    owner uuid,
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    CHECK ((input_sealed IS NULL) = (input_sealed_with IS NULL)),
    CHECK ((progress_sealed IS NULL) = (progress_sealed_with IS NULL))
);
-- A session has one errand at a time.
CREATE UNIQUE INDEX errands_live ON errands (session_id) WHERE state NOT IN ('done', 'failed');
CREATE INDEX errands_session ON errands (session_id, created_at DESC);
CREATE INDEX errands_ended ON errands (updated_at) WHERE state IN ('done', 'failed');

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261121000004, 20261120000015);
