//! One connection: what it still has to send, and whether it may be read.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};

use super::half_frames::Unfinished;
use crate::ids::Micros;
use crate::limits::{
    CONNECTION_RECEIVE_BYTES, CONNECTION_REPLY_BYTES_KEPT, CONNECTION_REPLY_BYTES_MAX, CONNECTION_REQUEST_BYTES_MAX,
    CONNECTION_REQUESTS_MAX, CONNECTION_SEND_BYTES_MAX,
};
use crate::runtime::config::ClientLimits;
use crate::runtime::inbox::Bell;
use crate::runtime::spin;
use crate::wire::frame::Decoder;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Requests are received.
    Open,
    /// The client has closed its side. What it asked before is still answered.
    Finishing,
    /// We close it, once everything asked before is answered.
    Closing,
    /// The socket failed, or is cut off: nothing more can be sent.
    Broken,
}

/// What a client takes too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Hello,
    Frame,
    Reply,
    Idle,
}

pub(super) struct Connection {
    pub(super) state: State,
    /// Requests that the gateway has and has not answered, and the bytes they hold there.
    pub(super) waiting: usize,
    pub(super) waiting_bytes: usize,
    /// Set while requests are left unread for lack of room; whoever makes room rings the driver.
    pub(super) throttled: bool,
    /// Whether the connection is in the list of those to flush at the end of the turn.
    pub(super) dirty: bool,
    /// Whether it has rung patiently and not been visited since.
    pub(super) is_patient: bool,
    /// Until when it comes after those that ask for little.
    pub(super) greedy_until: Micros,
    /// What was received and is not a whole frame yet, or was not taken for lack of room.
    pub(super) unfinished: Unfinished,
    /// The point in time at which the store looks whether it is overdue.
    pub(super) look_at: Option<Micros>,
    /// Whether it was found overdue there, and has a last moment.
    pub(super) is_warned: bool,
    /// Whether a frame was ever taken. The first is a Hello, or the gateway closes the connection.
    has_spoken: bool,
    /// When it was accepted, or a frame was taken, or the last reply sent.
    active_at: Micros,
    /// When the first byte of a frame came that is still not whole.
    frame_since: Option<Micros>,
    /// Since when replies wait without the client taking any.
    reply_since: Option<Micros>,
    /// Whether there is something to receive that the executor does not know of yet.
    has_bytes: bool,
    stream: TcpStream,
    bell: Bell,
    /// Replies; those before `sent` are with the kernel.
    replies: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(super) fn new(now: Micros, stream: TcpStream, bell: Bell) -> Connection {
        Connection {
            state: State::Open,
            waiting: 0,
            waiting_bytes: 0,
            throttled: false,
            dirty: false,
            is_patient: false,
            greedy_until: Micros(0),
            unfinished: Unfinished::Nothing,
            look_at: None,
            is_warned: false,
            has_spoken: false,
            active_at: now,
            frame_since: None,
            reply_since: None,
            has_bytes: false,
            stream,
            bell,
            replies: Vec::new(),
            sent: 0,
        }
    }

    /// Bytes of replies that wait to be sent.
    pub(super) fn reply_bytes(&self) -> usize {
        self.replies.len() - self.sent
    }

    /// Whether a further request may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < CONNECTION_REQUESTS_MAX
            && self.waiting_bytes < CONNECTION_REQUEST_BYTES_MAX
            && self.reply_bytes() < CONNECTION_REPLY_BYTES_MAX
    }

    /// When the client will have taken too long, unless something happens, and for what.
    pub(super) fn overdue_at(&self, limits: &ClientLimits) -> Option<(Micros, Overdue)> {
        let is_open = self.state == State::Open;
        let frame = self.frame_since.filter(|_| is_open);
        let owes_nothing = self.waiting == 0 && frame.is_none() && self.reply_since.is_none();
        let silence = match (is_open, self.has_spoken) {
            (true, false) => Some((self.active_at.plus(limits.hello_micros), Overdue::Hello)),
            (true, true) if owes_nothing => limits.idle_micros.map(|idle| (self.active_at.plus(idle), Overdue::Idle)),
            _ => None,
        };
        let frame = frame.map(|since| (since.plus(limits.frame_micros), Overdue::Frame));
        let reply = self.reply_since.map(|since| (since.plus(limits.reply_micros), Overdue::Reply));
        [silence, frame, reply].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// How long what is unfinished has been so: since the first byte of a half frame, or since the last frame was taken if
    /// there was no room for more.
    pub(super) fn unfinished_since(&self) -> Micros {
        self.frame_since.unwrap_or(self.active_at)
    }

    /// A frame was taken, and holds so many bytes until it is answered.
    pub(super) fn frame_taken(&mut self, now: Micros, held: usize) {
        self.waiting_bytes += held;
        self.has_spoken = true;
        self.active_at = now;
        self.frame_since = None;
    }

    /// There are no further frames now; there may be part of one.
    pub(super) fn no_frame_left(&mut self, now: Micros, is_part_left: bool) {
        self.frame_since = is_part_left.then(|| self.frame_since.unwrap_or(now));
    }

    /// There is no room for further frames, so the client is not late with anything it could send.
    pub(super) fn throttle(&mut self) {
        self.throttled = true;
        self.frame_since = None;
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Finishing | State::Closing => self.waiting == 0 && self.reply_bytes() == 0,
            State::Broken => true,
        }
    }

    /// Where replies are appended.
    pub(super) fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Waits until there is something to receive: at first looking again and again, then asleep. Whether there is.
    pub(super) fn await_bytes(&mut self, longest_spin: Duration, sleep: Duration) -> bool {
        let begun = Instant::now();
        let mut spins = spin::is_allowed();
        self.has_bytes = loop {
            let is_spinning = spins && begun.elapsed() < longest_spin;
            let patience = if is_spinning { Duration::ZERO } else { sleep };
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
            let mut polled = [PollFd::from_borrowed_fd(socket(&self.stream), PollFlags::IN)];
            if matches!(poll(&mut polled, Some(&timeout)), Ok(1..)) {
                break true;
            }
            if !is_spinning {
                break false;
            }
            spins = spin::give_way();
        };
        self.has_bytes
    }

    /// Receives once. False if there is nothing now; then the bell rings when there is.
    pub(super) fn receive(&mut self, decoder: &mut Decoder) -> bool {
        let space = decoder.space(CONNECTION_RECEIVE_BYTES);
        let received = if mem::take(&mut self.has_bytes) {
            Poll::Ready(
                recv(socket(&self.stream), space, RecvFlags::DONTWAIT).map(|(count, _)| count).map_err(io::Error::from),
            )
        } else {
            Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(self.bell.waker()), space)
        };
        match received {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.state = State::Finishing,
            Poll::Ready(Ok(count)) => decoder.filled(count),
            Poll::Ready(Err(error)) if is_momentary(&error) => {}
            Poll::Ready(Err(_)) => self.state = State::Broken,
        }
        true
    }

    /// Sends what the kernel takes now, up to [`CONNECTION_SEND_BYTES_MAX`]. False if there is more that it might take; otherwise
    /// the bell rings when it takes more.
    pub(super) fn send(&mut self, now: Micros) -> bool {
        let waiting = self.reply_bytes();
        let mut left = waiting.min(CONNECTION_SEND_BYTES_MAX);
        while left > 0 && self.state != State::Broken {
            let context = &mut Context::from_waker(self.bell.waker());
            match Pin::new(&mut self.stream).poll_write(context, &self.replies[self.sent..][..left]) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    self.sent += count;
                    left -= count;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => self.state = State::Broken,
            }
        }
        if self.reply_bytes() == 0 {
            self.active_at = if waiting > 0 { now } else { self.active_at };
            self.reply_since = None;
        } else if self.reply_bytes() < waiting || self.reply_since.is_none() {
            self.reply_since = Some(now);
        }
        self.forget_sent();
        left > 0 || self.reply_bytes() == 0
    }

    /// Gives memory back: all of it when everything is sent, and at other times so that each byte is moved about once.
    fn forget_sent(&mut self) {
        if self.sent == self.replies.len() {
            self.replies.clear();
            self.replies.shrink_to(CONNECTION_REPLY_BYTES_KEPT);
            self.sent = 0;
        } else if self.sent > self.replies.len() / 2 {
            self.replies.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// The socket alone; the bell is silent from now on.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// Whether to try again is all there is to do about an error. (Without bytes the next try asks the executor.)
fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn socket(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the stream's own, which keeps it open for as long as it lives; and it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
