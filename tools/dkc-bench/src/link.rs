//! The protocol of this project's servers, as the generator and the questions around a run need it.
//!
//! It works on the wire's own parts, not on the client library: a benchmark has to know when bytes leave, and must
//! never send twice. Everything here that is not [`dkc::wire`] is small, and the rest of the tool knows nothing of the
//! wire, so this is the one file to change when the protocol grows.

use crate::mix::Operation;
use crate::plan::Plan;
use crate::protocol::{Answer, Protocol, Request};
use crate::socket::{DialError, Socket};
use dkc::engine::part::PackedKeys;
use dkc::engine::sessions::Credentials;
use dkc::error::ErrorCode;
use dkc::ids::Sequence;
use dkc::limits::{CONNECTION_RECEIVE_BYTES, REPLY_BYTES_MAX, SESSION_SPAN_MAX};
use dkc::wire::client::{
    GetReply, Hello, IncrementReply, PROTOCOL_VERSION, Reply, Stamp, Status, Welcome, decode_reply,
};
use dkc::wire::frame::{Decoder, Frame};
use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use dkc::wire::client::Encoder;

/// Ids of the first requests of a connection. All others are above.
const HELLO_ID: u64 = 0;
const SESSION_ID: u64 = 1;

const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One connection's side of the protocol.
#[derive(Debug)]
pub(crate) struct Link {
    decoder: Decoder,
    session: Option<Session>,
}

/// What numbers the increment requests of a connection. As a load generator, it never sends one again; but servers do not
/// know that, and do all that exactly once takes.
#[derive(Debug)]
struct Session {
    credentials: Credentials,
    /// Every request up to this number was answered.
    low_water: u64,
    /// The requests after that, by number: their ids, and whether they were answered.
    waiting: VecDeque<(u64, bool)>,
}

impl Session {
    fn new(credentials: Credentials) -> Session {
        Session { credentials, low_water: 0, waiting: VecDeque::new() }
    }

    /// The stamp of the next request.
    fn stamp(&mut self, id: u64) -> Stamp {
        self.waiting.push_back((id, false));
        let sequence = self.low_water + self.waiting.len() as u64;
        Stamp { credentials: self.credentials, sequence: Sequence(sequence), low_water: Sequence(self.low_water) }
    }

    /// Takes note of an answer, if it is to an increment.
    fn note_answer(&mut self, id: u64) {
        // Answers overtake each other by little.
        if let Some((_, answered)) = self.waiting.iter_mut().find(|(each, _)| *each == id) {
            *answered = true;
        }
        while self.waiting.pop_front_if(|(_, answered)| *answered).is_some() {
            self.low_water += 1;
        }
    }
}

impl Link {
    fn new() -> Link {
        Link { decoder: Decoder::new(REPLY_BYTES_MAX), session: None }
    }

    fn next_reply(&mut self) -> Result<Option<(u64, Reply)>, String> {
        let Some(Frame { kind, request_id, payload }) = self.decoder.next_frame().map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let reply = decode_reply(kind, payload).map_err(|error| error.text)?;
        Ok(Some((request_id, reply)))
    }

    /// Connects and introduces itself; returns what the server said as well.
    fn greet(endpoint: &str, deadline: Instant) -> Result<(Socket, Link, Welcome), DialError> {
        let (mut socket, mut link) = (Socket::dial(endpoint, deadline)?, Link::new());
        let hello = Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            cluster_id: None,
            client_name: concat!("dkc-bench ", env!("CARGO_PKG_VERSION")),
        };
        let mut bytes = Vec::new();
        Encoder::new().hello(&mut bytes, HELLO_ID, &hello);
        socket.push(&mut bytes);
        match link.wait(&mut socket, deadline).map_err(|reason| DialError::unreachable(endpoint, reason))? {
            (HELLO_ID, Reply::Welcome(welcome)) if welcome.protocol == PROTOCOL_VERSION => Ok((socket, link, welcome)),
            (_, Reply::Error { code, text }) => Err(DialError::refused(endpoint, format!("{code:?}: {text}"))),
            _ => Err(DialError::refused(endpoint, "chose a protocol that was not offered")),
        }
    }

    fn wait(&mut self, socket: &mut Socket, deadline: Instant) -> Result<(u64, Reply), String> {
        loop {
            if let Some(reply) = self.next_reply()? {
                return Ok(reply);
            }
            let count = socket.exchange(self.space(), deadline)?;
            self.filled(count);
        }
    }
}

impl Protocol for Link {
    type Writer = Encoder;

    fn open(plan: &Plan, endpoint: &str, deadline: Instant) -> Result<(Socket, Link), DialError> {
        let (mut socket, mut link, _) = Link::greet(endpoint, deadline)?;
        if plan.sessions && plan.mix.has(Operation::Increment) {
            let mut bytes = Vec::new();
            Encoder::new().open_session(&mut bytes, SESSION_ID, None);
            socket.push(&mut bytes);
            match link.wait(&mut socket, deadline).map_err(|reason| DialError::unreachable(endpoint, reason))? {
                (SESSION_ID, Reply::OpenSession(opened)) => link.session = Some(Session::new(opened.credentials)),
                (_, reply) => return Err(DialError::refused(endpoint, unexpected(&reply))),
            }
        }
        Ok((socket, link))
    }

    fn has_room(&self) -> bool {
        self.session.as_ref().is_none_or(|session| (session.waiting.len() as u64) < SESSION_SPAN_MAX)
    }

    fn write(&mut self, encoder: &mut Encoder, out: &mut Vec<u8>, id: u64, request: &Request<'_>) {
        match request.operation {
            Operation::Increment => {
                let stamp = self.session.as_mut().map(|session| session.stamp(id));
                encoder.increment(out, id, request.keys, request.deltas, request.want_values, stamp.as_ref());
            }
            Operation::Get => encoder.get(out, id, request.keys),
            Operation::Top => encoder.top_k(out, id, request.top_keys),
        }
    }

    fn space(&mut self) -> &mut [u8] {
        self.decoder.space(CONNECTION_RECEIVE_BYTES)
    }

    fn filled(&mut self, count: usize) {
        self.decoder.filled(count);
    }

    fn next_answer(&mut self) -> Result<Option<(u64, Answer)>, String> {
        let Some((id, reply)) = self.next_reply()? else { return Ok(None) };
        if let Some(session) = &mut self.session {
            session.note_answer(id);
        }
        let answer = match reply {
            Reply::Increment(reply) => increments(&reply),
            Reply::Get(reply) => counts(&reply),
            Reply::TopK(reply) => Answer::Top { keys: reply.counts.len() },
            Reply::Error { code, text } if id == HELLO_ID => {
                return Err(format!("the server ends the connection with {code:?}: {text}"));
            }
            Reply::Error { code, .. } => Answer::Refused(code),
            _ => return Err(format!("an answer to request {id} of another kind")),
        };
        Ok(Some((id, answer)))
    }
}

fn increments(reply: &IncrementReply) -> Answer {
    let keys = reply.len();
    if reply.outcomes.is_empty() {
        return Answer::Acknowledged { keys };
    }
    let codes: Vec<ErrorCode> = (0..keys).map(|place| reply.outcome(place)).collect();
    Answer::Each(codes)
}

fn counts(reply: &GetReply) -> Answer {
    Answer::Counts { keys: reply.counts.len(), found: reply.found.iter().map(|&found| usize::from(found)).sum() }
}

/// A connection for questions before and after a run, one at a time.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) endpoint: String,
    pub(crate) welcome: Welcome,
    socket: Socket,
    link: Link,
    encoder: Encoder,
    timeout: Duration,
    last_id: u64,
}

impl Control {
    /// Connects to the first of the endpoints that welcomes it, each within `dial_timeout`; `timeout` bounds each answer.
    ///
    /// # Errors
    /// That of the last endpoint.
    pub(crate) fn connect(
        endpoints: &[String],
        dial_timeout: Duration,
        timeout: Duration,
    ) -> Result<Control, DialError> {
        let mut failure = DialError::unreachable("any server", "no endpoint is given");
        for endpoint in endpoints {
            match Link::greet(endpoint, Instant::now() + dial_timeout) {
                Ok((socket, link, welcome)) => {
                    let (endpoint, encoder) = (endpoint.clone(), Encoder::new());
                    return Ok(Control { endpoint, welcome, socket, link, encoder, timeout, last_id: HELLO_ID });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Connects anew, to a server that may be starting again: tries for as long as it would wait for an answer.
    ///
    /// # Errors
    /// That of the last try.
    pub(crate) fn reconnect(&self, endpoints: &[String], dial_timeout: Duration) -> Result<Control, DialError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match Control::connect(endpoints, dial_timeout, self.timeout) {
                // Nothing tells when somebody begins to listen.
                Err(error) if error.is_unreachable && Instant::now() < deadline => thread::sleep(RECONNECT_PAUSE),
                result => return result,
            }
        }
    }

    /// Where the stores can be reached, as far as the server said.
    pub(crate) fn store_addresses(&self) -> impl Iterator<Item = &str> {
        self.welcome.stores.iter().map(|store| store.address.as_str())
    }

    /// What the server is doing.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
        match self.call(|encoder, out, id| encoder.status(out, id))? {
            Reply::Status(status) => Ok(status),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Reads counts, 0 for a key that does not exist.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(crate) fn get(&mut self, keys: &PackedKeys) -> anyhow::Result<Vec<i64>> {
        match self.call(|encoder, out, id| encoder.get(out, id, keys))? {
            Reply::Get(reply) if reply.counts.len() == keys.len() => Ok(reply.counts),
            reply => Err(unexpected(&reply)),
        }
    }

    fn call(&mut self, write: impl FnOnce(&mut Encoder, &mut Vec<u8>, u64)) -> anyhow::Result<Reply> {
        self.last_id += 1;
        let mut bytes = Vec::new();
        write(&mut self.encoder, &mut bytes, self.last_id);
        self.socket.push(&mut bytes);
        let (id, reply) =
            self.link.wait(&mut self.socket, Instant::now() + self.timeout).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(id == self.last_id, "an answer to another request");
        Ok(reply)
    }
}

fn unexpected(reply: &Reply) -> anyhow::Error {
    match reply {
        Reply::Error { code, text } => anyhow::anyhow!("refused with {code:?}: {text}"),
        _ => anyhow::anyhow!("an answer of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkc::ids::{SessionEpoch, SessionId, SessionToken};
    use dkc::wire::client::{Part, TopKReply};

    fn answers(write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<Option<(u64, Answer)>, String> {
        let (mut link, mut bytes) = (Link::new(), Vec::new());
        write(&mut Encoder::new(), &mut bytes);
        link.space()[..bytes.len()].copy_from_slice(&bytes);
        link.filled(bytes.len());
        link.next_answer()
    }

    #[test]
    fn replies_become_answers() {
        let parts = vec![Part { keys: 2, ..Part::default() }];
        let acknowledged = IncrementReply { parts: parts.clone(), ..IncrementReply::default() };
        let mixed = IncrementReply { outcomes: vec![0, ErrorCode::Overflow as u8], ..acknowledged.clone() };
        let read = GetReply { parts, order: vec![], counts: vec![7, 0], found: vec![1, 0] };
        let answered = |write: &dyn Fn(&mut Encoder, &mut Vec<u8>)| answers(write).expect("valid").expect("whole").1;
        assert_eq!(answered(&|e, out| e.increment_reply(out, 3, &acknowledged)), Answer::Acknowledged { keys: 2 });
        let each = Answer::Each(vec![ErrorCode::Ok, ErrorCode::Overflow]);
        assert_eq!(answered(&|e, out| e.increment_reply(out, 3, &mixed)), each);
        assert_eq!(answered(&|e, out| e.get_reply(out, 3, &read)), Answer::Counts { keys: 2, found: 1 });
        assert_eq!(answered(&|e, out| e.top_k_reply(out, 3, &TopKReply::default())), Answer::Top { keys: 0 });
        let refused = Answer::Refused(ErrorCode::DiskFull);
        assert_eq!(answered(&|e, out| e.error(out, 3, ErrorCode::DiskFull, "")), refused);
    }

    #[test]
    fn the_low_water_mark_is_under_the_first_request_without_an_answer() {
        let credentials = Credentials { session: SessionId(5), epoch: SessionEpoch(1), token: SessionToken(7) };
        let mut session = Session::new(credentials);
        let stamped = |session: &mut Session, id| {
            let stamp = session.stamp(id);
            (stamp.sequence.0, stamp.low_water.0)
        };
        assert_eq!([10, 20, 30].map(|id| stamped(&mut session, id)), [(1, 0), (2, 0), (3, 0)]);
        session.note_answer(20);
        session.note_answer(99);
        assert_eq!(stamped(&mut session, 40), (4, 0));
        session.note_answer(10);
        assert_eq!(stamped(&mut session, 50), (5, 2));
        [30, 50, 40].iter().for_each(|&id| session.note_answer(id));
        assert_eq!(stamped(&mut session, 60), (6, 5));
    }

    #[test]
    fn what_ends_a_connection_is_no_answer() {
        assert!(answers(|e, out| e.error(out, HELLO_ID, ErrorCode::ShuttingDown, "bye")).is_err());
        assert!(answers(|e, out| e.status_reply(out, 3, &Status::default())).is_err());
        assert!(answers(|_, out| out.extend([0; 64])).is_err());
        assert_eq!(answers(|_, out| out.extend([0; 5])), Ok(None));
    }

    #[test]
    fn answers_have_to_fit() {
        assert!(Answer::Acknowledged { keys: 2 }.fits(Operation::Increment, 2));
        assert!(!Answer::Acknowledged { keys: 1 }.fits(Operation::Increment, 2));
        assert!(!Answer::Acknowledged { keys: 2 }.fits(Operation::Get, 2));
        assert!(!Answer::Each(vec![ErrorCode::Ok]).fits(Operation::Increment, 2));
        assert!(!Answer::Counts { keys: 2, found: 2 }.fits(Operation::Top, 2));
        assert!(Answer::Refused(ErrorCode::Overloaded).fits(Operation::Top, 0));
    }
}
