//! API keys: `wr_<id>_<secret>`. The id is public and finds the row; of the secret only a hash is stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use subtle::ConstantTimeEq;

use super::{StoreError, audit, failed, hex};
use crate::config::Secret;

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// What a key may do; each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Reads.
    Viewer,
    /// Creates and cancels jobs.
    Operator,
    /// Changes sessions and keys.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// A key's text, taken apart.
#[derive(Debug, Clone)]
pub struct KeyMaterial {
    id: String,
    text: Secret,
}

/// The system's source of randomness failed, so no key was made.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes for a key")]
pub struct RandomnessError(#[source] getrandom::Error);

impl KeyMaterial {
    /// A fresh key with 256 random bits of secret.
    pub fn generate() -> Result<Self, RandomnessError> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(RandomnessError)?;
        let (id, secret) = bytes.split_at(ID_BYTES);
        let id = hex(id);
        let text = Secret::new(format!("wr_{id}_{}", hex(secret)));
        Ok(Self { id, text })
    }

    /// A key as a client sends it, or `None` when it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("wr_")?.split_once('_')?;
        let is_hex = |part: &str, bytes: usize| {
            part.len() == 2 * bytes && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        (is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES)).then(|| Self {
            id: id.to_owned(),
            text: Secret::new(text),
        })
    }

    /// The public part, by which the key is found and named.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole key: shown once, when it is made.
    pub fn text(&self) -> &Secret {
        &self.text
    }

    /// Whether this is the key that `stored` belongs to, in constant time.
    pub fn matches(&self, stored: &StoredKey) -> bool {
        self.hash().ct_eq(&stored.secret_hash).into()
    }

    /// 256 random bits need no slow hash.
    fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.text.expose().as_bytes()).to_vec()
    }
}

/// A key that is not revoked, as authentication needs it.
#[derive(Debug, Clone)]
pub struct StoredKey {
    secret_hash: Vec<u8>,
    pub scope: Scope,
}

/// A key as `keys list` shows it.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    pub id: String,
    pub label: String,
    pub scope: Scope,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// How a revocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    Now,
    Before,
    Unknown,
}

/// Stores a key under a label of 1 to 100 characters. `actor` is `cli` or `key:<id>`.
pub async fn create(
    conn: &mut PgConnection,
    key: &KeyMaterial,
    label: &str,
    scope: Scope,
    actor: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- create_api_key
        INSERT INTO api_keys (id, secret_hash, label, scope) VALUES ($1, $2, $3, $4)",
        key.id,
        key.hash(),
        label,
        scope.as_str(),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("create_api_key"))?;
    let entry = audit::Entry {
        actor,
        action: "key.created",
        subject: &format!("key:{}", key.id),
        request_id: None,
        details: json!({ "label": label, "scope": scope.as_str() }),
    };
    audit::record(conn, entry).await
}

/// Every key, the newest first.
pub async fn list(pool: &PgPool) -> Result<Vec<KeyRecord>, StoreError> {
    let rows = sqlx::query!(
        "-- list_api_keys
        SELECT id, label, scope, created_at, revoked_at FROM api_keys ORDER BY created_at DESC, id"
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list_api_keys"))?;
    rows.into_iter()
        .map(|row| {
            Ok(KeyRecord {
                scope: known_scope("list_api_keys", &row.scope)?,
                id: row.id,
                label: row.label,
                created_at: row.created_at,
                revoked_at: row.revoked_at,
            })
        })
        .collect()
}

/// Ends a key. API processes notice within the age of their cache, 5 s.
pub async fn revoke(conn: &mut PgConnection, id: &str, actor: &str) -> Result<Revoked, StoreError> {
    let row = sqlx::query!(
        r#"-- revoke_api_key
        WITH target AS (SELECT id, revoked_at FROM api_keys WHERE id = $1 FOR UPDATE),
        revoked AS (
            UPDATE api_keys SET revoked_at = wireroom_now() FROM target
            WHERE api_keys.id = target.id AND target.revoked_at IS NULL RETURNING api_keys.id
        )
        SELECT EXISTS (SELECT FROM revoked) AS "now!" FROM target"#,
        id,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("revoke_api_key"))?;
    match row {
        None => Ok(Revoked::Unknown),
        Some(row) if !row.now => Ok(Revoked::Before),
        Some(_) => {
            let entry = audit::Entry {
                actor,
                action: "key.revoked",
                subject: &format!("key:{id}"),
                request_id: None,
                details: json!({}),
            };
            audit::record(conn, entry).await?;
            Ok(Revoked::Now)
        }
    }
}

/// The key of that id, unless it is revoked.
pub async fn find(pool: &PgPool, id: &str) -> Result<Option<StoredKey>, StoreError> {
    let row = sqlx::query!(
        "-- find_api_key
        SELECT secret_hash, scope FROM api_keys WHERE id = $1 AND revoked_at IS NULL",
        id,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("find_api_key"))?;
    row.map(|row| {
        Ok(StoredKey {
            secret_hash: row.secret_hash,
            scope: known_scope("find_api_key", &row.scope)?,
        })
    })
    .transpose()
}

fn known_scope(operation: &'static str, name: &str) -> Result<Scope, StoreError> {
    Scope::parse(name).ok_or_else(|| StoreError::Decode {
        operation,
        detail: format!("scope {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::TestDatabase;

    #[test]
    fn a_key_has_256_random_bits_behind_a_public_id() {
        let (one, other) = (
            KeyMaterial::generate().expect("randomness"),
            KeyMaterial::generate().expect("randomness"),
        );
        assert_ne!(one.text().expose(), other.text().expose());
        assert_eq!(one.text().expose().len(), "wr_".len() + 16 + 1 + 64);
        assert!(one.text().expose().starts_with(&format!("wr_{}_", one.id())));
        assert!(!format!("{one:?}").contains(&one.text().expose()[20..]));
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_not_one() {
        let key = KeyMaterial::generate().expect("randomness");
        let text = key.text().expose();
        assert!(KeyMaterial::parse(text).is_some());
        for wrong in [
            "",
            "wr_",
            "wr__",
            &text[1..],
            &text[..text.len() - 1],
            &text.to_uppercase(),
        ] {
            assert!(KeyMaterial::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_key_is_found_until_it_is_revoked_and_both_are_audited() {
        let database = TestDatabase::new().await;
        let pool = database.pool();
        let key = KeyMaterial::generate().expect("randomness");
        let mut conn = pool.acquire().await.expect("connection");
        create(&mut conn, &key, "one", Scope::Operator, "cli")
            .await
            .expect("create");

        let stored = find(pool, key.id()).await.expect("find").expect("there");
        assert_eq!(stored.scope, Scope::Operator);
        assert!(key.matches(&stored));
        assert!(!KeyMaterial::generate().expect("randomness").matches(&stored));

        assert_eq!(revoke(&mut conn, key.id(), "cli").await.expect("revoke"), Revoked::Now);
        assert_eq!(
            revoke(&mut conn, key.id(), "cli").await.expect("revoke"),
            Revoked::Before
        );
        assert_eq!(
            revoke(&mut conn, "none", "cli").await.expect("revoke"),
            Revoked::Unknown
        );
        assert!(find(pool, key.id()).await.expect("find").is_none());
        assert!(list(pool).await.expect("list")[0].revoked_at.is_some());

        let actions: Vec<String> = sqlx::query_scalar("SELECT action FROM audit_log ORDER BY id")
            .fetch_all(pool)
            .await
            .expect("audit");
        assert_eq!(actions, ["key.created", "key.revoked"]);
        let changed = sqlx::query("DELETE FROM audit_log").execute(pool).await;
        assert!(changed.is_err(), "the audit log is append-only");
    }
}
