//! One blocking connection on a plain socket, without a session: the low-level tool.
//!
//! The socket is non-blocking underneath, and one loop waits for whichever of reading and writing is possible. That
//! is what makes a pipeline safe: a client that only wrote until all was written, against a server that stops
//! reading until its replies are taken, would stand still for ever once the buffers between them are full.
//!
//! Each call is bounded by the connection's time-out as a whole. After a failure the connection stays failed, but
//! replies that arrived before can still be received.

use crate::client::ClientError;
use crate::client::batch::{Batch, check_key};
use crate::client::pipeline::Pipeline;
use crate::engine::part::PackedKeys;
use crate::error::ErrorCode;
use crate::limits::{CLIENT_FLUSH_BYTES, CONNECTION_REQUESTS_MAX, TOP_KEYS_MAX};
use crate::wire::client::{Hello, IncrementReply, PROTOCOL_VERSION, Reply, Status, TopKReply, Welcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A connection to one server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    endpoint: String,
    timeout: Duration,
    pipeline: Pipeline,
    welcome: Welcome,
    failure: Option<ClientError>,
    /// The socket takes no more bytes. What it delivers is still read to the end: answers, perhaps the reason.
    send_failure: Option<String>,
}

impl Connection {
    /// Connects to the first of `endpoints` (`host:port`) that welcomes the client. Together the attempts take at
    /// most `timeout` (name resolution has its own bounds); the same time then bounds each later call.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] names every attempt; [`ClientError::Refused`] and [`ClientError::Protocol`]
    /// are what the last server to answer said.
    pub fn connect(endpoints: &[String], timeout: Duration) -> Result<Connection, ClientError> {
        let deadline = Instant::now() + timeout;
        let mut reasons = Vec::new();
        let mut answer = None;
        for (attempt, endpoint) in endpoints.iter().enumerate() {
            // An equal share of what is left, so that one silent endpoint leaves time for the others.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (endpoints.len() - attempt) as u32;
            match Connection::open(endpoint, Instant::now() + share, timeout) {
                Ok(connection) => return Ok(connection),
                Err(ClientError::Unreachable { reason }) => reasons.push(reason),
                Err(error) => answer = Some(error),
            }
        }
        if reasons.is_empty() {
            reasons.push("no endpoint is given".to_owned());
        }
        Err(answer.unwrap_or(ClientError::Unreachable { reason: reasons.join("; ") }))
    }

    fn open(endpoint: &str, deadline: Instant, timeout: Duration) -> Result<Connection, ClientError> {
        let stream = dial(endpoint, deadline)
            .map_err(|reason| ClientError::Unreachable { reason: format!("{endpoint}: {reason}") })?;
        let mut connection = Connection {
            stream,
            endpoint: endpoint.to_owned(),
            timeout,
            pipeline: Pipeline::new(),
            welcome: Welcome::default(),
            failure: None,
            send_failure: None,
        };
        let request_id = connection.pipeline.hello(&Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            cluster_id: None,
            client_name: concat!("dkc ", env!("CARGO_PKG_VERSION")),
        });
        match connection.receive_until(Some(request_id), deadline)?.1 {
            Reply::Welcome(welcome) if welcome.protocol == PROTOCOL_VERSION => {
                connection.welcome = welcome;
                Ok(connection)
            }
            Reply::Error { code, text } => Err(ClientError::from_code(code, format!("{endpoint}: {text}"), 0)),
            _ => Err(ClientError::Protocol { reason: format!("{endpoint} chose a protocol that was not offered") }),
        }
    }

    /// What the server said about itself and the cluster.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The endpoint that is connected.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds deltas to counts, in order, and returns the new counts. Each increment is decided by itself: see
    /// [`IncrementReply::outcome`]. Never sent twice.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: nothing was applied. [`ClientError::Unknown`]: it may have been.
    pub fn increment<K: AsRef<[u8]>>(&mut self, increments: &[(K, i64)]) -> Result<IncrementReply, ClientError> {
        let mut batch = Batch::new();
        for (key, delta) in increments {
            batch.push(key.as_ref(), *delta)?;
        }
        let request_id = self.send_increment(&batch, true)?;
        match self.receive_until(Some(request_id), self.deadline())?.1 {
            Reply::Increment(reply) => Ok(reply),
            Reply::Error { code, text } => Err(ClientError::from_code(code, text, batch.len() as u64)),
            _ => Err(unfitting()),
        }
    }

    /// Reads counts; `None` for a key that does not exist.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<i64>>, ClientError> {
        let mut packed = PackedKeys::default();
        for key in keys {
            check_key(&packed, key.as_ref())?;
            packed.push(key.as_ref());
        }
        let request_id = self.send_get(&packed)?;
        match self.receive_until(Some(request_id), self.deadline())?.1 {
            Reply::Get(reply) => Ok(reply
                .counts
                .iter()
                .zip(&reply.found)
                .map(|(&count, &found)| (found == 1).then_some(count))
                .collect()),
            Reply::Error { code, text } => Err(ClientError::from_code(code, text, 0)),
            _ => Err(unfitting()),
        }
    }

    /// Reads the `k` highest counts, from 1 to [`TOP_KEYS_MAX`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn top_k(&mut self, k: u32) -> Result<TopKReply, ClientError> {
        if k == 0 || k as usize > TOP_KEYS_MAX {
            let text = format!("k is {k}, from 1 to {TOP_KEYS_MAX} is allowed");
            return Err(ClientError::Refused { code: ErrorCode::TooLarge, text });
        }
        self.ready_to_send()?;
        let request_id = self.pipeline.top_k(k);
        match self.receive_until(Some(request_id), self.deadline())?.1 {
            Reply::TopK(reply) => Ok(reply),
            Reply::Error { code, text } => Err(ClientError::from_code(code, text, 0)),
            _ => Err(unfitting()),
        }
    }

    /// Asks what the server is doing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ready_to_send()?;
        let request_id = self.pipeline.status();
        match self.receive_until(Some(request_id), self.deadline())?.1 {
            Reply::Status(status) => Ok(status),
            Reply::Error { code, text } => Err(ClientError::from_code(code, text, 0)),
            _ => Err(unfitting()),
        }
    }

    /// Puts a batch into the pipeline and returns its request id. It leaves at the latest with the next
    /// [`flush`](Self::flush) or [`receive`](Self::receive). Never sent twice.
    ///
    /// # Errors
    /// The batch is empty, [`CONNECTION_REQUESTS_MAX`] requests are in flight, or the connection failed; the batch
    /// was then not sent.
    pub fn send_increment(&mut self, batch: &Batch, want_values: bool) -> Result<u64, ClientError> {
        refuse_empty(batch.len())?;
        self.ready_to_send()?;
        Ok(self.pipeline.increment(batch, want_values))
    }

    /// Puts a read into the pipeline, like [`send_increment`](Self::send_increment). The keys have to keep to the
    /// limits of a batch.
    ///
    /// # Errors
    /// As there.
    pub fn send_get(&mut self, keys: &PackedKeys) -> Result<u64, ClientError> {
        refuse_empty(keys.len())?;
        self.ready_to_send()?;
        Ok(self.pipeline.get(keys))
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// The connection failed, or the server did not take it in time.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let deadline = self.deadline();
        while !self.pipeline.unsent().is_empty() {
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// The next reply, with the id of its request; replies may overtake each other. Sends what was gathered.
    ///
    /// # Errors
    /// The connection failed, or no reply came in time. With nothing in flight there is nothing to wait for:
    /// [`ClientError::Protocol`].
    pub fn receive(&mut self) -> Result<(u64, Reply), ClientError> {
        self.receive_until(None, self.deadline())
    }

    /// Requests whose reply was not yet received. Callers keep it at or under a window of their choice, at most
    /// [`CONNECTION_REQUESTS_MAX`], by receiving a reply before they send once more.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pipeline.in_flight()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn ready_to_send(&mut self) -> Result<(), ClientError> {
        if let Some(failure) = &self.failure {
            return Err(ClientError::Unreachable { reason: format!("the connection has failed before: {failure}") });
        }
        if self.in_flight() >= CONNECTION_REQUESTS_MAX {
            let text = format!("{CONNECTION_REQUESTS_MAX} requests are in flight; receive a reply first");
            return Err(ClientError::Refused { code: ErrorCode::Overloaded, text });
        }
        if self.pipeline.unsent().len() >= CLIENT_FLUSH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// The next reply, or only that to a certain request.
    fn receive_until(&mut self, request_id: Option<u64>, deadline: Instant) -> Result<(u64, Reply), ClientError> {
        loop {
            if let Some(reply) = self.pipeline.take_reply(request_id) {
                return Ok(reply);
            }
            if !self.pipeline.is_waiting() {
                let reason = "nothing is in flight that could be received".to_owned();
                return Err(self.failure.clone().unwrap_or(ClientError::Protocol { reason }));
            }
            self.turn(deadline)?;
        }
    }

    /// Sends and reads what is possible at once; if that is nothing, waits until something is.
    fn turn(&mut self, deadline: Instant) -> Result<(), ClientError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let sent = self.send_some();
        let read = self.read_some()?;
        if !sent && !read {
            self.wait(deadline)?;
        }
        Ok(())
    }

    /// Whether any bytes were sent.
    fn send_some(&mut self) -> bool {
        if self.send_failure.is_some() || self.pipeline.unsent().is_empty() {
            return false;
        }
        match self.stream.write(self.pipeline.unsent()) {
            Ok(count) => {
                self.pipeline.note_sent(count);
                count > 0
            }
            Err(error) if is_transient(error.kind()) => false,
            Err(error) => {
                self.send_failure = Some(error.to_string());
                false
            }
        }
    }

    /// Whether any bytes were read.
    fn read_some(&mut self) -> Result<bool, ClientError> {
        match self.stream.read(self.pipeline.space()) {
            Ok(0) => {
                let reason = self.send_failure.take().unwrap_or_else(|| "the server closed the connection".to_owned());
                Err(self.fail(unreachable, &reason))
            }
            Ok(count) => match self.pipeline.note_read(count) {
                Ok(()) => Ok(true),
                Err(reason) => Err(self.fail(protocol_broken, &reason)),
            },
            Err(error) if is_transient(error.kind()) => Ok(false),
            Err(error) => Err(self.fail(unreachable, &error.to_string())),
        }
    }

    fn wait(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let mut events = PollFlags::IN;
        if self.send_failure.is_none() && !self.pipeline.unsent().is_empty() {
            events |= PollFlags::OUT;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out beyond what the kernel can express is as good as none.
        let left_timespec = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&self.stream, events)];
        match poll(&mut fds, left_timespec.as_ref()) {
            Ok(0) => Err(self.fail(unreachable, "no answer in time")),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(self.fail(unreachable, &error.to_string())),
        }
    }

    /// Remembers a failure for good. With increments under way, what matters is that their outcome is unknown.
    fn fail(&mut self, otherwise: fn(String) -> ClientError, reason: &str) -> ClientError {
        let reason = format!("{}: {reason}", self.endpoint);
        let increments = self.pipeline.unknown_increments();
        let failure = if increments > 0 {
            ClientError::Unknown { increments, reason, last: None, id: None }
        } else {
            otherwise(reason)
        };
        self.failure = Some(failure.clone());
        failure
    }
}

/// A connected, non-blocking socket that does not delay small writes.
fn dial(endpoint: &str, deadline: Instant) -> Result<TcpStream, String> {
    let addresses = endpoint.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
        let connected = TcpStream::connect_timeout(&address, left).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn refuse_empty(count: usize) -> Result<(), ClientError> {
    if count > 0 {
        return Ok(());
    }
    Err(ClientError::Refused { code: ErrorCode::Malformed, text: "the batch is empty".to_owned() })
}

fn unreachable(reason: String) -> ClientError {
    ClientError::Unreachable { reason }
}

fn protocol_broken(reason: String) -> ClientError {
    ClientError::Protocol { reason }
}

/// The pipeline lets only fitting replies through; the type does not say so.
fn unfitting() -> ClientError {
    protocol_broken("a reply of another kind".to_owned())
}

#[cfg(test)]
mod tests;
