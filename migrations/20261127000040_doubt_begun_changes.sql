-- A change of a message (an edit, a pin, a deletion) has no effect row: its checkpoint says that a call may have been made that
-- nobody saw end. However such a job ends without having found out, it ends `outcome_unknown`.
CREATE OR REPLACE FUNCTION outcome_in_doubt(job uuid, checkpoint jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(checkpoint ->> 'change', '') = 'begun' OR (coalesce(checkpoint ->> 'fate', '') <> 'not_sent' AND EXISTS (
        SELECT FROM job_effects e WHERE e.job_id = job AND e.attempted_at IS NOT NULL AND e.settled_at IS NULL))
$$;

-- The release before writes no such checkpoint, and reads none.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261127000040, 20261120000015);
