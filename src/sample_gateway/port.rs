//! The gateway's port: its own until its end, open or not.
//!
//! A network that is down for seconds must not cost it: somebody who wants any free port meanwhile would be given it.
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; actix's own default.
const BACKLOG: i32 = 1_024;

pub(super) struct Port {
    address: SocketAddr,
    /// Has the port and is never opened. Only Linux lets another socket of ours listen beside it; elsewhere a closed port
    /// may be lost.
    #[cfg(target_os = "linux")]
    _held: Socket,
}

impl Port {
    /// Takes a port; for 0 a free one.
    pub(super) fn take(port: u16) -> io::Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let held = bound(wanted)?;
        let address = held.local_addr()?.as_socket().unwrap_or(wanted);
        Ok(Self {
            address,
            #[cfg(target_os = "linux")]
            _held: held,
        })
    }

    pub(super) fn number(&self) -> u16 {
        self.address.port()
    }

    /// Opens it; an error while another socket listens there.
    pub(super) fn open(&self) -> io::Result<TcpListener> {
        let socket = bound(self.address)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // For the one beside it, and for the connections that linger after a close.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
