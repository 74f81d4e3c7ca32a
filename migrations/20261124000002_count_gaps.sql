-- Whoever fills a watch from the history must notice a gap that was found while it did. Expand only: the releases before
-- neither read nor write it.

-- How many gaps were found in the stream.
ALTER TABLE watches ADD COLUMN gaps integer NOT NULL DEFAULT 0;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000002, 20261120000015);
