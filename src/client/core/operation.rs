//! One operation, from its submission to its answer.

use super::verdict::Copies;
use super::{Delivery, LinkId, Op, SessionKey};
use crate::client::batch::Batch;
use crate::client::pipeline::{Expected, Pipeline};
use crate::client::request_id::RequestId;
use crate::engine::part::PackedKeys;
use crate::engine::sessions::{Credentials, Opened};
use crate::error::ErrorCode;
use crate::ids::{Micros, Sequence};
use crate::limits::{CLIENT_ANSWER_DOUBLINGS_MAX, CLIENT_ANSWER_MICROS_MAX, CLIENT_ANSWER_MICROS_MIN};
use crate::wire::client::{ScanRequest, Stamp};

/// What a shard keeps of a request's outcome, whatever it is, and of each of its increments whose new counts are wanted: about.
const OUTCOME_BYTES: usize = 192;
const OUTCOME_INCREMENT_BYTES: usize = 12;
/// What an operation takes beside its keys and deltas, about.
const OPERATION_BYTES: usize = 512;

/// What is sent. Not always what was submitted: opening a named session can take two requests.
#[derive(Debug)]
pub(super) enum Request {
    Increment {
        batch: Batch,
        want_values: bool,
        delivery: Delivery,
    },
    Get {
        keys: PackedKeys,
    },
    TopK {
        k: u32,
    },
    Scan(ScanRequest),
    Status,
    Resolve {
        id: RequestId,
        keys: Option<PackedKeys>,
    },
    /// For the client's own use.
    OpenSession,
    OpenNamed {
        name: Vec<u8>,
    },
    Attach {
        opened: Opened,
        rotate_at: Micros,
    },
    Close {
        credentials: Credentials,
        progress: Sequence,
    },
    /// Nothing; it ends when there is a server to talk to.
    Connect,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the queue of those that wait for a session and a number in it.
    Unnumbered,
    /// In the queue of those that wait for a link.
    Ready,
    /// A copy is under way.
    InFlight,
    /// Refused for the moment; waits before it goes out again.
    BackOff,
}

/// A copy that may still be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) link: LinkId,
    pub(super) request_id: u64,
    pub(super) sent: Micros,
}

/// An operation that has no answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) submitted: Micros,
    pub(super) deadline: Micros,
    /// The timer that is set.
    pub(super) wake: Micros,
    pub(super) stage: Stage,
    pub(super) number: Option<(SessionKey, Sequence)>,
    pub(super) copies: Copies,
    pub(super) live: Vec<Copy>,
    /// Times that it was sent, since it last got on.
    pub(super) attempts: u32,
    /// The last refusal, of what is not an increment.
    pub(super) refusal: Option<(ErrorCode, String)>,
    /// Where it belongs, by the map of an epoch.
    pub(super) route: Option<(u64, usize)>,
    pub(super) bytes: usize,
}

impl Pending {
    pub(super) fn new(request: Request, bytes: usize, now: Micros, deadline: Micros) -> Pending {
        Pending {
            request,
            submitted: now,
            deadline,
            wake: deadline,
            stage: Stage::Ready,
            number: None,
            copies: Copies::default(),
            live: Vec::new(),
            attempts: 0,
            refusal: None,
            route: None,
            bytes,
        }
    }

    /// How long to wait for an answer to the copy that is sent now.
    pub(super) fn patience(&self) -> u64 {
        let time = self.deadline.0.saturating_sub(self.submitted.0);
        let first = (time / 8).clamp(CLIENT_ANSWER_MICROS_MIN, CLIENT_ANSWER_MICROS_MAX);
        first << self.attempts.min(CLIENT_ANSWER_DOUBLINGS_MAX)
    }

    /// What a shard will keep of its outcome, about, until the low-water mark has passed it.
    pub(super) fn outcome_bytes(&self) -> usize {
        match &self.request {
            Request::Increment { batch, want_values, .. } => outcome_bytes(batch, *want_values),
            _ => 0,
        }
    }

    pub(super) fn increments(&self) -> usize {
        match &self.request {
            Request::Increment { batch, .. } => batch.len(),
            _ => 0,
        }
    }

    /// How its increments are delivered, if it has any.
    pub(super) fn delivery(&self) -> Option<Delivery> {
        match &self.request {
            Request::Increment { delivery, .. } => Some(*delivery),
            _ => None,
        }
    }

    /// The keys by which it is routed.
    pub(super) fn keys(&self) -> Option<&PackedKeys> {
        match &self.request {
            Request::Increment { batch, .. } => Some(batch.keys()),
            Request::Get { keys } => Some(keys),
            Request::Resolve { keys, .. } => keys.as_ref(),
            _ => None,
        }
    }

    /// Puts a copy into a pipeline; returns its id there.
    pub(super) fn write(&self, pipeline: &mut Pipeline, stamp: Option<&Stamp>) -> u64 {
        match &self.request {
            Request::Increment { batch, want_values, .. } => {
                let expected = Expected::Increments { count: batch.len(), values: *want_values };
                pipeline.request(expected, |encoder, out, id| {
                    encoder.increment(out, id, batch.keys(), batch.deltas(), *want_values, stamp);
                })
            }
            Request::Get { keys } => pipeline.get(keys),
            Request::TopK { k } => pipeline.top_k(*k),
            Request::Scan(scan) => {
                pipeline.request(Expected::Piece(*scan), |encoder, out, id| encoder.scan(out, id, scan))
            }
            Request::Status | Request::Connect => pipeline.status(),
            Request::Resolve { id: RequestId { credentials, sequence, .. }, keys } => {
                let low_water = Sequence(sequence.0.saturating_sub(1));
                let stamp = Stamp { credentials: *credentials, sequence: *sequence, low_water };
                pipeline
                    .request(Expected::Resolution, |encoder, out, id| encoder.resolve(out, id, &stamp, keys.as_ref()))
            }
            Request::OpenSession => {
                pipeline.request(Expected::Session, |encoder, out, id| encoder.open_session(out, id, None))
            }
            Request::OpenNamed { name } => {
                pipeline.request(Expected::Session, |encoder, out, id| encoder.open_session(out, id, Some(name)))
            }
            Request::Attach { opened: Opened { credentials, .. }, .. } => {
                pipeline.request(Expected::Attachment, |encoder, out, id| encoder.attach_session(out, id, credentials))
            }
            Request::Close { credentials, progress } => pipeline.request(Expected::Closing, |encoder, out, id| {
                encoder.close_session(out, id, credentials, *progress);
            }),
        }
    }
}

/// What a shard will keep of a request's outcome, about.
pub(super) fn outcome_bytes(batch: &Batch, want_values: bool) -> usize {
    OUTCOME_BYTES + if want_values { batch.len() * OUTCOME_INCREMENT_BYTES } else { 0 }
}

/// What an operation takes in memory, about.
pub(super) fn bytes(op: &Op) -> usize {
    let content = match op {
        Op::Increment { batch, .. } => batch.keys().size_bytes() + size_of_val(batch.deltas()),
        Op::Get { keys } | Op::Resolve { keys: Some(keys), .. } => keys.size_bytes(),
        Op::Open { name } => name.len(),
        _ => 0,
    };
    OPERATION_BYTES + content
}

impl Request {
    /// What a shell submitted. To close takes the session to be closed, and how far it got.
    pub(super) fn of(op: Op, closing: Option<(Credentials, Sequence)>) -> Request {
        match op {
            Op::Increment { batch, want_values, delivery } => Request::Increment { batch, want_values, delivery },
            Op::Get { keys } => Request::Get { keys },
            Op::TopK { k } => Request::TopK { k },
            Op::Scan(scan) => Request::Scan(scan),
            Op::Status => Request::Status,
            Op::Resolve { id, keys } => Request::Resolve { id, keys },
            Op::Open { name } => Request::OpenNamed { name },
            Op::Close => {
                let (credentials, progress) = closing.expect("asked of the session when the operation was checked");
                Request::Close { credentials, progress }
            }
            Op::Connect => Request::Connect,
        }
    }
}
