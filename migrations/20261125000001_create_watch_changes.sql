-- What the update stream says of a message that is left to the history must not be undone by a page of the history that was
-- read before it. Expand only: the releases before neither read nor write it, and a watch that is deleted takes it along.

-- Changes of messages of a watch that fills which are not stored yet; gone when it has filled.
CREATE TABLE watch_changes (
    watch_id uuid NOT NULL REFERENCES watches (id) ON DELETE CASCADE,
    -- By the numbers of the watch's owner.
    message_id integer NOT NULL,
    -- Of the writer, as far as it is known.
    sender_id bigint,
    deleted boolean NOT NULL,
    -- The whole message as it was edited last, and the reactions that it has since.
    edited jsonb,
    reactions jsonb,
    PRIMARY KEY (watch_id, message_id)
);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000001, 20261120000015);
