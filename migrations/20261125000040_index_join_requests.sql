-- Jobs that wait for an admin's approval, by session: whoever reads that the account was let into a chat wakes them. Expand
-- only: no statement of a release before reads it. Few jobs wait so, and the index holds no other.
CREATE INDEX jobs_awaiting_approval ON jobs (session_id)
    WHERE state = 'scheduled' AND wait_reason ->> 'code' = 'approval_pending';

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000040, 20261120000015);
