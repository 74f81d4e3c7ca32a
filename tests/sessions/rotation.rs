//! Another master key, while workers run.

use wireroom::sessions::{RotationError, rotate_master_keys, verify_master_keys};

use super::*;

const FRESH: Duration = Duration::from_mins(1);

fn vault(keys: &[&Secret]) -> Vault {
    let keys: Vec<&str> = keys.iter().map(|key| key.expose()).collect();
    Vault::parse(&Secret::new(keys.join(","))).unwrap()
}

#[tokio::test]
async fn everything_is_sealed_anew_while_jobs_go_on_and_the_old_key_can_go() {
    let old = Vault::generate("old").unwrap();
    let new = Vault::generate("new").unwrap();
    let mut world = World::with_accounts(0).await;
    world.vault = vault(&[&old]);
    for index in 0..3 {
        let imported = world.import(index).await;
        world.imported.push(imported);
    }
    let pool = world.database.pool().clone();
    let beat = async |worker: WorkerId| {
        sqlx::query("INSERT INTO workers (id, host, pid, version) VALUES ($1, 'host-a', 1, 'v')")
            .bind(worker.0)
            .execute(&pool)
            .await
            .unwrap();
    };
    let worker = WorkerId::generate();
    beat(worker).await;
    let holder = world.holder_of(worker, pool.clone());
    held(&holder, 3).await;
    let both = vault(&[&new, &old]);
    let refused = rotate_master_keys(&pool, &both, FRESH).await.unwrap_err();
    assert!(
        matches!(&refused, RotationError::UnknownToWorkers { key, hosts } if key == "new" && hosts == &["host-a"]),
        "{refused}"
    );
    holder.shutdown(BOUND).await;
    sqlx::query("UPDATE workers SET state = 'stopped'")
        .execute(&pool)
        .await
        .unwrap();

    // Restarted with both.
    world.vault = both.clone();
    let worker = WorkerId::generate();
    beat(worker).await;
    let holder = world.holder_of(worker, pool.clone());
    let sessions = held(&holder, 3).await;
    let name = public_group(&world, 1000);
    let rotating = rotate_master_keys(&pool, &both, FRESH);
    let calls = futures::future::join_all(sessions.iter().map(|session| async {
        let (telegram, _) = port_of(session);
        for _ in 0..20 {
            telegram.resolve_username(&name).await.unwrap();
        }
    }));
    let (rotated, _) = tokio::join!(rotating, calls);
    let rotated = rotated.unwrap();
    assert_eq!((rotated.to.as_str(), rotated.resealed), ("new", 3));
    assert_eq!(rotated.still_used, [] as [String; 0]);
    assert_eq!(
        world
            .count("SELECT count(*) FROM session_dcs WHERE sealed_with <> 'new'")
            .await,
        0
    );
    let again = rotate_master_keys(&pool, &both, FRESH).await.unwrap();
    assert_eq!(again.resealed, 0);
    holder.shutdown(BOUND).await;
    sqlx::query("UPDATE workers SET state = 'stopped'")
        .execute(&pool)
        .await
        .unwrap();

    let only_new = vault(&[&new]);
    verify_master_keys(&pool, &only_new).await.unwrap();
    world.vault = only_new;
    let holder = world.holder();
    held(&holder, 3).await;
    holder.shutdown(BOUND).await;
    let refused = verify_master_keys(&pool, &vault(&[&old])).await.unwrap_err();
    assert!(refused.to_string().contains("lacks `new`"), "{refused}");
    world.end().await;
}
