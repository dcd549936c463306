//! What comes in: bytes of a link, replies, and what each means for the operation that waits for it.
//!
//! A reply that does not fit its request, or answers none, ends its link: the two sides do not understand each other. So does what no
//! honest server says: a session that was handed out before, a number near the end of all numbers.

use super::numbers::Numbers;
use super::operation::{Copy, Request, Stage};
use super::verdict::Verdict;
use super::{Answer, Client, Delivery, LinkId, Named, OpId, SessionKey};
use crate::client::ClientError;
use crate::client::resolved::Resolved;
use crate::error::ErrorCode;
use crate::ids::{Micros, Sequence};
use crate::limits::CLIENT_SESSION_MICROS_MIN;
use crate::wire::client::{IncrementReply, Opened, Reply};

/// Numbers of a session, at most: far more than can ever be used, and far from where counting on would end.
const SEQUENCE_MAX: u64 = 1 << 62;

impl Client {
    /// Bytes have come.
    pub(super) fn receive(&mut self, now: Micros, id: LinkId, count: usize) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.heard = now;
        let mut result = link.pipeline.note_read(count);
        while let Some((request_id, reply)) = self.links.get_mut(id).and_then(|link| link.pipeline.take_reply(None)) {
            if let Err(reason) = self.reply(now, id, request_id, reply) {
                result = Err(reason);
                break;
            }
        }
        if let Err(reason) = result {
            self.break_link(now, id, &reason, true);
        }
    }

    /// # Errors
    /// Why the link is of no use.
    fn reply(&mut self, now: Micros, link_id: LinkId, request_id: u64, reply: Reply) -> Result<(), String> {
        let Some(link) = self.links.get_mut(link_id) else { return Ok(()) };
        if link.greeting == Some(request_id) {
            return match reply {
                Reply::Welcome(welcome) => self.links.welcomed(link_id, welcome),
                Reply::Error { code, text } => Err(format!("refused with {code:?}: {text}")),
                _ => Err("an answer to Hello that is no welcome".to_owned()),
            };
        }
        // Nobody may wait for it any more.
        let Some(id) = link.operations.remove(&request_id) else { return Ok(()) };
        self.links.note_service(link_id);
        let Some(pending) = self.operations.get_mut(&id) else { return Ok(()) };
        let place = pending.live.iter().position(|copy| (copy.link, copy.request_id) == (link_id, request_id));
        let Some(copy) = place.map(|place| pending.live.remove(place)) else { return Ok(()) };
        if let Reply::Error { code: ErrorCode::WrongShard, .. } = reply {
            self.links.ask_for_map(link_id);
        }
        match reply {
            Reply::Increment(reply) => {
                self.incremented(now, link_id, id, reply);
                Ok(())
            }
            Reply::Error { code, text } => {
                self.refused(now, id, code, text);
                Ok(())
            }
            reply => self.read(now, id, copy, reply),
        }
    }

    fn incremented(&mut self, now: Micros, link: LinkId, id: OpId, reply: IncrementReply) {
        if reply.outcomes.contains(&(ErrorCode::WrongShard as u8)) {
            self.links.ask_for_map(link);
        }
        let Some(pending) = self.operations.get_mut(&id) else { return };
        let over = reply.outcomes.iter().filter_map(|outcome| ErrorCode::from_u8(*outcome)).find(ends_session);
        let verdict = pending.copies.answered(reply);
        if let Some(code) = over {
            self.note_session_over(id, code);
        }
        self.judge(now, id, verdict);
    }

    /// A request was refused as a whole.
    fn refused(&mut self, now: Micros, id: OpId, code: ErrorCode, text: String) {
        let Some(pending) = self.operations.get_mut(&id) else { return };
        match &pending.request {
            Request::Increment { .. } => {
                let verdict = pending.copies.refused(code, text);
                if ends_session(&code) {
                    self.note_session_over(id, code);
                }
                self.judge(now, id, verdict);
            }
            Request::OpenSession => {
                self.opening_refusal = Some((code, text));
                if code.is_transient() {
                    self.back_off(now, id);
                } else {
                    self.end(id, Ok(Answer::Connected));
                    self.refuse_unnumbered();
                }
            }
            _ if code.is_transient() => {
                pending.refusal = Some((code, text));
                self.back_off(now, id);
            }
            _ => self.end(id, Err(ClientError::from_code(code, text, 0))),
        }
    }

    /// No session can be had: what waits for a number in one is refused, unless the one in use goes on.
    fn refuse_unnumbered(&mut self) {
        if self.current.is_some() {
            return;
        }
        for id in std::mem::take(&mut self.unnumbered) {
            self.end_increment(id, Verdict::Unreachable);
        }
    }

    /// The session of an operation is over, or no longer ours.
    fn note_session_over(&mut self, id: OpId, code: ErrorCode) {
        let Some((key, _)) = self.operations.get(&id).and_then(|pending| pending.number) else { return };
        self.retire(key);
        if self.named == Some(key) && code != ErrorCode::SessionExpired {
            self.named = None;
        }
    }

    fn judge(&mut self, now: Micros, id: OpId, verdict: Verdict) {
        let Some(pending) = self.operations.get_mut(&id) else { return };
        match (verdict, pending.delivery()) {
            (Verdict::Again, Some(Delivery::AtMostOnce)) => {
                let verdict = pending.copies.end();
                self.end_increment(id, verdict);
            }
            (Verdict::Again, _) => self.back_off(now, id),
            (Verdict::Expired, Some(Delivery::ExactlyOnce)) => self.renumber(id),
            (Verdict::Expired, _) => {
                let code = ErrorCode::SessionExpired;
                self.end_increment(id, Verdict::Refused(code, code.advice().to_owned()));
            }
            (verdict, _) => self.end_increment(id, verdict),
        }
    }

    /// A request was not applied and its session is over: it waits for a number in the next one.
    fn renumber(&mut self, id: OpId) {
        let Some(pending) = self.operations.get_mut(&id) else { return };
        if let Some((key, number)) = pending.number.take()
            && let Some(numbers) = self.sessions.get_mut(&key)
        {
            numbers.answer(number);
            pending.attempts = 0;
            pending.copies = super::verdict::Copies::default();
            pending.stage = Stage::Unnumbered;
            self.unnumbered.push_front(id);
            self.retire(key);
        }
    }

    /// An answer to what is not an increment.
    fn read(&mut self, now: Micros, id: OpId, copy: Copy, reply: Reply) -> Result<(), String> {
        let Some(pending) = self.operations.get_mut(&id) else { return Ok(()) };
        let answer = match (reply, &pending.request) {
            (Reply::Get(reply), _) => Answer::Counts(reply),
            (Reply::TopK(reply), _) => Answer::Top(reply),
            (Reply::Scan(reply), _) => Answer::Scanned(reply),
            (Reply::Status(status), _) => Answer::Status(status),
            (Reply::Resolve(reply), Request::Resolve { id, .. }) => Answer::Resolved(Resolved::new(id, reply)),
            (Reply::CloseSession, _) => {
                if let Some(key) = self.named.take() {
                    self.retire(key);
                }
                Answer::Closed
            }
            (Reply::OpenSession(opened), _) => return self.opened(now, id, copy, opened),
            (Reply::AttachSession(reply), &Request::Attach { opened, rotate_at }) => {
                let settled = opened.progress.max(reply.floor);
                return self.install_named(now, id, &opened, settled, reply.reached, rotate_at);
            }
            _ => return Err("a reply of another kind".to_owned()),
        };
        self.end(id, Ok(answer));
        Ok(())
    }

    /// A session was opened. Whatever asked for it a second time opened another, which nobody uses.
    fn opened(&mut self, now: Micros, id: OpId, copy: Copy, opened: Opened) -> Result<(), String> {
        // From when it was asked for, so it cannot have begun to age before.
        let rotate_at = copy.sent.plus((opened.age_micros_max / 2).max(CLIENT_SESSION_MICROS_MIN));
        let Some(pending) = self.operations.get_mut(&id) else { return Ok(()) };
        let named = matches!(pending.request, Request::OpenNamed { .. });
        let session = opened.credentials.session;
        if !named {
            if session <= self.newest || opened.resumed || opened.progress != Sequence(0) {
                self.requeue(now, id);
                return Err(format!("session {session} was handed out before"));
            }
            self.newest = session;
            self.opening_refusal = None;
            if let Some(before) = self.current.take() {
                self.retire(before);
            }
            self.current = Some(self.install(Numbers::new(opened.credentials, Sequence(0), rotate_at)));
            self.end(id, Ok(Answer::Connected));
            return Ok(());
        }
        if !opened.resumed {
            return self.install_named(now, id, &opened, opened.progress, opened.progress, rotate_at);
        }
        pending.request = Request::Attach { opened, rotate_at };
        pending.attempts = 0;
        self.drop_copies(id);
        self.requeue(now, id);
        Ok(())
    }

    fn install_named(
        &mut self,
        now: Micros,
        id: OpId,
        opened: &Opened,
        settled: Sequence,
        reached: Sequence,
        rotate_at: Micros,
    ) -> Result<(), String> {
        if settled.0.max(reached.0) > SEQUENCE_MAX {
            self.requeue(now, id);
            return Err(format!("a session that is settled up to {settled}"));
        }
        let before = self.named.take();
        if let Some(before) = before {
            self.retire(before);
        }
        let mut numbers = Numbers::new(opened.credentials, settled, rotate_at);
        numbers.reached = reached;
        self.named = Some(self.install(numbers));
        let named = Named {
            session: opened.credentials.session,
            settled,
            reached: reached.max(settled),
            resumed: opened.resumed,
        };
        self.end(id, Ok(Answer::Opened(named)));
        Ok(())
    }

    fn install(&mut self, numbers: Numbers) -> SessionKey {
        self.last_session.0 += 1;
        self.sessions.insert(self.last_session, numbers);
        self.last_session
    }

    /// An answer was of no use: asks again.
    fn requeue(&mut self, now: Micros, id: OpId) {
        if self.operations.get(&id).is_some_and(|pending| pending.live.is_empty()) {
            self.back_off(now, id);
        }
    }

    /// Other copies of what an operation asked before are of no interest any more.
    fn drop_copies(&mut self, id: OpId) {
        let live = self.operations.get_mut(&id).map(|pending| std::mem::take(&mut pending.live));
        for copy in live.into_iter().flatten() {
            if let Some(link) = self.links.get_mut(copy.link) {
                link.operations.remove(&copy.request_id);
            }
        }
    }
}

/// Whether a refusal says that nothing more can be done under the session.
fn ends_session(code: &ErrorCode) -> bool {
    matches!(code, ErrorCode::SessionExpired | ErrorCode::SessionTaken | ErrorCode::BadSession)
}
