//! The loop of one connection.
//!
//! The next batch is made while earlier ones are under way, so that making it is not part of any latency at depth 1 and
//! keeps no server waiting. A large request leaves at once. Small ones leave when the connection next has to wait: with
//! many of them in flight, one system call then carries all that the last replies made room for.

use crate::args::Operation;
use crate::plan::{Plan, Until};
use crate::stream::{Keys, Stream};
use crate::tally::Tally;
use dkc::client::ClientError;
use dkc::client::batch::Batch;
use dkc::client::blocking::Connection;
use dkc::error::ErrorCode;
use dkc::wire::client::{IncrementReply, Reply};
use std::collections::BTreeMap;
use std::time::Instant;

/// Bytes of keys past which a request is sent at once: the system call is then small beside the request.
const SEND_AT_ONCE_BYTES: usize = 4 << 10;
/// Requests of one connection that may end otherwise than acknowledged and are remembered for the validation.
const EXCEPTIONS_MAX: usize = 1 << 20;

/// What became of a request that was not acknowledged as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exception {
    /// All of it: a code for every increment.
    Whole(ErrorCode),
    /// A code for each increment.
    Each(Vec<ErrorCode>),
}

impl Exception {
    /// What became of the increment at a place of the request.
    pub(crate) fn code(&self, place: usize) -> ErrorCode {
        match self {
            Exception::Whole(code) => *code,
            Exception::Each(codes) => codes[place],
        }
    }
}

/// What came of one connection's loop.
#[derive(Debug)]
pub(crate) struct Record {
    /// Of the requests sent after the warm-up.
    pub(crate) tally: Tally,
    /// Requests handed to the connection, those of the warm-up included.
    pub(crate) sent: u64,
    /// What was not acknowledged among them, by the number of the request. Only kept for a validation.
    pub(crate) exceptions: BTreeMap<u64, Exception>,
    /// Whether there were more exceptions than can be remembered.
    pub(crate) exceptions_lost: bool,
    /// When the last reply came.
    pub(crate) last_reply: Option<Instant>,
    /// Why the connection failed, if it did.
    pub(crate) failure: Option<ClientError>,
}

/// A request without a reply.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// Its number among those of this connection, from 0.
    number: u64,
    sent_at: Instant,
    measured: bool,
}

/// One connection and all that its loop needs.
pub(crate) struct Worker<'a> {
    plan: &'a Plan,
    connection: Connection,
    stream: Stream,
    keys: Keys,
    batch: Batch,
    /// By request id.
    in_flight: BTreeMap<u64, InFlight>,
    measure_from: Instant,
    /// Requests this connection still has to measure; `None` if time is what ends the run.
    requests_left: Option<u64>,
    record: Record,
}

impl<'a> Worker<'a> {
    /// The worker with this number. It measures from `measure_from` on.
    pub(crate) fn new(plan: &'a Plan, number: usize, connection: Connection, measure_from: Instant) -> Worker<'a> {
        let requests_left = match plan.until {
            Until::Elapsed(_) => None,
            Until::Requests(requests) => {
                let (each, rest) = (requests / plan.connections as u64, requests % plan.connections as u64);
                Some(each + u64::from((number as u64) < rest))
            }
        };
        Worker {
            plan,
            connection,
            stream: Stream::new(plan, number),
            keys: Keys::new(plan),
            batch: Batch::new(),
            in_flight: BTreeMap::new(),
            measure_from,
            requests_left,
            record: Record {
                tally: Tally::new(),
                sent: 0,
                exceptions: BTreeMap::new(),
                exceptions_lost: false,
                last_reply: None,
                failure: None,
            },
        }
    }

    /// Sends until the run is over, and waits for all replies.
    pub(crate) fn run(mut self) -> Record {
        let finished = self.send_all().and_then(|()| self.drain());
        if let Err(error) = finished {
            // Replies that came before the failure can still be taken. What then remains will never be answered.
            let _ = self.drain();
            for request in std::mem::take(&mut self.in_flight).into_values() {
                self.note_whole(request, ErrorCode::Unknown);
            }
            self.record.failure = Some(error);
        }
        self.record
    }

    fn send_all(&mut self) -> Result<(), ClientError> {
        loop {
            self.fill();
            while self.in_flight.len() >= self.plan.depth {
                self.receive()?;
            }
            let now = Instant::now();
            let measured = now >= self.measure_from;
            if measured && self.is_over(now) {
                return Ok(());
            }
            self.send(now, measured)?;
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        match (self.plan.until, &mut self.requests_left) {
            (Until::Elapsed(duration), _) => now >= self.measure_from + duration,
            (Until::Requests(_), Some(left)) if *left > 0 => {
                *left -= 1;
                false
            }
            (Until::Requests(_), _) => true,
        }
    }

    fn fill(&mut self) {
        if self.plan.operation == Operation::Top {
            return;
        }
        self.batch.clear();
        for _ in 0..self.plan.batch {
            let number = self.stream.draw();
            self.batch.push(self.keys.key(number), 1).expect("the plan checked that such a batch fits");
        }
    }

    fn send(&mut self, now: Instant, measured: bool) -> Result<(), ClientError> {
        let request = InFlight { number: self.record.sent, sent_at: now, measured };
        let id = match self.plan.operation {
            Operation::Increment => self.connection.send_increment(&self.batch, self.plan.want_values)?,
            Operation::Get => self.connection.send_get(self.batch.keys())?,
            Operation::Top => return self.top(request),
        };
        self.record.sent += 1;
        self.in_flight.insert(id, request);
        if self.batch.keys().bytes.len() >= SEND_AT_ONCE_BYTES {
            self.connection.flush()?;
        }
        Ok(())
    }

    /// Sends a top request, and waits for the reply.
    fn top(&mut self, request: InFlight) -> Result<(), ClientError> {
        self.record.sent += 1;
        let reply = match self.connection.top_k(self.plan.top_keys) {
            Ok(reply) => Reply::TopK(reply),
            Err(ClientError::Refused { code, text }) => Reply::Error { code, text },
            Err(error) => {
                self.note_whole(request, ErrorCode::Unknown);
                return Err(error);
            }
        };
        self.note(request, reply);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ClientError> {
        while !self.in_flight.is_empty() {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let (id, reply) = self.connection.receive()?;
        let request = self.in_flight.remove(&id).expect("the connection lets only replies to its requests through");
        self.note(request, reply);
        Ok(())
    }

    /// Takes a reply into account.
    fn note(&mut self, request: InFlight, reply: Reply) {
        let now = Instant::now();
        self.record.last_reply = Some(now);
        let keys = match reply {
            Reply::Increment(reply) if !reply.outcomes.is_empty() => {
                self.note_each(request, &reply);
                0
            }
            Reply::Increment(_) => self.plan.batch as u64,
            Reply::Get(reply) => {
                if request.measured {
                    self.record.tally.found += reply.found.iter().map(|&found| u64::from(found)).sum::<u64>();
                }
                reply.counts.len() as u64
            }
            Reply::TopK(reply) => reply.counts.len() as u64,
            Reply::Error { code, .. } => return self.note_whole(request, code),
            Reply::Welcome(_) | Reply::Status(_) => {
                unreachable!("the connection lets only replies through that fit their request")
            }
        };
        if request.measured {
            self.record.tally.note_answer(now - request.sent_at);
            self.record.tally.note_keys(ErrorCode::Ok, keys);
        }
    }

    /// Takes increments into account that did not all end the same way.
    fn note_each(&mut self, request: InFlight, reply: &IncrementReply) {
        let codes: Vec<ErrorCode> = (0..self.plan.batch).map(|place| reply.outcome(place)).collect();
        if request.measured {
            codes.iter().for_each(|&code| self.record.tally.note_keys(code, 1));
        }
        self.remember(request.number, Exception::Each(codes));
    }

    /// Takes a request into account that was refused or is unknown as a whole.
    fn note_whole(&mut self, request: InFlight, code: ErrorCode) {
        if request.measured {
            self.record.tally.note_keys(code, self.plan.batch as u64);
        }
        self.remember(request.number, Exception::Whole(code));
    }

    fn remember(&mut self, number: u64, exception: Exception) {
        if !self.plan.validate {
            return;
        }
        if self.record.exceptions.len() < EXCEPTIONS_MAX {
            self.record.exceptions.insert(number, exception);
        } else {
            self.record.exceptions_lost = true;
        }
    }
}
