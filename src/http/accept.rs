//! What a caller takes as an answer.
use actix_web::HttpRequest;
use actix_web::http::header::{ACCEPT, HeaderMap};

use crate::domain::error::{Error, ErrorCode};

/// Refuses an API call whose answer the caller would not take.
pub(super) fn check(req: &HttpRequest) -> Result<(), Error> {
    let path = req.path();
    let produced = if path.ends_with("/export") { "application/x-ndjson" } else { "application/json" };
    if path.starts_with("/api/") && !accepts(req.headers(), produced) {
        return Err(Error::new(
            ErrorCode::NotAcceptable,
            format!("this is answered as `{produced}`, which you do not accept"),
        ));
    }
    Ok(())
}

/// Tells whether the `Accept` header lets `produced` through.
fn accepts(headers: &HeaderMap, produced: &str) -> bool {
    let mut asked =
        headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).peekable();
    if asked.peek().is_none() {
        return true;
    }
    asked.any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused =
            parts.any(|part| matches!(part.replace(' ', "").as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let json = produced == "application/json" && kind.starts_with("application/") && kind.ends_with("+json");
        !refused && (kind.is_empty() || kind == "*/*" || kind == "application/*" || kind == produced || json)
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn json_is_acceptable_unless_it_was_ruled_out() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            accepts(&headers, "application/json")
        };
        for fine in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["text/html, */*;q=0.1"],
            &["text/html", "application/*"],
            &["application/vnd.api+json"],
            &["APPLICATION/JSON; charset=utf-8"],
        ] {
            assert!(with(fine), "{fine:?}");
        }
        for wrong in [&["text/html"][..], &["application/json;q=0"], &["text/*"], &["*/*; q=0"]] {
            assert!(!with(wrong), "{wrong:?}");
        }
    }
}
