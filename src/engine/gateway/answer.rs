//! Answers in the making: what the parts of a request have said so far, and the reply they make together.

use super::top::{TopList, Tops};
use crate::engine::part::PartAnswer;
use crate::engine::sessions::registry::Registered;
use crate::engine::sessions::window::Fate;
use crate::engine::status::StoreStatus;
use crate::error::ErrorCode;
use crate::ids::ShardId;
use crate::wire::client::{
    AttachReply, GetReply, IncrementReply, Part, Resolution, ResolveReply, ResolvedPart, ScanReply,
};

/// An answer in the making.
pub(super) enum Answer {
    Increment {
        reply: IncrementReply,
        want_values: bool,
        refused: Refused,
    },
    Get {
        reply: GetReply,
        refused: Refused,
    },
    TopK {
        tops: Tops,
        refused: Refused,
    },
    Status {
        stores: Vec<StoreStatus>,
        refused: Refused,
    },
    /// The opening or closing of a session, and what the registry said.
    Register {
        registered: Option<Registered>,
        refused: Refused,
    },
    Attach {
        reply: AttachReply,
        refused: Refused,
    },
    Resolve {
        reply: ResolveReply,
        refused: Refused,
    },
    Scan {
        reply: Option<ScanReply>,
        refused: Refused,
    },
}

/// How many parts were refused as a whole, and the reason that promises least: what is said of the request has to be true of each of
/// its parts. One that may be applied makes it unknown; one that may be sent again makes it worth sending again; and only if every
/// part was fenced is the whole.
#[derive(Clone, Copy, Default)]
pub(super) struct Refused {
    parts: usize,
    code: Option<ErrorCode>,
}

impl Answer {
    /// Takes the answer of one part.
    pub(super) fn take(&mut self, part: usize, shard: ShardId, answer: PartAnswer) {
        match (self, answer) {
            (
                Answer::Increment { reply, want_values, .. },
                PartAnswer::Incremented { index, first_position, overflowed, values },
            ) => {
                reply.parts[part].applied_index = index;
                reply.parts[part].first_position = first_position;
                let total = reply.parts.iter().map(|part| part.keys as usize).sum();
                let order = positions(&reply.parts, &reply.order, part);
                for &place in &overflowed {
                    reply.outcomes.resize(total, ErrorCode::Ok as u8);
                    reply.outcomes[order.position(place as usize)] = ErrorCode::Overflow as u8;
                }
                if *want_values && reply.parts.len() == 1 {
                    reply.values = values;
                } else {
                    for (place, value) in values.into_iter().enumerate() {
                        reply.values[order.position(place)] = value;
                    }
                }
            }
            (Answer::Increment { reply, refused, .. }, PartAnswer::Refused { code }) => {
                refused.note(code);
                let total = reply.parts.iter().map(|part| part.keys as usize).sum();
                reply.outcomes.resize(total, ErrorCode::Ok as u8);
                let order = positions(&reply.parts, &reply.order, part);
                for place in 0..reply.parts[part].keys as usize {
                    reply.outcomes[order.position(place)] = code as u8;
                }
            }
            (Answer::Get { reply, .. }, PartAnswer::Counts { index, counts }) => {
                reply.parts[part].applied_index = index;
                let order = positions(&reply.parts, &reply.order, part);
                for (place, count) in counts.into_iter().enumerate() {
                    let position = order.position(place);
                    reply.counts[position] = count.unwrap_or(0);
                    reply.found[position] = u8::from(count.is_some());
                }
            }
            (Answer::TopK { tops, .. }, PartAnswer::Top { index, keys, counts, exhausted }) => {
                tops.take(TopList { shard, index, keys, counts, exhausted });
            }
            (Answer::Status { stores, .. }, PartAnswer::Status(status)) => stores.push(*status),
            (Answer::Register { registered, .. }, PartAnswer::Registered(said)) => *registered = Some(said),
            (Answer::Attach { reply, .. }, PartAnswer::Attached { index, attachment }) => {
                reply.parts.push(Part { shard, applied_index: index, ..Part::default() });
                reply.floor = reply.floor.max(attachment.floor);
                reply.reached = reply.reached.max(attachment.reached);
            }
            (Answer::Resolve { reply, .. }, PartAnswer::Resolved(fate)) => reply.parts.push(resolved(shard, fate)),
            (Answer::Scan { reply, .. }, PartAnswer::Scanned(piece)) => *reply = Some(piece),
            (
                Answer::Get { refused, .. }
                | Answer::Scan { refused, .. }
                | Answer::TopK { refused, .. }
                | Answer::Status { refused, .. }
                | Answer::Register { refused, .. }
                | Answer::Attach { refused, .. }
                | Answer::Resolve { refused, .. },
                PartAnswer::Refused { code },
            ) => refused.note(code),
            (_, _) => debug_assert!(false, "an answer is of its question's kind"),
        }
    }

    /// The reason to refuse the request as a whole, if there is one: no increment of it was decided, or anything else lacks a
    /// part.
    pub(super) fn refusal(&self) -> Option<ErrorCode> {
        match self {
            Answer::Increment { reply, refused, .. } if refused.parts == reply.parts.len() => refused.code,
            Answer::Get { refused, .. }
            | Answer::Scan { refused, .. }
            | Answer::TopK { refused, .. }
            | Answer::Status { refused, .. }
            | Answer::Attach { refused, .. }
            | Answer::Resolve { refused, .. } => refused.code,
            Answer::Register { registered, refused } => match registered {
                Some(Registered::Expired) => Some(ErrorCode::SessionExpired),
                Some(Registered::Taken) => Some(ErrorCode::SessionTaken),
                Some(Registered::Opened { .. } | Registered::Closed) | None => refused.code,
            },
            Answer::Increment { .. } => None,
        }
    }
}

impl Refused {
    pub(super) fn is_any(self) -> bool {
        self.parts > 0
    }

    fn note(&mut self, code: ErrorCode) {
        self.parts += 1;
        let promise = |code: ErrorCode| (code.is_definite(), !code.is_transient(), code.settles());
        self.code = self.code.filter(|kept| promise(*kept) <= promise(code)).or(Some(code));
    }
}

/// Where the keys of one part stand in their request.
struct Positions<'a> {
    /// `None` if the request has one part.
    order: Option<&'a [u32]>,
}

impl Positions<'_> {
    fn position(&self, place: usize) -> usize {
        self.order.map_or(place, |order| order[place] as usize)
    }
}

fn positions<'a>(parts: &[Part], order: &'a [u32], part: usize) -> Positions<'a> {
    if order.is_empty() {
        return Positions { order: None };
    }
    let start: usize = parts[..part].iter().map(|part| part.keys as usize).sum();
    Positions { order: Some(&order[start..start + parts[part].keys as usize]) }
}

fn resolved(shard: ShardId, fate: Fate) -> ResolvedPart {
    let part = ResolvedPart { shard, ..ResolvedPart::default() };
    match fate {
        Fate::Applied { index, first_position, increments, overflowed } => ResolvedPart {
            resolution: Resolution::Applied,
            applied_index: index,
            first_position,
            increments,
            overflowed,
            ..part
        },
        Fate::Fenced(index) => ResolvedPart { resolution: Resolution::Fenced, applied_index: index, ..part },
        Fate::Forgotten => ResolvedPart { resolution: Resolution::Forgotten, ..part },
    }
}
