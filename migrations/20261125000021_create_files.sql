-- Uploaded files: what is known of them; the bytes are in the file store. Expand only: the releases before have none.
CREATE TABLE files (
    id uuid PRIMARY KEY,
    sha256 bytea NOT NULL,
    -- The name of its bytes in the file store.
    object text NOT NULL,
    size_bytes bigint NOT NULL,
    content_type text NOT NULL,
    name text,
    -- `key:<id>` of whoever uploaded it; null: fetched by a job.
    created_by text,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    expires_at timestamptz NOT NULL,
    -- Not to be used any more: its bytes are to be deleted, then the row.
    deleted_at timestamptz
);
-- Equal bytes are kept once.
CREATE UNIQUE INDEX files_sha256 ON files (sha256) WHERE deleted_at IS NULL;
CREATE INDEX files_expires ON files (expires_at);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000021, 20261120000015);
