//! Connecting without waiting: one address of a name after the other.

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Dialling {
    stream: Option<TcpStream>,
    rest: VecDeque<SocketAddr>,
    reason: String,
}

impl Dialling {
    /// Begins. Only the name's resolution, if it is one, is waited for.
    pub(super) fn new(address: &str) -> Dialling {
        let mut dialling =
            Dialling { stream: None, rest: VecDeque::new(), reason: "the name has no address".to_owned() };
        match address.to_socket_addrs() {
            Ok(addresses) => dialling.rest = addresses.collect(),
            Err(error) => dialling.reason = error.to_string(),
        }
        dialling.go_on();
        dialling
    }

    /// The socket that becomes writable when there is something to see; `None` if no address is left.
    pub(super) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Why the last address did not work.
    pub(super) fn reason(&self) -> String {
        self.reason.clone()
    }

    /// The connection, if it is made. If it failed, the next address is tried.
    pub(super) fn take(&mut self) -> Option<TcpStream> {
        let stream = self.stream.take()?;
        match sockopt::socket_error(&stream) {
            Ok(Ok(())) => return Some(stream),
            Ok(Err(error)) | Err(error) => self.reason = std::io::Error::from(error).to_string(),
        }
        self.go_on();
        None
    }

    fn go_on(&mut self) {
        while let Some(address) = self.rest.pop_front() {
            match begin(&address) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return;
                }
                Err(error) => self.reason = std::io::Error::from(error).to_string(),
            }
        }
    }
}

fn begin(address: &SocketAddr) -> rustix::io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error),
    }
}
