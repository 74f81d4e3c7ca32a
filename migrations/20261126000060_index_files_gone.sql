-- Files that are gone and whose bytes are still to be deleted: few of many, and looked for every few minutes. Expand only: the
-- release before reads and writes the table as it did.
CREATE INDEX files_gone ON files (deleted_at) WHERE deleted_at IS NOT NULL;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000060, 20261120000015);
