//! The description of the API: made of the routes themselves, so that it cannot forget one.
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr};
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
            tag("admin", "Running the broker; strict: unknown fields are refused"),
            tag("operations", "Health, metrics, and this description"),
        ]))
        .components(Some(components))
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new())]))
        .build()
}

/// Says of each answer what it is, where its route does not: the specification wants a word for each.
pub(super) fn complete(api: &mut OpenApi) {
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = meaning(status).to_owned();
                }
            }
        }
    }
}

fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "Done",
        "201" => "Made",
        "400" => "The request is not valid",
        "404" => "It does not exist, or is not yours",
        "409" => "It does not fit to how things are",
        "422" => "A field is not valid",
        _ => "Refused or failed",
    }
}
