-- Events that readers cannot skip: writers put them into `outbox`, and each is moved to `event_log` under the next number as
-- soon as its transaction has committed. A reader's place is one number, whatever commits late, and whatever other transactions
-- are open. Expands: `events` is a view of both, which takes the INSERT and the DELETE of the release before.

CREATE TABLE outbox (
    -- Given out within the writer's transaction, while it holds the lock that stands for the subject: so it orders a subject's
    -- events, and no others.
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    type text NOT NULL,
    -- Of what `data` holds.
    version smallint NOT NULL DEFAULT 1,
    subject text NOT NULL,
    data jsonb NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- Whoever moves events holds this row.
CREATE TABLE event_sequence (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- The last one given out; there is an event at each from the oldest that is kept.
    position bigint NOT NULL,
    logged_at timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Only appended to; a day's partition is dropped when it has been kept long enough.
CREATE TABLE event_log (
    position bigint NOT NULL,
    -- Never falls from one position to the next, even when the clock does.
    logged_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    type text NOT NULL,
    version smallint NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (position, logged_at)
) PARTITION BY RANGE (logged_at);
CREATE TABLE event_log_default PARTITION OF event_log DEFAULT;
CREATE INDEX event_log_logged_at ON event_log (logged_at);
CREATE INDEX event_log_subject ON event_log (subject, position);

-- Where each day (UTC) of the log begins: so a reader looks into no partition before its place, and knows the oldest event.
CREATE TABLE event_days (
    day date PRIMARY KEY,
    first_position bigint NOT NULL
);

-- As before, with `event_log`.
CREATE OR REPLACE FUNCTION ensure_day_partitions(ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    parent text;
    day date;
    child text;
BEGIN
    -- Two processes at once would wait for each other's DDL; one does the work, the other finds it done.
    PERFORM pg_advisory_xact_lock(hashtext('wireroom.ensure_day_partitions'));
    FOREACH parent IN ARRAY ARRAY['finished_jobs', 'job_attempts', 'event_log'] LOOP
        FOR day IN SELECT (wireroom_now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, ahead) n LOOP
            child := parent || to_char(day, '_YYYYMMDD');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                    day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
SELECT ensure_day_partitions(7);

-- As before, with `event_log`.
CREATE OR REPLACE FUNCTION expired_day_partitions(keep integer) RETURNS TABLE (child text, parent text) LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, p.relname::text
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class p ON p.oid = i.inhparent
    WHERE c.relkind = 'r' AND c.relname ~ '^(finished_jobs|job_attempts|event_log)_[0-9]{8}$'
        AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - keep
    ORDER BY 1
$$;

-- As before; a retired day of events begins nowhere any more.
CREATE OR REPLACE FUNCTION retire_day_partition(keep integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    expired record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('wireroom.ensure_day_partitions')) THEN
        RETURN NULL;
    END IF;
    SET LOCAL lock_timeout = '200ms';
    SELECT * INTO expired FROM expired_day_partitions(keep) ORDER BY parent NULLS FIRST, child LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF expired.parent IS NULL THEN
        EXECUTE format('DROP TABLE %I', expired.child);
    ELSE
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', expired.parent, expired.child);
        IF expired.parent = 'event_log' THEN
            DELETE FROM event_days WHERE day <= to_date(right(expired.child, 8), 'YYYYMMDD');
        END IF;
    END IF;
    RETURN expired.child;
END $$;

-- Events so far get their numbers in the order in which they were written. Nobody has read them by number. They are kept for
-- as long as those of today.
LOCK TABLE events IN ACCESS EXCLUSIVE MODE;
INSERT INTO event_sequence (position, logged_at) SELECT count(*), wireroom_now() FROM events;
INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
SELECT row_number() OVER (ORDER BY e.id), s.logged_at, e.at, e.type, 1, e.subject, e.data FROM events e, event_sequence s;
INSERT INTO event_days (day, first_position)
SELECT (logged_at AT TIME ZONE 'UTC')::date, 1 FROM event_sequence WHERE position > 0;
DROP TABLE events;

-- For the release before, and for people. What is not numbered yet comes after all that is.
CREATE VIEW events AS
SELECT position AS id, NULL::xid8 AS xid, at, type, subject, data FROM event_log
UNION ALL
SELECT 4611686018427387904 + id, NULL::xid8, at, type, subject, data FROM outbox;

CREATE FUNCTION write_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (at, type, subject, data)
    VALUES (coalesce(NEW.at, wireroom_now()), NEW.type, NEW.subject, NEW.data);
    RETURN NEW;
END $$;
CREATE TRIGGER events_insert INSTEAD OF INSERT ON events FOR EACH ROW EXECUTE FUNCTION write_event();

-- What has a number goes with its day: a delete by age leaves it alone, and says that it deleted nothing, since it would be
-- asked again otherwise.
CREATE FUNCTION delete_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM outbox WHERE id = OLD.id - 4611686018427387904;
    RETURN CASE WHEN FOUND THEN OLD END;
END $$;
CREATE TRIGGER events_delete INSTEAD OF DELETE ON events FOR EACH ROW EXECUTE FUNCTION delete_event();

-- As before, into the outbox.
CREATE OR REPLACE FUNCTION count_batch_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
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
            INSERT INTO outbox (type, subject, data) VALUES ('batch.finished', 'batch:' || batch.id, jsonb_build_object(
                'batch', batch.id,
                'total', batch.total, 'succeeded', batch.succeeded, 'failed', batch.failed, 'cancelled', batch.cancelled));
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Readers with a name: what they read, and how far they say that they have come.
CREATE TABLE event_consumers (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
    -- `session.*` or `session.state_changed`; empty: every type.
    types text[] NOT NULL DEFAULT '{}',
    -- Whether a job's end concerns it: such events are written only while they concern somebody.
    wants_jobs boolean NOT NULL,
    position bigint NOT NULL CHECK (position >= 0),
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- The last word of it.
    acked_at timestamptz
) WITH (fillfactor = 50);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000010, 20261120000015);
