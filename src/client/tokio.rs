//! The client for tokio (feature `tokio`): a handle that is cloned and shared, and one task that owns the sockets and drives
//! [`core`](super::core).
//!
//! A future that is dropped takes nothing back: the operation goes on, and only its result is not heard. The task ends when the last
//! handle is gone and all that was asked for has ended.
//!
//! ```
//! # use dkc::client::tokio::Client;
//! # use std::time::Duration;
//! # let server = dkc::client::stand_in::Server::start();
//! # let endpoints = [server.endpoint()];
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let client = Client::connect(&endpoints, Duration::from_secs(10)).await?;
//! let other = client.clone();
//! let task = tokio::spawn(async move { other.increment("apples", 3).await });
//! assert_eq!(task.await.unwrap()?, 3);
//! assert_eq!(client.get(&["apples", "pears"]).await?, [Some(3), None]);
//! # Ok::<(), dkc::client::ClientError>(())
//! # }).unwrap();
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a client for tokio has sockets and clocks")]

use super::ClientError;
use super::batch::Batch;
use super::core::{self, Answer, Delivery, Event, LinkId, Named, Op, OpId, SubmitError};
use super::request_id::RequestId;
use super::resolved::Resolved;
use crate::error::ErrorCode;
use crate::ids::Micros;
use crate::wire::client::{IncrementReply, Status, TopKReply};
use ::tokio::net::TcpStream;
use ::tokio::sync::{mpsc, oneshot};
use ::tokio::time::{Instant, Sleep, sleep_until};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Operations that wait to be taken by the task; past it, handles wait.
const COMMANDS_MAX: usize = 256;
/// Reads from one socket before the others have their turn.
const READS_MAX: usize = 16;
/// How far ahead a timer is set at most; tokio's own have an end.
const TIMER_MAX: Duration = Duration::from_secs(3_600);

type Outcome = Result<Answer, ClientError>;
type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A client of a cluster. Clones share its connections and its session.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    timeout: Duration,
}

#[derive(Debug)]
struct Command {
    op: Op,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl Client {
    /// A client of the cluster that these servers belong to; its task runs on the current runtime, which needs I/O and time. It connects
    /// when there is something to do. The time-out is that of each later call.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(config: core::Config, timeout: Duration) -> Client {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let seed = RandomState::new().hash_one(std::process::id());
        let mut driver = Driver {
            core: core::Client::new(config, seed),
            origin: Instant::now(),
            commands: receiver,
            refused: None,
            closed: false,
            replies: BTreeMap::new(),
            dialling: BTreeMap::new(),
            sockets: BTreeMap::new(),
            timer: Box::pin(sleep_until(Instant::now())),
            deadline: None,
        };
        ::tokio::spawn(poll_fn(move |context| driver.poll(context)));
        Client { commands, timeout }
    }

    /// The same with the defaults, connected to one server at least.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] names what was tried.
    pub async fn connect(endpoints: &[String], timeout: Duration) -> Result<Client, ClientError> {
        let client = Client::new(core::Config::new(endpoints), timeout);
        client.call(Op::Connect).await?;
        Ok(client)
    }

    /// Adds to the count of a key, exactly once, and returns the new count.
    ///
    /// # Errors
    /// [`ClientError::Refused`] (an overflow, for one) and [`ClientError::Unreachable`]: it was not counted.
    /// [`ClientError::Unknown`]: it may have been; [`Client::resolve`] tells.
    pub async fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, ClientError> {
        let reply = self.increment_many(&[(key, delta)]).await?;
        match (reply.outcome(0), reply.values.first()) {
            (ErrorCode::Ok, Some(&count)) => Ok(count),
            (ErrorCode::Ok, None) => Err(super::unfitting()),
            (code, _) => Err(ClientError::from_code(code, code.advice().to_owned(), 1)),
        }
    }

    /// Adds deltas to counts, in order, each exactly once, and returns the new counts. Each increment is decided by itself: see
    /// [`IncrementReply::outcome`].
    ///
    /// # Errors
    /// As for [`Client::increment`], for all of them together.
    pub async fn increment_many<K: AsRef<[u8]>>(&self, increments: &[(K, i64)]) -> Result<IncrementReply, ClientError> {
        let mut batch = Batch::new();
        for (key, delta) in increments {
            batch.push(key.as_ref(), *delta)?;
        }
        match self.call(Op::Increment { batch, want_values: true, delivery: Delivery::ExactlyOnce }).await? {
            Answer::Incremented(reply) => Ok(reply),
            _ => Err(super::unfitting()),
        }
    }

    /// Reads counts; `None` for a key that does not exist.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<i64>>, ClientError> {
        let keys = super::pack(keys)?;
        match self.call(Op::Get { keys }).await? {
            Answer::Counts(reply) => Ok(reply.to_vec()),
            _ => Err(super::unfitting()),
        }
    }

    /// Reads the `k` highest counts, from 1 to [`TOP_KEYS_MAX`](crate::limits::TOP_KEYS_MAX).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn top_k(&self, k: u32) -> Result<TopKReply, ClientError> {
        match self.call(Op::TopK { k }).await? {
            Answer::Top(reply) => Ok(reply),
            _ => Err(super::unfitting()),
        }
    }

    /// Asks a server what it is doing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        match self.call(Op::Status).await? {
            Answer::Status(status) => Ok(status),
            _ => Err(super::unfitting()),
        }
    }

    /// Asks what became of a request whose outcome is unknown, and makes sure that nothing more becomes of it. With its keys, only
    /// their shards are asked.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::SessionExpired`] means that it can no longer be known.
    pub async fn resolve<K: AsRef<[u8]>>(&self, id: RequestId, keys: &[K]) -> Result<Resolved, ClientError> {
        let keys = if keys.is_empty() { None } else { Some(super::pack(keys)?) };
        match self.call(Op::Resolve { id, keys }).await? {
            Answer::Resolved(resolved) => Ok(resolved),
            _ => Err(super::unfitting()),
        }
    }

    /// Opens the session of a name, or takes it over: see [`blocking::Client::open`](super::blocking::Client::open).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn open(&self, name: &[u8]) -> Result<Named, ClientError> {
        match self.call(Op::Open { name: name.to_vec() }).await? {
            Answer::Opened(named) => Ok(named),
            _ => Err(super::unfitting()),
        }
    }

    /// Leaves the named session. All of its requests are answered.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn close(&self) -> Result<(), ClientError> {
        self.call(Op::Close).await.map(|_| ())
    }

    /// Does one operation. Waits while as much is under way as may be. Many calls can be under way at a time, from one task or many.
    ///
    /// # Errors
    /// What [`Op`]'s kind says.
    pub async fn call(&self, op: Op) -> Result<Answer, ClientError> {
        let increments = match &op {
            Op::Increment { batch, .. } => batch.len() as u64,
            _ => 0,
        };
        let (reply, outcome) = oneshot::channel();
        let command = Command { op, deadline: Instant::now() + self.timeout, reply };
        let gone = || "the client's task has ended with its runtime".to_owned();
        if self.commands.send(command).await.is_err() {
            return Err(ClientError::Unreachable { reason: gone() });
        }
        outcome.await.unwrap_or_else(|_| Err(ClientError::from_code(ErrorCode::Unknown, gone(), increments)))
    }
}

/// The task.
struct Driver {
    core: core::Client,
    origin: Instant,
    commands: mpsc::Receiver<Command>,
    /// A command for which there was no room.
    refused: Option<Command>,
    closed: bool,
    replies: BTreeMap<OpId, oneshot::Sender<Outcome>>,
    dialling: BTreeMap<LinkId, Dialling>,
    sockets: BTreeMap<LinkId, TcpStream>,
    timer: Pin<Box<Sleep>>,
    deadline: Option<Micros>,
}

impl Driver {
    /// Does all that can be done now; ready when nothing is left to be done ever.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut busy = self.take_commands(context);
            busy |= self.take_output();
            busy |= self.dial(context);
            let links: Vec<LinkId> = self.sockets.keys().copied().collect();
            for link in links {
                busy |= self.send(context, link) | self.receive(context, link);
            }
            busy |= self.tick(context);
            if self.closed && self.replies.is_empty() && self.refused.is_none() {
                return Poll::Ready(());
            }
            if !busy {
                return Poll::Pending;
            }
        }
    }

    fn now(&self) -> Micros {
        Micros(1 + self.origin.elapsed().as_micros() as u64)
    }

    /// Takes operations as long as there is room.
    fn take_commands(&mut self, context: &mut Context<'_>) -> bool {
        let mut busy = false;
        loop {
            let command = match self.refused.take() {
                Some(command) => command,
                None if self.closed => return busy,
                None => match self.commands.poll_recv(context) {
                    Poll::Ready(Some(command)) => command,
                    Poll::Ready(None) => {
                        self.closed = true;
                        return busy;
                    }
                    Poll::Pending => return busy,
                },
            };
            let Command { op, deadline, reply } = command;
            let until = Micros(1 + deadline.duration_since(self.origin).as_micros() as u64);
            match self.core.submit(self.now(), op, until) {
                Ok(id) => {
                    self.replies.insert(id, reply);
                    busy = true;
                }
                // Nobody hears it who does not wait any more.
                Err(SubmitError::Refused(error)) => drop(reply.send(Err(error))),
                Err(SubmitError::Full(op)) if self.replies.is_empty() || until <= self.now() => {
                    let text = "as many requests are under way as may be, and none was answered".to_owned();
                    drop(op);
                    drop(reply.send(Err(ClientError::Refused { code: ErrorCode::Overloaded, text })));
                }
                Err(SubmitError::Full(op)) => {
                    self.refused = Some(Command { op, deadline, reply });
                    return busy;
                }
            }
        }
    }

    /// Does what the core wants done. Whether that was anything.
    fn take_output(&mut self) -> bool {
        let output = self.core.take_output();
        self.deadline = output.deadline;
        let busy = !(output.dials.is_empty() && output.closes.is_empty() && output.done.is_empty());
        for (link, address) in output.dials {
            self.dialling.insert(link, Box::pin(connect(address)));
        }
        for link in output.closes {
            self.dialling.remove(&link);
            self.sockets.remove(&link);
        }
        for (id, outcome) in output.done {
            if let Some(reply) = self.replies.remove(&id) {
                // Nobody hears it who does not wait any more.
                drop(reply.send(outcome));
            }
        }
        busy
    }

    fn dial(&mut self, context: &mut Context<'_>) -> bool {
        let mut ended = Vec::new();
        for (&link, dialling) in &mut self.dialling {
            if let Poll::Ready(result) = dialling.as_mut().poll(context) {
                ended.push((link, result));
            }
        }
        let busy = !ended.is_empty();
        for (link, result) in ended {
            self.dialling.remove(&link);
            let event = match result {
                Ok(stream) => {
                    self.sockets.insert(link, stream);
                    Event::Connected(link)
                }
                Err(error) => Event::Disconnected(link, error.to_string()),
            };
            self.core.step(self.now(), event);
        }
        busy
    }

    fn send(&mut self, context: &mut Context<'_>, link: LinkId) -> bool {
        let mut busy = false;
        while let Some(stream) = self.sockets.get(&link)
            && !self.core.unsent(link).is_empty()
            && let Poll::Ready(ready) = stream.poll_write_ready(context)
        {
            match ready.and_then(|()| stream.try_write(self.core.unsent(link))) {
                Ok(count) => self.core.step(self.now(), Event::Sent(link, count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => self.broken(link, error.to_string()),
            }
            busy = true;
        }
        busy
    }

    fn receive(&mut self, context: &mut Context<'_>, link: LinkId) -> bool {
        let mut busy = false;
        for _ in 0..READS_MAX {
            let Some(stream) = self.sockets.get(&link) else { break };
            let Poll::Ready(ready) = stream.poll_read_ready(context) else { break };
            let space = self.core.space(link);
            if space.is_empty() {
                break;
            }
            match ready.and_then(|()| stream.try_read(space)) {
                Ok(0) => self.broken(link, "the server closed the connection".to_owned()),
                Ok(count) => self.core.step(self.now(), Event::Received(link, count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => self.broken(link, error.to_string()),
            }
            busy = true;
        }
        busy
    }

    /// Lets the core know that it is time, and asks to be woken when it is time again.
    fn tick(&mut self, context: &mut Context<'_>) -> bool {
        let Some(at) = self.deadline else { return false };
        let now = self.now();
        if at <= now {
            self.core.step(now, Event::Tick);
            return true;
        }
        let left = Duration::from_micros(at.0 - now.0).min(TIMER_MAX);
        self.timer.as_mut().reset(Instant::now() + left);
        self.timer.as_mut().poll(context).is_ready()
    }

    fn broken(&mut self, link: LinkId, reason: String) {
        self.sockets.remove(&link);
        self.core.step(self.now(), Event::Disconnected(link, reason));
    }
}

async fn connect(address: Arc<str>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(&*address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
