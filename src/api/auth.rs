//! Who calls, and what they may do: `Authorization: Bearer wr_<id>_<secret>`.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use poem::{Request, RequestBody, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use wireroom_jobs::ports::Clock;

use super::{
    State,
    problem::{Code, Problem},
    shell::RequestContext,
};
use crate::store::{
    PgPool,
    api_keys::{self, KeyMaterial, Scope, StoredKey},
};

/// How long a key may be used after it was revoked.
const CACHE_AGE: TimeDelta = TimeDelta::seconds(5);

/// Most keys the cache holds; a process that sees more reads them from the database more often.
const CACHE_SIZE: usize = 10_000;

/// The name of the security scheme in the document.
const SCHEME: &str = "api_key";

/// The key behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub key_id: String,
    pub scope: Scope,
}

impl Caller {
    /// The caller as audit rows and jobs name it.
    pub fn actor(&self) -> String {
        format!("key:{}", self.key_id)
    }
}

/// Finds keys, and remembers them for at most [`CACHE_AGE`].
pub struct Authenticator {
    pool: PgPool,
    clock: Arc<dyn Clock>,
    cache: Mutex<HashMap<String, (StoredKey, DateTime<Utc>)>>,
}

impl Authenticator {
    pub fn new(pool: PgPool, clock: Arc<dyn Clock>) -> Self {
        Self {
            pool,
            clock,
            cache: Mutex::default(),
        }
    }

    async fn authenticate(&self, request: &Request) -> Result<Caller, Problem> {
        let header = request
            .header(header::AUTHORIZATION)
            .ok_or_else(|| unauthorized("Send the key as Authorization: Bearer wr_…", false))?;
        let token = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthorized("Only the Bearer scheme is supported.", false))?;
        let refused = || unauthorized("The key is unknown or revoked.", true);
        let key = KeyMaterial::parse(token).ok_or_else(refused)?;
        let stored = self.stored(key.id()).await?.ok_or_else(refused)?;
        if !key.matches(&stored) {
            return Err(refused());
        }
        Ok(Caller {
            key_id: key.id().to_owned(),
            scope: stored.scope,
        })
    }

    async fn stored(&self, id: &str) -> Result<Option<StoredKey>, Problem> {
        // Read before the query: the answer cannot be younger than this.
        let now = self.clock.now();
        if let Some(stored) = self.cached(id, now) {
            return Ok(Some(stored));
        }
        let found = api_keys::find(&self.pool, id).await?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            // An unknown key is not remembered: a new one works at once.
            None => {
                cache.remove(id);
            }
            Some(stored) => {
                if cache.len() >= CACHE_SIZE {
                    cache.clear();
                }
                cache.insert(id.to_owned(), (stored.clone(), now));
            }
        }
        Ok(found)
    }

    fn cached(&self, id: &str, now: DateTime<Utc>) -> Option<StoredKey> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (stored, read_at) = cache.get(id)?;
        // An entry from the future is one the clock was set back under.
        let age = now - *read_at;
        (age >= TimeDelta::zero() && age < CACHE_AGE).then(|| stored.clone())
    }
}

fn unauthorized(detail: &str, presented: bool) -> Problem {
    let challenge = if presented {
        r#"Bearer realm="wireroom", error="invalid_token""#
    } else {
        r#"Bearer realm="wireroom""#
    };
    Problem::new(Code::Unauthorized, detail).header("WWW-Authenticate", challenge.to_owned())
}

/// The scope an operation needs, as a type: an operation cannot forget to ask.
pub trait Needs: Send + Sync {
    const SCOPE: Scope;
}

/// Reads.
pub struct Viewer;
/// Creates and cancels jobs, pauses and resumes.
pub struct Operator;
/// Sets limits, and logs sessions in and out.
pub struct Admin;

impl Needs for Viewer {
    const SCOPE: Scope = Scope::Viewer;
}

impl Needs for Admin {
    const SCOPE: Scope = Scope::Admin;
}

impl Needs for Operator {
    const SCOPE: Scope = Scope::Operator;
}

/// A caller whose key has the scope.
pub struct Allowed<N>(pub Caller, PhantomData<N>);

impl<'a, N: Needs> ApiExtractor<'a> for Allowed<N> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_security_scheme(
            SCHEME,
            MetaSecurityScheme {
                ty: "http",
                description: Some(
                    "A key that `wireroom keys create` printed. Scopes: `viewer` reads, `operator` also creates and \
                     cancels jobs, `admin` also changes sessions and keys.",
                ),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: Some("wr_<id>_<secret>"),
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let state = State::of(request)?;
        let caller = state.authenticator.authenticate(request).await?;
        let context = RequestContext::of(request)?;
        context.called_by(&caller);
        if caller.scope < N::SCOPE {
            let detail = format!(
                "This needs a key with the scope {}; this key has the scope {}.",
                N::SCOPE.as_str(),
                caller.scope.as_str()
            );
            let challenge = format!(
                r#"Bearer realm="wireroom", error="insufficient_scope", scope="{}""#,
                N::SCOPE.as_str()
            );
            return Err(Problem::new(Code::Forbidden, detail)
                .header("WWW-Authenticate", challenge)
                .into());
        }
        // Here because it must come after the key, and before the handler reads a parameter.
        state.routes.check_query(request.method(), context.uri())?;
        Ok(Self(caller, PhantomData))
    }
}
