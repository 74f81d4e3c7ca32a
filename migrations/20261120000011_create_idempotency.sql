-- What makes enqueuing repeatable: the answers to requests with an Idempotency-Key, the keys of jobs that must be alone, and
-- batches with their progress. Expand only: processes of the release before run against it, and what they finish counts too.

-- ---------------------------------------------------------------- repeated requests

-- A row is inserted before the request does anything and filled before its transaction commits, so an equal request at the
-- same moment waits for it at the primary key and then finds the answer.
CREATE TABLE idempotency_keys (
    -- The id of the API key: two clients never meet.
    owner text NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- SHA-256 of the operation and the canonical body.
    request_hash bytea CHECK (octet_length(request_hash) = 32),
    status smallint,
    location text,
    -- The answer without the args of its job, which may be a message's text.
    body jsonb,
    -- The job whose args belong into the answer; null: those of the request itself.
    args_of uuid,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);

-- ---------------------------------------------------------------- unique jobs

-- Who holds a key. Whether it still does is read from the job itself, under this row's lock, when another one asks: so a key
-- is free at the moment its job leaves the scope, whichever statement ended or claimed it, and neither pays for keys.
CREATE TABLE unique_keys (
    kind text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('queued', 'live', 'period')),
    -- SHA-256 of the key, which may name a person.
    key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    job_id uuid NOT NULL,
    -- Of a period its end; of the other scopes when to look whether the job is still there.
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (kind, scope, key_hash)
) WITH (fillfactor = 90);
CREATE INDEX unique_keys_expires ON unique_keys (expires_at);

-- ---------------------------------------------------------------- batches

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    mode text NOT NULL CHECK (mode IN ('all_or_nothing', 'per_item')),
    -- Jobs it was made of; known when the batch is committed.
    total integer NOT NULL DEFAULT 0,
    succeeded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    finished_at timestamptz
    -- Its row is updated by every completion that has jobs of it: room for those versions in the page.
) WITH (fillfactor = 50);
CREATE INDEX batches_finished ON batches (finished_at) WHERE finished_at IS NOT NULL;

ALTER TABLE jobs ADD COLUMN batch_id uuid;
CREATE INDEX jobs_batch ON jobs (batch_id, state) WHERE batch_id IS NOT NULL;

-- Counts the jobs of batches that a statement has finished, whichever statement it is: one update per batch and statement, so
-- two completions meet at a batch's row for no longer than one of them commits. Whoever brings the last job in writes the
-- event, in the same transaction.
CREATE FUNCTION count_batch_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- A job is finished after it was deleted by the same statement: a bound for the partitions to look in.
    recent timestamptz := wireroom_now() - interval '1 hour';
    part record;
    batch batches%ROWTYPE;
BEGIN
    -- Most statements end here, before a plan over every partition is made ready.
    IF NOT EXISTS (SELECT FROM gone WHERE batch_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    -- By id, so that two completions with two batches in common do not wait for each other.
    FOR part IN
        SELECT g.batch_id, count(*) FILTER (WHERE f.state = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE f.state = 'failed') AS failed,
            count(*) FILTER (WHERE coalesce(f.state, 'cancelled') = 'cancelled') AS cancelled
        FROM gone g LEFT JOIN LATERAL (
            SELECT state FROM finished_jobs WHERE id = g.id AND finished_at >= recent LIMIT 1) f ON true
        WHERE g.batch_id IS NOT NULL GROUP BY g.batch_id ORDER BY g.batch_id
    LOOP
        UPDATE batches b SET succeeded = b.succeeded + part.succeeded, failed = b.failed + part.failed,
            cancelled = b.cancelled + part.cancelled,
            finished_at = CASE WHEN b.succeeded + b.failed + b.cancelled + part.succeeded + part.failed + part.cancelled
                >= b.total THEN wireroom_now() END
        WHERE b.id = part.batch_id RETURNING * INTO batch;
        IF batch.finished_at IS NOT NULL THEN
            INSERT INTO events (type, subject, data) VALUES ('batch.finished', 'batch:' || batch.id, jsonb_build_object(
                'total', batch.total, 'succeeded', batch.succeeded, 'failed', batch.failed, 'cancelled', batch.cancelled));
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_count_batch AFTER DELETE ON jobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION count_batch_jobs();
