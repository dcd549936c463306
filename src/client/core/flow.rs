//! What goes out when: queues, timers, broken links, and how operations end.

use super::operation::{Copy, Pending, Request, Stage};
use super::verdict::Verdict;
use super::{Answer, Client, Delivery, LinkId, OpId, SessionKey};
use crate::client::ClientError;
use crate::client::request_id::RequestId;
use crate::error::ErrorCode;
use crate::ids::Micros;
use crate::limits::{
    CLIENT_BACK_OFF_MICROS_MAX, CLIENT_BACK_OFF_MICROS_MIN, CLIENT_COPIES_MAX, CLIENT_DIAL_MICROS_MAX,
    CLIENT_ROUTE_KEYS,
};
use crate::mutant::mutant;
use crate::wire::client::Stamp;

/// How long the opening of a session is tried before it is given up, and begun anew if it is still wanted.
const OPENING_MICROS_MAX: u64 = 8 * CLIENT_DIAL_MICROS_MAX;
/// Places of ended operations that a queue may hold before they are swept out.
const QUEUE_SLACK: usize = 64;

impl Client {
    /// Sends what can be sent.
    pub(super) fn pump(&mut self, now: Micros) {
        while let Some(&id) = self.ready.front() {
            if self.operations.get(&id).is_some_and(|pending| pending.stage == Stage::Ready) && !self.send(now, id) {
                break;
            }
            self.ready.pop_front();
        }
        self.number(now);
        // Operations that ended elsewhere leave their places in the queues behind.
        let length_max = 2 * self.operations.len() + QUEUE_SLACK;
        if self.ready.len().max(self.unnumbered.len()) > length_max {
            self.ready.retain(|id| self.operations.contains_key(id));
            self.unnumbered.retain(|id| self.operations.contains_key(id));
        }
        self.seek_at = if self.operations.is_empty() { None } else { self.links.seek(now) };
    }

    /// Gives numbers to increments that wait for one, and sends them.
    fn number(&mut self, now: Micros) {
        while let Some(&id) = self.unnumbered.front() {
            let Some(pending) = self.operations.get(&id).filter(|pending| pending.stage == Stage::Unnumbered) else {
                self.unnumbered.pop_front();
                continue;
            };
            let bytes = pending.outcome_bytes();
            let current = self.current.and_then(|key| Some((key, self.sessions.get(&key)?)));
            let due = current.is_none_or(|(_, numbers)| numbers.rotate_at <= now);
            let Some((key, numbers)) = current else { return self.open_session(now) };
            if !numbers.has_room(bytes) {
                if !numbers.is_stuck() {
                    return;
                }
                self.retire(key);
                continue;
            }
            if due {
                self.open_session(now);
            }
            let Some(link) = self.route(now, id) else { return };
            self.unnumbered.pop_front();
            let number = self.sessions.get_mut(&key).map(|numbers| numbers.take(bytes));
            if let Some(pending) = self.operations.get_mut(&id) {
                pending.number = number.map(|number| (key, number));
            }
            self.send_by(now, id, link);
        }
    }

    /// Begins to open the next session, if that is not under way.
    fn open_session(&mut self, now: Micros) {
        if self.opening.is_some() {
            return;
        }
        let id = self.next_operation();
        let pending = Pending::new(Request::OpenSession, 0, now, now.plus(OPENING_MICROS_MAX));
        self.timers.insert((pending.wake, id));
        self.operations.insert(id, pending);
        self.opening = Some(id);
        if !self.send(now, id) {
            self.ready.push_back(id);
        }
    }

    /// Numbers a session's requests no more. It is kept as long as some are under way.
    pub(super) fn retire(&mut self, key: SessionKey) {
        if self.current == Some(key) {
            self.current = None;
        }
        self.forget_session(key);
    }

    fn forget_session(&mut self, key: SessionKey) {
        let in_use = self.current == Some(key) || self.named == Some(key);
        if !in_use && self.sessions.get(&key).is_some_and(|numbers| !numbers.is_busy()) {
            self.sessions.remove(&key);
        }
    }

    /// The link by which an operation is to go now.
    fn route(&mut self, now: Micros, id: OpId) -> Option<LinkId> {
        let place = self.place_of(id);
        self.links.choose(now, place)
    }

    /// The shard that owns most of an operation's keys, told by a few of them.
    fn place_of(&mut self, id: OpId) -> Option<usize> {
        let (shards, epoch) = self.links.shards()?;
        let pending = self.operations.get(&id)?;
        if let Some((_, place)) = pending.route.filter(|(by, _)| *by == epoch) {
            return Some(place);
        }
        let keys = pending.keys()?;
        let stride = keys.len().div_ceil(CLIENT_ROUTE_KEYS);
        let mut places: Vec<usize> =
            keys.iter().step_by(stride.max(1)).filter_map(|key| self.links.shard_of(key)).collect();
        places.sort_unstable();
        let place = places.chunk_by(|a, b| a == b).max_by_key(|run| run.len()).map(|run| run[0]);
        let place = place.filter(|place| *place < shards)?;
        if let Some(pending) = self.operations.get_mut(&id) {
            pending.route = Some((epoch, place));
        }
        Some(place)
    }

    /// Sends an operation that is ready. Whether there was a link for it.
    fn send(&mut self, now: Micros, id: OpId) -> bool {
        let Some(link) = self.route(now, id) else { return false };
        if matches!(self.operations.get(&id), Some(Pending { request: Request::Connect, .. })) {
            self.end(id, Ok(Answer::Connected));
            return true;
        }
        self.send_by(now, id, link);
        true
    }

    fn send_by(&mut self, now: Micros, id: OpId, link_id: LinkId) {
        let (Some(pending), Some(link)) = (self.operations.get_mut(&id), self.links.get_mut(link_id)) else { return };
        let stamp = pending.number.and_then(|(key, sequence)| {
            let numbers = self.sessions.get(&key)?;
            Some(Stamp { credentials: numbers.credentials, sequence, low_water: numbers.low_water() })
        });
        let counts_once = matches!(pending.delivery(), Some(Delivery::ExactlyOnce | Delivery::Numbered(_)));
        assert!(stamp.is_some() || !counts_once, "what may be sent again has a number, and its session is kept");
        let request_id = pending.write(&mut link.pipeline, stamp.as_ref());
        link.operations.insert(request_id, id);
        pending.live.push(Copy { link: link_id, request_id, sent: now });
        pending.copies.sent();
        pending.stage = Stage::InFlight;
        let wake = if pending.delivery() == Some(Delivery::AtMostOnce) {
            pending.deadline
        } else {
            now.plus(pending.patience())
        };
        pending.attempts = pending.attempts.saturating_add(1);
        self.set_timer(id, wake);
    }

    /// Asks to look at an operation again then, or at its deadline.
    fn set_timer(&mut self, id: OpId, at: Micros) {
        if let Some(pending) = self.operations.get_mut(&id) {
            self.timers.remove(&(pending.wake, id));
            pending.wake = at.min(pending.deadline);
            self.timers.insert((pending.wake, id));
        }
    }

    /// Lets every timer fire that is due, and gives up links that are of no use.
    pub(super) fn fire(&mut self, now: Micros) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let Some(pending) = self.operations.get_mut(&id) else { continue };
            if pending.deadline <= now {
                self.give_up(id);
                continue;
            }
            let stage = pending.stage;
            self.set_timer(id, Micros(u64::MAX));
            match stage {
                Stage::BackOff => self.ready_again(id),
                Stage::InFlight => self.lose_patience(now, id),
                Stage::Unnumbered | Stage::Ready => {}
            }
        }
        for (link, reason) in self.links.useless(now) {
            self.break_link(now, link, reason, true);
        }
    }

    /// No answer came to the last copy in time. If it was not the first and nothing has come on its link since, the link is taken for
    /// dead; so is that of the oldest copy, if there are many.
    fn lose_patience(&mut self, now: Micros, id: OpId) {
        let Some(pending) = self.operations.get(&id) else { return };
        let silent = pending.live.last().filter(|copy| {
            let heard = self.links.get(copy.link).map(|link| link.heard);
            pending.attempts > 1 && heard.is_some_and(|heard| heard <= copy.sent)
        });
        let oldest = pending.live.first().filter(|_| pending.live.len() >= CLIENT_COPIES_MAX);
        if let Some(link) = silent.or(oldest).map(|copy| copy.link) {
            self.break_link(now, link, "no answer in time", true);
        }
        self.ready_again(id);
    }

    /// Puts an operation into the queue of those that wait for a link.
    fn ready_again(&mut self, id: OpId) {
        if let Some(pending) = self.operations.get_mut(&id)
            && !matches!(pending.stage, Stage::Ready | Stage::Unnumbered)
        {
            pending.stage = Stage::Ready;
            self.ready.push_back(id);
        }
    }

    /// A link is no more. What it carried goes out again: at once, for it is the link that is at fault.
    pub(super) fn break_link(&mut self, now: Micros, id: LinkId, reason: &str, close: bool) {
        let Some(link) = self.links.remove(now, id, reason) else { return };
        if close {
            self.links.closes.push(id);
        }
        for (&request_id, &operation) in &link.operations {
            let Some(pending) = self.operations.get_mut(&operation) else { continue };
            pending.live.retain(|copy| (copy.link, copy.request_id) != (id, request_id));
            let left = link.pipeline.has_left(request_id) && !mutant!("loss-taken-for-never-sent");
            if !left {
                pending.copies.never_left();
            }
            if !pending.live.is_empty() {
                continue;
            }
            if left && pending.delivery() == Some(Delivery::AtMostOnce) {
                let reason = format!("{}: {reason}", link.endpoint);
                self.end_increment(operation, Verdict::Unknown(reason, None));
            } else if pending.stage == Stage::InFlight {
                self.ready_again(operation);
            }
        }
    }

    /// Sends an operation again, after a while that grows from one time to the next.
    pub(super) fn back_off(&mut self, now: Micros, id: OpId) {
        let Some(pending) = self.operations.get_mut(&id) else { return };
        let wait = CLIENT_BACK_OFF_MICROS_MIN << pending.attempts.min(16);
        let wait = wait.min(CLIENT_BACK_OFF_MICROS_MAX);
        if pending.stage == Stage::InFlight {
            pending.stage = Stage::BackOff;
            let at = now.plus(wait / 2 + self.prng.below(wait / 2 + 1));
            self.set_timer(id, at);
        }
    }

    /// An operation has reached its deadline.
    fn give_up(&mut self, id: OpId) {
        let Some(pending) = self.operations.get_mut(&id) else { return };
        if let Request::Increment { .. } = pending.request {
            let verdict = pending.copies.end();
            return self.end_increment(id, verdict);
        }
        let sent = pending.attempts > 0;
        let result = match pending.refusal.take() {
            Some((code, text)) => Err(ClientError::from_code(code, text, 0)),
            None if sent => Err(ClientError::Unreachable { reason: self.no_answer() }),
            None => Err(ClientError::Unreachable { reason: self.links.why() }),
        };
        self.end(id, result);
    }

    fn no_answer(&self) -> String {
        format!("no answer in time; {}", self.links.why())
    }

    /// Ends an operation of increments.
    pub(super) fn end_increment(&mut self, id: OpId, verdict: Verdict) {
        let Some(pending) = self.operations.get(&id) else { return };
        let increments = pending.increments();
        let numbered = matches!(pending.delivery(), Some(Delivery::Numbered(_)));
        let number = pending.number;
        let whole = matches!(&verdict, Verdict::Done(reply)
        if (0..reply.outcomes.len()).all(|position| {
            let code = reply.outcome(position);
            code == ErrorCode::Ok || code.settles()
        }));
        let id_of = |client: &Client| {
            let (key, sequence) = number?;
            let credentials = client.sessions.get(&key)?.credentials;
            Some(RequestId { credentials, sequence, increments: increments as u32 })
        };
        let (answered, result) = match verdict {
            Verdict::Done(reply) => (whole || !numbered, Ok(Answer::Incremented(reply))),
            Verdict::Refused(code, text) => (!numbered, Err(ClientError::Refused { code, text })),
            Verdict::Unknown(reason, last) => {
                let id = id_of(self);
                (false, Err(ClientError::Unknown { increments: increments as u64, reason, last, id }))
            }
            Verdict::Unreachable | Verdict::Again | Verdict::Expired => {
                (!numbered, Err(self.never_sent(number.is_some())))
            }
        };
        if let Some((key, sequence)) = number
            && let Some(numbers) = self.sessions.get_mut(&key)
        {
            if answered { numbers.answer(sequence) } else { numbers.leave(sequence) }
        }
        self.end(id, result);
    }

    /// Why increments were not sent at all.
    fn never_sent(&self, numbered: bool) -> ClientError {
        match &self.opening_refusal {
            Some((code, text)) if !numbered && code.is_definite() => {
                ClientError::Refused { code: *code, text: format!("no session could be opened: {text}") }
            }
            _ => ClientError::Unreachable { reason: self.links.why() },
        }
    }

    /// Ends an operation. Answers to copies that are still under way will find nobody.
    pub(super) fn end(&mut self, id: OpId, result: Result<Answer, ClientError>) {
        let Some(pending) = self.operations.remove(&id) else { return };
        self.timers.remove(&(pending.wake, id));
        self.bytes -= pending.bytes;
        for copy in &pending.live {
            if let Some(link) = self.links.get_mut(copy.link) {
                link.operations.remove(&copy.request_id);
            }
        }
        if let Some((key, _)) = pending.number {
            self.forget_session(key);
        }
        if self.opening == Some(id) {
            self.opening = None;
        } else {
            self.output.done.push((id, result));
        }
    }
}
