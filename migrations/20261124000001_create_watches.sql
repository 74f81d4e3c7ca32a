-- Chats that are watched, and the messages seen in them. Expand only: the releases before know neither.

-- One row for each monitor job that has begun.
CREATE TABLE watches (
    -- The monitor job.
    id uuid PRIMARY KEY,
    -- The chat in the Bot API's form; NULL for the private messages of the session.
    chat_id bigint,
    -- The session whose updates are recorded: the only one, so that a chat's events come from one stream at a time.
    -- Not a reference: a watch outlives a session that is deleted, and goes on with the next one of its job's list.
    session_id uuid NOT NULL,
    -- Whose the message ids are: 0 where everybody's (supergroups, channels), else the Telegram account's.
    owner bigint NOT NULL,
    -- The event types to raise, such as `message.new`.
    events text[] NOT NULL,
    -- Which messages are of interest; the form is the kind's.
    filter jsonb NOT NULL,
    -- Raised by each change of events or filter, so that a process that has read them knows them to be old.
    version integer NOT NULL DEFAULT 1,
    retention_days integer NOT NULL CHECK (retention_days BETWEEN 1 AND 3650),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'stopped', 'exhausted')),
    -- The history is being read: new messages are left to it, so that they are stored in their order. The newest one left
    -- is noted, and the history has caught up when it has got that far.
    filling boolean NOT NULL DEFAULT true,
    left_to_history integer NOT NULL DEFAULT 0,
    -- The newest message that is accounted for.
    last_message_id integer NOT NULL DEFAULT 0,
    last_message_at timestamptz,
    -- How many messages were seen (whether or not the filter takes them), how many of them were read from the history
    -- after a break, and how many were missed of those that were looked for.
    seen bigint NOT NULL DEFAULT 0,
    from_history bigint NOT NULL DEFAULT 0,
    missed bigint NOT NULL DEFAULT 0,
    -- How many messages that exist were looked for among those that were seen, and up to which one.
    checked bigint NOT NULL DEFAULT 0,
    checked_to integer NOT NULL DEFAULT 0,
    -- Why the session cannot see the chat any more: Telegram's name of the error, or ours.
    lost_reason text,
    started_at timestamptz NOT NULL DEFAULT wireroom_now(),
    stopped_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE UNIQUE INDEX watches_live_chat ON watches (chat_id) WHERE state = 'active' AND chat_id IS NOT NULL;
CREATE UNIQUE INDEX watches_live_private ON watches (session_id) WHERE state = 'active' AND chat_id IS NULL;
CREATE INDEX watches_live_session ON watches (session_id, chat_id) WHERE state = 'active';

-- Each message of a watched chat once, however often and by however many sessions it was told.
CREATE TABLE messages (
    chat_id bigint NOT NULL,
    -- As in watches.
    owner bigint NOT NULL,
    message_id integer NOT NULL,
    watch_id uuid NOT NULL,
    -- The session that brought it.
    session_id uuid NOT NULL,
    date timestamptz NOT NULL,
    sender_id bigint,
    edited_at timestamptz,
    deleted_at timestamptz,
    -- The whole message; NULL when the watch's filter did not take it, or when it was deleted.
    content jsonb,
    -- Of the content, to tell an edit from a repetition.
    digest bigint NOT NULL,
    from_history boolean NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT wireroom_now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (chat_id, owner, message_id)
);
-- Telegram names deleted messages of private chats and basic groups without their chat.
CREATE INDEX messages_own ON messages (owner, message_id) WHERE owner <> 0;
CREATE INDEX messages_watch ON messages (watch_id, message_id);
CREATE INDEX messages_sender ON messages (sender_id);
CREATE INDEX messages_expires ON messages (expires_at);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000001, 20261120000015);
