//! The client without I/O: it numbers, routes, resends and judges. Told what happened ([`Client::step`]), it says what is to be
//! done ([`Client::take_output`]). The blocking front, the one for tokio and the simulator are three shells around it.
//!
//! ```text
//!  submit ─► unnumbered ─── a session, a number ───► in flight ──── answer ────► done
//!    │                                                 │  ▲
//!    └─(reads, and what has its number)──► ready ──────┘  │   a link breaks, no answer in time: at once
//!                                            ▲────────────┴── refused for the moment: after a while
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `verdict` | what an answer means for a request of which other copies may be under way: a table |
//! | `numbers` | which numbers of a session are in use, and how far its low-water mark goes |
//! | `links` | whom to connect to, and by which connection a request goes |
//! | `operation` | how one operation is sent, and how long its answer is waited for |
//! | `flow` | what goes out when; timers; broken links |
//! | `answers` | what comes in |
//!
//! **Numbers.** Increments that count exactly once get the next number of the client's session when they first go out, and keep it: every
//! copy has the same content under it. No number is used for a second request, ever. The session is opened by the first
//! increment. It is left for the next one at half the age it may reach, when a server calls it expired, and when a request ended
//! unknown and its number has held up the low-water mark for as long as there was room: the mark never passes such a number, so that
//! its outcome is kept for whoever resolves it.
//!
//! **Every operation ends**, by its deadline, exactly once. Bounded are the operations accepted (past it [`Client::submit`] hands an
//! operation back, [`SubmitError::Full`]; shells wait for an answer and try again), their bytes, the links, what waits to be sent on each, the
//! copies of a request, and what a server can make the client keep.
//!
//! The same inputs in the same order give the same outputs: time and the seed of all jitter are inputs.

mod answers;
mod flow;
mod links;
mod numbers;
mod operation;
mod verdict;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

use super::ClientError;
use super::batch::Batch;
use super::request_id::RequestId;
use super::resolved::Resolved;
use crate::engine::part::PackedKeys;
use crate::engine::prng::Prng;
use crate::engine::sessions::Credentials;
use crate::error::ErrorCode;
use crate::ids::{Micros, Sequence, SessionId};
use crate::limits::{
    CLIENT_NAME_BYTES_MAX, CLIENT_REQUEST_BYTES_DEFAULT, CLIENT_REQUESTS_DEFAULT, SESSION_NAME_BYTES_MAX, TOP_KEYS_MAX,
};
use crate::mutant::mutant;
use crate::wire::client::{GetReply, IncrementReply, ScanReply, ScanRequest, Status, TopKReply};
use links::Links;
use numbers::{Numbers, Standing};
use operation::{Pending, Request, Stage};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Characters kept of the reason why a connection ended.
const REASON_CHARACTERS_MAX: usize = 300;
/// Endpoints that an error names, each with its reason.
const REASONS_MAX: usize = 8;

/// What a client is told to begin with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Servers to begin with (`host:port`), in the order they are tried. The cluster's map names the others.
    pub endpoints: Vec<String>,
    /// Free text for the servers' logs; cut to [`CLIENT_NAME_BYTES_MAX`] bytes.
    pub client_name: String,
    /// Operations accepted and not yet answered, at most.
    pub requests_max: usize,
    /// Bytes of such operations, at most. One is accepted always.
    pub request_bytes_max: usize,
}

impl Config {
    /// The defaults, and these servers.
    #[must_use]
    pub fn new(endpoints: &[String]) -> Config {
        Config {
            endpoints: endpoints.to_vec(),
            client_name: concat!("dkc ", env!("CARGO_PKG_VERSION")).to_owned(),
            requests_max: CLIENT_REQUESTS_DEFAULT,
            request_bytes_max: CLIENT_REQUEST_BYTES_DEFAULT,
        }
    }
}

/// Names an operation. Never reused in a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names a connection. Never reused in a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names a session within a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SessionKey(u64);

/// How often a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As often as need be: it counts once.
    ExactlyOnce,
    /// The same, under this number of the named session. Its content must be the same each time, in this process and the next.
    Numbered(Sequence),
    /// Once, without a session: servers do not tell a repeated request from a new one, so nobody repeats it. Whatever breaks while
    /// it is under way makes it unknown, and there is no asking later.
    AtMostOnce,
}

/// An operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Add deltas to counts. Answered by [`Answer::Incremented`].
    Increment {
        /// At least one increment.
        batch: Batch,
        /// Whether to answer with the new counts.
        want_values: bool,
        /// How often it may be sent.
        delivery: Delivery,
    },
    /// Read counts. Answered by [`Answer::Counts`].
    Get {
        /// At least one key, within the limits of a batch.
        keys: PackedKeys,
    },
    /// Read the highest counts. Answered by [`Answer::Top`].
    TopK {
        /// From 1 to [`TOP_KEYS_MAX`].
        k: u32,
    },
    /// Read a piece of a shard's counters as they were when the scan began. Answered by [`Answer::Scanned`].
    Scan(ScanRequest),
    /// Ask a server what it is doing. Answered by [`Answer::Status`].
    Status,
    /// Ask what became of a request, and fence it: if it was not applied, it never will be. Answered by [`Answer::Resolved`].
    Resolve {
        /// The request.
        id: RequestId,
        /// Its keys, if they are known; else every shard is asked.
        keys: Option<PackedKeys>,
    },
    /// Open the session of a name, or take it over from whoever has it. Answered by [`Answer::Opened`].
    Open {
        /// Of 1 to [`SESSION_NAME_BYTES_MAX`] bytes.
        name: Vec<u8>,
    },
    /// Leave the named session: all numbers used are answered, and none will follow; from now on it takes none. If it fails, the session
    /// may have been closed or not: opening it again tells. Answered by [`Answer::Closed`].
    Close,
    /// Wait for a server to talk to. Answered by [`Answer::Connected`].
    Connect,
}

/// What an operation brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Each increment was decided by itself: what is refused was not applied.
    Incremented(IncrementReply),
    /// The number was settled before, by this process or a former one: its request was not sent again.
    Settled,
    /// Counts.
    Counts(GetReply),
    /// The highest counts.
    Top(TopKReply),
    /// A piece of a scan.
    Scanned(ScanReply),
    /// What a server is doing.
    Status(Status),
    /// What became of a request.
    Resolved(Resolved),
    /// The named session is open.
    Opened(Named),
    /// The named session is closed.
    Closed,
    /// There is a server to talk to.
    Connected,
}

/// A named session that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The session.
    pub session: SessionId,
    /// Every request up to this number is settled: go on after it.
    pub settled: Sequence,
    /// A former holder came so far: the session cannot be closed before its requests up to this number are answered again.
    pub reached: Sequence,
    /// It was open before; its former holder may have sent more. Sent again under the same numbers and with the same content,
    /// requests count once.
    pub resumed: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection that was asked for is there.
    Connected(LinkId),
    /// A connection could not be made, or broke.
    Disconnected(LinkId, String),
    /// So many bytes were read into [`Client::space`].
    Received(LinkId, usize),
    /// So many of [`Client::unsent`]'s bytes were sent.
    Sent(LinkId, usize),
    /// Time has passed.
    Tick,
}

/// What is to be done. What waits to be sent stands in [`Client::unsent`], link by link.
#[derive(Debug, Default)]
pub struct Output {
    /// Connections to make.
    pub dials: Vec<(LinkId, Arc<str>)>,
    /// Connections to end. Nothing is to be reported of them any more.
    pub closes: Vec<LinkId>,
    /// Operations that have ended.
    pub done: Vec<(OpId, Result<Answer, ClientError>)>,
    /// When to step again at the latest.
    pub deadline: Option<Micros>,
}

/// Why an operation was not accepted.
#[derive(Debug)]
pub enum SubmitError {
    /// As much is under way as may be. Here it is again, for when something was answered.
    Full(Op),
    /// It breaks a rule.
    Refused(ClientError),
}

/// A client of a cluster.
#[derive(Debug)]
pub struct Client {
    config: Config,
    prng: Prng,
    links: Links,
    operations: BTreeMap<OpId, Pending>,
    last_operation: u64,
    bytes: usize,
    /// When to look at each operation again.
    timers: BTreeSet<(Micros, OpId)>,
    ready: VecDeque<OpId>,
    unnumbered: VecDeque<OpId>,
    sessions: BTreeMap<SessionKey, Numbers>,
    last_session: SessionKey,
    /// Where increments get their numbers.
    current: Option<SessionKey>,
    named: Option<SessionKey>,
    /// The operation that opens the next session.
    opening: Option<OpId>,
    /// The last refusal to open one.
    opening_refusal: Option<(ErrorCode, String)>,
    /// The last session a server gave us. Ids only grow.
    newest: SessionId,
    output: Output,
    seek_at: Option<Micros>,
}

impl Client {
    /// A client without connections. The seed decides all jitter.
    #[must_use]
    pub fn new(mut config: Config, seed: u64) -> Client {
        let mut prng = Prng::new(seed);
        while config.client_name.len() > CLIENT_NAME_BYTES_MAX {
            config.client_name.pop();
        }
        let links = Links::new(&config.endpoints, &config.client_name, Prng::new(prng.bits()));
        Client {
            config,
            prng,
            links,
            operations: BTreeMap::new(),
            last_operation: 0,
            bytes: 0,
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            unnumbered: VecDeque::new(),
            sessions: BTreeMap::new(),
            last_session: SessionKey(0),
            current: None,
            named: None,
            opening: None,
            opening_refusal: None,
            newest: SessionId::NONE,
            output: Output::default(),
            seek_at: None,
        }
    }

    /// Accepts an operation, to be ended by the deadline.
    ///
    /// # Errors
    /// There is no room for it now, or it breaks a rule; nothing of it was sent.
    pub fn submit(&mut self, now: Micros, op: Op, deadline: Micros) -> Result<OpId, SubmitError> {
        check(&op)?;
        let number = match &op {
            Op::Increment { delivery: Delivery::Numbered(number), .. } => Some(*number),
            _ => None,
        };
        if let Some(number) = number
            && self.standing(number)? == Some(Standing::Answered)
        {
            let id = self.next_operation();
            self.output.done.push((id, Ok(Answer::Settled)));
            return Ok(id);
        }
        let closing = if matches!(op, Op::Close) { Some(self.closing()?) } else { None };
        let bytes = operation::bytes(&op);
        let own = usize::from(self.opening.is_some());
        let taken = (self.operations.len() - own).max(self.output.done.len());
        let full = taken > 0 && self.bytes + bytes > self.config.request_bytes_max;
        if full || taken >= self.config.requests_max || !self.has_room(number, &op) {
            return Err(SubmitError::Full(op));
        }
        let mut pending = Pending::new(Request::of(op, closing), bytes, now, deadline);
        if number.is_some_and(|number| self.was_used(number)) {
            // By a former holder, or before it was left: a copy that nobody here will be told of.
            pending.copies.sent();
        }
        pending.number = number.and_then(|number| self.take_number(number, pending.outcome_bytes()));
        let id = self.next_operation();
        let automatic = pending.delivery() == Some(Delivery::ExactlyOnce);
        pending.stage = if automatic { Stage::Unnumbered } else { Stage::Ready };
        if automatic {
            self.unnumbered.push_back(id);
        } else {
            self.ready.push_back(id);
        }
        if closing.is_some()
            && let Some(numbers) = self.named.and_then(|key| self.sessions.get_mut(&key))
        {
            numbers.closing = !mutant!("numbers-after-close");
        }
        self.bytes += pending.bytes;
        self.timers.insert((pending.wake, id));
        self.operations.insert(id, pending);
        self.pump(now);
        Ok(id)
    }

    /// Takes note of what happened.
    pub fn step(&mut self, now: Micros, event: Event) {
        match event {
            Event::Connected(link) => self.links.connected(now, link),
            Event::Disconnected(link, reason) => self.break_link(now, link, &reason, false),
            Event::Received(link, count) => self.receive(now, link, count),
            Event::Sent(link, count) => {
                if let Some(link) = self.links.get_mut(link) {
                    link.pipeline.note_sent(count);
                }
            }
            Event::Tick => {}
        }
        self.fire(now);
        self.pump(now);
    }

    /// The bytes to send next on a link.
    #[must_use]
    pub fn unsent(&self, link: LinkId) -> &[u8] {
        self.links.get(link).map_or(&[], |link| link.pipeline.unsent())
    }

    /// Where to read a link's bytes to. Empty for a link that is no more.
    pub fn space(&mut self, link: LinkId) -> &mut [u8] {
        self.links.get_mut(link).map_or(&mut [], |link| link.pipeline.space())
    }

    /// The links there are, those being dialled included.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.links.ids()
    }

    /// What is to be done about everything since the last call.
    pub fn take_output(&mut self) -> Output {
        self.output.dials.append(&mut self.links.dials);
        self.output.closes.append(&mut self.links.closes);
        let timer = self.timers.first().map(|(at, _)| *at);
        self.output.deadline = [timer, self.links.deadline(), self.seek_at].into_iter().flatten().min();
        std::mem::take(&mut self.output)
    }

    /// Operations that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// The place of the shard that owns a key, among as many as [`Client::shards`] says; 0 while that is not known.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> usize {
        self.links.shard_of(key).unwrap_or(0)
    }

    /// Shards of the cluster, as far as it is known: at least 1.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.links.shards().map_or(1, |(shards, _)| shards.max(1))
    }

    /// The number that the named session's next request has; `None` without one, or while it is being left.
    #[must_use]
    pub fn next_number(&self) -> Option<Sequence> {
        self.sessions.get(&self.named?).filter(|numbers| !numbers.closing).map(Numbers::next)
    }

    fn next_operation(&mut self) -> OpId {
        self.last_operation += 1;
        OpId(self.last_operation)
    }

    /// What a number of the named session is doing; `None` for the next one.
    fn standing(&self, number: Sequence) -> Result<Option<Standing>, SubmitError> {
        let Some(numbers) = self.named.and_then(|key| self.sessions.get(&key)) else {
            return Err(refused(ErrorCode::BadSession, "no named session is open".to_owned()));
        };
        if numbers.closing {
            return Err(refused(ErrorCode::BadSession, "the named session is being closed; open it again".to_owned()));
        }
        let standing = numbers.standing(number);
        if standing.is_none() && number != numbers.next() {
            let text = format!("number {number} is used before its turn, which is that of {}", numbers.next());
            return Err(refused(ErrorCode::Malformed, text));
        }
        if standing == Some(Standing::Open) {
            return Err(refused(ErrorCode::Malformed, format!("number {number} is under way")));
        }
        Ok(standing)
    }

    /// Whether a copy of the request of a number may have been applied that is none of those to come.
    fn was_used(&self, number: Sequence) -> bool {
        let numbers = self.named.and_then(|key| self.sessions.get(&key));
        numbers.is_some_and(|numbers| number <= numbers.reached || numbers.standing(number) == Some(Standing::Left))
    }

    /// Whether a request of the named session may have its number now.
    fn has_room(&self, number: Option<Sequence>, op: &Op) -> bool {
        let numbers = self.named.and_then(|key| self.sessions.get(&key));
        match (number, numbers, op) {
            (Some(number), Some(numbers), Op::Increment { batch, want_values, .. }) => {
                numbers.standing(number).is_some() || numbers.has_room(operation::outcome_bytes(batch, *want_values))
            }
            _ => true,
        }
    }

    fn take_number(&mut self, number: Sequence, outcome_bytes: usize) -> Option<(SessionKey, Sequence)> {
        let key = self.named?;
        let numbers = self.sessions.get_mut(&key)?;
        if numbers.standing(number).is_some() {
            numbers.take_again(number);
        } else {
            numbers.take(outcome_bytes);
        }
        Some((key, number))
    }

    /// The named session, and how far it got: all that was sent is answered.
    fn closing(&self) -> Result<(Credentials, Sequence), SubmitError> {
        let Some(numbers) = self.named.and_then(|key| self.sessions.get(&key)) else {
            return Err(refused(ErrorCode::BadSession, "no named session is open".to_owned()));
        };
        let answered = numbers.low_water();
        if numbers.next() != answered.next() {
            let text = format!("the request of number {} was not answered", answered.next());
            return Err(refused(ErrorCode::Malformed, text));
        }
        if answered < numbers.reached && !mutant!("closed-short-of-former-holder") {
            let (settled, reached) = (answered, numbers.reached);
            let text = format!(
                "a former holder came to number {reached}, and only {settled} are answered; send the others again"
            );
            return Err(refused(ErrorCode::Malformed, text));
        }
        Ok((numbers.credentials, answered))
    }
}

fn refused(code: ErrorCode, text: String) -> SubmitError {
    SubmitError::Refused(ClientError::Refused { code, text })
}

/// The rules that can be checked without a server.
fn check(op: &Op) -> Result<(), SubmitError> {
    match op {
        Op::Increment { batch, .. } if batch.is_empty() => {
            Err(refused(ErrorCode::Malformed, "the batch is empty".to_owned()))
        }
        Op::Get { keys } if keys.is_empty() => Err(refused(ErrorCode::Malformed, "no key is given".to_owned())),
        Op::TopK { k } if *k == 0 || *k as usize > TOP_KEYS_MAX => {
            Err(refused(ErrorCode::TooLarge, format!("k is {k}, from 1 to {TOP_KEYS_MAX} is allowed")))
        }
        Op::Open { name } if name.is_empty() || name.len() > SESSION_NAME_BYTES_MAX => {
            let text = format!("a session's name has from 1 to {SESSION_NAME_BYTES_MAX} bytes, not {}", name.len());
            Err(refused(ErrorCode::TooLarge, text))
        }
        _ => Ok(()),
    }
}
