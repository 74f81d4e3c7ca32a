-- Logins that wait as long as Telegram says, take effect only when they succeed, and leave the session as it was when they do not.
-- Expand only: processes of the release before neither read nor write any of it.

ALTER TABLE errands
    -- Why the session was in the state before.
    ADD COLUMN was_reason text,
    -- Where a session that is logged in anew belongs once that has succeeded; null: where it is. The application counts with the
    -- pool alone, since a session may have none.
    ADD COLUMN new_pool text REFERENCES pools (name),
    ADD COLUMN new_application uuid REFERENCES applications (id) ON DELETE SET NULL,
    -- How often another code was asked for.
    ADD COLUMN resends integer NOT NULL DEFAULT 0;

-- What Telegram told to wait at a login, over all sessions: a phone number, a bot's token. Known by a fingerprint that is made with
-- a master key, so that nobody who has the table alone finds out which.
CREATE TABLE login_rests (
    target bytea PRIMARY KEY CHECK (octet_length(target) = 32),
    -- A word of `errands.problem`, and Telegram's own name.
    problem text NOT NULL,
    error text NOT NULL,
    since timestamptz NOT NULL DEFAULT wireroom_now(),
    until timestamptz NOT NULL
);
CREATE INDEX login_rests_until ON login_rests (until);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261122000001, 20261120000015);
