//! Swagger UI and the document it shows.

use poem::{Endpoint, Response, endpoint::make_sync, http::header};
use poem_openapi::{OpenApi, OpenApiService};

use super::document::document;

/// Swagger UI is one page with its script and style in it, and talks to this server only.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      font-src data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page at `/docs`.
pub fn page<T: OpenApi>(service: &OpenApiService<T, ()>) -> impl Endpoint<Output = Response> + use<T> {
    let html = html(service);
    make_sync(move |_| {
        Response::builder()
            .content_type("text/html; charset=utf-8")
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .header(header::CACHE_CONTROL, "no-cache")
            .body(html.clone())
    })
}

/// The document at `/openapi.json`.
pub fn endpoint() -> impl Endpoint<Output = Response> {
    let text = document().to_string();
    make_sync(move |_| {
        Response::builder()
            .content_type("application/json")
            .header(header::CACHE_CONTROL, "no-cache")
            .body(text.clone())
    })
}

/// poem-openapi's page shows the document it knows; ours has the args in it. It also keeps the key over a reload.
fn html<T: OpenApi>(service: &OpenApiService<T, ()>) -> String {
    // A closing tag in a string would end the script.
    let ours = document().to_string().replace("</", "<\\/");
    service
        .swagger_ui_html()
        .replacen(&service.spec(), &ours, 1)
        .replacen(
            "deepLinking: true,",
            "deepLinking: true, persistAuthorization: true, tryItOutEnabled: true, displayRequestDuration: true,",
            1,
        )
        .replacen("<title>Swagger UI</title>", "<title>Wireroom API</title>", 1)
        .replacen("<html charset=\"UTF-8\">", "<!DOCTYPE html>\n<html lang=\"en\">", 1)
}
