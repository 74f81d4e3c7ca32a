-- A session that is behind reads messages from before a watch after the watch has begun: they are none of its. Expand only:
-- watches of the release before have begun at 0, which leaves nothing out.

-- The newest message when the watch began, by the numbers of its owner.
ALTER TABLE watches ADD COLUMN begun_after integer NOT NULL DEFAULT 0;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000003, 20261120000015);
