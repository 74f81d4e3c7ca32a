//! The page at `/`: where things are, for whoever opens the address that `wireroom dev` prints.

use poem::{Endpoint, IntoEndpoint, IntoResponse, Request, Response, Result, endpoint::make_sync, http::header};

const PAGE: &str = include_str!("home.html");
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Answers `/` with the page, and leaves every other path to `rest`.
pub fn before(rest: impl IntoEndpoint) -> impl Endpoint<Output = Response> {
    Home {
        page: poem::get(make_sync(|_| page())),
        rest: rest.into_endpoint(),
    }
}

struct Home<P, E> {
    page: P,
    rest: E,
}

impl<P: Endpoint, E: Endpoint> Endpoint for Home<P, E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        if request.uri().path() == "/" {
            return self.page.call(request).await.map(IntoResponse::into_response);
        }
        self.rest.call(request).await.map(IntoResponse::into_response)
    }
}

fn page() -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::CACHE_CONTROL, "no-cache")
        .body(PAGE)
}
