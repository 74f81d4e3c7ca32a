-- Files that scans download: which message names which, what is known of them at Telegram, and how far those that come in are.
-- Expand only: the release before downloads nothing, and its uploads do not know the column `downloaded`; what it uploads while both
-- run, and was downloaded before, goes with the last message that names it.

-- It is there because scans downloaded it, and for as long as one of their rows names it. Uploading it too makes it stay.
ALTER TABLE files ADD COLUMN downloaded boolean NOT NULL DEFAULT false;

-- What became of the file of a message in one scan.
CREATE TABLE scan_files (
    job_id uuid NOT NULL REFERENCES scans (job_id) ON DELETE CASCADE,
    chat_id bigint NOT NULL,
    owner bigint NOT NULL,
    message_id integer NOT NULL,
    -- Whose message it is: it goes with them when they are erased.
    sender_id bigint,
    state text NOT NULL CHECK (state IN ('waiting', 'downloaded', 'known', 'skipped')),
    -- Why it was skipped.
    reason text,
    -- As Telegram knows it; null where it does not show it.
    medium text CHECK (medium IN ('photo', 'document')),
    media_id bigint,
    size_bytes bigint,
    content_type text,
    name text,
    dc smallint,
    -- What to ask with; null when nobody will.
    location bytea,
    -- Null again when the file was deleted.
    file_id uuid REFERENCES files (id) ON DELETE SET NULL,
    PRIMARY KEY (job_id, chat_id, owner, message_id),
    CHECK (state <> 'waiting' OR (medium IS NOT NULL AND media_id IS NOT NULL AND size_bytes IS NOT NULL AND location IS NOT NULL)),
    CHECK ((state = 'skipped') = (reason IS NOT NULL))
);
CREATE INDEX scan_files_waiting ON scan_files (job_id, message_id DESC) WHERE state = 'waiting';
CREATE INDEX scan_files_file ON scan_files (file_id) WHERE file_id IS NOT NULL;
CREATE INDEX scan_files_sender ON scan_files (sender_id) WHERE sender_id IS NOT NULL;

-- Telegram's files that are kept here: none is downloaded twice.
CREATE TABLE telegram_files (
    medium text NOT NULL CHECK (medium IN ('photo', 'document')),
    media_id bigint NOT NULL,
    size_bytes bigint NOT NULL,
    file_id uuid NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    PRIMARY KEY (medium, media_id, size_bytes)
);
CREATE INDEX telegram_files_file ON telegram_files (file_id);

-- Files that come in: bytes that are in the file store and no file yet. Not tied to the scan's row: whoever finds one whose job is over
-- deletes its bytes first.
CREATE TABLE partial_files (
    -- That of the file it becomes.
    id uuid PRIMARY KEY,
    job_id uuid NOT NULL,
    medium text NOT NULL,
    media_id bigint NOT NULL,
    -- The name of its bytes in the file store.
    object text NOT NULL,
    -- How many of them are kept for good, and what is needed to go on behind them.
    size_bytes bigint NOT NULL DEFAULT 0,
    progress bytea NOT NULL,
    -- Another file has the same bytes: these are to be deleted.
    spent boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE UNIQUE INDEX partial_files_medium ON partial_files (job_id, medium, media_id) WHERE NOT spent;

-- A downloaded file goes with the last row that names it, whatever deleted that: the end of its time, or the erasure of its sender.
CREATE FUNCTION drop_unnamed_files() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    named uuid[];
BEGIN
    SELECT array_agg(DISTINCT file_id) INTO named FROM gone WHERE file_id IS NOT NULL;
    IF named IS NULL THEN
        RETURN NULL;
    END IF;
    -- Whoever is about to name one of them holds its row: what they have named is seen by the statement after this one.
    PERFORM FROM files WHERE id = ANY (named) ORDER BY id FOR UPDATE;
    UPDATE files f SET deleted_at = wireroom_now()
        WHERE f.id = ANY (named) AND f.downloaded AND f.deleted_at IS NULL
            AND NOT EXISTS (SELECT FROM scan_files s WHERE s.file_id = f.id);
    RETURN NULL;
END $$;
CREATE TRIGGER scan_files_gone AFTER DELETE ON scan_files REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION drop_unnamed_files();

-- Whose textual files are still to be looked for: those that name the person are deleted, and what a table cannot show is only in the
-- bytes. As in `erasures`, nothing of the person is left when it is done; its lists are varchar[] for the same reason.
CREATE TABLE file_erasures (
    erasure_id uuid PRIMARY KEY REFERENCES erasures (id) ON DELETE CASCADE,
    person bigint NOT NULL,
    -- In lower case.
    names varchar[] NOT NULL,
    -- Files up to this one were read.
    place uuid,
    -- The newest file when it was begun: later ones are not read for it.
    until uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now()
);

-- By a trigger: an erasure that the release before begins looks through files as well.
CREATE FUNCTION look_for_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO file_erasures (erasure_id, person, names, until)
    SELECT NEW.id, NEW.person, NEW.names, f.id FROM files f ORDER BY f.id DESC LIMIT 1;
    RETURN NULL;
END $$;
CREATE TRIGGER erasures_begun AFTER INSERT ON erasures FOR EACH ROW WHEN (NEW.state = 'working')
    EXECUTE FUNCTION look_for_files();

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000001, 20261120000015);
