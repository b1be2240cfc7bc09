//! The conversation with a mail server, command by command: only so is it known whether the letter was on its way when
//! it broke off.
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;

use super::super::judge;
use super::{Email, Letter, Security, Server, SmtpAnswer, SmtpEnd};

/// How far a conversation has come.
enum Progress {
    Greeting,
    LetterSent,
    Accepted(String),
}

/// Brings a letter to its server, on a connection of its own, within `patience` over all. Needs a tokio runtime.
pub async fn post(letter: &Letter, patience: Duration) -> SmtpAnswer {
    let mut progress = Progress::Greeting;
    let end = tokio::time::timeout(patience, talk(letter, patience, &mut progress)).await;
    let letter_sent = match progress {
        // What becomes of the farewell is all the same.
        Progress::Accepted(words) => return SmtpAnswer { end: SmtpEnd::Accepted, words },
        Progress::LetterSent => true,
        Progress::Greeting => false,
    };
    match end {
        Ok(Err(error)) if error.is_transient() => SmtpAnswer { end: SmtpEnd::Later, words: error.to_string() },
        Ok(Err(error)) if error.is_permanent() || error.is_client() => {
            SmtpAnswer { end: SmtpEnd::Never, words: error.to_string() }
        }
        Ok(Err(error)) => SmtpAnswer { end: SmtpEnd::Broken { letter_sent }, words: error.to_string() },
        Ok(Ok(())) | Err(_) => {
            let words = format!("the mail server took longer than {} s", patience.as_secs());
            SmtpAnswer { end: SmtpEnd::Broken { letter_sent }, words }
        }
    }
}

/// Greets the server and signs in, as before a letter, and says farewell; the error is in the server's words.
pub async fn greet(email: &Email, patience: Duration) -> Result<(), String> {
    let domain = email.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let greeting = async { begin(&email.server, domain, patience).await?.quit().await.map(drop) };
    match tokio::time::timeout(patience, greeting).await {
        Ok(greeted) => greeted.map_err(|error| judge::words(&error.to_string())),
        Err(_) => Err(format!("the mail server took longer than {} s", patience.as_secs())),
    }
}

/// Connects, encrypts and signs in.
async fn begin(server: &Server, domain: &str, patience: Duration) -> Result<AsyncSmtpConnection, Error> {
    let hello = ClientId::Domain(domain.to_owned());
    let tls = || TlsParameters::new(server.host.clone());
    let at_once = if server.security == Security::Tls { Some(tls()?) } else { None };
    let address = (server.host.as_str(), server.port);
    let mut smtp = AsyncSmtpConnection::connect_tokio1(address, Some(patience), &hello, at_once, None).await?;
    if server.security == Security::StartTls {
        smtp.starttls(tls()?, &hello).await?;
    }
    if let Some((user, password)) = server.credentials.as_ref().filter(|_| server.security != Security::Plain) {
        let credentials = Credentials::new(user.clone(), password.reveal().to_owned());
        smtp.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await?;
    }
    Ok(smtp)
}

async fn talk(letter: &Letter, patience: Duration, progress: &mut Progress) -> Result<(), Error> {
    let mut smtp = begin(&letter.server, letter.from.domain(), patience).await?;
    smtp.command(Mail::new(Some(letter.from.clone()), Vec::new())).await?;
    smtp.command(Rcpt::new(letter.to.clone(), Vec::new())).await?;
    smtp.command(Data).await?;
    *progress = Progress::LetterSent;
    let accepted = smtp.message(&letter.content).await?;
    *progress = Progress::Accepted(accepted.first_line().unwrap_or_default().to_owned());
    smtp.quit().await.map(drop)
}
