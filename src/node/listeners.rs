//! Takes the ports before anything else is begun, and opens them when the server is there to answer.
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::ListenAddress;
use crate::domain::error::{Error, ErrorCode};

/// Connections that may wait to be accepted; actix's own default.
const BACKLOG: i32 = 1_024;

/// Ports that are ours and not yet open.
pub(super) struct Listeners(Vec<Bound>);

struct Bound {
    wanted: ListenAddress,
    socket: Socket,
    address: SocketAddr,
}

impl Listeners {
    /// Takes every configured port; the error says which one is not to be had, and why.
    pub(super) fn bind(listen: &[ListenAddress]) -> Result<Self, Error> {
        let mut all = Vec::new();
        for wanted in listen {
            let resolved = wanted.to_socket_addrs().map_err(|error| refused(wanted, &error))?;
            let before = all.len();
            let mut failed = None;
            for address in resolved {
                // Beside a listener of its own for IPv4, `[::]` must not want those connections, too.
                let only_v6 = listen.iter().any(|other| other != wanted && other.port() == wanted.port());
                match bind(address, only_v6) {
                    Ok((socket, address)) => all.push(Bound { wanted: wanted.clone(), socket, address }),
                    Err(error) => failed = Some(error),
                }
            }
            // A name such as `localhost` may stand for addresses that this machine does not have.
            if let (true, Some(error)) = (all.len() == before, failed) {
                return Err(refused(wanted, &error));
            }
        }
        Ok(Self(all))
    }

    /// Returns the addresses, with the ports that the system chose.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|bound| bound.address).collect()
    }

    /// Opens the ports.
    pub(super) fn open(self) -> Result<Vec<TcpListener>, Error> {
        // Two programs may have taken a port; only one of them can open it.
        let open = |bound: Bound| match bound.socket.listen(BACKLOG) {
            Ok(()) => Ok(TcpListener::from(bound.socket)),
            Err(error) => Err(refused(&bound.wanted, &error)),
        };
        self.0.into_iter().map(open).collect()
    }
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a port cannot be taken for a minute after a server on it has ended.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

/// Says why a port cannot be had, and what to do.
fn refused(wanted: &ListenAddress, error: &io::Error) -> Error {
    let sentence = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "`{wanted}` is in use by another program: stop it, or choose another address with --listen or \
             CLAWBROKER_LISTEN"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "`{wanted}` may not be opened by this user (ports below 1024 need a privilege): choose another port with \
             --listen or CLAWBROKER_LISTEN"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "`{wanted}` is not an address of this machine: choose another one with --listen or CLAWBROKER_LISTEN"
            )
        }
        _ => format!("`{wanted}` cannot be opened: {error}"),
    };
    Error::new(ErrorCode::InvalidRequest, sentence)
}

/// Tells whether a server could listen there now; the error says why not, and what to do.
pub fn check_port(address: &ListenAddress) -> Result<(), Error> {
    Listeners::bind(std::slice::from_ref(address))?.open().map(drop)
}
