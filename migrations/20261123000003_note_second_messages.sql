-- That a person was written to again, so that a first message which never left can be given back as a dialogue too, and no dialogue
-- that there is. Expand only: processes of the release before do not note it, and give no dialogue back.
ALTER TABLE session_dialogues ADD COLUMN written_again boolean NOT NULL DEFAULT false;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261123000003, 20261120000015);
