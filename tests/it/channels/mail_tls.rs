//! Mail servers that encrypt: one for whose certificate nobody vouches is told nothing. (A letter that goes through
//! needs a certificate of a public authority: the broker trusts no others, and no setting makes it.)
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawbroker::channels::email::{Email, Security, Server};
use clawbroker::channels::{Outcome, Step};
use clawbroker::domain::channel::Address;
use clawbroker::domain::secret::Secret;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::{PATIENCE, outgoing, send};

/// The certificate of 127.0.0.1, for a hundred years, signed by itself; DER in Base64. It is nobody's but this test's.
const CERTIFICATE: &str = "\
    MIIBbTCCARSgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAltYWlsLnRlc3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAx\
    MDEwMDAwMDBaMBQxEjAQBgNVBAMMCW1haWwudGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAIYnuXeL/t/vpsL/J0GJ8hM\
    2Iq+rffxM/7gZQCm/qLowBS4/t53g7XzWQLoPPA5RKxyFNq9JyF2nZ7N2JjlykOjVTBTMAwGA1UdEwEB/wQCMAAwDwYDVR0RBAgw\
    BocEfwAAATATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNVHQ4EFgQU4k+Obj89HMznqxd7oBUgHw1N4DowCgYIKoZIzj0EAwIDRwAw\
    RAIgL1S4qBMJADNTRwzgyovARYdnk9oBr3gZj/U+0VMM50ICIACiXmwd2RiJOLbAFSklv1oMO+1LDU9MRhkYJxV7eMAi";
/// Its key, in PKCS #8.
const KEY: &str = "\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgW7LaKid3u8A1ScWu22aaYOV5UH4uvOEwfE3oYzSnx1ehRANCAAQC\
    GJ7l3i/7f76bC/ydBifITNiKvq338TP+4GUApv6i6MAUuP7ed4O181kC6DzwOUSschTavSchdp2ezdiY5cpD";

/// What a server was told before it encrypted, and what came of the encryption: how many bytes it was told by it.
type Told = (Vec<String>, std::io::Result<usize>);

fn config() -> Arc<ServerConfig> {
    let der = |text: &str| STANDARD.decode(text).expect("Base64");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der(KEY)));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(der(CERTIFICATE))], key)
        .expect("a certificate and its key");
    Arc::new(config)
}

/// Talks to one client; with [`Security::Tls`] it encrypts from the first byte.
fn server(security: Security) -> (u16, JoinHandle<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let said = if security == Security::Tls { Vec::new() } else { in_the_clear(&mut stream) };
        let mut tls = ServerConnection::new(config()).expect("a connection");
        let mut encrypted = Stream::new(&mut tls, &mut stream);
        let mut told = [0_u8; 4_096];
        let greeted = if security == Security::Tls { encrypted.write_all(b"220 mail.test ESMTP\r\n") } else { Ok(()) };
        let end = greeted.and_then(|()| encrypted.flush()).and_then(|()| encrypted.read(&mut told));
        (said, end)
    });
    (port, thread)
}

/// Greets a client and waits until it wants to encrypt; returns its commands.
fn in_the_clear(stream: &mut TcpStream) -> Vec<String> {
    let mut lines = BufReader::new(stream.try_clone().expect("one socket, two handles"));
    let mut said = Vec::new();
    stream.write_all(b"220 mail.test ESMTP\r\n").expect("a client");
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).expect("a line") == 0 {
            return said;
        }
        let line = line.trim_end().to_owned();
        let encrypts = line == "STARTTLS";
        said.push(line);
        if encrypts {
            stream.write_all(b"220 go ahead\r\n").expect("a client");
            return said;
        }
        stream.write_all(b"250-mail.test\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n").expect("a client");
    }
}

#[actix_web::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    let to = [Address::Email("ada@example.com".into())];
    for (security, in_the_clear) in
        [(Security::Tls, vec![]), (Security::StartTls, vec!["EHLO example.org", "STARTTLS"])]
    {
        let (port, thread) = server(security);
        let credentials = Some(("bot".to_owned(), Secret::new("a password")));
        let server = Server { host: "127.0.0.1".into(), port, security, credentials };
        let channel = Email { server, from: "bot@example.org".into() };
        let (outcome, _) = send(&channel, &outgoing(&to, "a letter"), Step::default(), PATIENCE).await;
        // Its operator may mend it, so it is tried again.
        assert!(matches!(outcome, Outcome::Retry { .. }), "{security:?}: {outcome:?}");
        let (said, end) = thread.join().expect("the server came to its end");
        assert_eq!(said, in_the_clear, "{security:?}");
        // No command, no password, no letter: the client ended the handshake.
        assert!(matches!(end, Ok(0) | Err(_)), "{security:?}: {end:?}");
    }
}
