-- What running jobs say of themselves, for GET /v1/jobs/{id}/events. Bounded: the newest lines of each job, for some days.
CREATE TABLE job_logs (
    job_id uuid NOT NULL,
    -- Grows within a job in the order in which lines become visible: taken while the job's row is locked. So a reader that
    -- goes on after the last line it saw misses none.
    line bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT wireroom_now(),
    attempt integer NOT NULL,
    fence bigint NOT NULL,
    level text NOT NULL CHECK (level IN ('info', 'warn')),
    -- A stable word and a fixed sentence: nothing of a message, a chat's name or a person is in them.
    code text NOT NULL,
    message text NOT NULL,
    -- The numbers that go with the sentence, by name.
    data jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (job_id, line)
);
CREATE INDEX job_logs_at ON job_logs (at);
