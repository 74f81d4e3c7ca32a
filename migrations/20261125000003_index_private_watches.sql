-- The private messages of an account have one watch, whichever of its sessions holds it. No unique index: the release before
-- allows one for each session, and those that it began go on until their jobs begin anew.
CREATE INDEX watches_live_private_owner ON watches (owner) WHERE state = 'active' AND chat_id IS NULL;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000003, 20261120000015);
