//! A client without manners: bytes on a socket, as many and as few as a test wants.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dkc::engine::part::PackedKeys;
use dkc::error::ErrorCode;
use dkc::limits::REPLY_BYTES_MAX;
use dkc::wire::client::{Encoder, Hello, PROTOCOL_VERSION, Reply, decode_reply};
use dkc::wire::frame::Decoder;

/// How long a silent server is waited for. Generous: it bounds a hang, it measures nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
}

impl Raw {
    /// Connects and says nothing.
    pub(crate) fn silent(address: &str) -> Raw {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out can be set");
        Raw { stream, decoder: Decoder::new(REPLY_BYTES_MAX) }
    }

    /// Connects and says Hello.
    pub(crate) fn greeted(address: &str) -> Raw {
        let mut raw = Raw::silent(address);
        raw.send(&hello());
        let reply = raw.reply();
        assert!(matches!(reply, Some((1, Reply::Welcome(_)))), "a Hello is answered with {reply:?}");
        raw
    }

    /// Sends bytes that the server takes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    /// The next reply; `None` once the server has closed the connection.
    pub(crate) fn reply(&mut self) -> Option<(u64, Reply)> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("servers send intact frames") {
                let reply = decode_reply(frame.kind, frame.payload).expect("servers send valid replies");
                return Some((frame.request_id, reply));
            }
            match self.stream.read(self.decoder.space(64 << 10)) {
                Ok(0) => return None,
                Ok(count) => self.decoder.filled(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_closed(error.kind()) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The last reply must be this error to this request, and the end of the connection come behind it.
    pub(crate) fn expect_end_with(mut self, id: u64, code: ErrorCode) {
        let reply = self.reply();
        assert!(
            matches!(&reply, Some((got, Reply::Error { code: why, .. })) if (*got, *why) == (id, code)),
            "{reply:?} instead of {code:?} to request {id}"
        );
        assert_eq!(self.reply(), None, "the connection is closed behind the error");
    }

    /// Sends until the server has closed the connection.
    pub(crate) fn send_until_closed(&mut self, bytes: &[u8]) {
        loop {
            match self.stream.write_all(bytes) {
                Ok(()) => {}
                Err(error) if is_closed(error.kind()) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// A Hello with request id 1.
pub(crate) fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let (min, max) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
    let hello = Hello { protocol_min: min, protocol_max: max, cluster_id: None, client_name: "raw" };
    Encoder::new().hello(&mut bytes, 1, &hello);
    bytes
}

/// A request that increments keys `key-0` and so on, each `key_bytes` long, by 1.
pub(crate) fn increment(id: u64, keys: usize, key_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new().increment(&mut bytes, id, &packed(keys, key_bytes), &vec![1; keys], false, None);
    bytes
}

/// A request for the highest counts.
pub(crate) fn top(id: u64, k: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new().top_k(&mut bytes, id, k);
    bytes
}

/// A request that reads keys `key-0` and so on.
pub(crate) fn get(id: u64, keys: usize, key_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new().get(&mut bytes, id, &packed(keys, key_bytes));
    bytes
}

fn packed(keys: usize, key_bytes: usize) -> PackedKeys {
    let mut packed = PackedKeys::default();
    for key in 0..keys {
        packed.push(format!("{:.<key_bytes$}", format!("key-{key}")).as_bytes());
    }
    packed
}
