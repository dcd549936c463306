//! Checkpoints for followers that are too far behind: sent in pieces, resumed where they broke off, and put in force at once.
//!
//! ```text
//!  leader                                   owner            follower                      owner
//!  next entry not in memory ── Wanted ──►  offer
//!  ◄─────────────────────────────────────
//!  ── Read{offset} ──► bytes ── Chunk ─────────────────────► offset is the one wanted ──► Store
//!  ◄──────────────────────────── ChunkReply{wanted} ──────── stored ◄─────────────────── chunk_stored
//!       … until all of it is stored, read back and found whole:
//!                                                            Record::Install, Adopt ────► state replaced
//!  ◄──────────────────────────── Appended ────────────────── once that record is durable
//! ```
//!
//! The content is opaque here. One piece a follower is under way at a time, and the owner decides when it reads and stores, so
//! transfers are paced there. A checkpoint whose last entry is in the follower's log already is none to install: the log is as good. Otherwise
//! the whole log gives way to it, by the one record that also names the checkpoint: before it the old log counts, after it the new state.

use std::rc::Rc;

use super::configuration::{Configuration, History};
use super::progress::Flow;
use super::{Chunk, Effects, Group, Message, Role};
use crate::engine::checkpoint::{Kept, Point, Reference};
use crate::engine::wal::Record;
use crate::ids::{CheckpointNumber, Index, Micros, ReplicaId};
use crate::limits::CHECKPOINT_CHUNK_BYTES_MAX;
use crate::mutant::mutant;

/// Bytes that are shared on their way.
pub type Bytes = Rc<Vec<u8>>;

/// A checkpoint's name in its group: equal names have equal content, whoever sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId {
    /// The replica that made it.
    pub maker: ReplicaId,
    /// Its number in the maker's store.
    pub number: CheckpointNumber,
}

/// What the owner is asked to do about checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointWork {
    /// As the leader's: make one, or take one that is there, whose log begins at this index or later, and [`Group::offer`] it.
    Wanted {
        /// The lowest index of its `from`.
        from: Index,
    },
    /// As the leader's: read a piece, and give it to [`Group::chunk`].
    Read {
        /// For whom.
        to: ReplicaId,
        /// Which.
        checkpoint: CheckpointId,
        /// From which byte on.
        offset: u64,
    },
    /// Store a piece, and say so by [`Group::chunk_stored`]. A piece at offset 0 begins the file anew. The last one is stored when the whole
    /// has been made durable, read back, and found good.
    Store {
        /// Which.
        checkpoint: CheckpointId,
        /// From which byte on.
        offset: u64,
        /// The piece.
        bytes: Bytes,
        /// Whether it is the last.
        last: bool,
    },
    /// Replace the state by that of the checkpoint. It has been applied up to `from`.
    Adopt {
        /// Which.
        checkpoint: CheckpointId,
        /// The entry up to which it has been applied.
        from: Point,
    },
}

/// What came of storing a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    Piece,
    /// It was the last one, and the whole is durable and good; this is what the log is to name.
    Whole(Reference),
    /// It could not be, or the whole is not good: begin anew.
    Failed,
}

/// A checkpoint that a leader sends.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) checkpoint: CheckpointId,
    pub(super) from: Point,
    pub(super) to: Point,
    pub(super) bytes: u64,
    pub(super) configuration: (Index, Rc<Configuration>),
}

/// How far sending has come.
#[derive(Debug, Default)]
pub(super) struct Sending {
    offer: Option<Rc<Offer>>,
    offset: u64,
    state: Piece,
    /// Whether the piece under way was so an interval ago.
    waits: bool,
}

/// What is under way of a checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
enum Piece {
    #[default]
    None,
    /// The owner reads it.
    Reading,
    /// It has been sent.
    Sent,
}

impl Sending {
    /// An interval has passed. A piece that was sent before it began may have been lost.
    pub(super) fn interval(&mut self) {
        if std::mem::replace(&mut self.waits, self.state == Piece::Sent) && self.state == Piece::Sent {
            (self.state, self.waits) = (Piece::None, false);
        }
    }
}

/// A checkpoint on its way in.
#[derive(Debug)]
pub(super) struct Incoming {
    chunk: Chunk,
    /// Bytes stored.
    stored: u64,
    /// Bytes being stored.
    storing: u64,
}

impl Group {
    /// As a leader: offers a checkpoint of this replica's own to followers that are too far behind. `from` is where its log begins, `to` from
    /// where on it stands for a state of one moment. One that begins before what is in memory is of no use and ignored.
    pub fn offer(&mut self, number: CheckpointNumber, from: Point, to: Point, bytes: u64, effects: &mut Effects) {
        if from.index < self.log.before().index || to.index > self.commit {
            return;
        }
        if !self.log.holds(from) {
            return self.fault("a checkpoint is of another term than its entry", effects);
        }
        let checkpoint = CheckpointId { maker: self.me, number };
        let (at, configuration) = if mutant!("checkpoints-carry-the-latest-configuration") {
            self.history.latest()
        } else {
            self.history.at(from.index)
        };
        let configuration = (at, Rc::new(configuration.clone()));
        let from = if mutant!("checkpoints-carry-the-current-term") { Point { term: self.term, ..from } } else { from };
        if let Role::Leader(leader) = &mut self.role {
            leader.offer = Some(Rc::new(Offer { checkpoint, from, to, bytes, configuration }));
        }
    }

    /// Moves a checkpoint on to a peer that needs one.
    pub(super) fn send_checkpoint(&mut self, place: usize, effects: &mut Effects) {
        let before = self.log.before().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Flow::Checkpoint(sending) = &mut leader.peers[place].flow else { return };
        if sending.state != Piece::None {
            return;
        }
        let outdated = |offer: &Rc<Offer>| offer.from.index < before;
        if sending.offer.as_ref().is_none_or(outdated) {
            sending.offer = leader.offer.clone().filter(|offer| !outdated(offer));
            sending.offset = 0;
        }
        let Some(offer) = &sending.offer else {
            if !std::mem::replace(&mut leader.offer_wanted, true) {
                effects.checkpoints.push(CheckpointWork::Wanted { from: before });
            }
            return;
        };
        // All of it is there: the acknowledgement is on its way, or the follower begins anew.
        sending.state = Piece::Reading;
        let (checkpoint, offset) = (offer.checkpoint, sending.offset.min(offer.bytes));
        effects.checkpoints.push(CheckpointWork::Read { to: leader.peers[place].replica, checkpoint, offset });
    }

    /// A piece that was asked for has been read: at most [`CHECKPOINT_CHUNK_BYTES_MAX`] bytes from `offset` on, none only behind the end.
    /// `None`: it cannot be read, and another checkpoint is to be offered.
    pub fn chunk(
        &mut self,
        to: ReplicaId,
        checkpoint: CheckpointId,
        offset: u64,
        bytes: Option<Bytes>,
        effects: &mut Effects,
    ) {
        let Some(sending) = self.sending(to) else { return };
        let awaited = sending.state == Piece::Reading && sending.offset == offset;
        let Some(offer) = sending.offer.clone().filter(|offer| awaited && offer.checkpoint == checkpoint) else {
            return;
        };
        let Some(bytes) = bytes.filter(|bytes| bytes.len() <= CHECKPOINT_CHUNK_BYTES_MAX) else {
            *sending = Sending::default();
            if let Role::Leader(leader) = &mut self.role {
                leader.offer = None;
            }
            return;
        };
        (sending.state, sending.waits) = (Piece::Sent, false);
        let (from, through, total) = (offer.from, offer.to, offer.bytes);
        let configuration = (offer.configuration.0, Rc::clone(&offer.configuration.1));
        let chunk = Chunk { checkpoint, from, to: through, configuration, total, offset, bytes };
        self.send_now(to, Message::Chunk(Box::new(chunk)), effects);
    }

    pub(super) fn on_chunk_reply(&mut self, now: Micros, from: ReplicaId, checkpoint: CheckpointId, wanted: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = now;
        let Flow::Checkpoint(sending) = &mut peer.flow else { return };
        let total = sending.offer.as_ref().filter(|offer| offer.checkpoint == checkpoint).map(|offer| offer.bytes);
        if sending.state == Piece::Sent && total.is_some_and(|total| wanted <= total) {
            (sending.offset, sending.state) = (wanted, Piece::None);
        }
    }

    /// A piece from the leader.
    pub(super) fn on_chunk(&mut self, from: ReplicaId, chunk: Chunk, effects: &mut Effects) {
        let end = chunk.offset.checked_add(chunk.bytes.len() as u64);
        let fits = end.is_some_and(|end| end <= chunk.total) && chunk.bytes.len() <= CHECKPOINT_CHUNK_BYTES_MAX;
        if !fits || chunk.from.term > self.term || chunk.to.index < chunk.from.index {
            return;
        }
        if self.has_reached(chunk.from, effects) {
            self.incoming = None;
            // What is committed agrees with every later leader's log.
            self.verified = self.verified.max(self.commit);
            return self.send_after(from, Message::Appended { matched: self.commit }, effects);
        }
        if self.incoming.as_ref().is_none_or(|incoming| incoming.chunk.checkpoint != chunk.checkpoint) {
            let head = Chunk { bytes: Bytes::default(), ..chunk.clone() };
            self.incoming = Some(Incoming { chunk: head, stored: 0, storing: 0 });
        }
        let Some(incoming) = &mut self.incoming else { return };
        let checkpoint = chunk.checkpoint;
        let fits = chunk.offset == incoming.stored || mutant!("chunks-stored-at-any-offset");
        if incoming.storing == 0 && fits && !chunk.bytes.is_empty() {
            incoming.storing = chunk.bytes.len() as u64;
            let last = incoming.stored + incoming.storing >= incoming.chunk.total;
            let offset = incoming.stored;
            effects.checkpoints.push(CheckpointWork::Store { checkpoint, offset, bytes: chunk.bytes, last });
        } else if incoming.storing == 0 {
            let wanted = incoming.stored;
            self.send_now(from, Message::ChunkReply { checkpoint, wanted }, effects);
        }
    }

    /// Whether this replica has what a checkpoint stands for, up to where its log begins. An entry found in its log is committed, since
    /// it was in a checkpoint.
    fn has_reached(&mut self, from: Point, effects: &mut Effects) -> bool {
        if from.index <= self.commit && self.log.term_at(from.index).is_some_and(|term| term != from.term) {
            self.fault("a checkpoint contradicts what is committed", effects);
            return true;
        }
        if self.log.holds(from) && !mutant!("checkpoints-drop-a-good-log") {
            self.commit_to(from.index);
        }
        from.index <= self.commit
    }

    /// A piece has been stored, or not.
    pub fn chunk_stored(&mut self, checkpoint: CheckpointId, offset: u64, stored: Stored, effects: &mut Effects) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.chunk.checkpoint == checkpoint) else {
            return;
        };
        if incoming.storing == 0 || incoming.stored != offset || self.faulty.is_some() {
            return;
        }
        match stored {
            Stored::Piece | Stored::Whole(_) => incoming.stored += incoming.storing,
            Stored::Failed => incoming.stored = 0,
        }
        incoming.storing = 0;
        let wanted = incoming.stored;
        match stored {
            Stored::Whole(reference) => self.install(reference, effects),
            Stored::Piece | Stored::Failed => {
                if let Some(leader) = self.leader.filter(|leader| *leader != self.me) {
                    self.send_now(leader, Message::ChunkReply { checkpoint, wanted }, effects);
                }
            }
        }
        self.finish(effects);
    }

    /// Puts a checkpoint in force that is stored as a whole.
    fn install(&mut self, reference: Reference, effects: &mut Effects) {
        let Some(Incoming { chunk, .. }) = self.incoming.take() else { return };
        if matches!(self.role, Role::Leader(_)) || self.has_reached(chunk.from, effects) {
            return;
        }
        self.save(effects);
        if !mutant!("installation-not-logged") {
            let kept = Kept { newest: Some(reference), older: None };
            effects.records.push(Record::Install { shard: self.shard, kept });
        }
        if mutant!("checkpoints-keep-a-conflicting-log") && self.log.last().index > chunk.from.index {
            self.log.trim_to(chunk.from);
        } else {
            self.log.reset(chunk.from);
        }
        if !mutant!("checkpoints-forget-the-configuration") {
            self.history = History::new(chunk.configuration.0, (*chunk.configuration.1).clone());
        }
        (self.commit, self.applied, self.whole_from) = (chunk.from.index, chunk.from.index, chunk.to.index);
        effects.checkpoints.push(CheckpointWork::Adopt { checkpoint: chunk.checkpoint, from: chunk.from });
        self.verified = self.verified.max(self.commit);
        if let Some(leader) = self.leader.filter(|leader| *leader != self.me) {
            self.send_after(leader, Message::Appended { matched: self.commit }, effects);
        }
    }
}
