-- How many rows a scan met and did not store, because they are about people who were erased. Expand only: the release before does
-- not write it, and its scans end as they did.
ALTER TABLE scans ADD COLUMN left_out bigint NOT NULL DEFAULT 0;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000061, 20261120000015);
