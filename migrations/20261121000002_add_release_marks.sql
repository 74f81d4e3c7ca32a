-- What an older release may run with. Each migration after the first release adds its row: the newest migration of the oldest
-- release whose processes run correctly with the schema as it is after this one. A process that finds migrations it does not
-- know starts when each of them has a row that admits it, and refuses otherwise. How to choose: migrations/README.md.
CREATE TABLE schema_compatibility (
    migration bigint PRIMARY KEY,
    oldest_release bigint NOT NULL CHECK (oldest_release < migration)
);
-- The first: one that landed with this table, and expands too.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261121000001, 20261120000015),
    (20261121000002, 20261120000015);

-- What rate limits count the jobs of a schedule by; null: nothing. A worker of the release before makes such a job without it.
ALTER TABLE schedules ADD COLUMN limit_key text CHECK (length(limit_key) BETWEEN 1 AND 128);

-- Which jobs a batch was made of, for as long as the batch is kept; a finished job does not know its batch. Rows are written
-- when the batch is: those that the release before made meanwhile have none.
CREATE TABLE batch_jobs (
    batch_id uuid NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    job_id uuid NOT NULL,
    PRIMARY KEY (batch_id, job_id)
);
