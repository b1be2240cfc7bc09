//! The server's one application: all routes, and what every request passes on its way to them.
//!
//! From the outside in: id, log, headers and error bodies; the path without its trailing slash; the host; CORS; stand-by
//! and shutdown; the route. What a route checks, and in which order, says its call (`call.rs`).
use std::sync::Arc;

use actix_cors::Cors;
use actix_web::body::BoxBody;
use actix_web::dev::{ResourceDef, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::{NormalizePath, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, ResponseError, web};
use utoipa::openapi::{HttpMethod, OpenApi};
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

use super::pages::Description;
use super::state::AppState;
use super::{admin, auth, chat, hooks, mailbox, middleware, openapi, ops, pages, request, ws};
use crate::config::Server;

/// Adds every route. Each is described where it is written, so the description of the API is complete by construction.
/// They are tried one after the other, so what agents call all the time comes first.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.configure(mailbox::routes)
        .configure(pages::routes)
        .configure(ops::routes)
        .configure(chat::routes)
        .configure(admin::routes)
        .configure(hooks::routes)
        .configure(ws::routes);
}

/// Builds the application: the same for the server and for tests.
pub fn app(
    state: web::Data<AppState>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let (app, mut api) = App::new().into_utoipa_app().openapi(openapi::frame()).configure(routes).split_for_parts();
    openapi::complete(&mut api);
    let known = Arc::new(KnownPaths::of(&api));
    let allowed = Arc::new(state.config.server.allowed_hosts(&state.config.app));
    let cors = cors(&state.config.server);
    app.app_data(state)
        .app_data(web::Data::new(Description::of(&api)))
        .default_service(web::to(move |req: HttpRequest| {
            let known = known.clone();
            async move { known.refuse(&req) }
        }))
        // The last one wrapped is the outermost.
        .wrap(from_fn(middleware::gate))
        .wrap(cors)
        .wrap(from_fn(move |req, next| middleware::hosts(allowed.clone(), req, next)))
        .wrap(NormalizePath::trim())
        .wrap(from_fn(middleware::frame))
}

/// Pages of the configured origins may call us, with credentials; nobody else's.
fn cors(server: &Server) -> Cors {
    let mut cors = Cors::default()
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::PUT, Method::DELETE])
        .allowed_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static(auth::AGENT_KEY),
            HeaderName::from_static(request::HEADER),
            HeaderName::from_static(request::TRACE_HEADER),
        ])
        .expose_headers([
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            HeaderName::from_static("x-total-count"),
            HeaderName::from_static(request::HEADER),
            HeaderName::from_static(request::TRACE_HEADER),
        ])
        .supports_credentials()
        .max_age(600);
    for origin in &server.cors_origins {
        cors = cors.allowed_origin(origin.as_str());
    }
    cors
}

/// Every path with its methods, to tell a wrong method from a wrong path.
struct KnownPaths(Vec<(ResourceDef, Vec<Method>)>);

impl KnownPaths {
    fn of(api: &OpenApi) -> Self {
        let paths = api.paths.paths.iter().map(|(path, item)| {
            let methods =
                HTTP_METHODS.iter().filter(|(name, _)| operation(item, name)).map(|(_, method)| method.clone());
            (ResourceDef::new(path.as_str()), methods.collect())
        });
        Self(paths.collect())
    }

    /// Answers a request that no route took: 405 if only the method is wrong.
    fn refuse(&self, req: &HttpRequest) -> HttpResponse {
        let mut allowed: Vec<Method> = Vec::new();
        for (_, methods) in self.0.iter().filter(|(path, _)| path.is_match(req.path())) {
            allowed.extend(methods.iter().filter(|method| !allowed.contains(method)).cloned().collect::<Vec<_>>());
        }
        let mut response = middleware::no_route(&allowed).error_response();
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        if let Some(value) = (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", ")).ok()).flatten() {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    }
}

const HTTP_METHODS: [(HttpMethod, Method); 5] = [
    (HttpMethod::Get, Method::GET),
    (HttpMethod::Post, Method::POST),
    (HttpMethod::Put, Method::PUT),
    (HttpMethod::Patch, Method::PATCH),
    (HttpMethod::Delete, Method::DELETE),
];

fn operation(item: &utoipa::openapi::PathItem, method: &HttpMethod) -> bool {
    match method {
        HttpMethod::Get => item.get.is_some(),
        HttpMethod::Post => item.post.is_some(),
        HttpMethod::Put => item.put.is_some(),
        HttpMethod::Patch => item.patch.is_some(),
        HttpMethod::Delete => item.delete.is_some(),
        _ => false,
    }
}
