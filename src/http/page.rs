//! Pages of lists: how many rows, where the next page begins, and how a client is told.
use actix_web::http::header::{HeaderName, HeaderValue, LINK};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use crate::domain::error::Error;
use crate::domain::search::{SEARCH_CHARS_MAX, Search};

const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

/// Reads `limit`: what was asked for if it is allowed, else the default. The store is asked for one row more, which
/// tells whether there is a next page.
pub(super) fn rows(asked: Option<u32>, default: usize, rows_max: usize) -> Result<usize, Error> {
    match asked.map(|rows| rows as usize) {
        None => Ok(default.min(rows_max)),
        Some(rows) if (1..=rows_max).contains(&rows) => Ok(rows),
        Some(_) => Err(Error::invalid_at(
            "query",
            "limit",
            format!("`limit` must be a number from 1 to {rows_max}"),
            "value_error",
        )),
    }
}

/// Reads `q`, the words to search for; an empty one is none.
pub(super) fn search(asked: Option<&str>) -> Result<Option<Search>, Error> {
    let Some(text) = asked.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.chars().count() > SEARCH_CHARS_MAX {
        return Err(Error::invalid_at(
            "query",
            "q",
            format!("`q` must not be longer than {SEARCH_CHARS_MAX} characters"),
            "value_error",
        ));
    }
    Ok(Some(Search::new(text)))
}

/// Takes the row too many off a list and says whether there was one.
pub(super) fn cut<T>(items: &mut Vec<T>, rows: usize) -> bool {
    let more = items.len() > rows;
    items.truncate(rows);
    more
}

/// Where a list goes on: after a time and an id. Opaque to clients.
pub(super) fn time_cursor(at: i64, id: impl std::fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{at}/{id}"))
}

/// Reads what [`time_cursor`] made.
pub(super) fn after_time<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<(i64, T)>, Error> {
    let Some(cursor) = cursor else { return Ok(None) };
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (at, id) = text.split_once('/')?;
        Some((at.parse().ok()?, id.parse().ok()?))
    };
    read().map(Some).ok_or_else(wrong_cursor)
}

/// Where a list goes on: after a number.
pub(super) fn number_cursor(n: i64) -> String {
    URL_SAFE_NO_PAD.encode(n.to_string())
}

/// Reads what [`number_cursor`] made.
pub(super) fn after_number(cursor: Option<&str>) -> Result<Option<i64>, Error> {
    let Some(cursor) = cursor else { return Ok(None) };
    let read = || String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?.parse().ok();
    read().map(Some).ok_or_else(wrong_cursor)
}

/// Where a list goes on: after a name.
pub(super) fn name_cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("name/{name}"))
}

/// Reads what [`name_cursor`] made.
pub(super) fn after_name(cursor: Option<&str>) -> Result<Option<String>, Error> {
    let Some(cursor) = cursor else { return Ok(None) };
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let name = text.as_deref().and_then(|text| text.strip_prefix("name/")).filter(|name| !name.contains('\0'));
    name.map(|name| Some(name.to_owned())).ok_or_else(wrong_cursor)
}

/// Where a list goes on that may have a name more than once: after a name and an id.
pub(super) fn named_cursor(name: &str, id: impl std::fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{id}/{name}"))
}

/// Reads what [`named_cursor`] made.
pub(super) fn after_named<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<(String, T)>, Error> {
    let Some(cursor) = cursor else { return Ok(None) };
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (id, name) = text.split_once('/').filter(|(_, name)| !name.contains('\0'))?;
        Some((name.to_owned(), id.parse().ok()?))
    };
    read().map(Some).ok_or_else(wrong_cursor)
}

fn wrong_cursor() -> Error {
    Error::invalid_at("query", "cursor", "the cursor is not one that this list gave; begin without one", "value_error")
}

/// What is asked of a list that has no filters.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    #[param(minimum = 1)]
    pub(super) limit: Option<u32>,
    pub(super) cursor: Option<String>,
}

/// A list of the admin API.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// The cursor of the next page; `null` on the last one.
    pub(super) next: Option<String>,
}

/// Builds the answer with a list: total and next page in its headers.
pub(super) struct Listing<'a> {
    req: &'a HttpRequest,
    response: HttpResponseBuilder,
}

impl<'a> Listing<'a> {
    pub(super) fn of(req: &'a HttpRequest) -> Self {
        Self { req, response: HttpResponse::Ok() }
    }

    /// Tells how many there are in all.
    pub(super) fn total(mut self, total: impl TryInto<u64>) -> Self {
        if let Ok(total) = total.try_into() {
            self.response.insert_header((TOTAL, total));
        }
        self
    }

    /// Tells where the next page is: this address with `name` set to `value`.
    pub(super) fn next(mut self, name: &str, value: Option<&str>) -> Self {
        let Some(value) = value else { return self };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(
            form_urlencoded::parse(self.req.query_string().as_bytes()).filter(|(known, _)| known != name),
        );
        query.append_pair(name, value);
        let link = format!("<{}?{}>; rel=\"next\"", self.req.uri().path(), query.finish());
        if let Ok(link) = HeaderValue::try_from(link) {
            self.response.insert_header((LINK, link));
        }
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> HttpResponse {
        self.response.json(body)
    }

    /// Answers with a list of the admin API.
    pub(super) fn page<T: Serialize>(self, items: Vec<T>, next: Option<String>) -> HttpResponse {
        self.next("cursor", next.as_deref()).json(&Page { items, next })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::domain::ids::ConversationId;

    #[test]
    fn cursors_come_back_and_others_are_refused() {
        let id = ConversationId::new();
        assert_eq!(after_time(Some(&time_cursor(-5, id))).expect("own"), Some((-5, id)));
        assert_eq!(after_number(Some(&number_cursor(7))).expect("own"), Some(7));
        assert_eq!(after_number(None).expect("none"), None);
        assert_eq!(after_name(Some(&name_cursor("ann"))).expect("own").as_deref(), Some("ann"));
        for wrong in [name_cursor("a\0b"), number_cursor(7), "%%".to_owned()] {
            assert!(after_name(Some(&wrong)).is_err(), "{wrong}");
        }
        let named = named_cursor("a/b", id);
        assert_eq!(after_named(Some(&named)).expect("own"), Some(("a/b".to_owned(), id)));
        for wrong in [named_cursor("a\0b", id), name_cursor("ann"), number_cursor(7)] {
            assert!(after_named::<ConversationId>(Some(&wrong)).is_err(), "{wrong}");
        }
        for wrong in ["", "x", "%%", &number_cursor(7)] {
            assert!(after_time::<ConversationId>(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(after_number(Some(&time_cursor(1, id))).is_err());
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(rows(None, 50, 500).expect("default"), 50);
        assert_eq!(rows(None, 50, 20).expect("default"), 20);
        assert_eq!(rows(Some(500), 50, 500).expect("highest"), 500);
        assert!(rows(Some(0), 50, 500).is_err());
        assert!(rows(Some(501), 50, 500).is_err());
        let mut items = vec![1, 2, 3];
        assert!(cut(&mut items, 2));
        assert!(!cut(&mut items, 2));
        assert_eq!(items, [1, 2]);
    }

    #[test]
    fn the_next_page_keeps_the_rest_of_the_query() {
        let req = TestRequest::with_uri("/api/x?q=a%20b&cursor=old&limit=2").to_http_request();
        let response = Listing::of(&req).total(3_usize).next("cursor", Some("new")).json(&[1, 2]);
        assert_eq!(response.headers().get(LINK).expect("a link"), "</api/x?q=a+b&limit=2&cursor=new>; rel=\"next\"");
        assert_eq!(response.headers().get(TOTAL).expect("a total"), "3");
        assert!(!Listing::of(&req).next("cursor", None).json(&[1]).headers().contains_key(LINK));
    }
}
