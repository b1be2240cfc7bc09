//! The token that a channel's sendings share. Pure; times are monotonic.
use std::time::Duration;

use tokio::time::Instant;

use crate::channels::Token;

/// A token while it is good.
#[derive(Debug, Default)]
pub(super) struct Shared(Option<(Token, Instant)>);

impl Shared {
    /// Returns the token, if it is still good.
    pub(super) fn get(&self, now: Instant) -> Option<Token> {
        self.0.as_ref().filter(|(_, until)| now < *until).map(|(token, _)| token.clone())
    }

    /// Keeps a token that was asked for at this time.
    pub(super) fn keep(&mut self, token: &Token, asked: Instant) {
        self.0 = Some((token.clone(), asked + Duration::from_secs(token.expires_in_s)));
    }

    /// Forgets a token that the provider did not take, unless another one has taken its place.
    pub(super) fn forget(&mut self, used: Option<&Token>) {
        if let (Some((known, _)), Some(used)) = (&self.0, used)
            && known.value == used.value
        {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::secret::Secret;

    fn token(value: &str) -> Token {
        Token { value: Secret::new(value), expires_in_s: 60 }
    }

    fn value(shared: &Shared, now: Instant) -> Option<String> {
        shared.get(now).map(|token| token.value.reveal().to_owned())
    }

    #[test]
    fn a_token_is_used_while_it_is_good() {
        let (mut shared, start) = (Shared::default(), Instant::now());
        shared.keep(&token("one"), start);
        assert_eq!(value(&shared, start + Duration::from_secs(59)).as_deref(), Some("one"));
        assert_eq!(value(&shared, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn a_late_refusal_of_an_old_token_costs_no_new_one() {
        let (mut shared, now) = (Shared::default(), Instant::now());
        shared.keep(&token("one"), now);
        shared.forget(Some(&token("one")));
        assert_eq!(value(&shared, now), None);
        shared.keep(&token("two"), now);
        shared.forget(Some(&token("one")));
        shared.forget(None);
        assert_eq!(value(&shared, now).as_deref(), Some("two"));
    }
}
