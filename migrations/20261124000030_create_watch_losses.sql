-- Which sessions have lost a watched chat, and that a watch ends with its job. Expand only: the releases before have no
-- monitor jobs.

-- The numbers of last_message_id are another account's: the place is to be found again by time.
ALTER TABLE watches ADD COLUMN renumbered boolean NOT NULL DEFAULT false;

CREATE INDEX jobs_monitors ON jobs (session_id) WHERE kind = 'monitor';

-- Sessions that could not see the chat of a monitor job. One that is long past does not count.
CREATE TABLE watch_losses (
    job_id uuid NOT NULL,
    session_id uuid NOT NULL,
    -- How often in a row.
    tries integer NOT NULL DEFAULT 1,
    reason text NOT NULL,
    lost_at timestamptz NOT NULL DEFAULT wireroom_now(),
    PRIMARY KEY (job_id, session_id)
);

-- Whatever ends a monitor job, or asks it to stop, stops its watch in the same transaction: nothing is recorded from the
-- moment that is answered.
CREATE FUNCTION stop_watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE watches SET state = 'stopped', stopped_at = wireroom_now(), updated_at = wireroom_now()
    WHERE id = OLD.id AND state = 'active';
    IF FOUND THEN
        INSERT INTO events (type, subject, data)
        VALUES ('watch.stopped', 'watch:' || OLD.id, jsonb_build_object('watch', OLD.id));
    END IF;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM watch_losses WHERE job_id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER jobs_stop_watch_when_cancelled AFTER UPDATE OF cancel_requested_at ON jobs FOR EACH ROW
    WHEN (NEW.kind = 'monitor' AND NEW.cancel_requested_at IS NOT NULL) EXECUTE FUNCTION stop_watch();
CREATE TRIGGER jobs_stop_watch_when_over AFTER DELETE ON jobs FOR EACH ROW
    WHEN (OLD.kind = 'monitor') EXECUTE FUNCTION stop_watch();

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000030, 20261120000015);
