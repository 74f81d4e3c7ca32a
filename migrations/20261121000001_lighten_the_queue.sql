-- Less work for the same promises. Processes of the release before run on: nothing is taken away, and what they write counts.

-- A claim makes a new version of a job's row, and so a second entry for its id: in full pages each claim would split them, or
-- search them for dead entries first. With half of each page left free a claim costs the server some 5 % less CPU. The index
-- of live jobs is small and pays it with as many pages again. It holds for pages from now on, which is soon all of them.
ALTER INDEX jobs_pkey SET (fillfactor = 50);

-- The indexes by kind under a condition that only the statements for single kinds name: `=` would let the planner answer those
-- over any other index of ready jobs, which reads past a backlog of other kinds, and did so after an ANALYZE of a queue in
-- which nothing was ready. The release before does without them.
CREATE INDEX jobs_queued_session_kind ON jobs (session_id, (lane || '/' || kind), rank, id)
    WHERE session_id IS NOT NULL AND state IS NOT DISTINCT FROM 'queued';
CREATE INDEX jobs_queued_pool_kind ON jobs (pool, (lane || '/' || kind), rank, id)
    WHERE session_id IS NULL AND state IS NOT DISTINCT FROM 'queued';
DROP INDEX jobs_ready_session_kind;
DROP INDEX jobs_ready_pool_kind;

-- Grows with every change to a pause or a limit, in the transaction of the change: so a look at one row, which a worker's
-- regular promotion takes along, tells it whether to read them again.
CREATE TABLE control_version (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO control_version (version) VALUES (0);

CREATE FUNCTION note_control_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE control_version SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER pauses_note_change AFTER INSERT OR UPDATE OR DELETE ON pauses
    FOR EACH STATEMENT EXECUTE FUNCTION note_control_change();
-- Not `version`, which every claim under the limit writes.
CREATE TRIGGER concurrency_limits_note_change AFTER INSERT OR UPDATE OF max_running OR DELETE ON concurrency_limits
    FOR EACH STATEMENT EXECUTE FUNCTION note_control_change();
CREATE TRIGGER rate_limits_note_change AFTER INSERT OR UPDATE OR DELETE ON rate_limits
    FOR EACH STATEMENT EXECUTE FUNCTION note_control_change();
