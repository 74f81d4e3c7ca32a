//! Whether the checks would notice: databases that are broken on purpose, each in one way that no statement of the product
//! tells of. A run over one of them must go wrong.

use super::{bed::Bed, draw::steps, run_in};

/// What is broken, and how.
const FAULTS: &[(&str, &str)] = &[
    (
        "an event in seven is lost",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER broken BEFORE INSERT ON outbox FOR EACH ROW
            WHEN (NEW.type = 'message.new' AND (NEW.data -> 'message' ->> 'id')::int % 7 = 0) EXECUTE FUNCTION broken()",
    ),
    (
        "an event in seven is doubled",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
            INSERT INTO outbox (type, version, subject, data) VALUES (NEW.type, NEW.version, NEW.subject, NEW.data);
            RETURN NULL;
        END';
        CREATE TRIGGER broken AFTER INSERT ON outbox FOR EACH ROW
            WHEN (NEW.type = 'message.new' AND (NEW.data -> 'message' ->> 'id')::int % 7 = 0 AND pg_trigger_depth() = 0)
            EXECUTE FUNCTION broken()",
    ),
    (
        "nobody is suppressed",
        "CREATE OR REPLACE FUNCTION is_suppressed(person bigint, names text[], phone bytea) RETURNS boolean
            LANGUAGE sql STABLE AS 'SELECT false';
        CREATE OR REPLACE FUNCTION is_suppressed(person bigint, names text[], phone bytea, name_marks bytea[]) RETURNS boolean
            LANGUAGE sql STABLE AS 'SELECT false'",
    ),
    (
        "the ledger forgets whom it has, half of the time",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.state = 'done' AND random() < 0.5 THEN
                DELETE FROM campaign_ledger WHERE campaign_id = NEW.campaign_id;
                NEW.state := 'waiting'; NEW.outcome := NULL; NEW.class := NULL;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER broken BEFORE UPDATE ON campaign_people FOR EACH ROW EXECUTE FUNCTION broken()",
    ),
    (
        "who was invited is told as refused",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.class = 'invited' THEN NEW.class := 'refused'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER broken BEFORE UPDATE ON campaign_people FOR EACH ROW EXECUTE FUNCTION broken()",
    ),
    (
        "the stop of all outreach is not kept",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.state := 'running'; NEW.reason := NULL;
            RETURN NEW;
        END $$;
        CREATE TRIGGER broken BEFORE UPDATE ON outreach_switch FOR EACH ROW EXECUTE FUNCTION broken()",
    ),
    (
        "a watch that is stopped goes on",
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.state := OLD.state; RETURN NEW; END';
        CREATE TRIGGER broken BEFORE UPDATE ON watches FOR EACH ROW EXECUTE FUNCTION broken()",
    ),
];
/// A fault has so many seeds to show in, of so many steps each.
const SEEDS: u64 = 6;
const STEPS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as many seeds: docs/SIMULATION.md"]
async fn every_fault_is_noticed() {
    let mut unnoticed = Vec::new();
    for (fault, sql) in FAULTS {
        let mut noticed = None;
        for seed in 1..=SEEDS {
            let run = tokio::spawn(async move {
                let bed = Bed::new(seed).await;
                sqlx::raw_sql(*sql).execute(&bed.pool).await.expect("broken");
                run_in(bed, seed, &steps(seed, STEPS)).await;
            });
            if run.await.is_err() {
                noticed = Some(seed);
                break;
            }
        }
        println!("{fault}: noticed by seed {noticed:?}");
        if noticed.is_none() {
            unnoticed.push(*fault);
        }
    }
    assert!(unnoticed.is_empty(), "not noticed within {SEEDS} seeds: {unnoticed:?}");
}
