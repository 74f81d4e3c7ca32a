//! Accounts with a second factor, and logins that fail.

use super::*;

#[tokio::test]
async fn a_second_factor_is_asked_for() {
    let mut world = World::with_accounts(0).await;
    let accounts = world.sandbox.controls().with_world(|world| world.accounts());
    let row = accounts
        .into_iter()
        .find(|row| row.has_password)
        .expect("an account with a password");
    let account = |password: Option<&str>| ImportAccount {
        label: "two factors".to_owned(),
        pool: "second".to_owned(),
        phone: Secret::new(row.phone.clone()),
        code: Secret::new(world.sandbox.login_code()),
        password: password.map(Secret::new),
    };
    let attempt =
        async |account: &ImportAccount| import(world.database.pool(), &world.vault, &world.telegram, account).await;
    assert!(matches!(
        attempt(&account(None)).await,
        Err(ImportError::PasswordNeeded)
    ));
    assert!(matches!(
        attempt(&account(Some("wrong"))).await,
        Err(ImportError::Password)
    ));
    let mut wrong_code = account(Some(PASSWORD));
    wrong_code.code = Secret::new("00000");
    assert!(matches!(attempt(&wrong_code).await, Err(ImportError::Code)));
    assert_eq!(
        world.count("SELECT count(*) FROM sessions").await,
        0,
        "nothing is left of a failed login"
    );
    let imported = attempt(&account(Some(PASSWORD))).await.unwrap();
    assert_eq!(imported.account_id, row.id);
    assert_eq!(
        world.sandbox.controls().connections().len(),
        0,
        "closed before it is ready"
    );
    world.imported.push(imported);
    let holder = world.holder();
    assert_eq!(held(&holder, 1).await[0].pool, "second");
    let again = attempt(&account(Some(PASSWORD))).await;
    assert!(matches!(again, Err(ImportError::InUse { .. })), "{again:?}");
    holder.shutdown(BOUND).await;
    world.end().await;
}
