//! A proxy that makes a local client look remote: it adds `X-Forwarded-For` to the first request and copies the rest.
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts a proxy before `url` and returns its own URL; it lives as long as the test's system.
pub(crate) async fn forwarding(url: &str, client: &str) -> String {
    let target = url.trim_start_matches("ws://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let header = format!("X-Forwarded-For: {client}\r\n\r\n");
    actix::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            if let Ok(far) = TcpStream::connect(&target).await {
                actix::spawn(forward(near, far, header.clone()));
            }
        }
    });
    format!("ws://{address}")
}

async fn forward(mut near: TcpStream, mut far: TcpStream, header: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match near.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    head.truncate(head.len() - 2);
    head.extend_from_slice(header.as_bytes());
    if far.write_all(&head).await.is_ok() {
        // Either end may go at any time; that ends the other.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}
