//! Heartbeats of many groups between two stores, in one frame: what keeps a thousand idle groups from costing a thousand messages.
//!
//! ```text
//!  group 1 ─ Heartbeat ─┐                                     ┌─ group 1
//!  group 2 ─ Heartbeat ─┼─► Frame{to: Place, beats} ─ link ──►┼─ group 2 ── HeartbeatReply ─┐
//!  group 9 ─ Heartbeat ─┘                                     └─ group 9 ── HeartbeatReply ─┴─► Frame back
//! ```
//!
//! Every beat carries its group's own term, commit index and round: a frame that is lost or late hides nothing that the next one does not
//! say again, and no group is taken for alive because its store is.

use super::{Envelope, Message};
use crate::engine::raft::configuration::Place;
use crate::ids::{Index, ReplicaId, Round, ShardId, Term};
use crate::limits::HEARTBEATS_FRAME_MAX;
use crate::mutant::mutant;

/// One group's heartbeat, or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The group.
    pub shard: ShardId,
    /// Sender.
    pub from: ReplicaId,
    /// Receiver.
    pub to: ReplicaId,
    /// The sender's term.
    pub term: Term,
    /// The round.
    pub round: Round,
    /// The leader's commit index; in an answer, what is verified.
    pub index: Index,
    /// Whether it is an answer.
    pub is_reply: bool,
}

/// Beats from one store to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The receiving store.
    pub to: Place,
    /// At most [`HEARTBEATS_FRAME_MAX`].
    pub beats: Vec<Beat>,
}

/// Gathers a store's heartbeats by receiver. Frames come out in the order in which they were begun.
#[derive(Debug, Default)]
pub struct Bundle {
    frames: Vec<Frame>,
}

impl Bundle {
    /// Takes a message for the store at `to`, if it is a heartbeat or the answer to one; gives others back.
    ///
    /// # Errors
    /// The message, if it travels by itself.
    pub fn gather(&mut self, to: Place, envelope: Envelope) -> Result<(), Envelope> {
        let Some(beat) = Beat::of(&envelope) else { return Err(envelope) };
        match self.frames.iter_mut().find(|frame| frame.to == to && frame.beats.len() < HEARTBEATS_FRAME_MAX) {
            Some(frame) => frame.beats.push(beat),
            None => self.frames.push(Frame { to, beats: vec![beat] }),
        }
        Ok(())
    }

    /// What has gathered.
    pub fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }
}

impl Frame {
    /// The messages, as they were.
    pub fn envelopes(&self) -> impl Iterator<Item = Envelope> {
        // One that stands for the whole frame is how a group's term gets hidden behind another's.
        let first = self.beats.first().map(|beat| beat.term);
        let term = move |beat: &Beat| first.filter(|_| mutant!("frames-carry-one-term")).unwrap_or(beat.term);
        self.beats.iter().map(move |beat| Beat { term: term(beat), ..*beat }.envelope())
    }
}

impl Beat {
    fn of(envelope: &Envelope) -> Option<Beat> {
        let &Envelope { shard, from, to, term, ref message } = envelope;
        let (round, index, is_reply) = match *message {
            Message::Heartbeat { round, commit } => (round, commit, false),
            Message::HeartbeatReply { round, verified } => (round, verified, true),
            _ => return None,
        };
        Some(Beat { shard, from, to, term, round, index, is_reply })
    }

    fn envelope(self) -> Envelope {
        let Beat { shard, from, to, term, round, index, is_reply } = self;
        let message = if is_reply {
            Message::HeartbeatReply { round, verified: index }
        } else {
            Message::Heartbeat { round, commit: index }
        };
        Envelope { shard, from, to, term, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, StoreId};

    #[test]
    fn beats_of_many_groups_share_a_frame_and_keep_their_terms() {
        let place = |node| Place { node: NodeId(node), store: StoreId(0) };
        let envelope = |shard: u32, to: u64| Envelope {
            shard: ShardId(shard),
            from: ReplicaId(1),
            to: ReplicaId(to),
            term: Term(u64::from(shard) + 10),
            message: Message::Heartbeat { round: Round(3), commit: Index(shard.into()) },
        };
        let mut bundle = Bundle::default();
        for shard in 0..5 {
            bundle.gather(place(2), envelope(shard, 2)).expect("a heartbeat");
            bundle.gather(place(3), envelope(shard, 3)).expect("a heartbeat");
        }
        let reply =
            Envelope { message: Message::HeartbeatReply { round: Round(9), verified: Index(4) }, ..envelope(1, 2) };
        bundle.gather(place(2), reply.clone()).expect("an answer");
        let vote = Envelope { message: Message::VoteReply { granted: true }, ..envelope(1, 2) };
        assert_eq!(bundle.gather(place(2), vote.clone()), Err(vote));
        let frames = bundle.take();
        assert_eq!(frames.iter().map(|frame| frame.to.node.0).collect::<Vec<_>>(), [2, 3]);
        let expected: Vec<Envelope> = (0..5).map(|shard| envelope(shard, 2)).chain([reply]).collect();
        assert_eq!(frames[0].envelopes().collect::<Vec<_>>(), expected);
        assert!(bundle.take().is_empty());
    }

    #[test]
    fn a_frame_is_bounded() {
        let mut bundle = Bundle::default();
        for shard in 0..=HEARTBEATS_FRAME_MAX as u32 {
            let message = Message::Heartbeat { round: Round(0), commit: Index(0) };
            let envelope =
                Envelope { shard: ShardId(shard), from: ReplicaId(1), to: ReplicaId(2), term: Term(1), message };
            bundle.gather(Place::default(), envelope).expect("a heartbeat");
        }
        assert_eq!(bundle.take().iter().map(|frame| frame.beats.len()).collect::<Vec<_>>(), [HEARTBEATS_FRAME_MAX, 1]);
    }
}
