-- What an older release may run with. Each migration after the first release adds its row: the newest migration of the oldest
-- release whose processes run correctly with the schema as it is after this one. A process that finds migrations it does not
-- know starts when each of them has a row that admits it, and refuses otherwise. How to choose: migrations/README.md.
CREATE TABLE schema_compatibility (
    migration bigint PRIMARY KEY,
    oldest_release bigint NOT NULL CHECK (oldest_release < migration)
);
-- This one, and the one just before it, which came in the same release: both expand.
INSERT INTO schema_compatibility (migration, oldest_release)
VALUES (20261121000001, 20261120000015), (20261121000002, 20261120000015);

-- What rate limits count the jobs of a schedule by; null: nothing. A worker of the release before makes such a job without it.
ALTER TABLE schedules ADD COLUMN limit_key text CHECK (length(limit_key) BETWEEN 1 AND 128);

-- Which jobs a batch was made of, for as long as the batch is kept; a finished job does not know its batch. Rows are written
-- when the batch is: those that the release before made meanwhile have none.
CREATE TABLE batch_jobs (
    batch_id uuid NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    job_id uuid NOT NULL,
    PRIMARY KEY (batch_id, job_id)
);

-- The audit log has a row for each request that changed something, and none for ever: what is older than a year may be
-- deleted, and nothing of it may be changed.
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < wireroom_now() - interval '365 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only; rows older than 365 days may be deleted';
END $$;
CREATE OR REPLACE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
