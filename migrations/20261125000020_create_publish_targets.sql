-- Messages to several chats in one job. Expand only: the releases before write one effect per job, and never settle it.

ALTER TABLE job_effects
    -- The other messages of an album or a forward.
    ADD COLUMN other_message_ids integer[],
    -- What became of it is kept elsewhere for good: it is in doubt no longer.
    ADD COLUMN settled_at timestamptz;

-- What counts is that a send began and was not seen to be refused; where the outcome is kept with its target, nothing is
-- in doubt.
CREATE OR REPLACE FUNCTION outcome_in_doubt(job uuid, checkpoint jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(checkpoint ->> 'fate', '') <> 'not_sent' AND EXISTS (
        SELECT FROM job_effects e WHERE e.job_id = job AND e.attempted_at IS NOT NULL AND e.settled_at IS NULL)
$$;

-- One row per chat of a job with several, from when anything became of it.
CREATE TABLE publish_targets (
    job_id uuid NOT NULL,
    -- Its place in the job's args, from 0.
    position integer NOT NULL,
    chat_id bigint,
    -- How often a send was begun and not seen to end.
    tries integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    -- Null: not decided yet. `sent`, or the code of what kept it from being sent.
    outcome text,
    error text,
    message_id integer,
    other_message_ids integer[],
    message_date timestamptz,
    updated_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (job_id, position)
);
CREATE INDEX publish_targets_updated ON publish_targets (updated_at);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000020, 20261120000015);
