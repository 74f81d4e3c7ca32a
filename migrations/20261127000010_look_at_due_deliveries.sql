-- Deliveries that wait are found by when they are due, one to a subject, instead of by reading all that wait. Of a subject's
-- waiting deliveries the first has a time and the others have none; what the release before left otherwise is put right by
-- whoever takes the subscription up.
CREATE INDEX deliveries_due ON deliveries (subscription_id, next_at, position) WHERE state = 'pending' AND next_at IS NOT NULL;

-- Pages of those in one state, among all that was delivered.
CREATE INDEX deliveries_waiting ON deliveries (subscription_id, position) WHERE state = 'pending';
CREATE INDEX deliveries_failed ON deliveries (subscription_id, position) WHERE state = 'failed';

-- When it was last switched on again: what waited by then has its three days from there, without being written anew.
ALTER TABLE subscription_progress ADD COLUMN reopened_at timestamptz;

-- The release before reads all that waits, and takes the same rows for first.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261127000010, 20261120000015);
