-- Texts with variables that publish jobs are filled in from. Expand only: jobs hold the filled in text.
CREATE TABLE templates (
    name text PRIMARY KEY,
    -- plain, markdown, html
    format text NOT NULL,
    text text NOT NULL,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    updated_at timestamptz NOT NULL DEFAULT wireroom_now()
);

INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000022, 20261120000015);
