//! What replicas of a group say to one another, and what a step of a group asks of its owner.

use std::rc::Rc;

use super::configuration::Configuration;
use super::install::{Bytes, CheckpointId, CheckpointWork};
use super::reads::ReadAnswer;
use crate::engine::checkpoint::Point;
use crate::engine::wal::Record;
use crate::ids::{AppendNumber, Index, ReadNumber, ReplicaId, Round, ShardId, Term};

/// An entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term it was proposed in.
    pub term: Term,
    /// Its index.
    pub index: Index,
    /// What it says. Log, messages and records share it.
    pub payload: Rc<Vec<u8>>,
}

impl Entry {
    /// Its place.
    #[must_use]
    pub fn point(&self) -> Point {
        Point { index: self.index, term: self.term }
    }
}

/// A message with its addresses. Replica ids are never used twice in a group, so a message for an earlier replica of the same store
/// finds nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group.
    pub shard: ShardId,
    /// Sender.
    pub from: ReplicaId,
    /// Receiver.
    pub to: ReplicaId,
    /// The sender's term.
    pub term: Term,
    /// Content.
    pub message: Message,
}

/// What one replica says to another, or to itself once its log is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Whether the sender could win an election in the term after its own. Changes nothing at the receiver.
    PreVoteRequest {
        /// That term.
        campaign: Term,
        /// The end of the sender's log.
        last: Point,
    },
    /// The answer to that.
    PreVoteReply {
        /// The term that was asked about.
        campaign: Term,
        /// Whether the receiver would vote so.
        granted: bool,
    },
    /// The sender is a candidate in its term.
    VoteRequest {
        /// The end of its log; durable.
        last: Point,
        /// The leader has asked it to, so that it still leads is no reason to refuse.
        transfer: bool,
    },
    /// A vote, or none.
    VoteReply {
        /// Whether the vote was granted.
        granted: bool,
    },
    /// Entries from the leader; also without any, to tell the commit index or to find where logs agree.
    Append {
        /// Counts the appends to this replica in this term.
        number: AppendNumber,
        /// The entry before the first.
        previous: Point,
        /// The leader's commit index.
        commit: Index,
        /// In order, without gaps.
        entries: Vec<Entry>,
    },
    /// The log agrees with the leader's up to here, and is durable so far.
    Appended {
        /// Up to where.
        matched: Index,
    },
    /// The entry before the first is not in the log.
    Rejected {
        /// Which append.
        number: AppendNumber,
        /// The index of that entry.
        previous: Index,
        /// The last entry at or before it whose term is not higher than its: the logs can agree there, and not behind.
        hint: Point,
        /// The end of the log.
        last: Index,
    },
    /// The sender leads.
    Heartbeat {
        /// The round of leadership being confirmed.
        round: Round,
        /// Its commit index.
        commit: Index,
    },
    /// The sender follows.
    HeartbeatReply {
        /// The round of the heartbeat.
        round: Round,
        /// Up to where the log is known to agree with this leader's, since the sender's process began.
        verified: Index,
    },
    /// The receiver's term has passed: a message of an old leader is answered so.
    TermIsOver,
    /// A piece of a checkpoint.
    Chunk(Box<Chunk>),
    /// How much of it is stored.
    ChunkReply {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// The offset of the next byte wanted.
        wanted: u64,
    },
    /// The leader wants the receiver to lead in its place, if this is the end of its log.
    TimeoutNow {
        /// The end of the leader's log.
        last: Point,
        /// The leader's newest round. One that gives a transfer up begins another, so whoever has heard that knows better.
        round: Round,
    },
    /// A follower asks at what index a read would be linearizable.
    ReadRequest {
        /// Names the answer.
        number: ReadNumber,
    },
    /// The answer.
    ReadReply {
        /// Which question.
        number: ReadNumber,
        /// `None` if the leader cannot tell.
        index: Option<Index>,
    },
}

/// A piece of a checkpoint, with all that the checkpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Names the content.
    pub checkpoint: CheckpointId,
    /// The entry after which the log goes on.
    pub from: Point,
    /// The entry from which on it stands for a state of one moment.
    pub to: Point,
    /// The configuration in force at `from`, and the index of its entry.
    pub configuration: (Index, Rc<Configuration>),
    /// Bytes of the whole.
    pub total: u64,
    /// Where in it this piece begins.
    pub offset: u64,
    /// The piece.
    pub bytes: Bytes,
}

/// Something that the owner may want to know or tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This replica leads now.
    Leads,
    /// It no longer does. What it had proposed may be committed yet.
    LeadsNoLonger,
    /// A replica has less in its log than it once acknowledged: its disk was exchanged or lies. It is left alone for good, and has to be
    /// replaced by one of another id.
    Lost(ReplicaId),
    /// This replica's state contradicts the group's: it has stopped for good.
    Faulty(&'static str),
}

/// What steps of a group ask for, in classes that say what each thing must wait for.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to append to the store's log, in order.
    pub records: Vec<Record>,
    /// Messages that depend on nothing of this step being durable.
    pub send_now: Vec<Envelope>,
    /// Messages that wait until all records of this step, and all before them, are durable. Some are addressed to the replica itself.
    pub send_after: Vec<Envelope>,
    /// Answers to reads.
    pub reads: Vec<ReadAnswer>,
    /// What is to be done about checkpoints.
    pub checkpoints: Vec<CheckpointWork>,
    /// News.
    pub notices: Vec<Notice>,
}

impl Effects {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.send_now.is_empty()
            && self.send_after.is_empty()
            && self.reads.is_empty()
            && self.checkpoints.is_empty()
            && self.notices.is_empty()
    }
}
