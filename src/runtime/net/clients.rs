//! All connections of a store, as the driver sees them.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_lite::future::or;
use futures_lite::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::net::TcpStream;

use super::connection::{Connection, Overdue, State};
use super::half_frames::{HalfFrames, Reception, Unfinished};
use crate::engine::gateway::{ConnectionId, Gateway, ReplyFrame};
use crate::error::ErrorCode;
use crate::ids::Micros;
use crate::limits::{
    LINGER_MICROS_MAX, LINGERING_CONNECTIONS_MAX, MODEST_MICROS, OVERDUE_GRACE_MICROS, REPLY_BYTES_AT_ONCE,
    REQUEST_BYTES_MAX, SOLE_CLIENT_SPIN_MICROS_MAX, SOLE_CLIENT_WAIT_MICROS_MAX, STORE_REPLY_BYTES_MAX, TURN_BYTES_MAX,
    TURN_INPUTS_MAX, TURN_OVERDUE_MAX, VISIT_BYTES_MAX, VISIT_INPUTS_MAX,
};
use crate::runtime::config::ClientLimits;
use crate::runtime::executors::cede;
use crate::runtime::inbox::{Inbox, Source};
use crate::wire::client::Encoder;
use crate::wire::frame::{Decoder, FrameError};

/// What a turn may still take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    inputs: usize,
    bytes: usize,
}

impl Allowance {
    /// A whole turn's.
    #[must_use]
    pub fn of_a_turn() -> Allowance {
        Allowance { inputs: TURN_INPUTS_MAX, bytes: TURN_BYTES_MAX }
    }

    /// Whether one more input may be taken.
    #[must_use]
    pub fn is_left(self) -> bool {
        self.inputs > 0 && self.bytes > 0
    }

    /// As much as is left, and a visit's share at least.
    #[must_use]
    pub fn or_a_share(self) -> Allowance {
        Allowance { inputs: self.inputs.max(VISIT_INPUTS_MAX), bytes: self.bytes.max(VISIT_BYTES_MAX) }
    }

    /// What one connection may take of it before others have their turn.
    fn share(self) -> Allowance {
        Allowance { inputs: self.inputs.min(VISIT_INPUTS_MAX), bytes: self.bytes.min(VISIT_BYTES_MAX) }
    }

    /// Takes what is no longer `left` of a share.
    fn settle(&mut self, share: Allowance, left: Allowance) {
        self.inputs -= share.inputs - left.inputs;
        self.bytes -= share.bytes - left.bytes;
    }

    /// Takes one input of so many bytes.
    pub fn spend(&mut self, bytes: usize) {
        self.inputs = self.inputs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What came of a visit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// Whether a request was taken.
    pub asked: bool,
    /// Whether that was little: no long reads, and no more than the connection's share of a turn.
    pub is_modest: bool,
}

/// A visit under way.
struct Intake {
    /// Of the connection's share.
    left: Allowance,
    visit: Visit,
}

/// The connections of one store.
pub struct Clients {
    inbox: Rc<Inbox>,
    limits: ClientLimits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections with replies to send at the end of the turn.
    dirty: Vec<ConnectionId>,
    /// When to look whether a connection is overdue, one entry for each that can be.
    looks: BTreeSet<(Micros, ConnectionId)>,
    reception: Reception,
    half_frames: HalfFrames,
    /// Over all connections.
    reply_bytes: usize,
    receiving: bool,
    lingering: Rc<Cell<usize>>,
}

/// A place for a connection. The generation tells it from those that had the place before.
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

impl Slot {
    fn id(&self, place: u32) -> ConnectionId {
        ConnectionId(u64::from(self.generation) << u32::BITS | u64::from(place))
    }
}

fn place_of(id: ConnectionId) -> usize {
    id.0 as u32 as usize
}

impl Clients {
    /// No connections yet. Their bells ring in `inbox`.
    #[must_use]
    pub fn new(inbox: Rc<Inbox>, limits: ClientLimits) -> Clients {
        Clients {
            inbox,
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            looks: BTreeSet::new(),
            reception: Reception::default(),
            half_frames: HalfFrames::default(),
            reply_bytes: 0,
            receiving: true,
            lingering: Rc::default(),
        }
    }

    /// Number of open connections.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether every reply is with the kernel.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.reply_bytes == 0
    }

    /// From now on only what has been received is served.
    pub fn stop_receiving(&mut self) {
        self.receiving = false;
    }

    /// Takes a new connection, or refuses it if there are too many.
    pub fn admit(&mut self, now: Micros, stream: TcpStream) {
        if self.count() >= self.limits.connections {
            return self.turn_away(stream);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, connection: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[place as usize];
        let id = slot.id(place);
        let bell = self.inbox.bell(move || Source::Connection(id));
        let connection = slot.connection.insert(Connection::new(now, stream, bell));
        look_in_time(&mut self.looks, &self.limits, id, connection);
    }

    /// Looks at a connection whose bell rang: sends what waits, receives, and hands requests to the gateway. A connection with
    /// more to do than its share rings again, patiently.
    pub fn visit(&mut self, now: Micros, id: ConnectionId, gateway: &mut Gateway, allowance: &mut Allowance) -> Visit {
        let Some(connection) = connection_mut(&mut self.slots, id) else { return Visit::default() };
        let before = connection.reply_bytes();
        let all_sent = connection.send(now);
        connection.throttled = false;
        connection.is_patient = false;
        let share = allowance.share();
        let mut intake = Intake { left: share, visit: Visit::default() };
        if connection.state == State::Open {
            let mut decoder = self.reception.resume(mem::take(&mut connection.unfinished));
            match take_requests(now, id, connection, &mut decoder, self.receiving, gateway, &mut intake) {
                Ok(()) if connection.state == State::Open => connection.unfinished = self.reception.suspend(decoder),
                Ok(()) => drop(decoder),
                // A decoder that failed stays failed: it may not read for anybody else.
                Err(error) => {
                    tracing::debug!(connection = id.0, %error, "a client broke the protocol");
                    connection.state = State::Closing;
                    gateway.frame_error(id, error.request_id(), error.code(), &error.to_string());
                }
            }
        }
        let Intake { left, mut visit } = intake;
        allowance.settle(share, left);
        let may_ask_more = connection.state == State::Open && !connection.throttled && !left.is_left();
        if may_ask_more || !all_sent {
            ring_patiently(&self.inbox, id, connection);
            visit.is_modest = false;
        }
        if visit.asked && !visit.is_modest {
            connection.greedy_until = now.plus(MODEST_MICROS);
        }
        self.reply_bytes = self.reply_bytes - before + connection.reply_bytes();
        self.half_frames.note(id, connection.unfinished_since(), &connection.unfinished);
        look_in_time(&mut self.looks, &self.limits, id, connection);
        mark_dirty(&mut self.dirty, id, connection);
        while let Some(oldest) = self.half_frames.oldest_in_excess() {
            let text = "the store holds too many bytes of unfinished frames, and yours is the oldest; try again later";
            self.close(oldest, ErrorCode::Overloaded, text, gateway);
        }
        visit
    }

    /// Puts a connection whose bell rang behind all others, if it asked for much a moment ago. False if it did not.
    pub fn put_off(&mut self, now: Micros, id: ConnectionId) -> bool {
        let Some(connection) = connection_mut(&mut self.slots, id) else { return false };
        let is_greedy = now < connection.greedy_until;
        if is_greedy {
            ring_patiently(&self.inbox, id, connection);
        }
        is_greedy
    }

    /// Waits for the next request on a connection, up to [`SOLE_CLIENT_WAIT_MICROS_MAX`], and rings if there is one. Sees nothing else.
    pub fn await_request(&mut self, id: ConnectionId) {
        const SPIN: Duration = Duration::from_micros(SOLE_CLIENT_SPIN_MICROS_MAX);
        const SLEEP: Duration = Duration::from_micros(SOLE_CLIENT_WAIT_MICROS_MAX - SOLE_CLIENT_SPIN_MICROS_MAX);
        let Some(connection) = connection_mut(&mut self.slots, id) else { return };
        let may_receive = self.receiving && connection.state == State::Open && !connection.throttled;
        if may_receive && connection.await_bytes(SPIN, SLEEP) {
            self.inbox.ring(Source::Connection(id));
        }
    }

    /// When to call [`end_overdue`](Clients::end_overdue).
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        self.looks.first().map(|&(look_at, _)| look_at)
    }

    /// Looks at the connections whose time has come, and ends those that have taken too long for something. Each is looked at
    /// twice: if it was this process that did not run for a while, what the client has sent meanwhile is still on its way here.
    pub fn end_overdue(&mut self, now: Micros, gateway: &mut Gateway) {
        for _ in 0..TURN_OVERDUE_MAX {
            let Some((look_at, id)) = self.looks.pop_first() else { return };
            if look_at > now {
                self.looks.insert((look_at, id));
                return;
            }
            let connection = connection_mut(&mut self.slots, id).expect("only connections that exist are looked at");
            connection.look_at = None;
            let Some((_, what)) = connection.overdue_at(&self.limits).filter(|(due, _)| *due <= now) else {
                connection.is_warned = false;
                look_in_time(&mut self.looks, &self.limits, id, connection);
                continue;
            };
            if !mem::replace(&mut connection.is_warned, true) {
                let again = now.plus(OVERDUE_GRACE_MICROS);
                connection.look_at = Some(again);
                self.looks.insert((again, id));
                continue;
            }
            tracing::debug!(connection = id.0, ?what, "a client took too long");
            match what {
                Overdue::Hello => self.close(id, ErrorCode::Malformed, "no Hello came in time", gateway),
                Overdue::Frame => self.close(id, ErrorCode::Malformed, "a frame did not become whole in time", gateway),
                // A client that does not take its replies would not take this one either.
                Overdue::Reply => connection.state = State::Broken,
                // Nothing is under way that an error could answer; the end of the stream says it.
                Overdue::Idle => connection.state = State::Closing,
            }
            if let Some(connection) = connection_mut(&mut self.slots, id) {
                mark_dirty(&mut self.dirty, id, connection);
            }
        }
    }

    /// Closes a connection with an error, for the unfinished request if that is known.
    fn close(&mut self, id: ConnectionId, code: ErrorCode, text: &str, gateway: &mut Gateway) {
        self.half_frames.forget(id);
        let Some(connection) = connection_mut(&mut self.slots, id) else { return };
        gateway.frame_error(id, Some(connection.unfinished.request_id().unwrap_or(0)), code, text);
        connection.state = State::Closing;
        connection.unfinished = Unfinished::Nothing;
    }

    /// Queues replies; they leave with [`flush`](Clients::flush).
    pub fn queue(&mut self, bytes: &[u8], frames: &[ReplyFrame]) {
        for frame in frames {
            // A connection that is gone wants no answer.
            let Some(connection) = connection_mut(&mut self.slots, frame.connection) else { continue };
            let reply = &bytes[frame.range.clone()];
            connection.waiting -= usize::from(frame.answers);
            connection.waiting_bytes -= frame.released;
            connection.replies().extend_from_slice(reply);
            self.reply_bytes += reply.len();
            if frame.close && connection.state == State::Open {
                connection.state = State::Closing;
                connection.unfinished = Unfinished::Nothing;
                self.half_frames.forget(frame.connection);
            }
            // Only who has much waiting is cut off, not whoever comes next.
            if self.reply_bytes > STORE_REPLY_BYTES_MAX && connection.reply_bytes() > REQUEST_BYTES_MAX {
                tracing::warn!(connection = frame.connection.0, "cut off: too many bytes of replies wait for clients");
                connection.state = State::Broken;
            }
            mark_dirty(&mut self.dirty, frame.connection, connection);
        }
    }

    /// Sends each connection its replies of this turn, and ends the connections that are over. In a hurry, those with much to
    /// send ring patiently instead.
    pub fn flush(&mut self, now: Micros, in_a_hurry: bool, gateway: &mut Gateway) {
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(connection) = connection_mut(&mut self.slots, id) else { continue };
            connection.dirty = false;
            let before = connection.reply_bytes();
            let waits = in_a_hurry && before > REPLY_BYTES_AT_ONCE && connection.state != State::Broken;
            if waits || !connection.send(now) {
                ring_patiently(&self.inbox, id, connection);
            }
            self.reply_bytes -= before - connection.reply_bytes();
            if connection.is_over() {
                self.end(id, gateway);
                continue;
            }
            look_in_time(&mut self.looks, &self.limits, id, connection);
            if connection.throttled && connection.has_room() {
                connection.throttled = false;
                ring_patiently(&self.inbox, id, connection);
            }
        }
        self.dirty = dirty;
    }

    /// Frees the place of a connection that is over.
    fn end(&mut self, id: ConnectionId, gateway: &mut Gateway) {
        let slot = &mut self.slots[place_of(id)];
        let Some(connection) = slot.connection.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(place_of(id) as u32);
        self.reply_bytes -= connection.reply_bytes();
        self.half_frames.forget(id);
        if let Some(look_at) = connection.look_at {
            self.looks.remove(&(look_at, id));
        }
        gateway.disconnect(id);
        if connection.state == State::Closing {
            self.linger(connection.into_stream());
        }
    }

    /// Refuses a connection with a reply that says why.
    fn turn_away(&mut self, mut stream: TcpStream) {
        let mut reply = Vec::new();
        let text = "this store has as many connections as it can; connect to another one, or try again later";
        Encoder::new().error(&mut reply, 0, ErrorCode::Overloaded, text);
        // A new socket's buffer has room for it; if not, there is nothing more to be done for this client.
        let _ = Pin::new(&mut stream).poll_write(&mut Context::from_waker(Waker::noop()), &reply);
        self.linger(stream);
    }

    /// Closes our side, and waits a moment for the client to read what was sent and to close its own.
    fn linger(&self, mut stream: TcpStream) {
        let lingering = self.lingering.clone();
        if lingering.get() >= LINGERING_CONNECTIONS_MAX {
            return;
        }
        lingering.set(lingering.get() + 1);
        glommio::spawn_local(async move {
            let discard = async {
                let _ = stream.close().await;
                let mut discarded = [0; 4_096];
                while matches!(stream.read(&mut discarded).await, Ok(1..)) {
                    cede().await;
                }
            };
            or(discard, async { glommio::timer::sleep(Duration::from_micros(LINGER_MICROS_MAX)).await }).await;
            lingering.set(lingering.get() - 1);
        })
        .detach();
    }
}

/// Hands requests to the gateway until there are none, or no room for one, or the allowance is used up.
fn take_requests(
    now: Micros,
    id: ConnectionId,
    connection: &mut Connection,
    decoder: &mut Decoder,
    receiving: bool,
    gateway: &mut Gateway,
    intake: &mut Intake,
) -> Result<(), FrameError> {
    while connection.state == State::Open && intake.left.is_left() {
        if !connection.has_room() {
            connection.throttle();
            break;
        }
        if let Some(frame) = decoder.next_frame()? {
            connection.waiting += 1;
            let taken = gateway.request(now, id, frame);
            connection.frame_taken(now, taken.held);
            intake.left.spend(taken.bytes);
            intake.visit.asked = true;
            intake.visit.is_modest |= !taken.is_long;
            if taken.close {
                connection.state = State::Closing;
            }
        } else if !receiving || !connection.receive(decoder) {
            connection.no_frame_left(now, !decoder.is_empty());
            break;
        }
    }
    Ok(())
}

fn connection_mut(slots: &mut [Slot], id: ConnectionId) -> Option<&mut Connection> {
    let place = place_of(id);
    let slot = slots.get_mut(place)?;
    if slot.id(place as u32) == id { slot.connection.as_mut() } else { None }
}

/// Makes sure that the connection is looked at when it is overdue, at the latest.
fn look_in_time(
    looks: &mut BTreeSet<(Micros, ConnectionId)>,
    limits: &ClientLimits,
    id: ConnectionId,
    connection: &mut Connection,
) {
    let Some((due, _)) = connection.overdue_at(limits) else { return };
    if connection.look_at.is_none_or(|look_at| due < look_at) {
        if let Some(look_at) = connection.look_at.replace(due) {
            looks.remove(&(look_at, id));
        }
        looks.insert((due, id));
    }
}

/// Has a connection visited once more, after all others.
fn ring_patiently(inbox: &Inbox, id: ConnectionId, connection: &mut Connection) {
    if !mem::replace(&mut connection.is_patient, true) {
        inbox.ring_patiently(Source::Connection(id));
    }
}

fn mark_dirty(dirty: &mut Vec<ConnectionId>, id: ConnectionId, connection: &mut Connection) {
    let worth = connection.reply_bytes() > 0 || connection.is_over();
    if worth && !mem::replace(&mut connection.dirty, true) {
        dirty.push(id);
    }
}
