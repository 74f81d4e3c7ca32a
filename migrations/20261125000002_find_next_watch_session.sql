-- How long a loss counts is kept with it, and who goes on with a watch is looked for in one place. Expand only: a loss that the
-- release before notes counts for the time that it gave the shortest one.

ALTER TABLE watch_losses ADD COLUMN counts_until timestamptz NOT NULL DEFAULT wireroom_now() + interval '600 seconds';

-- The first of a monitor job's backups that may be used and has not lost the chat; NULL: nobody is left.
CREATE FUNCTION next_watch_session(job uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT s.id FROM jobs j
    CROSS JOIN jsonb_array_elements_text(coalesce(j.args -> 'backups', '[]')) WITH ORDINALITY AS b (name, place)
    JOIN sessions s ON s.id::text = b.name OR s.label = b.name
    WHERE j.id = $1 AND s.id IS DISTINCT FROM j.session_id AND s.state IN ('ready', 'limited', 'degraded')
        AND NOT EXISTS (SELECT FROM watch_losses l WHERE l.job_id = j.id AND l.session_id = s.id
            AND l.counts_until > wireroom_now())
    ORDER BY b.place LIMIT 1
$$;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000002, 20261120000015);
