//! The description of the API: made of the routes themselves, so that it cannot forget one.
//!
//! A route names the answers that are its own. `default` stands for the refusals that it shares with others, and is
//! replaced here by each of them, so that no answer is left undescribed.
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, Header, InfoBuilder, LicenseBuilder, Object, ObjectBuilder, OpenApi, OpenApiBuilder, Ref,
    RefOr, ResponseBuilder, Schema, Type,
};
use utoipa_actix_web::AppExt;

/// Returns the description of the whole API.
pub fn openapi() -> OpenApi {
    let (_, mut api) =
        actix_web::App::new().into_utoipa_app().openapi(frame()).configure(super::server::routes).split_for_parts();
    complete(&mut api);
    api
}

/// What stands around the routes.
pub(super) fn frame() -> OpenApi {
    let mut components = Components::new();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of a user, `cbk_…`. `clawbroker token create` makes one."))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let key = ApiKeyValue::with_description("X-Api-Key", "A key of an agent, `oc-…`. An admin makes one.");
    components.add_security_scheme("agentKey", SecurityScheme::ApiKey(ApiKey::Header(key)));
    let tag = |name: &str, text: &str| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("clawbroker")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "A message broker between people, AI agents and OpenClaw gateways.\n\n\
                     Errors have one body: `{\"detail\": …, \"error\": {\"code\", \"message\", \"details\"?}}`. \
                     Every answer has `X-Request-Id`. Lists tell the total in `X-Total-Count` and the next page in `Link`.",
                ))
                .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()))
                .build(),
        )
        .tags(Some([
            tag("chat", "Gateways, their sessions and messages, as people who chat see them"),
            tag("mailbox", "What agents call to get their messages and to answer them"),
            tag("channels", "Where the providers of channels to people call"),
            tag("admin", "Running the broker; strict: unknown fields are refused"),
            tag("operations", "Health, metrics, and this description"),
        ]))
        .components(Some(components))
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new())]))
        .build()
}

/// Describes a text that has one value only: by it a reader tells one schema from another.
pub(super) fn only(word: &str) -> Schema {
    Schema::Object(ObjectBuilder::new().schema_type(Type::String).enum_values(Some([word])).build())
}

/// The refusals that routes share: status, name, meaning.
const REFUSALS: [(&str, &str, &str); 14] = [
    (
        "400",
        "InvalidRequest",
        "The request makes no sense as a whole, or names a host that this server does not answer for",
    ),
    ("401", "Unauthenticated", "No credential, or one that does not count"),
    ("403", "Forbidden", "The caller may not do this, or the page's origin may not"),
    ("404", "NotFound", "It does not exist, or is not yours"),
    ("406", "NotAcceptable", "This cannot be answered in a form that you accept"),
    ("408", "TooLate", "The body did not arrive in time"),
    ("409", "Conflict", "It does not fit to how things are, or the idempotency key was used for something else"),
    ("413", "TooLarge", "The body is too large, or the message in it"),
    ("415", "UnsupportedMediaType", "The body is not JSON, or is compressed"),
    ("422", "ValidationError", "A field is not valid"),
    ("429", "TooMany", "Too much at a time, or too many wrong credentials from this address"),
    ("431", "HeaderTooLarge", "The headers are too large"),
    (
        "503",
        "Unavailable",
        "This cannot be answered now: the node stands by or stops, or the store or the gateway is busy",
    ),
    ("507", "StorageFull", "No space is left for the database"),
];

/// A fault of our own, which any answer can turn out to be.
const FAULT: (&str, &str, &str) = ("500", "Internal", "A fault of the broker's own; its log tells more");

/// Describes what routes share, and says of each answer what it is, where its route does not: the specification wants a
/// word for each.
pub(super) fn complete(api: &mut OpenApi) {
    let components = api.components.get_or_insert_default();
    for (status, name, meaning) in REFUSALS.into_iter().chain([FAULT]) {
        let mut response = ResponseBuilder::new()
            .description(meaning)
            .content("application/json", Content::new(Some(Ref::from_schema_name("ErrorBody"))));
        if matches!(status, "429" | "503" | "507") {
            let mut seconds = Header::new(Object::with_type(Type::Integer));
            seconds.description = Some("Seconds to wait before the next try".to_owned());
            response = response.header("Retry-After", seconds);
        }
        components.responses.insert(name.to_owned(), response.into());
    }
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            if let Some(operation) = operation {
                add_shared(method, path, operation);
            }
        }
    }
}

/// Adds the answers that an operation shares with others to its own.
fn add_shared(method: &str, path: &str, operation: &mut Operation) {
    let is_call = operation.responses.responses.remove("default").is_some();
    let is_admin = path.starts_with("/api/admin/");
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let has = |place: ParameterIn| {
        parameters.iter().any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == place))
    };
    let (in_path, in_query, in_header) = (has(ParameterIn::Path), has(ParameterIn::Query), has(ParameterIn::Header));
    // Under `/api/admin` a body is looked at where none is wanted, too.
    let reads_body = operation.request_body.is_some() || (is_admin && method == "post");
    // A heartbeat may have any body; what is not JSON is not looked at.
    let wants_json = reads_body && operation.operation_id.as_deref() != Some("agentHeartbeat");
    let health = matches!(path, "/health" | "/api/health");
    for (status, name, _) in REFUSALS.into_iter().chain([FAULT]) {
        let applies = match status {
            "400" | "431" | "500" => true,
            "401" | "403" | "429" => is_call,
            "404" => is_call && in_path,
            "406" => is_call || path == "/api/health",
            "408" | "413" => reads_body,
            "415" => wants_json,
            "409" => in_header,
            "422" => in_path || is_call && (is_admin || in_query || in_header || reads_body),
            "503" => !health,
            "507" => is_call && method != "get",
            _ => false,
        };
        if applies {
            operation
                .responses
                .responses
                .entry(status.to_owned())
                .or_insert_with(|| Ref::from_response_name(name).into());
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = meaning(status).to_owned();
        }
    }
}

fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "Done",
        "201" => "Made",
        _ => {
            REFUSALS.iter().find(|(known, ..)| *known == status).map_or("Refused or failed", |(_, _, meaning)| meaning)
        }
    }
}
