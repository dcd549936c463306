//! Replicas of one group, each on a store of its own, whose disk and whose messages move when they are told to.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::fmt::Write as _;
use std::rc::Rc;

use dkc::engine::checkpoint::{Point, Reference};
use dkc::engine::raft::configuration::{Change, Configuration, Member, Place};
use dkc::engine::raft::install::{CheckpointId, CheckpointWork, Stored};
use dkc::engine::raft::{Chunk, Conditions, Effects, Entry, Envelope, Group, Message, Notice, Restored, Setup, Timing};
use dkc::engine::wal::Record;
use dkc::ids::{CheckpointNumber, Index, Micros, NodeId, ReadToken, ReplicaId, ShardId, StoreId, Term};

/// Bytes of a checkpoint that travel as one.
const PIECE_BYTES: usize = 8;

/// What is durable of a replica.
#[derive(Clone, Default)]
struct Disk {
    term: Term,
    vote: ReplicaId,
    base: Point,
    entries: VecDeque<Entry>,
    configuration: (Index, Configuration),
}

pub(crate) struct Node {
    pub(crate) group: Option<Group>,
    disk: Disk,
    initial: Configuration,
    pending: VecDeque<Record>,
    gated: VecDeque<(usize, Envelope)>,
    /// Records ever appended and ever durable.
    appended: usize,
    durable: usize,
    lives: u64,
    works: VecDeque<CheckpointWork>,
    offers: BTreeMap<CheckpointId, Vec<u8>>,
    incoming: Vec<u8>,
    pub(crate) conditions: Conditions,
    pub(crate) applied: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) network: VecDeque<Envelope>,
    pub(crate) now: Micros,
    /// Entries in one message.
    pub(crate) batch: usize,
    pub(crate) timing: Timing,
    /// Links that lose everything, from and to.
    pub(crate) cut: Vec<(u64, u64)>,
    pub(crate) out: String,
}

pub(crate) fn place(node: u64) -> Place {
    Place { node: NodeId(node), store: StoreId(0) }
}

impl Cluster {
    /// Adds a replica with a log of these terms, durable, in a term of at least so much, and with so much known to be committed.
    pub(crate) fn add(&mut self, id: u64, configuration: &Configuration, terms: &[u64], (term, commit): (u64, u64)) {
        let entry = |(place, &term): (usize, &u64)| Entry {
            term: Term(term),
            index: Index(place as u64 + 1),
            payload: Rc::new(format!("t{term}").into_bytes()),
        };
        let entries: VecDeque<Entry> = terms.iter().enumerate().map(entry).collect();
        let term = terms.last().copied().unwrap_or_default().max(term);
        let disk =
            Disk { term: Term(term), entries, configuration: (Index(0), configuration.clone()), ..Disk::default() };
        self.nodes.insert(id, Node::new(disk, configuration.clone()));
        self.start(id, commit);
    }

    pub(crate) fn start(&mut self, id: u64, commit: u64) {
        let (now, timing, batch_entries_max) = (self.now, self.timing, self.batch);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.lives += 1;
        let setup =
            Setup { shard: ShardId(1), replica: ReplicaId(id), timing, batch_entries_max, seed: id * 100 + node.lives };
        let disk = node.disk.clone();
        let restored = Restored {
            term: disk.term,
            vote: disk.vote,
            commit: Index(commit).max(disk.base.index),
            applied: disk.base.index,
            whole_from: Index(0),
            before: disk.base,
            configuration: disk.configuration,
            entries: disk.entries,
        };
        node.group = Some(Group::new(&setup, restored, now));
    }

    pub(crate) fn crash(&mut self, id: u64, keep: usize) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        for _ in 0..keep.min(node.pending.len()) {
            node.persist();
        }
        node.pending.clear();
        node.gated.clear();
        node.appended = node.durable;
        node.works.clear();
        node.group = None;
    }

    /// The disk is gone, and comes back empty.
    pub(crate) fn wipe(&mut self, id: u64) {
        self.crash(id, 0);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.disk = Disk { configuration: (Index(0), node.initial.clone()), ..Disk::default() };
    }

    pub(crate) fn group(&mut self, id: u64) -> &mut Group {
        self.nodes.get_mut(&id).and_then(|node| node.group.as_mut()).expect("the node runs")
    }

    /// Does something with a replica and takes what comes of it.
    pub(crate) fn with<T>(&mut self, id: u64, act: impl FnOnce(&mut Group, &mut Effects) -> T) -> T {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a known node");
        let group = node.group.as_mut().expect("the node runs");
        let before = (group.role_name(), group.term(), group.commit());
        let mut effects = Effects::default();
        let outcome = act(group, &mut effects);
        loop {
            let mut any = false;
            while let Some(entry) = group.next_committed() {
                any = true;
                if Configuration::decode(&entry.payload).is_none() && *entry.payload != [2, 0] {
                    node.applied.push(String::from_utf8_lossy(&entry.payload).into_owned());
                }
            }
            group.flush(now, &mut effects);
            if !any {
                break;
            }
        }
        group.check().expect("a group is in order");
        let after = (group.role_name(), group.term(), group.commit());
        if (before.0, before.1) != (after.0, after.1) {
            writeln!(self.out, "{id} is {} in term {}", after.0, after.1).expect("a string");
        }
        if before.2 != after.2 {
            writeln!(self.out, "{id} commits {}", after.2).expect("a string");
        }
        self.absorb(id, effects);
        outcome
    }

    fn absorb(&mut self, id: u64, effects: Effects) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        for record in effects.records {
            writeln!(self.out, "{id} logs {}", record_text(&record)).expect("a string");
            node.pending.push_back(record);
            node.appended += 1;
        }
        for answer in effects.reads {
            let text = match answer.result {
                Ok(index) => format!("at {index}"),
                Err(refusal) => format!("refused, {refusal}"),
            };
            writeln!(self.out, "{id} answers read {}: {text}", answer.token).expect("a string");
        }
        for notice in effects.notices {
            match notice {
                Notice::Lost(lost) => writeln!(self.out, "{id} gives {lost} up: it has lost what it acknowledged"),
                Notice::Faulty(what) => writeln!(self.out, "{id} is faulty: {what}"),
                Notice::Leads | Notice::LeadsNoLonger => Ok(()),
            }
            .expect("a string");
        }
        for work in effects.checkpoints {
            if let CheckpointWork::Adopt { from, .. } = work {
                writeln!(self.out, "{id} adopts the checkpoint of {}", from.index).expect("a string");
                node.applied = vec![format!("checkpoint {}", from.index)];
            } else {
                node.works.push_back(work);
            }
        }
        let at = node.appended;
        node.gated.extend(effects.send_after.into_iter().map(|envelope| (at, envelope)));
        for envelope in effects.send_now {
            self.send(envelope);
        }
        self.release(id);
    }

    fn send(&mut self, envelope: Envelope) {
        writeln!(self.out, "{}", envelope_text(&envelope)).expect("a string");
        if self.cut.contains(&(envelope.from.0, envelope.to.0)) {
            return;
        }
        self.network.push_back(envelope);
    }

    /// So many records become durable, or all.
    pub(crate) fn sync(&mut self, id: u64, records: usize) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        for _ in 0..records.min(node.pending.len()) {
            node.persist();
        }
        self.release(id);
        self.work(id);
    }

    fn release(&mut self, id: u64) {
        loop {
            let node = self.nodes.get_mut(&id).expect("a known node");
            let durable = node.durable;
            let Some((_, envelope)) = node.gated.pop_front_if(|(at, _)| *at <= durable) else { return };
            if envelope.to == envelope.from {
                let now = self.now;
                self.with(id, |group, effects| group.receive(now, envelope, effects));
            } else {
                self.send(envelope);
            }
        }
    }

    /// The owner does what it was asked for about checkpoints.
    pub(crate) fn work(&mut self, id: u64) {
        loop {
            let node = self.nodes.get_mut(&id).expect("a known node");
            let Some(work) = node.works.pop_front() else { return };
            match work {
                CheckpointWork::Wanted { .. } => {
                    let Some(group) = &node.group else { return };
                    let from = group.applied_point();
                    let bytes = format!("state after {}", from.index).into_bytes();
                    let number = CheckpointNumber(from.index.0);
                    let length = bytes.len() as u64;
                    node.offers.insert(CheckpointId { maker: ReplicaId(id), number }, bytes);
                    self.with(id, |group, effects| group.offer(number, from, from, length, effects));
                }
                CheckpointWork::Read { to, checkpoint, offset } => {
                    let piece = node.offers.get(&checkpoint).map(|bytes| {
                        let start = (offset as usize).min(bytes.len());
                        Rc::new(bytes[start..bytes.len().min(start + PIECE_BYTES)].to_vec())
                    });
                    self.with(id, |group, effects| group.chunk(to, checkpoint, offset, piece, effects));
                }
                CheckpointWork::Store { checkpoint, offset, bytes, last } => {
                    node.incoming.truncate(offset as usize);
                    node.incoming.extend_from_slice(&bytes);
                    let from = Point { index: Index(checkpoint.number.0), term: Term(0) };
                    let bytes = node.incoming.len() as u64;
                    let reference = Reference { number: checkpoint.number, from, to: from, bytes, digest: 0 };
                    let stored = if last { Stored::Whole(reference) } else { Stored::Piece };
                    self.with(id, |group, effects| group.chunk_stored(checkpoint, offset, stored, effects));
                }
                CheckpointWork::Adopt { .. } => {}
            }
        }
    }

    /// A message arrives, if its receiver runs and the link holds.
    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        let to = envelope.to.0;
        if self.cut.contains(&(envelope.from.0, to)) {
            return;
        }
        if let btree_map::Entry::Vacant(vacant) = self.nodes.entry(to) {
            // A replica that was just added begins empty.
            vacant.insert(Node::new(Disk::default(), Configuration::default()));
            self.start(to, 0);
        }
        if self.nodes[&to].group.is_some() {
            let now = self.now;
            self.with(to, |group, effects| group.receive(now, envelope, effects));
        }
    }

    pub(crate) fn change(&mut self, id: u64, change: &Change) -> Result<(), String> {
        let now = self.now;
        let based_on = self.group(id).configuration().0;
        let outcome = self.with(id, |group, effects| group.change(now, change, based_on, effects));
        outcome.map(|_| ()).map_err(|refusal| refusal.to_string())
    }

    pub(crate) fn read(&mut self, id: u64, token: u64) -> Result<(), String> {
        self.with(id, |group, _| group.read(ReadToken(token))).map_err(|refusal| refusal.to_string())
    }

    /// One line a replica.
    pub(crate) fn status(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            let Some(group) = &node.group else {
                writeln!(text, "{id} is down").expect("a string");
                continue;
            };
            let terms: Vec<String> = (group.before().index.0 + 1..=group.last().0)
                .map(|index| group.term_at(Index(index)).map_or("?".into(), |term| term.to_string()))
                .collect();
            writeln!(
                text,
                "{id} {} term {} log {}+[{}] commit {}{}",
                group.role_name(),
                group.term(),
                group.before().index,
                terms.join(" "),
                group.commit(),
                if node.applied.is_empty() { String::new() } else { format!(" applied {}", node.applied.join(" ")) },
            )
            .expect("a string");
        }
        text
    }
}

impl Node {
    fn new(disk: Disk, initial: Configuration) -> Node {
        Node {
            group: None,
            disk,
            initial,
            pending: VecDeque::new(),
            gated: VecDeque::new(),
            appended: 0,
            durable: 0,
            lives: 0,
            works: VecDeque::new(),
            offers: BTreeMap::new(),
            incoming: Vec::new(),
            conditions: Conditions::default(),
            applied: Vec::new(),
        }
    }

    /// Whether something it has logged is not durable.
    pub(crate) fn has_unwritten(&self) -> bool {
        !self.pending.is_empty() && self.group.is_some()
    }

    fn persist(&mut self) {
        let Some(record) = self.pending.pop_front() else { return };
        self.durable += 1;
        let disk = &mut self.disk;
        match record {
            Record::HardState { term, vote, .. } => (disk.term, disk.vote) = (term, vote),
            Record::Entry { term, index, payload, .. } => disk.entries.push_back(Entry { term, index, payload }),
            Record::Truncate { last, .. } => {
                while disk.entries.pop_back_if(|entry| entry.index > last.index).is_some() {}
            }
            Record::Install { kept, .. } => {
                disk.entries.clear();
                disk.base = kept.newest.map(|newest| newest.from).unwrap_or_default();
                if let Some(group) = &self.group {
                    disk.base.term = group.term_at(disk.base.index).unwrap_or(disk.base.term);
                    let (at, configuration) = group.configuration_at(disk.base.index);
                    disk.configuration = (at, configuration.clone());
                }
            }
            Record::Checkpoint { .. } => {}
        }
    }
}

/// Voters of these ids, on nodes of the same numbers, and learners.
pub(crate) fn configuration(voters: &[u64], learners: &[u64]) -> Configuration {
    let mut members: Vec<Member> = voters.iter().map(|&id| Member::voter(ReplicaId(id), place(id))).collect();
    let learner = |&id: &u64| Member { incoming: false, ..Member::voter(ReplicaId(id), place(id)) };
    members.extend(learners.iter().map(learner));
    members.sort_by_key(|member| member.replica);
    Configuration::new(members).expect("a sound configuration")
}

fn payload_text(payload: &[u8]) -> String {
    match Configuration::decode(payload) {
        Some(Ok(configuration)) => configuration_text(&configuration),
        Some(Err(_)) => "unreadable".into(),
        None if payload == [2, 0] => "-".into(),
        None => String::from_utf8_lossy(payload).into_owned(),
    }
}

pub(crate) fn configuration_text(configuration: &Configuration) -> String {
    let ids = |ids: Vec<u64>| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("voters {}", ids(configuration.incoming().map(|id| id.0).collect()));
    if configuration.is_joint() {
        text += &format!(" and {}", ids(configuration.outgoing().map(|id| id.0).collect()));
    }
    let learners = configuration.members().iter().filter(|member| !member.incoming && !member.outgoing);
    let learners: Vec<u64> = learners.map(|member| member.replica.0).collect();
    if !learners.is_empty() {
        text += &format!(" learners {}", ids(learners));
    }
    text
}

fn record_text(record: &Record) -> String {
    match record {
        Record::HardState { term, vote, .. } if *vote == ReplicaId::NONE => format!("term {term}"),
        Record::HardState { term, vote, .. } => format!("term {term} vote {vote}"),
        Record::Entry { term, index, payload, .. } => format!("{index}/{term} {}", payload_text(payload)),
        Record::Truncate { last, .. } => format!("end at {}/{}", last.index, last.term),
        Record::Install { .. } => "installation".into(),
        Record::Checkpoint { .. } => "checkpoint".into(),
    }
}

/// A message, as short as can be.
pub(crate) fn envelope_text(envelope: &Envelope) -> String {
    let point = |point: &Point| format!("{}/{}", point.index, point.term);
    let what = match &envelope.message {
        Message::PreVoteRequest { campaign, last } => format!("would you vote in {campaign}, log to {}", point(last)),
        Message::PreVoteReply { campaign, granted } => {
            format!("{} in {campaign}", if *granted { "would" } else { "would not" })
        }
        Message::VoteRequest { last, transfer } => {
            format!("vote, log to {}{}", point(last), if *transfer { ", for a transfer" } else { "" })
        }
        Message::VoteReply { granted } => (if *granted { "votes" } else { "does not vote" }).into(),
        Message::Append { previous, commit, entries, .. } => {
            let entries: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}/{} {}", entry.index, entry.term, payload_text(&entry.payload)))
                .collect();
            format!("append after {} [{}] commit {commit}", point(previous), entries.join(", "))
        }
        Message::Appended { matched } => format!("has {matched}"),
        Message::Rejected { previous, hint, last, .. } => {
            format!("lacks {previous}, try {}, log to {last}", point(hint))
        }
        Message::Heartbeat { round, commit } => format!("heartbeat round {round} commit {commit}"),
        Message::HeartbeatReply { round, verified } => format!("heard round {round} verified {verified}"),
        Message::TermIsOver => "your term is over".into(),
        Message::Chunk(chunk) => chunk_text(chunk),
        Message::ChunkReply { wanted, .. } => format!("wants byte {wanted}"),
        Message::TimeoutNow { last, .. } => format!("lead, if your log ends at {}", point(last)),
        Message::ReadRequest { .. } => "asks for a read index".into(),
        Message::ReadReply { index: Some(index), .. } => format!("read index {index}"),
        Message::ReadReply { index: None, .. } => "no read index".into(),
    };
    format!("{}→{} term {}: {what}", envelope.from, envelope.to, envelope.term)
}

fn chunk_text(chunk: &Chunk) -> String {
    let end = chunk.offset + chunk.bytes.len() as u64;
    format!("checkpoint of {}/{}, bytes {}..{end} of {}", chunk.from.index, chunk.from.term, chunk.offset, chunk.total)
}
