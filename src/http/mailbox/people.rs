//! People, as agents reach them.
use crate::domain::error::{Error, ErrorCode};
use crate::domain::member::{Addresses, Member, Way};

/// The ways to people that can be used now. There is no channel yet.
const USABLE: [Way; 0] = [];

/// Returns the channels by which a person can be reached now, the first one first. The one place that decides it.
pub(super) fn channels(addresses: &Addresses) -> Vec<&'static str> {
    addresses.ways(&USABLE).into_iter().map(Way::as_str).collect()
}

/// Refuses to write to a person whom no channel reaches, in the ancestor's words. Whatever is written to a person comes
/// here.
pub(super) fn unreachable(person: &Member) -> Error {
    let known = |address: &Option<String>| if address.is_some() { "yes" } else { "no" };
    let Addresses { feishu_user_id, feishu_open_id, .. } = &person.addresses;
    let message = format!(
        "No available channel to reach {}. feishu_user_id={}, feishu_open_id={}",
        person.name,
        known(feishu_user_id),
        known(feishu_open_id)
    );
    Error::new(ErrorCode::InvalidRequest, message)
}
