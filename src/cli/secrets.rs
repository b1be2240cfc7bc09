//! Where a command takes a gateway's secrets from: never from its arguments, which every user of the machine can read.
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
