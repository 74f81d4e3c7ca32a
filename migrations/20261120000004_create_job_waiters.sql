-- Jobs whose result somebody waits for over HTTP, so that completions are announced only then. Written in the
-- transaction that stores the job; unlogged, since after a crash nobody waits any more.
CREATE UNLOGGED TABLE job_waiters (
    job_id uuid PRIMARY KEY,
    waits_until timestamptz NOT NULL
);
