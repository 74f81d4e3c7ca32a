-- Whether a message of the job may be in Telegram without anybody knowing: a send began, no message of it is known, and
-- the function did not see it refused (then it keeps the fate `not_sent` in its checkpoint). However such a job ends, it
-- ends `failed` with `outcome_unknown`: every other end would say that it is safe to send again.
CREATE FUNCTION outcome_in_doubt(job uuid, checkpoint jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(checkpoint ->> 'fate', '') <> 'not_sent' AND EXISTS (
        SELECT FROM job_effects e WHERE e.job_id = job AND e.attempted_at IS NOT NULL AND e.message_id IS NULL)
$$;

-- The error of a job that ends in doubt, with the one that ended it. A function that gave up for this reason itself has
-- said so better.
CREATE FUNCTION outcome_unknown(error jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN error @> '{"code": "outcome_unknown", "retryable": false}' THEN error
        ELSE jsonb_build_object('code', 'outcome_unknown', 'retryable', false, 'message', concat_ws(' ',
            'A message may or may not have been sent, and the job ended before it could find out.',
            'Look in the chat before you send it again.',
            CASE WHEN error ->> 'code' <> 'outcome_unknown' THEN error ->> 'message' END))
        END
$$;
