-- Finished jobs by what people look for and few have: an end other than success, and a tag. A job that succeeded and has no
-- tag, as most, is in neither index, so that ending it costs what it did. An index by session or kind would hold every job,
-- and costs 7 % of a job's whole way through the queue: those lists go over the ids instead, and read what they leave out.
--
-- On new and empty partitions alone: to build them on filled ones would hold finishing up meanwhile, and those go with
-- retention. A partition of the parent gets them when it is made.
CREATE INDEX finished_jobs_unsuccessful ON ONLY finished_jobs (state, id) WHERE state <> 'succeeded';
CREATE INDEX finished_jobs_tags ON ONLY finished_jobs USING gin (tags) WHERE tags <> '{}';

DO $$
DECLARE
    child regclass;
    is_filled boolean;
BEGIN
    FOR child IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'finished_jobs'::regclass LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', child) INTO is_filled;
        IF NOT is_filled THEN
            EXECUTE format('CREATE INDEX ON %s (state, id) WHERE state <> ''succeeded''', child);
            EXECUTE format('CREATE INDEX ON %s USING gin (tags) WHERE tags <> ''{}''', child);
        END IF;
    END LOOP;
END $$;

-- Indexes alone: the release before writes and reads as it did.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261121000003, 20261120000015);
