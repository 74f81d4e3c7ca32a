-- A SOCKS5 proxy per session: every connection of the session goes through it. All of it is sealed for the workers, with the user
-- name and the password; the address is here once more so that people can be shown it.
CREATE TABLE session_proxies (
    session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    host text NOT NULL CHECK (length(host) BETWEEN 1 AND 255),
    port integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    has_credentials boolean NOT NULL,
    sealed bytea NOT NULL,
    sealed_with text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- A worker of the release before knows no proxies, and would connect such a session from its own address. So whoever takes a
-- lease writes the new fence here as well, to say that it does know them, or does not get those sessions.
ALTER TABLE session_leases ADD COLUMN proxies_known_at bigint NOT NULL DEFAULT -1;
ALTER TABLE errands ADD COLUMN proxies_known_at bigint NOT NULL DEFAULT -1;

CREATE FUNCTION refuse_direct_connection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.proxies_known_at <> NEW.fence AND EXISTS (SELECT FROM session_proxies p WHERE p.session_id = NEW.session_id) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
-- Not at a renewal, which names no owner.
CREATE TRIGGER session_leases_refuse_direct_connection BEFORE UPDATE OF owner ON session_leases
    FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION refuse_direct_connection();
CREATE TRIGGER errands_refuse_direct_connection BEFORE UPDATE OF owner ON errands
    FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION refuse_direct_connection();

-- Expand only; and what the release before must not do with the new rows, the triggers keep it from.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261123000001, 20261120000015);
