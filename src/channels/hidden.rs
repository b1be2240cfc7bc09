//! What providers say, without our secrets: some repeat what they refuse (SEC-1).
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::setup::Provider;
use super::{Answer, Outcome, Outgoing, Step, Token};
use crate::domain::secret::Secret;

/// Least bytes of a secret that is looked for: what is shorter stands in every other word.
const BYTES_MIN: usize = 6;
/// What stands for a secret.
const HIDDEN: &str = "[secret]";
/// Where words were cut off, maybe within a secret.
const CUT: char = '…';

impl Provider {
    /// Judges an answer as its channel does; the words hold no secret, nor the token that was used.
    pub fn outcome(&self, out: &Outgoing<'_>, step: Step, token: Option<&Token>, answer: &Answer) -> Outcome {
        let mut outcome = self.channel().outcome(out, step, answer);
        if let Some(why) = outcome.why_mut() {
            let mut secrets = self.secrets();
            secrets.extend(token.map(|token| token.value.clone()));
            *why = hide(why, secrets);
        }
        outcome
    }

    /// Reads a token as its channel does; the words of a failure hold no secret.
    pub fn token(&self, answer: &Answer) -> Result<Token, Outcome> {
        self.channel().token(answer).map_err(|mut outcome| {
            if let Some(why) = outcome.why_mut() {
                *why = self.without_secrets(why);
            }
            outcome
        })
    }

    /// Puts a word in place of each of our secrets in what a provider said.
    pub fn without_secrets(&self, words: &str) -> String {
        hide(words, self.secrets())
    }

    /// All secrets, in the forms in which they go out.
    fn secrets(&self) -> Vec<Secret> {
        let all = match self {
            Self::Feishu(feishu) => {
                vec![Some(&feishu.app_secret), feishu.verification_token.as_ref(), feishu.encrypt_key.as_ref()]
            }
            Self::Telegram { bot, .. } => vec![Some(&bot.bot_token), bot.secret_token.as_ref()],
            Self::WhatsApp(whatsapp) => {
                vec![Some(&whatsapp.access_token), whatsapp.app_secret.as_ref(), whatsapp.verify_token.as_ref()]
            }
            Self::Email(email) => match &email.server.credentials {
                Some((user, password)) => return mailed(user, password),
                None => Vec::new(),
            },
            Self::Webhook(webhook) => vec![Some(&webhook.secret)],
        };
        all.into_iter().flatten().cloned().collect()
    }
}

/// A password, also as it goes to a mail server (`AUTH PLAIN` and `AUTH LOGIN`).
fn mailed(user: &str, password: &Secret) -> Vec<Secret> {
    let plain = Secret::new(format!("\0{user}\0{}", password.reveal()));
    let encoded = |secret: &Secret| Secret::new(STANDARD.encode(secret.reveal()));
    vec![password.clone(), encoded(password), encoded(&plain)]
}

fn hide(words: &str, mut secrets: Vec<Secret>) -> String {
    secrets.retain(|secret| secret.reveal().len() >= BYTES_MIN);
    // One may hold another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
    let mut words = words.to_owned();
    for secret in &secrets {
        if words.contains(secret.reveal()) {
            words = words.replace(secret.reveal(), HIDDEN);
        }
        words = hide_cut(&words, secret.reveal());
    }
    words
}

/// Hides the beginning of a secret that stands where words were cut off.
fn hide_cut(words: &str, secret: &str) -> String {
    let mut hidden = String::with_capacity(words.len());
    let mut parts = words.split(CUT).peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            hidden.push_str(part);
            break;
        }
        let mut begun = (BYTES_MIN..secret.len()).rev().filter_map(|end| secret.get(..end));
        match begun.find_map(|begin| part.strip_suffix(begin)) {
            Some(before) => hidden.extend([before, HIDDEN]),
            None => hidden.push_str(part),
        }
        hidden.push(CUT);
    }
    hidden
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::email::{Email, Security, Server};
    use super::super::fixtures::{answer, outgoing};
    use super::super::telegram::Telegram;
    use super::super::whatsapp::WhatsApp;
    use super::*;
    use crate::domain::channel::Address;

    const TOKEN: &str = "EAAJB-of-a-system-user";

    fn whatsapp() -> Provider {
        Provider::WhatsApp(WhatsApp {
            base_url: "https://graph.test".into(),
            phone_number_id: "555".into(),
            access_token: Secret::new(TOKEN),
            app_secret: Some(Secret::new("short")),
            verify_token: None,
        })
    }

    fn refused(message: &str) -> String {
        let to = [Address::WhatsApp("4917012345".into())];
        let error = json!({ "error": { "message": message, "code": 190 } });
        match whatsapp().outcome(&outgoing(&to, "x"), Step::default(), None, &answer(401, error)) {
            Outcome::Permanent { why } => why,
            other => panic!("it is refused, not {other:?}"),
        }
    }

    #[test]
    fn a_refusal_that_repeats_the_token_does_not_tell_it() {
        let why = refused(&format!("Malformed access token {TOKEN}"));
        assert!(why.starts_with("Malformed access token [secret] (WhatsApp 190)"), "{why}");
        assert!(refused("a short text").starts_with("a short text"), "what is short stands everywhere");
        // Words are cut after 300 characters, wherever that is.
        for before in 270..=300 {
            let why = refused(&format!("{}{TOKEN}", "x".repeat(before)));
            assert!(!why.contains("EAAJB-"), "{before}: {why}");
        }
    }

    #[test]
    fn a_token_that_was_lent_is_hidden_as_well() {
        let to = [Address::WhatsApp("4917012345".into())];
        let token = Token { value: Secret::new("t-of-two-hours"), expires_in_s: 7_200 };
        let error = json!({ "error": { "message": "Bearer t-of-two-hours", "code": 190 } });
        let out = outgoing(&to, "x");
        let outcome = whatsapp().outcome(&out, Step::default(), Some(&token), &answer(401, error));
        assert!(matches!(&outcome, Outcome::Permanent { why } if why.starts_with("Bearer [secret]")), "{outcome:?}");
    }

    #[test]
    fn a_password_is_hidden_in_every_form_in_which_it_goes_out() {
        let credentials = Some(("bot".to_owned(), Secret::new("passw0rd")));
        let server = Server { host: "mail.test".into(), port: 587, security: Security::StartTls, credentials };
        let email = Provider::Email(Email { server, from: "bot@example.org".into() });
        for said in ["passw0rd", "cGFzc3cwcmQ=", "AGJvdABwYXNzdzByZA=="] {
            assert_eq!(email.without_secrets(&format!("500 what is {said}?")), "500 what is [secret]?");
        }
        let bot = Telegram {
            base_url: "https://telegram.test".into(),
            bot_token: Secret::new("42:of-the-bot"),
            secret_token: None,
        };
        let telegram = Provider::Telegram { bot, polls: false };
        assert_eq!(telegram.without_secrets("no /bot42:of-the-bot/getMe"), "no /bot[secret]/getMe");
    }
}
