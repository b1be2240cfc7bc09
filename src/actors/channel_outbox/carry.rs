//! Carries requests to providers and brings back what they answered. Nothing of it is followed or kept.
use std::net::SocketAddr;
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use awc::http::Version;
use awc::{ClientResponse, Connector};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::net::lookup_host;
use tokio::time::timeout;
use url::Url;

use crate::channels::ssrf::{self, Reach};
use crate::channels::{ANSWER_BYTES_MAX, Answer, HttpAnswer, HttpRequest, Method, Request, email};

/// How long a connection may take, or half of what is there for all.
const CONNECT: Duration = Duration::from_secs(5);

/// What came of a request.
pub(crate) enum Carried {
    Answer(Answer),
    /// It goes to where it must not go: it was not sent.
    Refused(String),
}

/// Carries requests; lives on one thread.
pub(crate) struct Carrier {
    http: awc::Client,
    patience: Duration,
}

impl Carrier {
    /// Makes one that waits for answers so long.
    pub(crate) fn new(patience: Duration) -> Self {
        // Each request has its own connection: one that was kept may be closed while we write, and then nobody knows
        // whether the provider has acted.
        let connector = Connector::new().timeout(CONNECT.min(patience / 2)).max_http_version(Version::HTTP_11);
        let http = awc::Client::builder().connector(connector).timeout(patience).disable_redirects().finish();
        Self { http, patience }
    }

    /// Carries one. With `reach` its host is looked up here, and only addresses that it allows are connected to.
    pub(crate) async fn carry(&self, request: Request, reach: Option<Reach>) -> Carried {
        match request {
            Request::Mail(letter) => Carried::Answer(Answer::Smtp(email::post(&letter, self.patience).await)),
            Request::Http(request) => {
                let address = match reach {
                    Some(reach) => match resolve(request.url.reveal(), reach, CONNECT.min(self.patience)).await {
                        Ok(address) => Some(address),
                        Err(Resolved::Refused(why)) => return Carried::Refused(why),
                        Err(Resolved::Failed(why)) => {
                            return Carried::Answer(Answer::None { may_have_arrived: false, why });
                        }
                    },
                    None => None,
                };
                Carried::Answer(self.http(request, address).await)
            }
        }
    }

    /// Carries a request over HTTP, to this address if there is one.
    pub(crate) async fn http(&self, request: HttpRequest, address: Option<SocketAddr>) -> Answer {
        let url = request.url.reveal();
        let mut carried = match request.method {
            Method::Get => self.http.get(url),
            Method::Post => self.http.post(url),
        }
        .force_close();
        if let Some(address) = address {
            carried = carried.address(address);
        }
        for (name, value) in &request.headers {
            carried = carried.insert_header((*name, value.reveal()));
        }
        let whole = async {
            match carried.send_body(request.body).await {
                Ok(response) => read(response).await,
                Err(error) => silence(&error),
            }
        };
        timeout(self.patience, whole).await.unwrap_or_else(|_| Answer::None {
            may_have_arrived: true,
            why: format!("no answer within {} s", self.patience.as_secs()),
        })
    }
}

/// Says what is known where there was no answer. The words name no URL: it may hold a secret.
fn silence(error: &SendRequestError) -> Answer {
    let (may_have_arrived, why) = match error {
        // So awc tells that a connection ended before the answer, whatever had been sent on it.
        SendRequestError::Connect(ConnectError::Disconnected) => {
            (true, "the connection broke before the answer".to_owned())
        }
        SendRequestError::Connect(error) => (false, format!("no connection: {error}")),
        SendRequestError::Url(_) => (false, "the provider's address is wrong".to_owned()),
        SendRequestError::Http(_) => (false, "a header cannot be sent".to_owned()),
        SendRequestError::Timeout => (true, "no answer in time".to_owned()),
        _ => (true, "the connection broke before the answer".to_owned()),
    };
    Answer::None { may_have_arrived, why }
}

/// Reads an answer up to its bound.
async fn read<S>(mut response: ClientResponse<S>) -> Answer
where
    S: futures_util::Stream<Item = Result<bytes::Bytes, awc::error::PayloadError>> + Unpin,
{
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    let mut body = BytesMut::new();
    while let Some(chunk) = response.next().await {
        let Ok(chunk) = chunk else {
            return Answer::None { may_have_arrived: true, why: "the answer broke off".to_owned() };
        };
        let room = ANSWER_BYTES_MAX.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if body.len() >= ANSWER_BYTES_MAX {
            break;
        }
    }
    Answer::Http(HttpAnswer { status, headers, body: body.freeze() })
}

/// Why there is no address to connect to.
enum Resolved {
    /// It must not be reached.
    Refused(String),
    /// It is not known now.
    Failed(String),
}

/// Looks a host up; all of its addresses must be allowed (F18).
async fn resolve(url: &str, reach: Reach, patience: Duration) -> Result<SocketAddr, Resolved> {
    let url = Url::parse(url).map_err(|_| Resolved::Refused("this is no URL".to_owned()))?;
    let host = url.host_str().ok_or_else(|| Resolved::Refused("the URL names no host".to_owned()))?;
    // Brackets belong to the URL, not to the address.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let found = timeout(patience, lookup_host((host.as_str(), port))).await;
    let found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => return Err(Resolved::Failed("the webhook's host cannot be looked up".to_owned())),
    };
    let allowed = ssrf::allowed(&found, reach).map_err(Resolved::Refused)?;
    allowed.first().copied().ok_or_else(|| Resolved::Failed("the webhook's host has no address".to_owned()))
}
