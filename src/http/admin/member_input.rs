//! What operators say of people and of whom agents know, with its bounds.
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::agent_input::Text;
use crate::channels::email::is_address;
use crate::domain::channel::is_whatsapp_user_id;
use crate::domain::member::WebhookUrl;

/// Longest e-mail address, in bytes.
const EMAIL_BYTES_MAX: usize = 254;
/// Longest telephone number as people write it, in characters.
const PHONE_CHARS_MAX: usize = 32;
/// Digits of an international telephone number.
const WHATSAPP_DIGITS: std::ops::RangeInclusive<usize> = 5..=15;
/// Longest id of a channel, in bytes.
const ID_BYTES_MAX: usize = 128;
/// Longest relation in characters, as the ancestor has it.
const RELATION_CHARS_MAX: usize = 50;

/// Makes a text that is trimmed and checked when it is read. No refusal repeats it.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $is_fine:expr, $must:expr) => {
        $(#[$doc])*
        pub(super) struct $name(pub(super) String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let text = text.trim();
                let is_fine: fn(&str) -> bool = $is_fine;
                if !is_fine(text) {
                    return Err(D::Error::custom($must));
                }
                Ok(Self(text.to_owned()))
            }
        }
    };
}

checked!(
    /// An e-mail address to which letters can be sent.
    Email,
    |text| text.len() <= EMAIL_BYTES_MAX && is_address(text),
    format!("must be an e-mail address in ASCII of at most {EMAIL_BYTES_MAX} bytes")
);
checked!(
    /// A telephone number as people write it.
    Phone,
    |text| {
        (1..=PHONE_CHARS_MAX).contains(&text.len())
            && text.bytes().any(|b| b.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_digit() || b" +-()/.".contains(&b))
    },
    format!("must be a telephone number of at most {PHONE_CHARS_MAX} characters")
);
checked!(
    /// A WhatsApp number, international, with or without its `+`; or an id of somebody there.
    WhatsApp,
    |text| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let is_number = WHATSAPP_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        is_number || is_whatsapp_user_id(text)
    },
    "must be an international number of 5 to 15 digits, with or without `+`, or an id such as `US.1349`"
);
checked!(
    /// An id that a channel gives to people.
    ChannelId,
    |text| (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()),
    format!("must be 1 to {ID_BYTES_MAX} visible ASCII characters")
);
checked!(
    /// What somebody is to an agent, for example `collaborator`.
    Relation,
    |text| {
        (1..=RELATION_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    },
    format!("must be 1 to {RELATION_CHARS_MAX} characters without control characters")
);

/// A chat of Telegram: a number, also one that is not in quotes, or the name of a channel.
pub(super) struct ChatId(pub(super) String);

impl<'de> Deserialize<'de> for ChatId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(i64),
            Text(ChannelId),
        }
        let given = Given::deserialize(deserializer).map_err(|_| {
            D::Error::custom(format!("must be a number or 1 to {ID_BYTES_MAX} visible ASCII characters"))
        })?;
        Ok(Self(match given {
            Given::Number(number) => number.to_string(),
            Given::Text(id) => id.0,
        }))
    }
}

/// Where messages are posted. No refusal repeats it: it may hold a secret.
pub(super) struct Webhook(pub(super) WebhookUrl);

impl<'de> Deserialize<'de> for Webhook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse::<WebhookUrl>().map(Self).map_err(D::Error::custom)
    }
}

/// What there is to say of a relationship.
pub(super) type Description = Text<1_000>;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fits<T: for<'de> Deserialize<'de>>(value: Value) -> bool {
        serde_json::from_value::<T>(value).is_ok()
    }

    #[test]
    fn addresses_have_the_form_of_their_channels() {
        for (text, fine) in [
            ("ann@example.com", true),
            (" ann@example.com ", true),
            ("\"a@b\"@example.com", false),
            ("anñ@example.com", false),
            ("ann@exämple.com", false),
            ("ann@[127.0.0.1]", false),
            ("ann", false),
            ("@example.com", false),
            ("ann@", false),
            ("ann@example.com\nbcc: x", false),
            ("Ann <ann@example.com>", false),
            ("", false),
        ] {
            assert_eq!(fits::<Email>(json!(text)), fine, "{text}");
        }
        for (text, fine) in [("+49 (30) 123-4/5", true), ("call me", false), ("+", false), ("", false)] {
            assert_eq!(fits::<Phone>(json!(text)), fine, "{text}");
        }
        for (text, fine) in [
            ("+4930123", true),
            ("4930123", true),
            ("US.1349", true),
            ("us.1349", false),
            ("+49 30", false),
            ("1234", false),
            ("++12345", false),
        ] {
            assert_eq!(fits::<WhatsApp>(json!(text)), fine, "{text}");
        }
        for (text, fine) in [("ou_84aad35d", true), ("a b", false), ("ä", false), ("", false)] {
            assert_eq!(fits::<ChannelId>(json!(text)), fine, "{text}");
        }
        assert!(!fits::<ChannelId>(json!("x".repeat(129))) && !fits::<Phone>(json!("1".repeat(33))));
    }

    #[test]
    fn a_chat_is_a_number_or_a_name() {
        for (value, text) in [(json!(-100_123), "-100123"), (json!(" 7 "), "7"), (json!("@news"), "@news")] {
            assert_eq!(serde_json::from_value::<ChatId>(value).expect("a chat").0, text);
        }
        for wrong in [json!(1.5), json!(""), json!("a b"), json!([7]), json!(true)] {
            assert!(!fits::<ChatId>(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn relations_are_short() {
        assert_eq!(serde_json::from_value::<Relation>(json!(" boss ")).expect("fine").0, "boss");
        assert!(fits::<Relation>(json!("ä".repeat(50))) && !fits::<Relation>(json!("ä".repeat(51))));
        assert!(!fits::<Relation>(json!(" ")) && !fits::<Relation>(json!("a\nb")));
    }
}
