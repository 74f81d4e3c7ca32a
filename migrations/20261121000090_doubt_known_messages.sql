-- A message whose id is known is in Telegram all the same: a job that ends without having said so, because its worker died
-- between storing the id and ending the job, must not end as if it were safe to send again. So what counts is that a send
-- began and was not seen to be refused.
CREATE OR REPLACE FUNCTION outcome_in_doubt(job uuid, checkpoint jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(checkpoint ->> 'fate', '') <> 'not_sent' AND EXISTS (
        SELECT FROM job_effects e WHERE e.job_id = job AND e.attempted_at IS NOT NULL)
$$;

-- The release before calls the function by the same name, and ends fewer jobs as safe to send again.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261121000090, 20261120000015);
