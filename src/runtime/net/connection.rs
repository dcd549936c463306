//! One connection: what it still has to send, and whether it may be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::limits::{
    CONNECTION_RECEIVE_BYTES, CONNECTION_REPLY_BYTES_KEPT, CONNECTION_REPLY_BYTES_MAX, CONNECTION_REQUESTS_MAX,
};
use crate::runtime::inbox::Bell;
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

pub(super) struct Connection {
    pub(super) state: State,
    /// Requests that the gateway has and has not answered.
    pub(super) waiting: usize,
    /// Set while requests are left unread for lack of room; whoever makes room rings the driver.
    pub(super) throttled: bool,
    /// Whether the connection is in the list of those to flush at the end of the turn.
    pub(super) dirty: bool,
    /// Bytes that were received and are not yet a whole frame, or were not taken for lack of room.
    pub(super) received: Option<Decoder>,
    stream: TcpStream,
    bell: Bell,
    /// Replies; those before `sent` are with the kernel.
    replies: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, bell: Bell) -> Connection {
        Connection {
            state: State::Open,
            waiting: 0,
            throttled: false,
            dirty: false,
            received: None,
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
        self.waiting < CONNECTION_REQUESTS_MAX && self.reply_bytes() < CONNECTION_REPLY_BYTES_MAX
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

    /// Receives once. False if there is nothing now; then the bell rings when there is.
    pub(super) fn receive(&mut self, decoder: &mut Decoder) -> bool {
        let context = &mut Context::from_waker(self.bell.waker());
        match Pin::new(&mut self.stream).poll_read(context, decoder.space(CONNECTION_RECEIVE_BYTES)) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.state = State::Finishing,
            Poll::Ready(Ok(count)) => decoder.filled(count),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(_)) => self.state = State::Broken,
        }
        true
    }

    /// Sends what the kernel takes now; the bell rings when it takes more.
    pub(super) fn send(&mut self) {
        while self.reply_bytes() > 0 && self.state != State::Broken {
            let context = &mut Context::from_waker(self.bell.waker());
            match Pin::new(&mut self.stream).poll_write(context, &self.replies[self.sent..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => self.state = State::Broken,
            }
        }
        self.forget_sent();
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
