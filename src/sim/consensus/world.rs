//! Stores, the network between them, and what is done to them: one action a step, each chosen by the entropy.

use super::disk::{Durable, File, Logged};
use super::entropy::Entropy;
use super::network::{Content, Network, Packet};
use super::report::Report;
use super::store::{Asked, Replica, Store};
use super::swarm::{Action, Swarm};
use super::truth::{self, Truth};
use crate::engine::checkpoint::{Kept, Reference};
use crate::engine::prng::mix;
use crate::engine::raft::configuration::{Change, Configuration};
use crate::engine::raft::install::{CheckpointId, CheckpointWork, Stored};
use crate::engine::raft::{Conditions, Effects, Entry, Envelope, Group, Message, Notice, Setup, Timing};
use crate::engine::wal::Record;
use crate::ids::{Index, Micros, ReadToken, ReplicaId, ShardId, Term};
use crate::limits::{RAFT_ELECTION_MICROS, RAFT_HEARTBEAT_MICROS};

/// Bytes of a checkpoint that travel as one.
const PIECE_BYTES: usize = 24;
/// A store lets so many of its replicas campaign.
const CAMPAIGNS_MAX: usize = 2;
/// How long a log may stand still before its store calls it stalled.
const STALL_MICROS: u64 = RAFT_ELECTION_MICROS;

/// Told what happens, line by line.
pub type Tracer = Box<dyn FnMut(&str)>;

pub(super) struct World {
    pub(super) entropy: Entropy,
    pub(super) swarm: Swarm,
    pub(super) now: Micros,
    pub(super) stores: Vec<Store>,
    pub(super) network: Network,
    pub(super) truths: Vec<Truth>,
    pub(super) report: Report,
    /// Numbers for payloads and reads.
    next: u64,
    /// Counts what has happened to replicas.
    events: u64,
    effects: Effects,
    tracer: Option<Tracer>,
}

impl World {
    pub(super) fn new(mut entropy: Entropy, tracer: Option<Tracer>) -> World {
        let swarm = Swarm::draw(&mut entropy);
        World::of(swarm, entropy, tracer)
    }

    /// A world that has just been formatted.
    pub(super) fn of(swarm: Swarm, entropy: Entropy, tracer: Option<Tracer>) -> World {
        let Swarm { stores, groups, voters, .. } = swarm;
        let mut world = World {
            entropy,
            now: Micros(1_000_000),
            stores: (0..stores as u64).map(|number| Store::new(number, groups)).collect(),
            network: Network::new(stores),
            truths: Vec::new(),
            report: Report::default(),
            next: 1,
            events: 0,
            effects: Effects::default(),
            tracer,
            swarm,
        };
        for group in 0..groups {
            // Formatted: every voter has the same configuration, and nothing else.
            let places: Vec<_> = (0..voters).map(|at| world.stores[(at + group) % stores].place).collect();
            let initial = Configuration::initial(&places).expect("a sound configuration");
            for (at, replica) in (0..voters).zip(1..) {
                let durable = Durable { replica: ReplicaId(replica), initial: initial.clone(), ..Durable::default() };
                world.stores[(at + group) % stores].durable[group] = durable;
            }
            world.truths.push(Truth::new(initial));
        }
        world
    }

    pub(super) fn trace(&mut self, what: impl FnOnce() -> String) {
        if let Some(tracer) = &mut self.tracer {
            tracer(&what());
        }
    }

    /// Starts a store that is down.
    pub(super) fn start(&mut self, at: usize) -> Result<(), String> {
        let store = &mut self.stores[at];
        if store.is_up {
            return Ok(());
        }
        (store.is_up, store.moved_at) = (true, self.now);
        store.lives += 1;
        for group in 0..store.durable.len() {
            let durable = &store.durable[group];
            if durable.replica == ReplicaId::NONE {
                continue;
            }
            self.truths[group].restarts(durable.replica, durable.term)?;
            let (restored, state) = durable.restore(&store.files[group])?;
            let (kept_from, whole_from) = (restored.before.index, restored.whole_from);
            let setup = setup(group, durable.replica, store.lives, at, self.swarm.batch);
            let raft = Group::new(&setup, restored, self.now);
            store.replicas[group] = Some(Replica::new(raft, state, kept_from, whole_from));
        }
        self.report.starts += 1;
        self.trace(|| format!("store {at} starts"));
        Ok(())
    }

    /// One action. False when there is no more entropy.
    pub(super) fn step(&mut self) -> Result<bool, String> {
        let Some(byte) = self.entropy.below(self.swarm.choices()) else { return Ok(false) };
        self.report.steps += 1;
        match self.swarm.action(byte) {
            Action::Deliver => self.deliver(false)?,
            Action::Repeat => self.deliver(true)?,
            Action::Lose => {
                let place = self.pick(self.network.len());
                self.network.lose(place);
            }
            Action::Write => {
                let at = self.pick(self.stores.len());
                self.write(at)?;
            }
            Action::Tick => self.tick()?,
            Action::Propose => self.propose()?,
            Action::Read => self.read()?,
            Action::Crash => self.crash()?,
            Action::Start => {
                let at = self.pick(self.stores.len());
                self.start(at)?;
            }
            Action::Cut => self.cut(),
            Action::Heal => self.network.heal(),
            Action::Stick => {
                let at = self.pick(self.stores.len());
                self.stores[at].is_stuck ^= true;
            }
            Action::Jump => {
                self.now = self.now.plus(1 << (10 + 2 * self.entropy.below(8).unwrap_or(0)));
                self.tick()?;
            }
            Action::Checkpoint => self.checkpoint()?,
            Action::Forget => {
                let (at, group) = (self.pick(self.stores.len()), self.pick(self.truths.len()));
                if let Some(replica) = &mut self.stores[at].replicas[group] {
                    replica.group.forget(0);
                }
            }
            Action::Change => self.change()?,
            Action::Transfer => self.transfer()?,
            Action::Lag => self.swarm.lags ^= true,
            Action::Doze => {
                let at = self.pick(self.stores.len());
                self.stores[at].dozes ^= true;
            }
        }
        Ok(true)
    }

    pub(super) fn pick(&mut self, bound: usize) -> usize {
        self.entropy.below(bound.max(1) as u64).unwrap_or(0) as usize
    }

    /// A store and group to do something with: the group's leader, if asked for and there is one, or else any replica.
    fn pick_replica(&mut self, leading: bool) -> (usize, usize) {
        let (at, group) = (self.pick(self.stores.len()), self.pick(self.truths.len()));
        let leads = |store: &Store| store.replicas[group].as_ref().is_some_and(|replica| replica.group.is_leader());
        let count = self.stores.len();
        let leader = (0..count).map(|step| (at + step) % count).find(|at| leads(&self.stores[*at]));
        (leader.filter(|_| leading).unwrap_or(at), group)
    }

    pub(super) fn deliver(&mut self, repeat: bool) -> Result<(), String> {
        let reorders = self.swarm.reorders;
        let place = if reorders { self.pick(self.network.len().min(64)) } else { 0 };
        let packet = if repeat { self.network.copy(place) } else { self.network.take(place) };
        let Some(Packet { to, content, .. }) = packet else { return Ok(()) };
        match content {
            Content::One(envelope) => self.receive(to, envelope)?,
            Content::Beats(frame) => {
                let arrived: Vec<Envelope> = frame.envelopes().collect();
                if arrived.iter().zip(&frame.beats).any(|(envelope, beat)| envelope.term != beat.term) {
                    return Err("a heartbeat arrives with another term than it left with".into());
                }
                for envelope in arrived {
                    self.receive(to, envelope)?;
                }
            }
        }
        self.send_bundle(to);
        Ok(())
    }

    /// A message has come to a store.
    fn receive(&mut self, at: usize, envelope: Envelope) -> Result<(), String> {
        let group = envelope.shard.0 as usize;
        let store = &mut self.stores[at];
        if !store.is_up {
            return Ok(());
        }
        let here = store.replicas[group].as_ref().map_or(ReplicaId::NONE, |replica| replica.group.replica());
        if here < envelope.to && matches!(envelope.message, Message::Append { .. } | Message::Chunk(_)) {
            // A replica that has been added: it begins empty, and whatever was here before is done with for good.
            store.log(group, Logged::Begin(envelope.to));
            self.truths[group].begins(envelope.to, store.place.node.0)?;
            let setup = setup(group, envelope.to, store.lives, at, self.swarm.batch);
            let (restored, state) = Durable::default().restore(&store.files[group])?;
            let raft = Group::new(&setup, restored, self.now);
            store.replicas[group] = Some(Replica::new(raft, state, Index(0), Index(0)));
            self.report.added += 1;
        }
        let now = self.now;
        let Some(replica) = &mut store.replicas[group] else { return Ok(()) };
        if replica.group.is_leader() && envelope.term == replica.group.term() {
            replica.heard.insert(envelope.from, now);
        }
        self.events += 1;
        let beat = matches!(envelope.message, Message::Heartbeat { .. }).then_some((envelope.term, envelope.to));
        if self.tracer.is_some() {
            self.trace(|| format!("  {at} takes {envelope:?}"));
        }
        self.with(at, group, |raft, effects| raft.receive(now, envelope, effects))?;
        if let Some((term, voter)) = beat
            && self.stores[at].replicas[group].as_ref().is_some_and(|replica| replica.group.term() == term)
        {
            self.truths[group].confirms(term, voter, self.events);
        }
        Ok(())
    }

    /// The disk of a store moves: a write begins, or the one under way ends and the owner does what it was asked for.
    pub(super) fn write(&mut self, at: usize) -> Result<(), String> {
        let store = &mut self.stores[at];
        if !store.is_up || store.is_stuck {
            return Ok(());
        }
        self.report.writes += u64::from(store.has_unwritten());
        if store.has_unwritten() && !store.begin_write() {
            return Ok(());
        }
        store.end_write(self.now)?;
        while let Some(envelope) = self.stores[at].ungated() {
            if let Message::VoteReply { granted: true } = envelope.message {
                self.truths[envelope.shard.0 as usize].votes(envelope.term, envelope.from, envelope.to)?;
            }
            self.truths[envelope.shard.0 as usize].promises(envelope.from, envelope.term);
            self.route(at, envelope)?;
        }
        for group in 0..self.truths.len() {
            self.work(at, group)?;
        }
        self.send_bundle(at);
        Ok(())
    }

    /// Sends a message: to the store itself at once, to others through the network.
    fn route(&mut self, at: usize, envelope: Envelope) -> Result<(), String> {
        let group = envelope.shard.0 as usize;
        let own = self.stores[at].replicas[group].as_ref().map(|replica| replica.group.configuration().1);
        let known = own.and_then(|own| own.member(envelope.to)).map(|member| member.place.node.0);
        let Some(node) = known.or_else(|| self.truths[group].place(envelope.to)) else { return Ok(()) };
        let to = node as usize - 1;
        if to == at {
            return self.receive(at, envelope);
        }
        let place = self.stores[to].place;
        if let Err(envelope) = self.stores[at].bundle.gather(place, envelope) {
            self.network.send(Packet { from: at, to, content: Content::One(envelope) });
        }
        Ok(())
    }

    /// Sends the heartbeats of all groups that have gathered.
    fn send_bundle(&mut self, from: usize) {
        for frame in self.stores[from].bundle.take() {
            let to = frame.to.node.0 as usize - 1;
            self.network.send(Packet { from, to, content: Content::Beats(frame) });
        }
    }

    /// Goes on to the next moment at which a group wants to look at the time, and lets all look that want to by then.
    pub(super) fn tick(&mut self) -> Result<(), String> {
        let up = self.stores.iter().filter(|store| store.is_up && !store.dozes);
        let groups = up.flat_map(|store| store.replicas.iter().flatten());
        let Some(next) = groups.filter_map(|replica| replica.group.deadline()).min() else { return Ok(()) };
        self.now = self.now.max(next);
        let now = self.now;
        for at in 0..self.stores.len() {
            let store = &mut self.stores[at];
            if !store.is_up || store.dozes {
                continue;
            }
            if !store.has_unwritten() {
                store.moved_at = now;
            }
            let log_stalled = store.moved_at.plus(STALL_MICROS) < now;
            for group in 0..self.truths.len() {
                let replicas = &self.stores[at].replicas;
                let campaigns = replicas.iter().flatten().filter(|replica| replica.group.campaigns()).count();
                let Some(replica) = &replicas[group] else { continue };
                if replica.group.deadline().is_none_or(|deadline| deadline > now) {
                    continue;
                }
                let conditions = Conditions { log_stalled, campaigns_full: campaigns >= CAMPAIGNS_MAX };
                self.report.ticks += 1;
                self.with(at, group, |raft, effects| raft.tick(now, conditions, effects))?;
                let stalled_long = self.stores[at].moved_at.plus(STALL_MICROS + RAFT_HEARTBEAT_MICROS) < now;
                self.check_leader_may_stay(at, group, stalled_long)?;
            }
            self.send_bundle(at);
        }
        Ok(())
    }

    /// A leader that has just looked at the time has a quorum that answers, and a disk that moves.
    fn check_leader_may_stay(&self, at: usize, group: usize, log_stalled: bool) -> Result<(), String> {
        let Some(replica) = &self.stores[at].replicas[group] else { return Ok(()) };
        let raft = &replica.group;
        let (_, configuration) = raft.configuration();
        if !raft.is_leader() || configuration.is_sole_voter(raft.replica()) {
            return Ok(());
        }
        if log_stalled {
            return Err("a leader stays although its log is stalled".into());
        }
        let limit = RAFT_ELECTION_MICROS + RAFT_HEARTBEAT_MICROS;
        let is_heard = |voter: &ReplicaId| {
            let heard = replica.heard.get(voter).copied().unwrap_or_default();
            *voter == raft.replica() || heard.plus(limit) >= self.now
        };
        if truth::is_quorum(configuration, is_heard) {
            return Ok(());
        }
        Err("a leader stays although no quorum answers".into())
    }

    fn propose(&mut self) -> Result<(), String> {
        let (at, group) = self.pick_replica(true);
        let count = 1 + self.pick(self.swarm.burst);
        for _ in 0..count {
            self.propose_at(at, group)?;
        }
        Ok(())
    }

    /// Whether a proposal was taken.
    pub(super) fn propose_at(&mut self, at: usize, group: usize) -> Result<bool, String> {
        if self.stores[at].replicas[group].is_none() {
            return Ok(false);
        }
        self.next += 1;
        let payload = [&[9; 8][..], &self.next.to_le_bytes()].concat();
        let mut outcome = None;
        let proposed = payload.clone();
        self.with(at, group, |raft, effects| outcome = Some(raft.propose(proposed, effects)))?;
        match outcome.expect("it was called") {
            Ok(index) => self.truths[group].took(&payload, index).map(|()| true),
            Err(_) => self.truths[group].refused(&payload).map(|()| false),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let ask_leader = self.next.is_multiple_of(2);
        let (at, group) = self.pick_replica(ask_leader);
        self.read_at(at, group).map(|_| ())
    }

    /// The token of a read, if one was taken.
    pub(super) fn read_at(&mut self, at: usize, group: usize) -> Result<Option<ReadToken>, String> {
        self.next += 1;
        let (token, committed) = (ReadToken(self.next), self.truths[group].committed());
        let Some(replica) = &mut self.stores[at].replicas[group] else { return Ok(None) };
        self.events += 1;
        let of = replica.group.is_leader().then(|| (replica.group.term(), replica.group.configuration().0));
        replica.reads.insert(token, Asked { committed, event: self.events, of });
        let mut outcome = Ok(());
        self.with(at, group, |raft, _| outcome = raft.read(token))?;
        if outcome.is_err()
            && let Some(replica) = &mut self.stores[at].replicas[group]
        {
            replica.reads.remove(&token);
        }
        Ok(outcome.is_ok().then_some(token))
    }

    fn crash(&mut self) -> Result<(), String> {
        let at = self.pick(self.stores.len());
        if self.stores[at].is_up {
            let survive = self.entropy.below(8).unwrap_or(0);
            self.stores[at].crash(survive)?;
            self.report.crashes += 1;
            self.trace(|| format!("store {at} crashes; {survive} records more are found"));
        }
        Ok(())
    }

    fn cut(&mut self) {
        let count = self.stores.len();
        let kind = self.pick(4);
        // Cutting off a leader shows more than cutting off anybody.
        let (at, _) = self.pick_replica(self.now.0.is_multiple_of(2));
        for other in (0..count).filter(|other| *other != at) {
            match kind {
                0 => self.network.set_cut(at, other, true),
                1 => self.network.set_cut(other, at, true),
                2 => [(at, other), (other, at)].into_iter().for_each(|(a, b)| self.network.set_cut(a, b, true)),
                _ => {
                    // Two parts.
                    let apart = (at + other).is_multiple_of(2) && other != (at + 1) % count;
                    self.network.set_cut(at, other, apart);
                    self.network.set_cut(other, at, apart);
                }
            }
        }
        self.report.cuts += 1;
    }

    /// Begins or ends a checkpoint.
    fn checkpoint(&mut self) -> Result<(), String> {
        let (at, group) = (self.pick(self.stores.len()), self.pick(self.truths.len()));
        self.take_checkpoint(at, group);
        Ok(())
    }

    fn take_checkpoint(&mut self, at: usize, group: usize) {
        let store = &mut self.stores[at];
        let Some(replica) = &mut store.replicas[group] else { return };
        if replica.group.applied() < replica.whole_from || replica.group.faulty().is_some() {
            return;
        }
        let here = replica.group.applied_point();
        let Some((from, state)) = replica.begun.take() else {
            replica.begun = Some((here, replica.state));
            return;
        };
        if from.index <= replica.kept_from || from.index < replica.group.before().index {
            return;
        }
        let (index, configuration) = replica.group.configuration_at(from.index);
        let configuration = (index, configuration.clone());
        replica.kept_from = from.index;
        let number = store.number();
        let file = File { from, to: here, state, configuration };
        let reference = Reference { number, from, to: here, bytes: content_of(&file).len() as u64, digest: state };
        store.files[group].insert(number, file);
        let kept = Kept { newest: Some(reference), older: None };
        store.log(group, Logged::Raft(Record::Checkpoint { shard: ShardId(group as u32), kept }));
        self.report.checkpoints += 1;
    }

    fn change(&mut self) -> Result<(), String> {
        let (at, group) = self.pick_replica(true);
        let Some(replica) = &self.stores[at].replicas[group] else { return Ok(()) };
        let (based_on, configuration) = replica.group.configuration();
        let configuration = configuration.clone();
        let (joint, term) = (configuration.is_joint(), replica.group.term());
        let members: Vec<ReplicaId> = configuration.members().iter().map(|member| member.replica).collect();
        let kind = self.pick(3);
        let one = self.pick(members.len());
        let change = match kind {
            0 => {
                let free = |at: &usize| {
                    let place = self.stores[*at].place;
                    configuration.members().iter().all(|member| member.place != place)
                };
                let Some(free) = (0..self.stores.len()).find(free) else { return Ok(()) };
                Change::Add(self.stores[free].place)
            }
            1 => {
                let wanted = self.pick(1 << members.len().min(7));
                let chosen = members.iter().enumerate().filter(|(place, _)| wanted >> place & 1 == 1);
                Change::Voters(chosen.map(|(_, replica)| *replica).collect())
            }
            _ => Change::Remove(members.get(one).copied().unwrap_or_default()),
        };
        let now = self.now;
        let mut outcome = None;
        self.with(at, group, |raft, effects| outcome = Some(raft.change(now, &change, based_on, effects)))?;
        if let Some(Ok(_)) = outcome {
            self.report.changes += 1;
            if joint || !self.truths[group].may_change(based_on, term) {
                return Err(
                    "a change was begun before the one before, or the leader's first entry, was committed".into()
                );
            }
        }
        self.trace(|| format!("store {at} group {group}: {change:?}: {outcome:?}"));
        Ok(())
    }

    fn transfer(&mut self) -> Result<(), String> {
        let (at, group) = self.pick_replica(true);
        let Some(replica) = &self.stores[at].replicas[group] else { return Ok(()) };
        let members: Vec<_> = replica.group.configuration().1.members().iter().map(|member| member.replica).collect();
        let to = self.pick(members.len());
        let Some(&to) = members.get(to) else { return Ok(()) };
        let now = self.now;
        let mut begun = false;
        self.with(at, group, |raft, _| begun = raft.transfer(now, to).is_ok())?;
        self.report.transfers += u64::from(begun);
        Ok(())
    }

    /// The owner of a replica does what its group asked for about checkpoints.
    fn work(&mut self, at: usize, group: usize) -> Result<(), String> {
        loop {
            let Some(replica) = &mut self.stores[at].replicas[group] else { return Ok(()) };
            let Some(work) = replica.works.pop_front() else { return Ok(()) };
            match work {
                CheckpointWork::Wanted { from } => self.offer(at, group, from)?,
                CheckpointWork::Read { to, checkpoint, offset } => {
                    let content = self.stores[at].files[group].get(&checkpoint.number).map(content_of);
                    let bytes = content.map(|bytes| {
                        let start = (offset as usize).min(bytes.len());
                        bytes[start..bytes.len().min(start + PIECE_BYTES)].to_vec()
                    });
                    let bytes = bytes.map(std::rc::Rc::new);
                    self.with(at, group, |raft, effects| raft.chunk(to, checkpoint, offset, bytes, effects))?;
                }
                CheckpointWork::Store { checkpoint, offset, bytes, last } => {
                    if offset == 0 {
                        replica.incoming.clear();
                    }
                    let file = replica.incoming.entry(checkpoint).or_default();
                    file.extend_from_slice(&bytes);
                    let stored = if last { self.stored_whole(at, group, checkpoint)? } else { Stored::Piece };
                    self.with(at, group, |raft, effects| raft.chunk_stored(checkpoint, offset, stored, effects))?;
                }
                CheckpointWork::Adopt { .. } => return Err("a checkpoint is adopted late".into()),
            }
        }
    }

    /// The leader's owner offers its checkpoint, or takes one first.
    fn offer(&mut self, at: usize, group: usize, least: Index) -> Result<(), String> {
        for _ in 0..2 {
            let newest = self.stores[at].files[group].last_key_value();
            if let Some((&number, file)) = newest
                && file.from.index >= least
            {
                let (from, to, bytes) = (file.from, file.to, content_of(file).len() as u64);
                return self.with(at, group, |raft, effects| raft.offer(number, from, to, bytes, effects));
            }
            self.take_checkpoint(at, group);
            self.take_checkpoint(at, group);
        }
        Ok(())
    }

    /// All of a checkpoint has come in: it becomes a file of the store's own.
    fn stored_whole(&mut self, at: usize, group: usize, checkpoint: CheckpointId) -> Result<Stored, String> {
        let store = &mut self.stores[at];
        let Some(replica) = &mut store.replicas[group] else { return Ok(Stored::Failed) };
        let bytes = replica.incoming.remove(&checkpoint).unwrap_or_default();
        let file = file_of(&bytes).ok_or("a checkpoint was put together wrongly")?;
        let number = store.number();
        let (from, to, digest) = (file.from, file.to, file.state);
        store.files[group].insert(number, file);
        Ok(Stored::Whole(Reference { number, from, to, bytes: bytes.len() as u64, digest }))
    }

    /// Does something with a replica, takes what comes of it, and checks everything that it could have broken.
    pub(super) fn with(
        &mut self,
        at: usize,
        group: usize,
        act: impl FnOnce(&mut Group, &mut Effects),
    ) -> Result<(), String> {
        let Some(replica) = &mut self.stores[at].replicas[group] else { return Ok(()) };
        let mut effects = std::mem::take(&mut self.effects);
        act(&mut replica.group, &mut effects);
        loop {
            let adopted = self.adopt(at, group, &mut effects)?;
            let applied = self.apply(at, group)?;
            let now = self.now;
            let Some(replica) = &mut self.stores[at].replicas[group] else { break };
            replica.group.flush(now, &mut effects);
            if !adopted && !applied {
                break;
            }
        }
        let outcome = self.absorb(at, group, &mut effects);
        self.effects = effects;
        outcome
    }

    /// Replaces a replica's state by a checkpoint's.
    fn adopt(&mut self, at: usize, group: usize, effects: &mut Effects) -> Result<bool, String> {
        let place = effects.checkpoints.iter().position(|work| matches!(work, CheckpointWork::Adopt { .. }));
        let Some(place) = place else { return Ok(false) };
        let CheckpointWork::Adopt { from, .. } = effects.checkpoints.remove(place) else { return Ok(false) };
        let store = &mut self.stores[at];
        let (_, file) = store.files[group].last_key_value().ok_or("nothing to adopt")?;
        let (state, to, configuration) = (file.state, file.to, file.configuration.clone());
        let Some(replica) = &mut store.replicas[group] else { return Ok(false) };
        (replica.state, replica.whole_from, replica.kept_from, replica.begun) = (state, to.index, from.index, None);
        self.report.installs += 1;
        if self.truths[group].state_at(from.index) != Some(state) {
            return Err(format!("state machine safety: the checkpoint of entry {} is of another state", from.index));
        }
        let (index, in_force) = replica.group.configuration_at(from.index);
        if (index, in_force) != (configuration.0, &configuration.1)
            || self.truths[group].configuration_at(from.index) != &configuration
        {
            return Err("a checkpoint carries another configuration than was in force".into());
        }
        Ok(true)
    }

    /// Applies what is committed, unless the owner lags behind. Whether anything was.
    fn apply(&mut self, at: usize, group: usize) -> Result<bool, String> {
        if self.swarm.lags {
            return Ok(false);
        }
        let mut any = false;
        // What a step has committed is checked before it is applied.
        check_commit(&mut self.truths[group], &self.stores, at, group)?;
        let Some(replica_now) = &mut self.stores[at].replicas[group] else { return Ok(any) };
        while let Some(entry) = replica_now.group.next_committed() {
            any = true;
            replica_now.state = truth::next_state(replica_now.state, entry.index, truth::digest(&entry.payload));
            if self.truths[group].state_at(entry.index) != Some(replica_now.state) {
                return Err(format!("state machine safety: entry {} is applied differently", entry.index));
            }
            self.report.applied += 1;
        }
        Ok(any)
    }

    /// Takes a step's effects, and checks the replica.
    fn absorb(&mut self, at: usize, group: usize, effects: &mut Effects) -> Result<(), String> {
        self.check_records(at, group, effects)?;
        self.check(at, group)?;
        let store = &mut self.stores[at];
        for record in effects.records.drain(..) {
            store.log(group, Logged::Raft(record));
        }
        for envelope in effects.send_after.drain(..) {
            store.gate(envelope);
        }
        let Some(replica) = &mut store.replicas[group] else { return Ok(()) };
        replica.works.extend(effects.checkpoints.drain(..));
        for answer in effects.reads.drain(..) {
            let asked = replica.reads.remove(&answer.token).ok_or("a read is answered twice, or was never asked")?;
            let Ok(index) = answer.result else { continue };
            self.report.reads += 1;
            if index < asked.committed {
                let committed = asked.committed;
                return Err(format!("a read was answered as of {index}, and {committed} was committed before it"));
            }
            // Under another configuration another quorum may have confirmed it.
            let now = (replica.group.term(), replica.group.configuration().0);
            if replica.group.is_leader()
                && asked.of == Some(now)
                && !self.truths[group].is_confirmed(&replica.group, asked.event)
            {
                return Err("a read was answered, and no quorum has confirmed the leader since it was asked".into());
            }
            if replica.group.applied() < index.max(replica.whole_from) {
                return Err(format!("a read was answered as of {index}, which is not applied"));
            }
        }
        for notice in effects.notices.drain(..) {
            match notice {
                Notice::Leads => self.report.elections += 1,
                Notice::LeadsNoLonger => self.report.depositions += 1,
                Notice::Lost(lost) => return Err(format!("replica {lost} is taken for one that lost its log")),
                Notice::Faulty(what) => return Err(format!("a replica is faulty: {what}")),
            }
        }
        let sent: Vec<Envelope> = effects.send_now.drain(..).collect();
        for envelope in sent {
            if let Message::VoteReply { granted: true } = envelope.message {
                self.truths[group].votes(envelope.term, envelope.from, envelope.to)?;
            }
            self.route(at, envelope)?;
        }
        Ok(())
    }

    fn check_records(&mut self, at: usize, group: usize, effects: &Effects) -> Result<(), String> {
        let Some(replica) = &self.stores[at].replicas[group] else { return Ok(()) };
        let truth = &mut self.truths[group];
        let raft = &replica.group;
        let mut before = None;
        for record in &effects.records {
            match record {
                Record::Entry { term, index, payload, .. } => {
                    let previous = before.or_else(|| raft.term_at(Index(index.0 - 1)));
                    // It may have been applied and forgotten in the same step.
                    let previous = previous.or_else(|| truth.term_of_committed(Index(index.0 - 1)));
                    let entry = Entry { term: *term, index: *index, payload: payload.clone() };
                    let previous = previous.ok_or("an entry is appended behind nothing")?;
                    truth.appended(entry.point(), previous, &entry.payload)?;
                    before = Some(*term);
                    self.report.entries += 1;
                }
                Record::Truncate { last, .. } => {
                    self.report.truncations += 1;
                    let durable = &self.stores[at].durable[group];
                    let known = |index: Index| durable.entries.iter().find(|entry| entry.index == index);
                    truth.truncated(last.index, |index| known(index).map(|entry| entry.term))?;
                    before = Some(last.term);
                    // The configuration in effect is that of the last entry that holds one, and of none that is gone.
                    let held = (raft.before().index.0 + 1..=raft.last().0).rev().find(|index| {
                        let entry = raft.entry(Index(*index));
                        entry.is_some_and(|entry| Configuration::decode(&entry.payload).is_some())
                    });
                    let effective = raft.configuration().0;
                    if held.map_or(effective > raft.before().index, |held| effective != Index(held)) {
                        return Err(format!(
                            "the configuration of entry {effective} is in effect, which is not in the log"
                        ));
                    }
                }
                Record::Install { kept, .. } => {
                    let from = kept.newest.map(|newest| newest.from).unwrap_or_default();
                    if self.stores[at].durable[group].holds(from) {
                        return Err("a checkpoint takes the place of a log that holds its entry".into());
                    }
                }
                Record::HardState { .. } | Record::Checkpoint { .. } => {}
            }
        }
        Ok(())
    }

    /// Checks what a step of one replica can have broken.
    fn check(&mut self, at: usize, group: usize) -> Result<(), String> {
        check_commit(&mut self.truths[group], &self.stores, at, group)?;
        let Some(replica) = &mut self.stores[at].replicas[group] else { return Ok(()) };
        let raft = &replica.group;
        raft.check()?;
        if let Some(what) = raft.faulty() {
            return Err(format!("a replica is faulty: {what}"));
        }
        let seen = &mut replica.seen;
        let vote_moves = raft.term() == seen.term && seen.vote != ReplicaId::NONE && raft.vote() != seen.vote;
        if raft.term() < seen.term || vote_moves {
            return Err("a term went back, or a vote changed in its term".into());
        }
        if raft.commit() < seen.commit || raft.applied() < seen.applied {
            return Err("what was committed or applied went back".into());
        }
        if replica.kept_from > raft.applied() {
            return Err("a checkpoint is ahead of what is applied".into());
        }
        if raft.applied() > seen.applied {
            let known = self.truths[group].configuration_at(raft.applied());
            let (index, configuration) = raft.configuration_at(raft.applied());
            if (index, configuration) != (known.0, &known.1) && raft.applied() >= raft.before().index {
                return Err("another configuration was in force at what is applied".into());
            }
        }
        let (at_index, configuration) = raft.configuration();
        let dismissed = at_index <= raft.commit() && !configuration.votes(raft.replica());
        if raft.is_leader() && dismissed && raft.term() == seen.leads_in && seen.commit >= at_index {
            return Err("a leader stays although a configuration without it is committed".into());
        }
        let began = raft.is_leader() && seen.leads_in != raft.term();
        (seen.term, seen.vote, seen.commit, seen.applied) = (raft.term(), raft.vote(), raft.commit(), raft.applied());
        if began {
            seen.leads_in = raft.term();
            let (_, configuration) = raft.configuration();
            replica.heard = configuration.members().iter().map(|member| (member.replica, self.now)).collect();
            self.truths[group].leads(&replica.group)?;
        }
        let (configured, configuration) = replica.group.configuration();
        if configured != replica.seen.configured {
            replica.seen.configured = configured;
            for member in configuration.members() {
                replica.heard.entry(member.replica).or_insert(self.now);
            }
        }
        self.report.term_max = self.report.term_max.max(replica.group.term().0);
        Ok(())
    }

    /// A digest of all that can be seen: equal runs have equal ones.
    pub(super) fn digest(&self) -> u64 {
        let mut digest = self.now.0;
        for replica in self.stores.iter().flat_map(|store| store.replicas.iter().flatten()) {
            let raft = &replica.group;
            for number in
                [raft.term().0, raft.vote().0, raft.last().0, raft.commit().0, raft.applied().0, replica.state]
            {
                digest = mix(digest ^ number);
            }
        }
        mix(digest ^ self.network.len() as u64)
    }
}

/// What a replica holds for committed is what everybody else does, and what was not committed before is in the durable logs of a quorum of
/// its configuration, counted plainly.
fn check_commit(truth: &mut Truth, stores: &[Store], at: usize, group: usize) -> Result<(), String> {
    let Some(replica) = &stores[at].replicas[group] else { return Ok(()) };
    let raft = &replica.group;
    if raft.commit() == replica.seen.commit {
        return Ok(());
    }
    let mut newest = None;
    for index in replica.seen.commit.0.max(raft.before().index.0) + 1..=raft.commit().0 {
        let entry = raft.entry(Index(index)).ok_or("a committed entry is not there")?;
        let content = truth::Content { term: entry.term, digest: truth::digest(&entry.payload) };
        let configuration = || Configuration::decode(&entry.payload).and_then(Result::ok);
        if truth.commits(entry.index, content, raft.term(), configuration)? {
            newest = Some(entry.point());
        }
    }
    let Some(point) = newest else { return Ok(()) };
    if !raft.is_leader() && raft.leader() != Some(raft.replica()) && !was_deposed_by_itself(raft) {
        return Err(format!("a follower is the first to hold entry {} for committed", point.index));
    }
    if raft.is_leader() && point.term != raft.term() {
        return Err(format!(
            "a leader of term {} commits entry {} of term {} by counting",
            raft.term(),
            point.index,
            point.term
        ));
    }
    let (_, configuration) = raft.configuration();
    let holds = |configuration: &Configuration, voter: &ReplicaId| {
        let place = configuration.member(*voter).map(|member| member.place.node.0);
        let store = place.and_then(|node| stores.get(node as usize - 1));
        store.is_some_and(|store| store.durable[group].replica == *voter && store.durable[group].holds(point))
    };
    // A leader that leaves a joint configuration in the same step has committed under that one.
    let by = |configuration: &Configuration| truth::is_quorum(configuration, |voter| holds(configuration, voter));
    let (at_point, before) = raft.configuration_at(point.index);
    if by(configuration) || (at_point == point.index && by(before)) {
        return Ok(());
    }
    Err(format!("entry {} is held for committed, and is not durable on a quorum", point.index))
}

/// A leader outside of the configuration it has just committed is a follower when the step ends.
fn was_deposed_by_itself(raft: &Group) -> bool {
    !raft.configuration().1.votes(raft.replica())
}

fn setup(group: usize, replica: ReplicaId, lives: u64, at: usize, batch_entries_max: usize) -> Setup {
    let seed = mix(lives << 32 | (at as u64) << 16 | group as u64);
    Setup { shard: ShardId(group as u32), replica, timing: Timing::default(), batch_entries_max, seed }
}

/// A checkpoint as bytes: what its owner would send.
fn content_of(file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in
        [file.from.index.0, file.from.term.0, file.to.index.0, file.to.term.0, file.state, file.configuration.0.0]
    {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    // A configuration of a replica that was only just added is of nobody, and has no encoding.
    if !file.configuration.1.members().is_empty() {
        bytes.extend(file.configuration.1.encode());
    }
    bytes
}

fn file_of(bytes: &[u8]) -> Option<File> {
    let number = |place: usize| Some(u64::from_le_bytes(bytes.get(place * 8..place * 8 + 8)?.try_into().ok()?));
    let point =
        |place| Some(crate::engine::checkpoint::Point { index: Index(number(place)?), term: Term(number(place + 1)?) });
    let configuration = match &bytes[48.min(bytes.len())..] {
        [] => Configuration::default(),
        encoded => Configuration::decode(encoded)?.ok()?,
    };
    Some(File { from: point(0)?, to: point(2)?, state: number(4)?, configuration: (Index(number(5)?), configuration) })
}
