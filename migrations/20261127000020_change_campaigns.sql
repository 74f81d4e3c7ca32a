-- Campaigns can be changed while they run, and deleted. What nobody may be contacted by again stays: a deleted campaign keeps its row, its
-- chat and its ledger, so that the days of rest, the caps of chats and replies that say stop know what they knew.

ALTER TABLE campaigns
    -- Its day, for its cap, where it has moved to another zone: those who were contacted since `counted_from` count until `counted_until`.
    ADD COLUMN counted_from timestamptz,
    ADD COLUMN counted_until timestamptz,
    -- When what a job may wait for was last changed.
    ADD COLUMN look_again_at timestamptz,
    ADD COLUMN deleted_at timestamptz,
    -- Since when nothing is left of a deleted one but whom it has contacted.
    ADD COLUMN emptied_at timestamptz;
CREATE INDEX campaigns_to_empty ON campaigns (id) WHERE deleted_at IS NOT NULL AND emptied_at IS NULL;

-- What a call said that may have been made and that nobody saw end, where the campaign says something else by now.
ALTER TABLE campaign_ledger ADD COLUMN said text, ADD COLUMN said_format text;

-- The day of a campaign at a moment: from when on whom it has contacted counts, and when the count begins anew.
CREATE FUNCTION campaign_day(
    zone text, counted_from timestamptz, counted_until timestamptz, moment timestamptz, OUT begins timestamptz, OUT ends timestamptz
) LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN moment < counted_until THEN least(counted_from, d.begins) ELSE d.begins END,
        CASE WHEN moment < counted_until THEN counted_until ELSE date_trunc('day', d.begins + interval '36 hours', zone) END
    FROM (SELECT date_trunc('day', moment, zone) AS begins) d
$$;

-- Nobody lets a deleted campaign run, be it a process of the release before.
CREATE FUNCTION keep_campaign_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.deleted_at := OLD.deleted_at;
    NEW.state := 'paused';
    NEW.state_code := 'deleted';
    NEW.job_id := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER campaigns_stay_deleted BEFORE UPDATE ON campaigns FOR EACH ROW
    WHEN (OLD.deleted_at IS NOT NULL) EXECUTE FUNCTION keep_campaign_deleted();

-- As before, and whoever changes a campaign while its job goes to sleep for its cap or its quiet hours is seen, too.
CREATE OR REPLACE FUNCTION look_again_at_outreach() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opened timestamptz;
    moment CONSTANT timestamptz := wireroom_now();
BEGIN
    IF NEW.wait_reason ->> 'code' IN ('campaign_cap', 'quiet_hours') THEN
        SELECT look_again_at INTO opened FROM campaigns WHERE id = (NEW.args ->> 'campaign')::uuid FOR SHARE;
    ELSE
        SELECT opened_at INTO opened FROM outreach_switch FOR SHARE;
    END IF;
    IF opened >= coalesce(OLD.started_at, OLD.claimed_at) THEN
        NEW.rank := NEW.rank - ((extract(epoch FROM NEW.run_at) - extract(epoch FROM moment)) * 1000000)::bigint;
        NEW.state := 'queued';
        NEW.run_at := moment;
        NEW.wait_reason := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER jobs_look_again_at_outreach BEFORE UPDATE OF wait_reason ON jobs FOR EACH ROW
    WHEN (NEW.state = 'scheduled' AND OLD.state NOT IN ('scheduled', 'queued')
        AND (NEW.wait_reason ->> 'code' IN ('outreach_stopped', 'target_cap')
            OR (NEW.kind = 'invite' AND NEW.wait_reason ->> 'code' IN ('campaign_cap', 'quiet_hours'))))
    EXECUTE FUNCTION look_again_at_outreach();

-- The release before changes no campaign; a deleted one it shows as paused, with `deleted`, and cannot start.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261127000020, 20261120000015);
