-- Sessions that Telegram's own trouble keeps from their work, and applications whose id Telegram refuses. Expand only:
-- processes of the releases before take no lease of a degraded session, and do not know of refused ids.

ALTER TABLE sessions DROP CONSTRAINT sessions_state_check,
    ADD CONSTRAINT sessions_state_check CHECK (state IN ('new', 'code_needed', 'password_needed', 'ready', 'limited',
        'degraded', 'logged_out', 'banned', 'frozen', 'quarantined', 'disabled'));

-- API ids that Telegram refuses: no session that connects with one is held until a person says that it is mended. By the id
-- and not by the application, since a session without one uses the id of its worker's environment.
CREATE TABLE refused_api_ids (
    api_id integer PRIMARY KEY,
    -- Telegram's name of the error.
    reason text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT wireroom_now()
);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261122000003, 20261120000015);
