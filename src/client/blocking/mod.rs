//! The blocking client: the thread that calls it owns the sockets and drives [`super::core`].
//!
//! Each call is bounded by the client's time-out as a whole, and ends with what became of it: the client connects, resends and
//! changes servers as need be until then. Nothing happens between calls; a client that is not called does not even read, which is of no
//! harm: connections that break meanwhile are made again by the next call.
//!
//! ```
//! # use dkc::client::blocking::Client;
//! # use std::time::Duration;
//! # let server = dkc::client::stand_in::Server::start();
//! # let endpoints = [server.endpoint()];
//! let mut client = Client::connect(&endpoints, Duration::from_secs(10))?;
//! assert_eq!(client.increment("apples", 3)?, 3);
//! assert_eq!(client.increment("apples", -1)?, 2);
//! assert_eq!(client.get(&["apples", "pears"])?, [Some(2), None]);
//! # Ok::<(), dkc::client::ClientError>(())
//! ```
//!
//! Many requests can be under way at a time:
//!
//! ```
//! # use dkc::client::{batch::Batch, blocking::Client, core::{Answer, Delivery, Op}};
//! # use std::time::Duration;
//! # let server = dkc::client::stand_in::Server::start();
//! # let mut client = Client::connect(&[server.endpoint()], Duration::from_secs(10))?;
//! for number in 0..10 {
//!     let mut batch = Batch::new();
//!     batch.push(format!("key {number}").as_bytes(), 1)?;
//!     client.submit(Op::Increment { batch, want_values: false, delivery: Delivery::ExactlyOnce })?;
//! }
//! while let Some((_, result)) = client.next_done() {
//!     assert!(matches!(result?, Answer::Incremented(_)));
//! }
//! # Ok::<(), dkc::client::ClientError>(())
//! ```
//!
//! For single increments in bulk there is [`Producer`], which gathers them.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a blocking client has sockets and deadlines")]

mod connection;
mod dial;
mod producer;

pub use connection::Connection;
pub use producer::{Failed, Producer, Tally};

use super::batch::Batch;
use super::core::{self, Answer, Delivery, Event, LinkId, Named, Op, OpId, SubmitError};
use super::request_id::RequestId;
use super::resolved::Resolved;
use super::{ClientError, pack, unfitting};
use crate::error::ErrorCode;
use crate::ids::Micros;
use crate::wire::client::{IncrementReply, Status, TopKReply};
use dial::Dialling;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Reads from one socket before the others have their turn.
const READS_MAX: usize = 16;

/// A client of a cluster.
#[derive(Debug)]
pub struct Client {
    core: core::Client,
    origin: Instant,
    timeout: Duration,
    dialling: BTreeMap<LinkId, Dialling>,
    sockets: BTreeMap<LinkId, Socket>,
    /// Results that were not taken yet.
    done: VecDeque<(OpId, Result<Answer, ClientError>)>,
    deadline: Option<Micros>,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    /// It took less than it was given.
    full: bool,
}

impl Client {
    /// A client of the cluster that these servers (`host:port`) belong to. It connects when there is something to do. The time-out is that
    /// of each later call.
    #[must_use]
    pub fn new(config: core::Config, timeout: Duration) -> Client {
        let seed = RandomState::new().hash_one(std::process::id());
        Client {
            core: core::Client::new(config, seed),
            origin: Instant::now(),
            timeout,
            dialling: BTreeMap::new(),
            sockets: BTreeMap::new(),
            done: VecDeque::new(),
            deadline: None,
        }
    }

    /// The same with the defaults, connected to one server at least.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] names what was tried.
    pub fn connect(endpoints: &[String], timeout: Duration) -> Result<Client, ClientError> {
        let mut client = Client::new(core::Config::new(endpoints), timeout);
        client.call(Op::Connect)?;
        Ok(client)
    }

    /// Adds to the count of a key, exactly once, and returns the new count.
    ///
    /// # Errors
    /// [`ClientError::Refused`] (an overflow, for one) and [`ClientError::Unreachable`]: it was not counted.
    /// [`ClientError::Unknown`]: it may have been; [`Client::resolve`] tells.
    pub fn increment(&mut self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, ClientError> {
        let reply = self.increment_many(&[(key, delta)])?;
        match (reply.outcome(0), reply.values.first()) {
            (ErrorCode::Ok, Some(&count)) => Ok(count),
            (ErrorCode::Ok, None) => Err(unfitting()),
            (code, _) => Err(ClientError::from_code(code, code.advice().to_owned(), 1)),
        }
    }

    /// Adds deltas to counts, in order, each exactly once, and returns the new counts. Each increment is decided by itself: see
    /// [`IncrementReply::outcome`].
    ///
    /// # Errors
    /// As for [`Client::increment`], for all of them together.
    pub fn increment_many<K: AsRef<[u8]>>(&mut self, increments: &[(K, i64)]) -> Result<IncrementReply, ClientError> {
        let mut batch = Batch::new();
        for (key, delta) in increments {
            batch.push(key.as_ref(), *delta)?;
        }
        match self.call(Op::Increment { batch, want_values: true, delivery: Delivery::ExactlyOnce })? {
            Answer::Incremented(reply) => Ok(reply),
            _ => Err(unfitting()),
        }
    }

    /// Reads counts; `None` for a key that does not exist.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<i64>>, ClientError> {
        let keys = pack(keys)?;
        match self.call(Op::Get { keys })? {
            Answer::Counts(reply) => Ok(reply.to_vec()),
            _ => Err(unfitting()),
        }
    }

    /// Reads the `k` highest counts, from 1 to [`TOP_KEYS_MAX`](crate::limits::TOP_KEYS_MAX).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn top_k(&mut self, k: u32) -> Result<TopKReply, ClientError> {
        match self.call(Op::TopK { k })? {
            Answer::Top(reply) => Ok(reply),
            _ => Err(unfitting()),
        }
    }

    /// Asks a server what it is doing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.call(Op::Status)? {
            Answer::Status(status) => Ok(status),
            _ => Err(unfitting()),
        }
    }

    /// Asks what became of a request whose outcome is unknown, and makes sure that nothing more becomes of it. With its keys, only
    /// their shards are asked.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::SessionExpired`] means that it can no longer be known.
    pub fn resolve<K: AsRef<[u8]>>(&mut self, id: RequestId, keys: &[K]) -> Result<Resolved, ClientError> {
        let keys = if keys.is_empty() { None } else { Some(pack(keys)?) };
        match self.call(Op::Resolve { id, keys })? {
            Answer::Resolved(resolved) => Ok(resolved),
            _ => Err(unfitting()),
        }
    }

    /// Opens the session of a name, or takes it over: for a producer that can read its source again from the beginning, and wants to
    /// count it once whatever dies on the way. Requests go out as [`Delivery::Numbered`]; those up to [`Named::settled`] are done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn open(&mut self, name: &[u8]) -> Result<Named, ClientError> {
        match self.call(Op::Open { name: name.to_vec() })? {
            Answer::Opened(named) => Ok(named),
            _ => Err(unfitting()),
        }
    }

    /// Leaves the named session. All of its requests are answered; the next opening goes on behind them, however much later.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn close(&mut self) -> Result<(), ClientError> {
        self.call(Op::Close).map(|_| ())
    }

    /// Does one operation.
    ///
    /// # Errors
    /// What [`Op`]'s kind says.
    pub fn call(&mut self, op: Op) -> Result<Answer, ClientError> {
        let id = self.submit(op)?;
        loop {
            if let Some(place) = self.done.iter().position(|(done, _)| *done == id)
                && let Some((_, result)) = self.done.remove(place)
            {
                return result;
            }
            self.turn();
        }
    }

    /// Puts an operation under way. If as much is under way as may be, waits until something was answered; the results of what was
    /// stay to be taken by [`Client::next_done`].
    ///
    /// # Errors
    /// It breaks a rule, or found no room in time; nothing of it was sent.
    pub fn submit(&mut self, op: Op) -> Result<OpId, ClientError> {
        let deadline = self.now().plus(self.timeout.as_micros() as u64);
        let mut op = op;
        loop {
            let now = self.now();
            match self.core.submit(now, op, deadline) {
                Ok(id) => {
                    self.take_output();
                    self.send();
                    return Ok(id);
                }
                Err(SubmitError::Refused(error)) => return Err(error),
                Err(SubmitError::Full(back)) if now < deadline && self.core.in_flight() > 0 => op = back,
                Err(SubmitError::Full(_)) => {
                    let text = "as many requests are under way as may be, and none was answered".to_owned();
                    return Err(ClientError::Refused { code: ErrorCode::Overloaded, text });
                }
            }
            self.turn();
        }
    }

    /// The result of some operation that was submitted, as soon as there is one; `None` if none is under way.
    pub fn next_done(&mut self) -> Option<(OpId, Result<Answer, ClientError>)> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Some(done);
            }
            if self.core.in_flight() == 0 {
                return None;
            }
            self.turn();
        }
    }

    /// A result that is there already.
    pub fn try_done(&mut self) -> Option<(OpId, Result<Answer, ClientError>)> {
        self.done.pop_front()
    }

    /// Operations that were submitted and whose result was not taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.in_flight() + self.done.len()
    }

    /// Gathers single increments into requests.
    pub fn producer<F: FnMut(Failed<'_>)>(&mut self, on_failure: F) -> Producer<'_, F> {
        Producer::new(self, on_failure)
    }

    fn now(&self) -> Micros {
        Micros(1 + self.origin.elapsed().as_micros() as u64)
    }

    /// Waits until something happens, and does what there is to do.
    fn turn(&mut self) {
        let done = self.done.len();
        self.take_output();
        self.send();
        if self.done.len() == done {
            self.wait();
        }
        let now = self.now();
        self.core.step(now, Event::Tick);
        self.take_output();
        self.send();
    }

    /// Does what the core wants done.
    fn take_output(&mut self) {
        let output = self.core.take_output();
        self.deadline = output.deadline;
        for (link, address) in output.dials {
            self.dialling.insert(link, Dialling::new(&address));
        }
        for link in output.closes {
            self.dialling.remove(&link);
            self.sockets.remove(&link);
        }
        self.done.extend(output.done);
    }

    /// Sends what the sockets take.
    fn send(&mut self) {
        let now = self.now();
        let mut broken = Vec::new();
        for (&link, socket) in &mut self.sockets {
            while !socket.full && !self.core.unsent(link).is_empty() {
                match socket.stream.write(self.core.unsent(link)) {
                    Ok(count) => self.core.step(now, Event::Sent(link, count)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => socket.full = true,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        broken.push((link, error.to_string()));
                        break;
                    }
                }
            }
        }
        broken.into_iter().for_each(|(link, reason)| self.broken(link, reason));
    }

    /// Waits for sockets, or for the time at which the core wants to be told that it is.
    fn wait(&mut self) {
        let left = self.deadline.map(|at| Duration::from_micros(at.0.saturating_sub(self.now().0)));
        // A time-out beyond what the kernel can express is as good as none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut links = Vec::with_capacity(self.sockets.len() + self.dialling.len());
        let mut fds = Vec::with_capacity(links.capacity());
        for (link, socket) in &self.sockets {
            links.push(*link);
            let events = if socket.full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(&socket.stream, events));
        }
        let mut failed = Vec::new();
        for (link, dialling) in &self.dialling {
            match dialling.stream() {
                Some(stream) => {
                    links.push(*link);
                    fds.push(PollFd::new(stream, PollFlags::OUT));
                }
                None => failed.push((*link, dialling.reason())),
            }
        }
        if failed.is_empty() && poll(&mut fds, left.as_ref()).is_err() {
            return;
        }
        let ready: Vec<(LinkId, PollFlags)> = links.into_iter().zip(fds.iter().map(PollFd::revents)).collect();
        failed.into_iter().for_each(|(link, reason)| self.broken(link, reason));
        for (link, flags) in ready.into_iter().filter(|(_, flags)| !flags.is_empty()) {
            if self.dialling.contains_key(&link) {
                self.dialled(link);
            } else {
                self.receive(link, flags);
            }
        }
    }

    fn dialled(&mut self, link: LinkId) {
        let Some(dialling) = self.dialling.get_mut(&link) else { return };
        if let Some(stream) = dialling.take() {
            self.dialling.remove(&link);
            self.sockets.insert(link, Socket { stream, full: false });
            let now = self.now();
            self.core.step(now, Event::Connected(link));
        }
    }

    fn receive(&mut self, link: LinkId, flags: PollFlags) {
        let Some(socket) = self.sockets.get_mut(&link) else { return };
        socket.full &= !flags.contains(PollFlags::OUT);
        for _ in 0..READS_MAX {
            let (Some(socket), space) = (self.sockets.get_mut(&link), self.core.space(link)) else { return };
            if space.is_empty() {
                return;
            }
            let offered = space.len();
            match socket.stream.read(space) {
                Ok(0) => return self.broken(link, "the server closed the connection".to_owned()),
                Ok(count) => {
                    let now = self.now();
                    self.core.step(now, Event::Received(link, count));
                    self.take_output();
                    if count < offered {
                        return;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                Err(error) => return self.broken(link, error.to_string()),
            }
        }
    }

    fn broken(&mut self, link: LinkId, reason: String) {
        self.sockets.remove(&link);
        self.dialling.remove(&link);
        let now = self.now();
        self.core.step(now, Event::Disconnected(link, reason));
    }
}
