-- A watch of an account's private messages goes on with any other session of that account: they are the same messages under the same
-- numbers. Those of its list come first. The release before asks the same function, and moves them too.
CREATE OR REPLACE FUNCTION next_watch_session(job uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT s.id FROM jobs j
    JOIN (
        SELECT s.id, b.place FROM jobs j
        CROSS JOIN jsonb_array_elements_text(coalesce(j.args -> 'backups', '[]')) WITH ORDINALITY AS b (name, place)
        JOIN sessions s ON s.id::text = b.name OR s.label = b.name
        WHERE j.id = $1
        UNION ALL
        SELECT s.id, NULL FROM watches w JOIN sessions s ON s.account_id = w.owner
        WHERE w.id = $1 AND w.chat_id IS NULL AND NOT s.is_bot
    ) c ON true
    JOIN sessions s ON s.id = c.id
    WHERE j.id = $1 AND s.id IS DISTINCT FROM j.session_id AND s.state IN ('ready', 'limited', 'degraded')
        AND NOT EXISTS (SELECT FROM watch_losses l WHERE l.job_id = j.id AND l.session_id = s.id
            AND l.counts_until > wireroom_now())
    ORDER BY c.place NULLS LAST, s.pool <> j.pool, s.id LIMIT 1
$$;

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000032, 20261120000015);
