-- A job that has found outreach stopped, or a chat's cap spent, goes to sleep in a transaction of its own, a moment later. Whoever
-- resumes, or raises the limit, in between finds no job that sleeps. So the one that goes to sleep looks when that was last done.

ALTER TABLE outreach_switch ADD COLUMN opened_at timestamptz;

-- The lock orders the two: the one who opens waits until the job sleeps, and wakes it; or the job waits, and sees it.
CREATE FUNCTION look_again_at_outreach() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opened timestamptz;
    moment CONSTANT timestamptz := wireroom_now();
BEGIN
    SELECT opened_at INTO opened FROM outreach_switch FOR SHARE;
    IF opened >= coalesce(OLD.started_at, OLD.claimed_at) THEN
        NEW.rank := NEW.rank - ((extract(epoch FROM NEW.run_at) - extract(epoch FROM moment)) * 1000000)::bigint;
        NEW.state := 'queued';
        NEW.run_at := moment;
        NEW.wait_reason := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_look_again_at_outreach BEFORE UPDATE OF wait_reason ON jobs FOR EACH ROW
    WHEN (NEW.state = 'scheduled' AND OLD.state NOT IN ('scheduled', 'queued')
        AND NEW.wait_reason ->> 'code' IN ('outreach_stopped', 'target_cap'))
    EXECUTE FUNCTION look_again_at_outreach();

-- The release before does not say when it opens, and its jobs look when they did before.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000071, 20261120000015);
