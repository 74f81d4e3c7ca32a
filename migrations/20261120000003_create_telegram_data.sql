-- Chats that any session has met. Facts a chat shows to everyone who can see it; access is per session.
CREATE TABLE chats (
    -- The Bot API's form: negative for groups, -100… for supergroups and channels.
    id bigint PRIMARY KEY,
    type text NOT NULL CHECK (type IN ('group', 'supergroup', 'channel', 'private')),
    title text NOT NULL,
    username text,
    member_count bigint,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now()
);

CREATE TABLE session_chats (
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    chat_id bigint NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    member boolean NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (session_id, chat_id)
);
CREATE INDEX session_chats_chat ON session_chats (chat_id);

-- One scan: why the rows exist and how long.
CREATE TABLE scans (
    job_id uuid PRIMARY KEY,
    chat_id bigint NOT NULL,
    purpose text NOT NULL CHECK (length(purpose) BETWEEN 1 AND 200),
    -- How many people it has seen.
    seen bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT wireroom_now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX scans_expires ON scans (expires_at);

-- People met by scans, latest knowledge. No phone numbers: there is no column for one.
CREATE TABLE people (
    id bigint PRIMARY KEY,
    username text,
    first_name text,
    last_name text,
    is_bot boolean NOT NULL,
    is_deleted boolean NOT NULL,
    is_premium boolean NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX people_expires ON people (expires_at);

-- Who is in a chat, as of the latest scan that saw them.
CREATE TABLE chat_members (
    chat_id bigint NOT NULL,
    user_id bigint NOT NULL,
    role text NOT NULL,
    joined_at timestamptz,
    seen_at timestamptz NOT NULL DEFAULT wireroom_now(),
    job_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (chat_id, user_id)
);
CREATE INDEX chat_members_user ON chat_members (user_id);
CREATE INDEX chat_members_expires ON chat_members (expires_at);

-- What one scan saw. A later scan does not change it.
CREATE TABLE scan_members (
    job_id uuid NOT NULL REFERENCES scans (job_id) ON DELETE CASCADE,
    user_id bigint NOT NULL,
    username text,
    first_name text,
    last_name text,
    is_bot boolean NOT NULL,
    is_deleted boolean NOT NULL,
    is_premium boolean NOT NULL,
    role text NOT NULL,
    joined_at timestamptz,
    PRIMARY KEY (job_id, user_id)
);

-- Facts in order, for subscribers. Written in the transaction that made the fact true.
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The transaction, so that a reader can stop before one that is still open.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- `session.state_changed`, `session.access_lost`, …
    type text NOT NULL,
    -- Order is kept per subject: `session:<id>`, `chat:<id>`, `job:<id>`.
    subject text NOT NULL,
    data jsonb NOT NULL
);
CREATE INDEX events_at ON events (at);
