//! That the test support itself stands: the other themes build on it.

use wireroom::cluster::testing::TestDatabase;

use crate::support::proxy::TcpProxy;

#[tokio::test]
async fn a_test_gets_a_database() {
    let database = TestDatabase::new().await;
    let one: i32 = sqlx::query_scalar("SELECT 1")
        .fetch_one(database.pool())
        .await
        .expect("answered");
    assert_eq!(one, 1);
}

#[tokio::test]
async fn a_proxy_cuts_a_client_from_its_database_and_lets_it_back() {
    let database = TestDatabase::new().await;
    let proxy = TcpProxy::to_url(database.url()).await;
    let pool = sqlx::PgPool::connect(&proxy.rewrite(database.url()))
        .await
        .expect("connected through the proxy");
    let ask = async || sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await;
    assert_eq!(ask().await.expect("answered"), 1);
    proxy.cut();
    ask().await.expect_err("cut off");
    proxy.resume();
    assert_eq!(ask().await.expect("answered again"), 1);
}
