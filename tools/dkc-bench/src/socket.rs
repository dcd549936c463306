//! A connected socket that never blocks, and the bytes that are still to leave through it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct DialError {
    /// Whether nobody was reached, in contrast to somebody who refused.
    pub(crate) is_unreachable: bool,
    text: String,
}

impl DialError {
    pub(crate) fn unreachable(endpoint: &str, reason: impl fmt::Display) -> DialError {
        DialError { is_unreachable: true, text: format!("cannot reach {endpoint}: {reason}") }
    }

    pub(crate) fn refused(endpoint: &str, reason: impl fmt::Display) -> DialError {
        DialError { is_unreachable: false, text: format!("{endpoint}: {reason}") }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for DialError {}

/// What nobody waits for any longer.
pub(crate) const TOO_LATE: &str = "no answer in time";

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// What was handed over and has not left.
    unsent: Vec<u8>,
    /// How much of it has.
    sent: usize,
}

impl Socket {
    /// Connects. Names with several addresses have them tried in turn.
    ///
    /// # Errors
    /// Nobody is there, or nobody answered in time.
    pub(crate) fn dial(endpoint: &str, deadline: Instant) -> Result<Socket, DialError> {
        let addresses = endpoint.to_socket_addrs().map_err(|error| DialError::unreachable(endpoint, error))?;
        let mut reason = "the name has no address".to_owned();
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DialError::unreachable(endpoint, TOO_LATE));
            }
            let connected = TcpStream::connect_timeout(&address, left).and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            match connected {
                Ok(stream) => return Ok(Socket { stream, unsent: Vec::new(), sent: 0 }),
                Err(error) if error.kind() == ErrorKind::TimedOut => reason = TOO_LATE.to_owned(),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(DialError::unreachable(endpoint, reason))
    }

    /// Bytes that were handed over and have not left.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Takes over all of `bytes`, to be sent after what was taken before, and leaves memory for the next.
    pub(crate) fn push(&mut self, bytes: &mut Vec<u8>) {
        if self.unsent() == 0 {
            self.unsent.clear();
            self.sent = 0;
            std::mem::swap(&mut self.unsent, bytes);
        } else {
            self.unsent.append(bytes);
        }
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        while self.unsent() > 0 {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Reads what is there: `None` if that is nothing.
    ///
    /// # Errors
    /// The connection is broken, or the server has ended it.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Result<Option<usize>, String> {
        match self.stream.read(space) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sends what was handed over, waits until something was read, and says how much.
    ///
    /// # Errors
    /// The connection is broken, or nothing came in time.
    pub(crate) fn exchange(&mut self, space: &mut [u8], deadline: Instant) -> Result<usize, String> {
        loop {
            self.flush()?;
            if let Some(count) = self.read(space)? {
                return Ok(count);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let events = if self.unsent() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let ready = poll(&mut [PollFd::new(&self.stream, events)], Some(&timespec(left)));
            match ready {
                Ok(0) => return Err(TOO_LATE.to_owned()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A duration as the kernel takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    // The longest durations of the command line are days.
    Timespec::try_from(duration).expect("short enough for a signed 64-bit number of seconds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn bytes_leave_in_order_however_slowly_they_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut socket = Socket::dial(&endpoint, deadline).expect("listening");
        let (mut peer, _) = listener.accept().expect("dialled");
        // More than the kernel buffers.
        let sent: Vec<u8> = (0..64u32 << 18).flat_map(u32::to_le_bytes).collect();
        for piece in sent.chunks(sent.len() / 3) {
            socket.push(&mut piece.to_vec());
            socket.flush().expect("connected");
        }
        assert!(socket.unsent() > 0, "the kernel buffers 64 MiB");
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; 64 << 20];
            peer.read_exact(&mut received).expect("as much was sent");
            peer.write_all(b"done").expect("connected");
            received
        });
        let mut answer = [0; 8];
        assert_eq!(socket.exchange(&mut answer, deadline).expect("answered"), 4);
        assert_eq!((&answer[..4], socket.unsent()), (&b"done"[..], 0));
        assert!(reader.join().expect("no panic") == sent);
    }

    #[test]
    fn nobody_and_silence_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let mut socket = Socket::dial(&endpoint, Instant::now() + Duration::from_secs(60)).expect("listening");
        assert_eq!(socket.exchange(&mut [0; 8], Instant::now()), Err(TOO_LATE.to_owned()));
        drop(listener);
        assert!(Socket::dial(&endpoint, Instant::now() + Duration::from_secs(60)).expect_err("gone").is_unreachable);
        let late = Socket::dial(&endpoint, Instant::now()).expect_err("no time");
        assert!(late.to_string().contains(TOO_LATE), "{late}");
    }
}
