//! Passwords: hashed with Argon2id on a blocking thread, few at a time, since each takes memory and a core.
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use tokio::sync::Semaphore;

use crate::domain::error::{Error, ErrorCode};
use crate::domain::secret::Secret;

/// Shortest password in characters; length is what makes one hard to guess.
pub(super) const CHARS_MIN: usize = 12;
/// Longest in bytes; more is not a password, and hashing it would only cost time.
const BYTES_MAX: usize = 1_024;
/// Passwords hashed at a time: 19 MiB and some 30 ms of a core each.
const AT_A_TIME: usize = 2;
/// Callers that may wait for their turn (LIM-1).
const WAITING_MAX: usize = 32;

pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_A_TIME)), waiting: Semaphore::new(WAITING_MAX) }
    }
}

impl Passwords {
    /// Checks a new password and returns what is stored of it.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, Error> {
        check(&password)?;
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(Error::new(
                ErrorCode::RateLimited,
                "too many passwords are being set now, try again in a second",
            ));
        };
        let turn = self.turns.clone().acquire_owned().await.map_err(Error::internal)?;
        let work = move || {
            // Held until the work has ended, also when whoever asked has gone.
            let _turn = turn;
            Argon2::default()
                .hash_password(password.reveal().as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|error| Error::internal(format!("a password could not be hashed: {error}")))
        };
        actix_rt::task::spawn_blocking(work).await.map_err(|_| Error::internal("hashing a password panicked"))?
    }
}

fn check(password: &Secret) -> Result<(), Error> {
    let text = password.reveal();
    if text.chars().count() < CHARS_MIN {
        return Err(Error::invalid("password", format!("a password must have at least {CHARS_MIN} characters")));
    }
    if text.len() > BYTES_MAX {
        return Err(Error::invalid("password", format!("a password must not be longer than {BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_password_is_kept_as_an_argon2id_hash_only() {
        let passwords = Passwords::default();
        let hash = passwords.hash(Secret::new("correct horse battery")).await.expect("long enough");
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        let error = passwords.hash(Secret::new("elevenchars")).await.expect_err("too short");
        assert!(!error.message().contains("elevenchars"));
        passwords.hash(Secret::new("x".repeat(1_025))).await.expect_err("too long");
    }
}
