//! One connection under load: what it sends next, what is in flight, and what became of the rest.
//!
//! The next request is always written ahead, while earlier ones are under way: making it is then no part of any
//! latency, and keeps no server waiting.

use crate::mix::Operation;
use crate::plan::Plan;
use crate::protocol::{Answer, Protocol, Request};
use crate::socket::Socket;
use crate::stream::{KeyColumn, Stream};
use crate::tally::Tallies;
use dkc::engine::part::PackedKeys;
use dkc::error::ErrorCode;
use dkc::limits::CONNECTION_REQUESTS_MAX;
use std::collections::BTreeMap;
use std::time::Instant;

/// Requests of one connection that may end otherwise than acknowledged and are remembered for the validation.
const EXCEPTIONS_MAX: usize = 1 << 20;
/// Requests that have an id at a time: those in flight, and the next one.
const SLOTS_MAX: u64 = (CONNECTION_REQUESTS_MAX as u64 + 1).next_power_of_two();

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

/// What one connection did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Requests handed to the socket, those of the warm-up included.
    pub(crate) sent: u64,
    /// What was not acknowledged of its increments, by the number of the request. Only kept for a validation.
    pub(crate) exceptions: BTreeMap<u64, Exception>,
    /// Whether there were more exceptions than can be remembered.
    pub(crate) exceptions_lost: bool,
    /// Why the connection failed, if it did.
    pub(crate) failure: Option<String>,
}

/// A request with an id.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// Its number among those of this connection, from 0.
    number: u64,
    operation: Operation,
    keys: usize,
    /// What its latency counts from.
    since: Instant,
    measured: bool,
}

/// Requests by their id, which is made of a place in a table and the request's number: found without a search, and an
/// id that comes twice or was never given is noticed.
#[derive(Debug, Default)]
struct Slots {
    /// As many as were ever needed at a time, which is few for one of many connections.
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    in_flight: usize,
}

impl Slots {
    fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            debug_assert!(self.slots.len() as u64 <= SLOTS_MAX, "an id for each request in flight, and for the next");
            self.slots.len() - 1
        })
    }

    fn id(slot: usize, number: u64) -> u64 {
        // Never 0, which is that of the first request of a connection.
        (number + 1) * SLOTS_MAX + slot as u64
    }

    fn take(&mut self, id: u64) -> Option<InFlight> {
        let slot = (id % SLOTS_MAX) as usize;
        let request = self.slots.get_mut(slot)?.take_if(|request| Slots::id(slot, request.number) == id)?;
        self.free.push(slot);
        self.in_flight -= 1;
        Some(request)
    }
}

/// The next request, written but not handed to the socket.
#[derive(Clone, Copy, Debug)]
struct Next {
    slot: usize,
    operation: Operation,
    keys: usize,
}

/// What connections of a thread share to write requests.
#[derive(Debug)]
pub(crate) struct Scratch<W> {
    writer: W,
    column: KeyColumn,
    deltas: Vec<i64>,
    /// Those of a top.
    no_keys: PackedKeys,
}

impl<W: Default> Scratch<W> {
    pub(crate) fn new(plan: &Plan) -> Scratch<W> {
        let (writer, column) = (W::default(), KeyColumn::new(plan));
        Scratch { writer, column, deltas: Vec::new(), no_keys: PackedKeys::default() }
    }
}

/// One connection under load.
pub(crate) struct Lane<P: Protocol> {
    /// The connection's number.
    pub(crate) number: usize,
    pub(crate) socket: Socket,
    pub(crate) record: Record,
    /// When an answer last came, or the first request left that waits for one.
    pub(crate) last_progress: Instant,
    /// Whether the socket takes no more for now.
    pub(crate) is_clogged: bool,
    protocol: P,
    stream: Stream,
    slots: Slots,
    next: Option<Next>,
    frame: Vec<u8>,
}

impl<P: Protocol> Lane<P> {
    pub(crate) fn new(plan: &Plan, number: usize, (socket, protocol): (Socket, P)) -> Lane<P> {
        Lane {
            number,
            socket,
            record: Record::default(),
            last_progress: Instant::now(),
            is_clogged: false,
            protocol,
            stream: Stream::new(plan, number),
            slots: Slots::default(),
            next: None,
            frame: Vec::new(),
        }
    }

    /// Requests without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.in_flight
    }

    /// Whether another request may leave, if there is one.
    pub(crate) fn has_room(&self, plan: &Plan) -> bool {
        self.slots.in_flight < plan.depth && self.protocol.has_room() && self.record.failure.is_none()
    }

    /// Writes the next request, unless it is written; returns whether there is one.
    pub(crate) fn prepare(&mut self, plan: &Plan, scratch: &mut Scratch<P::Writer>) -> bool {
        if self.next.is_some() || !self.protocol.has_room() {
            return self.next.is_some();
        }
        let Scratch { writer, column, deltas, no_keys } = scratch;
        column.clear();
        let Some(operation) = self.stream.next(|number| column.push(number)) else { return false };
        let keys = if operation == Operation::Top { no_keys } else { column.keys() };
        deltas.resize(keys.len(), 1);
        let slot = self.slots.reserve();
        let request = Request { operation, keys, deltas, want_values: plan.want_values, top_keys: plan.top_keys };
        self.protocol.write(writer, &mut self.frame, Slots::id(slot, self.record.sent), &request);
        self.next = Some(Next { slot, operation, keys: keys.len() });
        true
    }

    /// Hands the next request to the socket, which has not sent it yet.
    pub(crate) fn commit(&mut self, since: Instant, now: Instant, measured: bool) {
        let Next { slot, operation, keys } = self.next.take().expect("prepared");
        self.slots.slots[slot] = Some(InFlight { number: self.record.sent, operation, keys, since, measured });
        if self.slots.in_flight == 0 {
            self.last_progress = now;
        }
        self.slots.in_flight += 1;
        self.record.sent += 1;
        self.socket.push(&mut self.frame);
    }

    /// Reads what is there, and takes the answers in it into account.
    ///
    /// # Errors
    /// Why the connection is of no more use.
    pub(crate) fn receive(&mut self, plan: &Plan, tallies: &mut Tallies) -> Result<(), String> {
        let Some(count) = self.socket.read(self.protocol.space())? else { return Ok(()) };
        let now = Instant::now();
        self.protocol.filled(count);
        while let Some((id, answer)) = self.protocol.next_answer()? {
            let request =
                self.slots.take(id).ok_or_else(|| format!("an answer to request {id}, which is not under way"))?;
            if !answer.fits(request.operation, request.keys) {
                self.note_whole(plan, tallies, &request, ErrorCode::Unknown);
                return Err(format!("the answer to request {id} does not fit the request"));
            }
            self.last_progress = now;
            self.note(plan, tallies, &request, answer, now);
        }
        Ok(())
    }

    /// Gives the connection up. What is in flight will never be answered.
    pub(crate) fn fail(&mut self, plan: &Plan, tallies: &mut Tallies, reason: String) {
        let requests: Vec<InFlight> = self.slots.slots.iter_mut().filter_map(Option::take).collect();
        requests.iter().for_each(|request| self.note_whole(plan, tallies, request, ErrorCode::Unknown));
        self.slots.in_flight = 0;
        self.record.failure.get_or_insert(reason);
    }

    fn note(&mut self, plan: &Plan, tallies: &mut Tallies, request: &InFlight, answer: Answer, now: Instant) {
        let keys = match answer {
            Answer::Refused(code) => return self.note_whole(plan, tallies, request, code),
            Answer::Acknowledged { keys } | Answer::Counts { keys, .. } | Answer::Top { keys } => keys,
            Answer::Each(_) => 0,
        };
        if request.measured {
            let tally = tallies.of_mut(request.operation);
            tally.note_answer(now.saturating_duration_since(request.since));
            tally.note_keys(ErrorCode::Ok, keys as u64);
            match &answer {
                Answer::Counts { found, .. } => tally.found += *found as u64,
                Answer::Each(codes) => codes.iter().for_each(|&code| tally.note_keys(code, 1)),
                _ => {}
            }
        }
        if let Answer::Each(codes) = answer {
            self.remember(plan, request, Exception::Each(codes));
        }
    }

    /// Takes a request into account that was refused or is unknown as a whole.
    fn note_whole(&mut self, plan: &Plan, tallies: &mut Tallies, request: &InFlight, code: ErrorCode) {
        if request.measured {
            tallies.of_mut(request.operation).note_keys(code, request.keys.max(1) as u64);
        }
        self.remember(plan, request, Exception::Whole(code));
    }

    fn remember(&mut self, plan: &Plan, request: &InFlight, exception: Exception) {
        if !plan.validate || request.operation != Operation::Increment {
            return;
        }
        if self.record.exceptions.len() < EXCEPTIONS_MAX {
            self.record.exceptions.insert(request.number, exception);
        } else {
            self.record.exceptions_lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_found_once() {
        let mut slots = Slots::default();
        let mut ids = Vec::new();
        for number in 0..3 {
            let slot = slots.reserve();
            let request =
                InFlight { number, operation: Operation::Get, keys: 1, since: Instant::now(), measured: true };
            slots.slots[slot] = Some(request);
            slots.in_flight += 1;
            ids.push(Slots::id(slot, number));
        }
        assert!(slots.take(ids[1] + SLOTS_MAX).is_none(), "the slot with another number");
        assert!(slots.take(ids[1] + 3).is_none(), "no such slot in use");
        assert!(slots.take(0).is_none());
        assert_eq!(slots.take(ids[1]).expect("in flight").number, 1);
        assert!(slots.take(ids[1]).is_none(), "twice");
        assert_eq!((slots.in_flight, slots.reserve(), slots.reserve()), (2, 1, 3));
    }
}
