//! Pages: what this is, and the description of the API in three forms. Everything is compiled in and works offline.
use std::borrow::Cow;
use std::sync::Arc;

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, get, web};
use bytes::Bytes;
use serde_json::json;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::service_config::ServiceConfig;

use super::body::ApiPath;
use super::error::ErrorBody;
use super::state::AppState;
use crate::domain::error::Error;

const INDEX: &str = include_str!("pages/index.html");
const DOCS: &str = include_str!("pages/docs.html");
const DOCS_START: &str = include_str!("pages/docs.js");
const REDOC: &str = include_str!("pages/redoc.html");
const REDOC_START: &str = include_str!("pages/redoc.js");
const REDOC_BUNDLE: &[u8] = include_bytes!("../../web/vendor/redoc/redoc.standalone.js");

/// A page without scripts.
const PLAIN: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The pages that show the API: scripts of ours only. Both libraries put styles into the page as they go, and Redoc
/// searches in a worker that it makes itself.
const TOOLS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Files change with the program only.
const AN_HOUR: &str = "public, max-age=3600";

/// Adds the routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(index).service(openapi_json).service(docs).service(docs_file).service(redoc).service(redoc_file);
}

/// The description of the API, written out once.
#[derive(Clone)]
pub(super) struct Description(Bytes);

impl Description {
    pub(super) fn of(api: &OpenApi) -> Self {
        // It is made of plain maps and texts; a failure would show in the first test.
        Self(serde_json::to_vec(api).unwrap_or_default().into())
    }
}

/// What this is: a page for people, `{name, version, status}` for programs.
#[utoipa::path(tag = "operations", operation_id = "getIndex", security(()), responses((status = 200, description = "A page, or JSON where it is preferred")))]
#[get("/")]
async fn index(req: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let version = env!("CARGO_PKG_VERSION");
    if !prefers_page(req.headers()) {
        return HttpResponse::Ok()
            .json(json!({ "name": state.config.app.name, "version": version, "status": "running" }));
    }
    // Let in by the list of hosts, so it is a host and nothing else.
    let host = req.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:8000");
    let page = INDEX.replace("{{version}}", version).replace("{{host}}", host);
    html(page, PLAIN)
}

/// Tells whether a page is wanted more than JSON. Programs that do not say what they want get JSON.
fn prefers_page(headers: &HeaderMap) -> bool {
    let weight = |wanted: &[&str]| {
        let entries =
            headers.get_all(header::ACCEPT).filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
        entries
            .filter_map(|entry| {
                let mut parts = entry.split(';').map(str::trim);
                let kind = parts.next()?.to_ascii_lowercase();
                let q = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
                wanted.contains(&kind.as_str()).then_some(q)
            })
            .fold(0.0, f32::max)
    };
    let page = weight(&["text/html", "application/xhtml+xml"]);
    page > 0.0 && page >= weight(&["application/json"])
}

fn html(page: impl Into<Cow<'static, str>>, policy: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(page.into().into_owned())
}

fn file(kind: &str, bytes: impl Into<Bytes>) -> HttpResponse {
    HttpResponse::Ok().content_type(kind).insert_header((header::CACHE_CONTROL, AN_HOUR)).body(bytes.into())
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The description of this API.
#[utoipa::path(tag = "operations", operation_id = "getOpenApi", security(()), responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
#[get("/openapi.json")]
async fn openapi_json(description: web::Data<Description>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(description.0.clone())
}

/// The API, to read and to try.
#[utoipa::path(tag = "operations", operation_id = "getDocs", security(()), responses((status = 200, content_type = "text/html")))]
#[get("/docs")]
async fn docs() -> HttpResponse {
    html(DOCS, TOOLS)
}

/// Files of Swagger UI that its page uses; the package has more.
const DOCS_FILES: [&str; 4] = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "favicon-16x16.png"];

/// A file of the page `/docs`.
#[utoipa::path(
    tag = "operations",
    operation_id = "getDocsFile",
    security(()),
    params(("file" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody))
)]
#[get("/docs/{file}")]
async fn docs_file(path: ApiPath<String>) -> Result<HttpResponse, Error> {
    if path.0 == "start.js" {
        return Ok(file(SCRIPT, DOCS_START));
    }
    let unknown = || Error::not_found("file", &path.0);
    if !DOCS_FILES.contains(&path.0.as_str()) {
        return Err(unknown());
    }
    let found = utoipa_swagger_ui::serve(&path.0, Arc::new(utoipa_swagger_ui::Config::from("/openapi.json")));
    let found = found.map_err(|error| Error::internal(error.to_string()))?.ok_or_else(unknown)?;
    let mut response = file(&found.content_type, found.bytes.into_owned());
    if found.gzpipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// The API, to read.
#[utoipa::path(tag = "operations", operation_id = "getRedoc", security(()), responses((status = 200, content_type = "text/html")))]
#[get("/redoc")]
async fn redoc() -> HttpResponse {
    html(REDOC, TOOLS)
}

/// A file of the page `/redoc`.
#[utoipa::path(
    tag = "operations",
    operation_id = "getRedocFile",
    security(()),
    params(("file" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody))
)]
#[get("/redoc/{file}")]
async fn redoc_file(path: ApiPath<String>) -> Result<HttpResponse, Error> {
    match path.0.as_str() {
        "start.js" => Ok(file(SCRIPT, REDOC_START)),
        "redoc.standalone.js" => Ok(file(SCRIPT, REDOC_BUNDLE)),
        other => Err(Error::not_found("file", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_programs_get_json() {
        let page = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            prefers_page(&headers)
        };
        assert!(page("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(page("text/html"));
        for json in ["", "*/*", "application/json", "application/json, text/html;q=0.9", "text/html;q=0"] {
            assert!(!page(json), "{json}");
        }
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        for page in [INDEX, DOCS, DOCS_START, REDOC, REDOC_START] {
            for sign in ["src=\"http", "href=\"http", "src=\"//", "url(", "import "] {
                assert!(!page.contains(sign), "{sign}");
            }
        }
    }
}
