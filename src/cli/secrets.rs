//! Where a command takes secrets from. Every user of the machine can read its arguments: a gateway's secrets are never
//! taken from there, and an agent's key only if somebody insists.
use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::domain::secret::Secret;

/// Longest secret in bytes, as the API has it.
const BYTES_MAX: u64 = 4_096;

#[derive(Debug, Args)]
pub(super) struct Given {
    /// File that holds the gateway's token
    #[arg(long, value_name = "FILE", conflicts_with = "token_stdin")]
    token_file: Option<PathBuf>,
    /// Read the gateway's token from standard input
    #[arg(long)]
    token_stdin: bool,
    /// File that holds the gateway's password
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,
    /// Read the gateway's password from standard input
    #[arg(long, conflicts_with = "token_stdin")]
    password_stdin: bool,
}

impl Given {
    /// Returns token and password, as far as there are any.
    pub(super) fn read(&self) -> Result<(Option<Secret>, Option<Secret>), Failure> {
        let token = one(self.token_file.as_deref(), self.token_stdin, "OPENCLAW_GATEWAY_TOKEN")?;
        let password = one(self.password_file.as_deref(), self.password_stdin, "OPENCLAW_GATEWAY_PASSWORD")?;
        Ok((token, password))
    }
}

/// How a command is told the key of the agent that it stands for.
#[derive(Debug, Args)]
pub(super) struct Key {
    /// The agent's key; better set CLAWBROKER_API_KEY or name a file, which nobody else can read
    #[arg(long, value_name = "KEY", conflicts_with = "key_file", value_parser = secret)]
    key: Option<Secret>,
    /// File that holds the agent's key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Key {
    /// Returns the key.
    pub(super) fn read(&self) -> Result<Secret, Failure> {
        let given = match &self.key {
            Some(key) => Some(key.clone()),
            None => one(self.key_file.as_deref(), false, "CLAWBROKER_API_KEY")?,
        };
        let Some(key) = given else {
            return Err(Failure::usage(
                "this needs the agent's key: set CLAWBROKER_API_KEY, or name a file with --key-file",
            ));
        };
        // It goes into a header.
        let is_plain = !key.is_empty() && key.reveal().bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain { Ok(key) } else { Err(Failure::usage("the agent's key must be as it was shown, `oc-…`")) }
    }
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.trim()))
}

fn one(file: Option<&Path>, stdin: bool, name: &str) -> Result<Option<Secret>, Failure> {
    if let Some(path) = file {
        let place = format!("`{}`", path.display());
        let file =
            std::fs::File::open(path).map_err(|error| Failure::new(format!("{place} cannot be read: {error}")))?;
        return take(file, &place);
    }
    if stdin {
        return take(std::io::stdin().lock(), "standard input");
    }
    match std::env::var(name) {
        Ok(text) if !text.trim().is_empty() => Ok(Some(Secret::new(text.trim()))),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::new(format!("{name} is not UTF-8"))),
    }
}

/// Reads a secret from a file.
pub(super) fn of_file(path: &Path) -> Result<Secret, Failure> {
    let secret = one(Some(path), false, "")?;
    secret.ok_or_else(|| Failure::new(format!("`{}` holds no secret", path.display())))
}

/// Reads a secret, without the blanks around it.
fn take(from: impl Read, place: &str) -> Result<Option<Secret>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = from.take(BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("{place} cannot be read: {error}")))?;
    let secret = text.trim();
    if secret.is_empty() || secret.len() as u64 > BYTES_MAX {
        return Err(Failure::new(format!("{place} must hold a secret of 1 to {BYTES_MAX} bytes")));
    }
    Ok(Some(Secret::new(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_a_secret_are_not_part_of_it() {
        let read = |text: &str| take(text.as_bytes(), "it").map(|secret| secret.expect("one"));
        assert_eq!(read(" s3cret\n").expect("a secret").reveal(), "s3cret");
        assert!(read(" \n").is_err());
        assert!(read(&"x".repeat(5_000)).is_err());
    }
}
