//! Many requests under way on one connection, without I/O: which bytes to send, what each reply answers.
//!
//! Replies may overtake each other. Each is matched by its request id, and has to be of the kind and the size that
//! the request asks for; anything else means that the two sides no longer understand each other, and ends the
//! connection.

use super::batch::Batch;
use crate::engine::part::PackedKeys;
use crate::limits::{CLIENT_READ_BYTES, REPLY_BYTES_MAX};
use crate::wire::client::{Encoder, Hello, Reply, ScanRequest, decode_reply};
use crate::wire::frame::Decoder;
use std::collections::{BTreeMap, VecDeque};

/// What the answer to a request has to look like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    Welcome,
    Increments { count: usize, values: bool },
    Counts { count: usize },
    Top { k: u32 },
    Piece(ScanRequest),
    Status,
    Session,
    Attachment,
    Closing,
    Resolution,
}

impl Expected {
    fn fits(self, reply: &Reply) -> bool {
        match (self, reply) {
            (_, Reply::Error { .. })
            | (Expected::Welcome, Reply::Welcome(_))
            | (Expected::Status, Reply::Status(_))
            | (Expected::Session, Reply::OpenSession(_))
            | (Expected::Attachment, Reply::AttachSession(_))
            | (Expected::Closing, Reply::CloseSession)
            | (Expected::Resolution, Reply::Resolve(_)) => true,
            (Expected::Increments { count, values }, Reply::Increment(reply)) => {
                reply.len() == count && reply.values.len() == if values { count } else { 0 }
            }
            (Expected::Counts { count }, Reply::Get(reply)) => reply.counts.len() == count,
            (Expected::Top { k }, Reply::TopK(reply)) => reply.keys.len() <= k as usize,
            (Expected::Piece(asked), Reply::Scan(reply)) => reply.shard == asked.shard,
            _ => false,
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
struct Waiting {
    expected: Expected,
    /// Where its frame ends in the stream of all bytes ever sent. Before all of them are, no server can act on it.
    end: u64,
}

/// The state of a connection. The shell sends [`unsent`](Self::unsent), reads into [`space`](Self::space), and takes
/// replies.
#[derive(Debug)]
pub(super) struct Pipeline {
    encoder: Encoder,
    decoder: Decoder,
    /// Encoded requests; `out[..out_sent]` are sent.
    out: Vec<u8>,
    out_sent: usize,
    /// Bytes sent since the connection began.
    sent: u64,
    last_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    replies: VecDeque<(u64, Reply)>,
}

impl Pipeline {
    pub(super) fn new() -> Pipeline {
        Pipeline {
            encoder: Encoder::new(),
            decoder: Decoder::new(REPLY_BYTES_MAX),
            out: Vec::new(),
            out_sent: 0,
            sent: 0,
            last_id: 0,
            waiting: BTreeMap::new(),
            replies: VecDeque::new(),
        }
    }

    pub(super) fn hello(&mut self, hello: &Hello<'_>) -> u64 {
        self.request(Expected::Welcome, |encoder, out, id| encoder.hello(out, id, hello))
    }

    pub(super) fn increment(&mut self, batch: &Batch, want_values: bool) -> u64 {
        let expected = Expected::Increments { count: batch.len(), values: want_values };
        self.request(expected, |encoder, out, id| {
            encoder.increment(out, id, batch.keys(), batch.deltas(), want_values, None);
        })
    }

    pub(super) fn get(&mut self, keys: &PackedKeys) -> u64 {
        self.request(Expected::Counts { count: keys.len() }, |encoder, out, id| encoder.get(out, id, keys))
    }

    pub(super) fn top_k(&mut self, k: u32) -> u64 {
        self.request(Expected::Top { k }, |encoder, out, id| encoder.top_k(out, id, k))
    }

    pub(super) fn status(&mut self) -> u64 {
        self.request(Expected::Status, Encoder::status)
    }

    /// Appends a request, whatever it is, and returns its id.
    pub(super) fn request(&mut self, expected: Expected, write: impl FnOnce(&mut Encoder, &mut Vec<u8>, u64)) -> u64 {
        self.last_id += 1;
        // Bytes that are sent go when they are most of the buffer: it stays bounded by what is unsent, even if that never ends.
        if self.out_sent > self.out.len() / 2 {
            self.out.drain(..self.out_sent);
            self.out_sent = 0;
        }
        write(&mut self.encoder, &mut self.out, self.last_id);
        let end = self.sent + self.unsent().len() as u64;
        self.waiting.insert(self.last_id, Waiting { expected, end });
        self.last_id
    }

    /// The bytes to send next.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.out_sent..]
    }

    /// Says that so many of the [`unsent`](Self::unsent) bytes were sent.
    pub(super) fn note_sent(&mut self, count: usize) {
        self.out_sent += count;
        self.sent += count as u64;
        if self.out_sent == self.out.len() {
            self.out.clear();
            self.out_sent = 0;
        }
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.decoder.space(CLIENT_READ_BYTES)
    }

    /// Says that so many bytes were read into [`space`](Self::space), and takes in the replies among them.
    ///
    /// # Errors
    /// The rule that the server broke, or its reason to end the connection. Nothing further can be read.
    pub(super) fn note_read(&mut self, count: usize) -> Result<(), String> {
        self.decoder.filled(count);
        while let Some(frame) = self.decoder.next_frame().map_err(|error| error.to_string())? {
            let reply = decode_reply(frame.kind, frame.payload).map_err(|error| error.text)?;
            let Some(waiting) = self.waiting.get(&frame.request_id) else {
                return Err(match reply {
                    Reply::Error { code, text } => format!("the server ends the connection with {code:?}: {text}"),
                    _ => format!("a reply to request {}, which is not under way", frame.request_id),
                });
            };
            if !waiting.expected.fits(&reply) {
                return Err(format!("the reply to request {} does not fit the request", frame.request_id));
            }
            self.waiting.remove(&frame.request_id);
            self.replies.push_back((frame.request_id, reply));
        }
        Ok(())
    }

    /// The oldest reply that was not yet taken, or only that to a certain request.
    pub(super) fn take_reply(&mut self, request_id: Option<u64>) -> Option<(u64, Reply)> {
        let place = match request_id {
            None => 0,
            Some(request_id) => self.replies.iter().position(|(id, _)| *id == request_id)?,
        };
        self.replies.remove(place)
    }

    /// Requests whose reply was not yet taken.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len() + self.replies.len()
    }

    /// Whether a reply may still come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Requests whose reply may still come.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a server may have received a request that it has not answered: all of its bytes were sent.
    pub(super) fn has_left(&self, request_id: u64) -> bool {
        self.waiting.get(&request_id).is_some_and(|waiting| waiting.end <= self.sent)
    }

    /// Increments that a server may have received and has not answered.
    pub(super) fn unknown_increments(&self) -> u64 {
        let increments = |waiting: &Waiting| match waiting.expected {
            Expected::Increments { count, .. } if waiting.end <= self.sent => count as u64,
            _ => 0,
        };
        self.waiting.values().map(increments).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::limits::REQUEST_BYTES_MAX;
    use crate::wire::client::{GetReply, IncrementReply, Part, TopKReply};

    fn batch(count: usize) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..count {
            batch.push(b"key", 1).expect("fits");
        }
        batch
    }

    fn increments(count: u32) -> IncrementReply {
        IncrementReply { parts: vec![Part { keys: count, ..Part::default() }], ..IncrementReply::default() }
    }

    /// Lets a server answer.
    fn answer(pipeline: &mut Pipeline, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<(), String> {
        let mut bytes = Vec::new();
        write(&mut Encoder::new(), &mut bytes);
        pipeline.space()[..bytes.len()].copy_from_slice(&bytes);
        pipeline.note_read(bytes.len())
    }

    fn send_all(pipeline: &mut Pipeline) {
        pipeline.note_sent(pipeline.unsent().len());
    }

    #[test]
    fn replies_may_overtake_each_other() {
        let mut pipeline = Pipeline::new();
        let (first, second) = (pipeline.increment(&batch(2), false), pipeline.increment(&batch(3), false));
        let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
        let bytes = pipeline.unsent();
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        assert_eq!(decoder.next_frame().expect("intact").expect("complete").request_id, first);
        assert_eq!(decoder.next_frame().expect("intact").expect("complete").request_id, second);
        send_all(&mut pipeline);

        assert_eq!(answer(&mut pipeline, |e, out| e.increment_reply(out, second, &increments(3))), Ok(()));
        assert_eq!(answer(&mut pipeline, |e, out| e.increment_reply(out, first, &increments(2))), Ok(()));
        assert_eq!(pipeline.in_flight(), 2);
        assert!(!pipeline.is_waiting());
        assert_eq!(pipeline.take_reply(Some(first)), Some((first, Reply::Increment(increments(2)))));
        assert_eq!(pipeline.take_reply(Some(first)), None);
        assert_eq!(pipeline.take_reply(None), Some((second, Reply::Increment(increments(3)))));
        assert_eq!(pipeline.in_flight(), 0);
    }

    #[test]
    fn replies_that_do_not_fit_are_refused() {
        let refused = |write: fn(&mut Encoder, &mut Vec<u8>)| {
            let mut pipeline = Pipeline::new();
            assert_eq!(pipeline.increment(&batch(2), false), 1);
            assert_eq!(pipeline.top_k(5), 2);
            assert_eq!(pipeline.increment(&batch(1), true), 3);
            send_all(&mut pipeline);
            answer(&mut pipeline, write).is_err()
        };
        assert!(refused(|e, out| e.increment_reply(out, 1, &increments(3))), "too many");
        assert!(refused(|e, out| e.increment_reply(out, 2, &increments(2))), "of another kind");
        assert!(refused(|e, out| e.increment_reply(out, 3, &increments(1))), "without the values asked for");
        assert!(refused(|e, out| e.increment_reply(out, 4, &increments(2))), "to no request");
        assert!(refused(|e, out| e.get_reply(out, 1, &GetReply::default())), "of another kind");
        assert!(refused(|e, out| e.error(out, 0, ErrorCode::ShuttingDown, "bye")), "the end of the connection");
        assert!(!refused(|e, out| e.top_k_reply(out, 2, &TopKReply::default())));
        assert!(!refused(|e, out| e.error(out, 1, ErrorCode::DiskFull, "")));
    }

    #[test]
    fn only_increments_that_left_completely_are_unknown() {
        let mut pipeline = Pipeline::new();
        pipeline.get(batch(1).keys());
        pipeline.increment(&batch(2), false);
        let both = pipeline.unsent().len();
        let third = pipeline.increment(&batch(30), false);
        pipeline.note_sent(both - 1);
        assert_eq!(pipeline.unknown_increments(), 0);
        pipeline.note_sent(1);
        assert_eq!(pipeline.unknown_increments(), 2);
        send_all(&mut pipeline);
        assert_eq!(pipeline.unknown_increments(), 32);
        assert!(pipeline.unsent().is_empty());
        assert_eq!(answer(&mut pipeline, |e, out| e.increment_reply(out, third, &increments(30))), Ok(()));
        assert_eq!(pipeline.unknown_increments(), 2);
    }
}
