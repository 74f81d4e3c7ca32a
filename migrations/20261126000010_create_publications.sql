-- Statistics of what was published. Expand only: a release before follows nothing, and fails a round that it is given, which
-- sends nothing and comes again.

-- One row per job whose messages are looked at again and again.
CREATE TABLE publications (
    job_id uuid PRIMARY KEY,
    -- The session that sent them.
    session_id uuid NOT NULL,
    every_minutes integer NOT NULL CHECK (every_minutes > 0),
    -- The last look is not before then.
    until timestamptz NOT NULL,
    -- When the next round is due; null: there is none any more.
    next_at timestamptz,
    -- The job of the last round: while that lives, there is no other.
    round_job uuid,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE INDEX publications_due ON publications (next_at) WHERE next_at IS NOT NULL;

-- One row per message that was ever looked at, or is to be.
CREATE TABLE publication_messages (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    job_id uuid NOT NULL,
    chat_id bigint NOT NULL,
    message_id integer NOT NULL,
    -- Numbers of basic groups are this account's alone.
    session_id uuid NOT NULL,
    published_at timestamptz,
    noted_at timestamptz NOT NULL DEFAULT wireroom_now(),
    looked_at timestamptz,
    -- Why the last look found nothing; null: it did.
    problem text,
    -- When it was first seen to be gone.
    deleted_at timestamptz,
    PRIMARY KEY (job_id, chat_id, message_id)
);
CREATE INDEX publication_messages_looked ON publication_messages ((coalesce(looked_at, noted_at)));

-- The counters of a message over time: a row where one of them is another than before.
CREATE TABLE publication_samples (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    job_id uuid NOT NULL,
    chat_id bigint NOT NULL,
    message_id integer NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- Null: Telegram keeps no such counter there.
    views integer,
    forwards integer,
    replies integer,
    reactions bigint NOT NULL,
    -- By emoji. Who reacted is not kept, nor asked for.
    by_reaction jsonb NOT NULL,
    PRIMARY KEY (job_id, chat_id, message_id, taken_at)
);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000010, 20261120000015);
