//! Triggers in the simulation's database that see what no later look can: who ended an attempt, who took a lease, and what
//! was claimed in spite of a pause or a limit.

use sqlx::PgPool;

/// Each worker's connections carry its id under this name.
pub const WRITER: &str = "simulation.worker";

/// By when every worker knows of a pause or a limit: real seconds, whatever the clock of the database says.
const KNOWN_AFTER: f64 = 3.0;

/// Installs the triggers.
pub async fn install(pool: &PgPool) {
    for sql in [endings(), claims()] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(pool)
            .await
            .expect("the triggers are there");
    }
}

fn endings() -> String {
    format!(
        "CREATE TABLE offences (at timestamptz NOT NULL DEFAULT clock_timestamp(), what text NOT NULL);

         CREATE FUNCTION watch_attempts() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE
             writer text := current_setting('{WRITER}', true);
         BEGIN
             IF TG_OP = 'UPDATE' AND NEW.state = 'running' AND NEW.fence = OLD.fence THEN
                 RETURN NULL;
             END IF;
             IF writer IS DISTINCT FROM OLD.worker_id::text AND OLD.cancel_requested_at IS NULL AND EXISTS (
                 SELECT FROM session_leases l WHERE l.session_id = OLD.session_id AND l.fence = OLD.session_fence
                     AND l.owner = OLD.worker_id AND l.expires_at > wireroom_now())
             THEN
                 INSERT INTO offences (what) VALUES (format('the attempt of job %s under fence %s by worker %s, whose lease '
                     'holds, was ended by %s', OLD.id, OLD.fence, OLD.worker_id, coalesce(writer, 'no worker')));
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER watch_attempts AFTER UPDATE OR DELETE ON jobs FOR EACH ROW WHEN (OLD.state = 'running')
             EXECUTE FUNCTION watch_attempts();

         CREATE FUNCTION watch_leases() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF OLD.expires_at > wireroom_now() THEN
                 INSERT INTO offences (what) VALUES (format('worker %s took the lease of session %s from %s, who holds it',
                     NEW.owner, OLD.session_id, OLD.owner));
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER watch_leases AFTER UPDATE ON session_leases FOR EACH ROW
             WHEN (NEW.owner IS NOT NULL AND NEW.fence <> OLD.fence) EXECUTE FUNCTION watch_leases();"
    )
}

fn claims() -> String {
    format!(
        "CREATE TABLE controls (tab text, scope text, target text, since timestamptz, PRIMARY KEY (tab, scope, target));
         CREATE FUNCTION note_control() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO controls VALUES (TG_TABLE_NAME, NEW.scope, NEW.target, clock_timestamp())
             ON CONFLICT (tab, scope, target) DO UPDATE SET since = excluded.since;
             RETURN NULL;
         END $$;
         CREATE TRIGGER note_control AFTER INSERT OR UPDATE ON pauses FOR EACH ROW EXECUTE FUNCTION note_control();
         CREATE TRIGGER note_control AFTER INSERT OR UPDATE OF max_running ON concurrency_limits FOR EACH ROW
             EXECUTE FUNCTION note_control();

         CREATE FUNCTION watch_claims() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE
             held record;
         BEGIN
             FOR held IN SELECT c.scope, c.target FROM controls c JOIN pauses p USING (scope, target)
                 WHERE c.tab = 'pauses' AND c.since < clock_timestamp() - interval '{KNOWN_AFTER} seconds'
                     AND (p.until IS NULL OR p.until > wireroom_now())
                     AND CASE c.scope WHEN 'everything' THEN true WHEN 'pool' THEN c.target = NEW.pool
                         WHEN 'kind' THEN c.target = NEW.kind ELSE c.target = NEW.session_id::text END
             LOOP
                 INSERT INTO offences (what) VALUES (format('job %s was claimed by %s although %s %s is paused', NEW.id,
                     NEW.worker_id, held.scope, held.target));
             END LOOP;
             FOR held IN SELECT c.scope, c.target, l.max_running, r.running
                 FROM controls c JOIN concurrency_limits l USING (scope, target) CROSS JOIN LATERAL (
                     SELECT count(*) AS running FROM jobs j WHERE j.state = 'running'
                         AND CASE c.scope WHEN 'pool' THEN j.pool = c.target ELSE j.kind = c.target END) r
                 WHERE c.tab = 'concurrency_limits' AND c.since < clock_timestamp() - interval '{KNOWN_AFTER} seconds'
                     AND CASE c.scope WHEN 'pool' THEN c.target = NEW.pool ELSE c.target = NEW.kind END
                     AND r.running > l.max_running
             LOOP
                 INSERT INTO offences (what) VALUES (format('job %s was claimed by %s: %s jobs of %s %s run, of at most %s',
                     NEW.id, NEW.worker_id, held.running, held.scope, held.target, held.max_running));
             END LOOP;
             RETURN NULL;
         END $$;
         CREATE TRIGGER watch_claims AFTER UPDATE ON jobs FOR EACH ROW
             WHEN (NEW.state = 'running' AND NEW.fence > OLD.fence) EXECUTE FUNCTION watch_claims();"
    )
}

/// What they saw.
pub async fn offences(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT what FROM offences ORDER BY at")
        .fetch_all(pool)
        .await
        .expect("offences")
}
