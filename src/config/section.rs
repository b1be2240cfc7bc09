//! What every section has in common: it lists its keys, knows the range of its numbers and checks itself.
//!
//! The list is made with [`listed!`], which takes the struct apart field by field, so a forgotten field does not compile.
//! `doctor`, the search for unknown keys and the tests of `config/default.toml` all read that list.
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::error::ConfigError;
use crate::domain::secret::Secret;

/// One KiB, for limits on bytes.
pub(super) const KIB: u64 = 1_024;
/// One MiB, for limits on bytes.
pub(super) const MIB: u64 = 1_024 * KIB;

/// One table of a config file.
pub trait Section {
    /// The name of the table.
    const NAME: &'static str;

    /// Lists every key with its value; secrets show only that they are set.
    fn shown(&self) -> Vec<Shown>;

    /// Lists the numbers of this section with what they may be.
    fn ranges(&self) -> Vec<Ranged> {
        Vec::new()
    }

    /// Checks what is more than the range of one number.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Checks the section; an error names the key and what is allowed.
    fn validate(&self) -> Result<(), ConfigError> {
        for number in self.ranges() {
            if !number.allowed.contains(&number.value) {
                let reason = format!("{}, not {}", must_be_within(&number.allowed), number.value);
                return Err(Self::invalid(number.key, reason));
            }
        }
        self.check()
    }

    /// Checks that a limit which can never be reached is not mistaken for one that holds.
    fn not_greater<N: TryInto<u64>>(&self, key: &str, value: N, other: &str, bound: N) -> Result<(), ConfigError> {
        let (value, bound) = (wide(value), wide(bound));
        if value <= bound {
            return Ok(());
        }
        let section = Self::NAME;
        Err(Self::invalid(key, format!("must not be greater than `{section}.{other}`, {bound}, but is {value}")))
    }

    /// Makes the error for one key of this section.
    fn invalid(key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { key: format!("{}.{key}", Self::NAME), origin: None, reason: reason.into() }
    }
}

/// A key and its value as people may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: &'static str,
    pub value: String,
    pub secret: bool,
}

/// A number and the range it must be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranged {
    pub key: &'static str,
    pub value: u64,
    pub allowed: RangeInclusive<u64>,
}

/// Says in words what a number must be.
pub(super) fn must_be_within(allowed: &RangeInclusive<u64>) -> String {
    format!("must be a whole number from {} to {}", allowed.start(), allowed.end())
}

/// A value that can be shown to people.
pub trait Show {
    /// Whether the value, also a wrong one, must be kept out of every text.
    const SECRET: bool = false;

    fn show(&self) -> String;
}

macro_rules! shown_as_text {
    ($($type:ty),+) => {
        $(impl Show for $type {
            fn show(&self) -> String {
                self.to_string()
            }
        })+
    };
}
shown_as_text!(bool, u32, u64, usize, String);

impl Show for PathBuf {
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Show for Secret {
    const SECRET: bool = true;

    fn show(&self) -> String {
        "[set]".to_owned()
    }
}

impl<T: Show> Show for Option<T> {
    const SECRET: bool = T::SECRET;

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "[not set]".to_owned(), Show::show)
    }
}

impl<T: Show> Show for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn show(&self) -> String {
        if self.is_empty() {
            return "[none]".to_owned();
        }
        self.iter().map(Show::show).collect::<Vec<_>>().join(", ")
    }
}

/// Used by [`listed!`]: a function, because a macro cannot name the type of a field.
pub(super) fn shown<T: Show>(key: &'static str, value: &T) -> Shown {
    Shown { key, value: value.show(), secret: T::SECRET }
}

/// Widens a count for a range check; what does not fit is out of every range anyway.
pub(super) fn wide<N: TryInto<u64>>(number: N) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

/// Lists the fields of a section. Names all of them, or it does not compile.
macro_rules! listed {
    ($section:ident { $($field:ident),+ $(,)? }) => {{
        let Self { $($field),+ } = $section;
        vec![$($crate::config::section::shown(stringify!($field), $field)),+]
    }};
}
pub(super) use listed;

/// Gives numbers of a section their ranges.
macro_rules! ranged {
    ($section:ident { $($field:ident: $allowed:expr),+ $(,)? }) => {
        vec![$($crate::config::section::Ranged {
            key: stringify!($field),
            value: $crate::config::section::wide($section.$field),
            allowed: $allowed,
        }),+]
    };
}
pub(super) use ranged;

/// Reads and shows a type through its text: `FromStr` and `Display`.
///
/// The error of such a `FromStr` is the end of a sentence that begins with the key, and never repeats a secret.
macro_rules! through_text {
    ($type:ty, secret: $secret:literal) => {
        impl $crate::config::section::Show for $type {
            const SECRET: bool = $secret;

            fn show(&self) -> String {
                self.to_string()
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use through_text;

/// Quotes a wrong value for a sentence, without letting it fill the screen.
pub(super) fn quoted(value: &str) -> String {
    format!("`{}`", value.chars().filter(|c| !c.is_control()).take(128).collect::<String>())
}

/// Checks a short text that goes into answers and log lines.
pub(super) fn is_plain_text(value: &str) -> bool {
    !value.trim().is_empty() && value.len() <= 128 && !value.chars().any(char::is_control)
}
