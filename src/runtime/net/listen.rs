//! Listening sockets, one a store, and the loop that accepts connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::ids::Micros;
use crate::limits::{
    ACCEPT_RETRY_MICROS, KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, LISTEN_BACKLOG, SEND_STALL_SECONDS_MAX,
};
use crate::runtime::clock::Clock;
use crate::runtime::executors::cede;
use crate::runtime::inbox::{Inbox, Source};

/// Why the server cannot listen.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ListenError {
    #[error("{0} is in use: another server is running there; stop it, or choose another port with --listen")]
    InUse(SocketAddr),
    #[error("{0} is not an address of this machine; choose another with --listen")]
    NotOurs(SocketAddr),
    #[error("store {store} would listen on port {port}, which does not exist; choose a lower port with --listen")]
    NoSuchPort { store: u16, port: u32 },
    #[error("cannot listen on {address}: {error}")]
    Failed { address: SocketAddr, error: io::Error },
}

/// Binds a socket for each store: `listen` and the ports after it, or any free ports if its port is 0. A port in use is tried
/// again for `wait_micros`: it may be that of a server that was killed a moment ago.
///
/// # Errors
/// If one of the ports cannot be had; then none is kept.
pub fn bind(listen: SocketAddr, stores: u16, wait_micros: u64) -> Result<Vec<TcpListener>, ListenError> {
    let clock = Clock::start();
    let waiting = || clock.now() < Micros(wait_micros);
    let address_of = |store: u16| {
        let port = if listen.port() == 0 { 0 } else { u32::from(listen.port()) + u32::from(store) };
        let existing = u16::try_from(port).map_err(|_| ListenError::NoSuchPort { store, port })?;
        Ok(SocketAddr::new(listen.ip(), existing))
    };
    (0..stores).map(|store| bind_one(address_of(store)?, waiting)).collect()
}

fn bind_one(address: SocketAddr, waiting: impl Fn() -> bool) -> Result<TcpListener, ListenError> {
    let bound = loop {
        match listening_socket(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && waiting() => {
                std::thread::sleep(LISTEN_RETRY);
            }
            bound => break bound,
        }
    };
    bound.map(TcpListener::from).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs(address),
        _ => ListenError::Failed { address, error },
    })
}

/// How often a port in use is tried.
const LISTEN_RETRY: Duration = Duration::from_millis(20);

/// Not with glommio's own `bind`, which always shares the port: a second server would start without a word and take
/// half of the connections.
fn listening_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Lets a restarted server bind while connections of its former life are still fading out.
    socket.set_reuse_address(true)?;
    // Linux hands these down to every accepted connection, which saves as many system calls on each.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(KEEPALIVE_IDLE_SECONDS))
        .with_interval(Duration::from_secs(KEEPALIVE_INTERVAL_SECONDS));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(SEND_STALL_SECONDS_MAX)))?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Accepts connections and hands them to the driver, until dropped.
///
/// No error ends it: without file descriptors or memory it waits a little and tries again, while the kernel keeps a
/// bounded number of clients waiting.
pub async fn accept_clients(listener: TcpListener, inbox: Rc<Inbox>) {
    // SAFETY: the descriptor is ours, open, listening, and given away here for good.
    let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                failing = false;
                inbox.ring(Source::Accepted(stream));
                // The driver takes it before the next one is accepted.
                cede().await;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections for now");
                }
                failing = true;
                glommio::timer::sleep(Duration::from_micros(ACCEPT_RETRY_MICROS)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_port_in_use_is_refused_and_not_shared() {
        let first = bind(loopback(0), 1, 0).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        let error = bind(address, 1, 0).expect_err("in use");
        assert!(matches!(error, ListenError::InUse(in_use) if in_use == address), "{error}");
        drop(first);
        bind(address, 1, 0).expect("free again");
    }

    #[test]
    fn every_store_has_a_port_of_its_own() {
        let listeners = bind(loopback(0), 3, 0).expect("free ports");
        let mut ports: Vec<_> = listeners.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3);
    }

    #[test]
    fn ports_end_at_65535() {
        let error = bind(loopback(u16::MAX), 2, 0).expect_err("there is no such port");
        assert!(matches!(error, ListenError::NoSuchPort { store: 1, port: 65_536 } | ListenError::InUse(_)), "{error}");
    }

    #[test]
    fn foreign_addresses_are_named() {
        let error = bind(SocketAddr::from(([192, 0, 2, 1], 7_400)), 1, 0).expect_err("a documentation address");
        assert!(matches!(error, ListenError::NotOurs(_)), "{error}");
    }

    #[test]
    fn connections_inherit_the_options_of_the_listener() {
        let listener = bind(loopback(0), 1, 0).expect("a free port").pop().expect("one");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (accepted, _) = listener.accept().expect("accepts");
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().expect("known"));
        assert!(accepted.keepalive().expect("known"));
        let stall = accepted.tcp_user_timeout().expect("known");
        assert_eq!(stall, Some(Duration::from_secs(SEND_STALL_SECONDS_MAX)));
    }
}
