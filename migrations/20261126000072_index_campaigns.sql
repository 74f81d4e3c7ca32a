-- Pages, figures and turns of one campaign, among those of all: read by index, and not through every list there is.
CREATE INDEX campaign_people_list ON campaign_people (campaign_id, id);
CREATE INDEX campaign_people_judged ON campaign_people (campaign_id, decided_at) WHERE class IN ('refused', 'invited');
-- Whom a job is about now, apart from the many it has dealt with.
CREATE INDEX campaign_people_in_hand ON campaign_people (job_id) WHERE state = 'waiting' AND job_id IS NOT NULL;
-- Whether a name on a list is known from scans alone.
CREATE INDEX people_lower_username ON people (lower(username)) WHERE username IS NOT NULL;

-- The release before reads by them, too.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000072, 20261120000015);
