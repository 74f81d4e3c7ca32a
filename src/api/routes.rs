//! The routes there are, read from the document: which methods a path has, and which query parameters an operation takes.

use poem::http::{Method, Uri};
use serde_json::Value;
use url::form_urlencoded;

use super::problem::{Code, Problem};

/// Paths that are served and not described.
const UNDESCRIBED: [&str; 3] = ["/", "/docs", "/openapi.json"];

struct Operation {
    method: Method,
    query: Vec<String>,
}

struct Route {
    segments: Vec<String>,
    operations: Vec<Operation>,
}

/// Every route of the API.
pub struct Routes(Vec<Route>);

impl Routes {
    /// The routes of an `OpenAPI` document.
    pub fn of(document: &Value) -> Self {
        let described = document["paths"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, item)| Route {
                segments: segments(path),
                operations: item.as_object().into_iter().flatten().filter_map(operation).collect(),
            });
        let undescribed = UNDESCRIBED.into_iter().map(|path| Route {
            segments: segments(path),
            operations: vec![Operation {
                method: Method::GET,
                query: Vec::new(),
            }],
        });
        Self(described.chain(undescribed).collect())
    }

    /// The methods of a path, as `Allow` lists them.
    pub fn allow(&self, path: &str) -> String {
        let mut methods: Vec<&str> = self
            .find(path)
            .into_iter()
            .flat_map(|route| &route.operations)
            .flat_map(|operation| match operation.method.as_str() {
                "GET" => vec!["GET", "HEAD"],
                method => vec![method],
            })
            .collect();
        methods.sort_unstable();
        methods.join(", ")
    }

    /// Refuses parameters that the operation has not: a misspelt filter must not look like an unfiltered list.
    pub fn check_query(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let Some(query) = uri.query() else {
            return Ok(());
        };
        let method = match method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let operation = self
            .find(uri.path())
            .and_then(|route| route.operations.iter().find(|operation| operation.method == *method));
        let Some(operation) = operation else {
            return Ok(());
        };
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !operation.query.iter().any(|known| *known == name) {
                let known = match operation.query.as_slice() {
                    [] => "there are none".to_owned(),
                    known => format!("there are {}", known.join(", ")),
                };
                let detail = format!("The operation has no such query parameter; {known}.");
                return Err(Problem::new(Code::UnknownParameter, detail).field(name));
            }
            if seen.iter().any(|other| *other == name) {
                let detail = "A query parameter may be given once.";
                return Err(Problem::new(Code::InvalidParameter, detail).field(name));
            }
            if value.contains('\0') {
                // Postgres has no text with it.
                let detail = "A query parameter may not contain NUL.";
                return Err(Problem::new(Code::InvalidParameter, detail).field(name));
            }
            seen.push(name.into_owned());
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<&Route> {
        let segments = segments(path);
        self.0.iter().find(|route| {
            route.segments.len() == segments.len()
                && route
                    .segments
                    .iter()
                    .zip(&segments)
                    .all(|(pattern, segment)| pattern.starts_with('{') || pattern == segment)
        })
    }
}

fn segments(path: &str) -> Vec<String> {
    path.trim_matches('/').split('/').map(str::to_owned).collect()
}

fn operation((method, operation): (&String, &Value)) -> Option<Operation> {
    Some(Operation {
        method: method.to_uppercase().parse().ok()?,
        query: operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "query")
            .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned))
            .collect(),
    })
}
