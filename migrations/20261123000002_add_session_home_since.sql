-- When a session last followed its account to another data centre: one that is sent to and fro rests instead. Expand only: processes
-- of the release before never write it.
ALTER TABLE sessions ADD COLUMN home_since timestamptz;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261123000002, 20261120000015);
