-- What scans read besides member lists: histories, comments, found chats and profiles; and how many there were each time.
-- Expand only: the release before makes no such scan.

-- What the scan reads. A search is about no one chat.
ALTER TABLE scans ADD COLUMN what text NOT NULL DEFAULT 'members';
ALTER TABLE scans ALTER COLUMN chat_id DROP NOT NULL;
-- How many of them no earlier scan had seen.
ALTER TABLE scans ADD COLUMN fresh bigint NOT NULL DEFAULT 0;
-- What a standing search goes by.
ALTER TABLE scans ADD COLUMN search_key text;

-- When somebody was seen first, of all scans whose rows are kept; null in rows of the release before.
ALTER TABLE people ADD COLUMN first_seen_at timestamptz;
ALTER TABLE people ALTER COLUMN first_seen_at SET DEFAULT wireroom_now();
ALTER TABLE chat_members ADD COLUMN first_seen_at timestamptz;
ALTER TABLE chat_members ALTER COLUMN first_seen_at SET DEFAULT wireroom_now();
-- Why the latest scan was made that saw them.
ALTER TABLE chat_members ADD COLUMN purpose text;

-- A message as the latest scan saw it.
CREATE TABLE seen_messages (
    chat_id bigint NOT NULL,
    -- Whose the numbers are: 0 in supergroups and channels, where they are everybody's, else the account's id.
    owner bigint NOT NULL,
    message_id integer NOT NULL,
    sent_at timestamptz NOT NULL,
    edited_at timestamptz,
    sender_id bigint,
    outgoing boolean NOT NULL,
    text text NOT NULL,
    media text,
    reply_to integer,
    topic integer,
    album bigint,
    views integer,
    forwards integer,
    -- How many answered it, where Telegram counts that.
    replies integer,
    reactions jsonb NOT NULL,
    service jsonb,
    first_seen_at timestamptz NOT NULL DEFAULT wireroom_now(),
    last_seen_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- The latest scan that saw it, and why that was made.
    job_id uuid NOT NULL,
    purpose text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (chat_id, owner, message_id)
);
CREATE INDEX seen_messages_expires ON seen_messages (expires_at);
CREATE INDEX seen_messages_sender ON seen_messages (sender_id) WHERE sender_id IS NOT NULL;

-- Which messages one scan saw.
CREATE TABLE scan_messages (
    job_id uuid NOT NULL REFERENCES scans (job_id) ON DELETE CASCADE,
    chat_id bigint NOT NULL,
    owner bigint NOT NULL,
    message_id integer NOT NULL,
    -- Of a comment: the post of the channel.
    post_id integer,
    PRIMARY KEY (job_id, chat_id, owner, message_id)
);

-- What one search found.
CREATE TABLE scan_chats (
    job_id uuid NOT NULL REFERENCES scans (job_id) ON DELETE CASCADE,
    chat_id bigint NOT NULL,
    type text NOT NULL,
    title text NOT NULL,
    username text,
    member_count bigint,
    -- ISO 639-3, and how sure the guess is, from 0 to 1.
    language text,
    language_confidence real,
    last_post_at timestamptz,
    -- Whether the session is a member.
    member boolean NOT NULL,
    found_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (job_id, chat_id)
);

CREATE INDEX scan_chats_chat ON scan_chats (chat_id);

-- What a standing search has found already, over all its runs.
CREATE TABLE search_finds (
    search_key text NOT NULL,
    chat_id bigint NOT NULL,
    job_id uuid NOT NULL,
    first_found_at timestamptz NOT NULL DEFAULT wireroom_now(),
    last_found_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (search_key, chat_id)
);
CREATE INDEX search_finds_last ON search_finds (last_found_at);

-- One person or chat in full. chat_id is the person's id where it is one.
CREATE TABLE scan_profiles (
    job_id uuid PRIMARY KEY REFERENCES scans (job_id) ON DELETE CASCADE,
    chat_id bigint NOT NULL,
    profile jsonb NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE INDEX scan_profiles_chat ON scan_profiles (chat_id);

-- How many there were, a row for each finished scan of a chat: nobody is named.
CREATE TABLE chat_counts (
    job_id uuid PRIMARY KEY,
    chat_id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    what text NOT NULL,
    -- Of a member list: which.
    list text,
    -- As Telegram counts them; null when it does not say.
    counted bigint,
    seen bigint NOT NULL,
    fresh bigint NOT NULL,
    complete boolean NOT NULL,
    reason text
);
CREATE INDEX chat_counts_chat ON chat_counts (chat_id, at DESC, job_id DESC);
CREATE INDEX chat_counts_at ON chat_counts (at);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000030, 20261120000015);
