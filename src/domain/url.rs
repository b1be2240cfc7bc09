//! Addresses that others give us.
use url::Url;

/// Reads an address of one of these schemes with a host, and without a user, a password and a fragment; at most
/// `bytes_max` long. `None` for everything else, also for what [`Url`] would mend and whoever dials it would not.
pub(super) fn plain_url(value: &str, schemes: [&str; 2], bytes_max: usize) -> Option<Url> {
    let is_clean = value.len() <= bytes_max
        && value.contains("://")
        && value.is_ascii()
        && !value.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
    let is_plain = |url: &Url| {
        schemes.contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    };
    is_clean.then(|| Url::parse(value).ok()).flatten().filter(is_plain)
}
