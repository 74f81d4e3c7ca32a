-- The audit log is read by who did what, and by when. Entries that say a job was made are most of them, and what is made one by one: an
-- index by action leaves those out, since looking for them among all finds them at once.
CREATE INDEX audit_log_actor ON audit_log (actor, id DESC);
CREATE INDEX audit_log_action ON audit_log (action, id DESC) WHERE action <> 'job.created';

-- The first entry of that moment or later, by id: ids grow with time, so that twenty looks at the primary key find it, and no index of
-- times is kept. Null: no moment.
CREATE FUNCTION audit_id_at(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    low bigint;
    high bigint;
    middle bigint;
    found_id bigint;
    found_at timestamptz;
BEGIN
    SELECT coalesce(min(id), 1), coalesce(max(id), 0) + 1 INTO low, high FROM audit_log;
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        SELECT id, at INTO found_id, found_at FROM audit_log WHERE id >= middle ORDER BY id LIMIT 1;
        IF found_at >= moment THEN
            high := middle;
        ELSE
            low := found_id + 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

-- The release before writes to it as it did, and reads no list of it.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261127000021, 20261120000015);
