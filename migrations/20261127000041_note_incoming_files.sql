-- Files on their way in: noted before a byte of them is stored, so that what a process that died has left is found and deleted. The
-- note is gone with the statement that makes the bytes a file's.
CREATE TABLE incoming_files (
    -- That of the file it becomes.
    id uuid PRIMARY KEY,
    -- The name of its bytes in the file store.
    object text NOT NULL,
    -- What S3 calls the upload, from before its first part.
    upload text,
    begun_at timestamptz NOT NULL DEFAULT wireroom_now(),
    -- Renewed while somebody is at it.
    touched_at timestamptz NOT NULL DEFAULT wireroom_now()
);
CREATE INDEX incoming_files_touched ON incoming_files (touched_at);

-- The release before makes no such notes, and needs none.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261127000041, 20261120000015);
