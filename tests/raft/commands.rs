//! What scripts can say.
//!
//! ```text
//! cluster voters=1-2-3 [learners=4] [batch=1] [term=N] [commit=N] [1=1-1-2 …]   replicas, with logs of these terms
//! tick ID            time goes on to where something is due at this replica
//! campaign ID        ticks it until it asks for votes
//! elect ID           campaign, and all messages delivered until it leads and everybody has heard
//! sync ID [records=N]        what it has logged becomes durable
//! deliver [from=ID] [to=ID] [count=N]        messages arrive, oldest first
//! repeat [from=ID] [to=ID]   the oldest arrives, and stays
//! lose [from=ID] [to=ID]     messages are lost
//! hold [from=ID] [to=ID], release    the oldest is held back / what was held is under way again, behind all others
//! settle             everything becomes durable and arrives, until nothing is left
//! cut ID … / heal    these hear nobody and are heard by nobody / all links work
//! propose ID TEXT, read ID NUMBER, transfer ID TO, stall ID, goes-on ID
//! change ID add=NODE | voters=1-2 | remove=ID
//! crash ID [keep=N], start ID, wipe ID, forget ID
//! status, config ID, waiting
//! ```

use std::error::Error;
use std::fmt::Write as _;

use dkc::engine::raft::Envelope;
use dkc::engine::raft::configuration::Change;
use dkc::ids::{Micros, ReplicaId};
use goldenscript::{Command, Context, Runner};

use crate::cluster::{Cluster, Node, configuration, configuration_text, envelope_text, place};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Rounds after which a script is taken to never settle.
const ROUNDS_MAX: usize = 200;

#[derive(Default)]
pub(crate) struct Script {
    cluster: Cluster,
    /// Messages that are held back.
    held: Vec<Envelope>,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        self.cluster.out.clear();
        self.act(command)?;
        Ok(std::mem::take(&mut self.cluster.out))
    }
}

fn numbers(list: &str) -> Outcome<Vec<u64>> {
    let numbers: Result<Vec<u64>, _> = list.split('-').filter(|one| !one.is_empty()).map(str::parse).collect();
    Ok(numbers?)
}

impl Script {
    fn act(&mut self, command: &Command) -> Outcome<()> {
        let mut args = command.consume_args();
        let from: Option<u64> = args.take_key("from").map(str::parse).transpose()?;
        let to: Option<u64> = args.take_key("to").map(str::parse).transpose()?;
        let count: usize = args.take_key("count").map_or(Ok(usize::MAX), str::parse)?;
        let records: usize = args.take_key("records").map_or(Ok(usize::MAX), str::parse)?;
        let keep: usize = args.take_key("keep").map_or(Ok(0), str::parse)?;
        let is_it = |envelope: &Envelope| {
            from.is_none_or(|from| envelope.from.0 == from) && to.is_none_or(|to| envelope.to.0 == to)
        };
        let cluster = &mut self.cluster;
        match command.name.as_str() {
            "cluster" => return self.begin(command),
            "settle" => return self.settle(),
            "deliver" => {
                for _ in 0..count.min(cluster.network.iter().filter(|envelope| is_it(envelope)).count()) {
                    let place = cluster.network.iter().position(is_it).ok_or("nothing to deliver")?;
                    let envelope = cluster.network.remove(place).ok_or("nothing to deliver")?;
                    cluster.deliver(envelope);
                }
                return Ok(());
            }
            "repeat" => {
                let envelope =
                    cluster.network.iter().find(|envelope| is_it(envelope)).ok_or("nothing to repeat")?.clone();
                cluster.deliver(envelope);
                return Ok(());
            }
            "lose" => {
                cluster.network.retain(|envelope| !is_it(envelope));
                return Ok(());
            }
            "hold" => {
                let place = cluster.network.iter().position(is_it).ok_or("nothing to hold")?;
                self.held.extend(cluster.network.remove(place));
                return Ok(());
            }
            "release" => {
                cluster.network.extend(self.held.drain(..));
                return Ok(());
            }
            "waiting" => {
                for envelope in &cluster.network {
                    writeln!(cluster.out, "{}", envelope_text(envelope))?;
                }
                return Ok(());
            }
            "heal" => {
                cluster.cut.clear();
                return Ok(());
            }
            "status" => {
                cluster.out = cluster.status();
                return Ok(());
            }
            "cut" => {
                let mut apart = Vec::new();
                while let Some(id) = args.next_pos() {
                    apart.push(id.parse::<u64>()?);
                }
                let all: Vec<u64> = cluster.nodes.keys().copied().collect();
                for &one in &apart {
                    for &other in all.iter().filter(|other| !apart.contains(other)) {
                        cluster.cut.extend([(one, other), (other, one)]);
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        let id: u64 = args.next_pos().ok_or("which replica?")?.parse()?;
        let rest = args.next_pos().map(str::to_owned);
        match command.name.as_str() {
            "tick" => self.tick(id),
            "campaign" => self.campaign(id)?,
            "elect" => {
                self.campaign(id)?;
                self.settle()?;
                if !self.cluster.group(id).is_leader() {
                    return Err("it does not lead".into());
                }
            }
            "sync" => cluster.sync(id, records),
            "propose" => {
                let payload = rest.ok_or("what?")?.into_bytes();
                cluster.with(id, |group, effects| group.propose(payload, effects))?;
            }
            "read" => cluster.read(id, rest.ok_or("under what number?")?.parse()?)?,
            "transfer" => {
                let (now, to) = (cluster.now, ReplicaId(rest.ok_or("to whom?")?.parse()?));
                cluster.with(id, |group, _| group.transfer(now, to))?;
            }
            "stall" => cluster.nodes.get_mut(&id).ok_or("no such node")?.conditions.log_stalled = true,
            "goes-on" => cluster.nodes.get_mut(&id).ok_or("no such node")?.conditions.log_stalled = false,
            "change" => {
                let change = if let Some(node) = args.take_key("add") {
                    Change::Add(place(node.parse()?))
                } else if let Some(voters) = args.take_key("voters") {
                    Change::Voters(numbers(voters)?.into_iter().map(ReplicaId).collect())
                } else {
                    Change::Remove(ReplicaId(args.take_key("remove").ok_or("what?")?.parse()?))
                };
                cluster.change(id, &change)?;
            }
            "crash" => cluster.crash(id, keep),
            "start" => cluster.start(id, 0),
            "wipe" => cluster.wipe(id),
            "forget" => cluster.group(id).forget(0),
            "config" => cluster.out = configuration_text(cluster.group(id).configuration().1) + "\n",
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()
    }

    fn begin(&mut self, command: &Command) -> Outcome<()> {
        let mut args = command.consume_args();
        let voters = numbers(args.take_key("voters").ok_or("whose?")?)?;
        let learners = numbers(args.take_key("learners").unwrap_or_default())?;
        self.cluster = Cluster { now: Micros(1_000_000), batch: 64, ..Cluster::default() };
        if let Some(batch) = args.take_key("batch") {
            self.cluster.batch = batch.parse()?;
        }
        let term = args.take_key("term").map_or(Ok(0), str::parse)?;
        let commit = args.take_key("commit").map_or(Ok(0), str::parse)?;
        let configuration = configuration(&voters, &learners);
        for id in voters.iter().chain(&learners) {
            let terms = numbers(args.take_key(&id.to_string()).unwrap_or_default())?;
            self.cluster.add(*id, &configuration, &terms, (term, commit));
        }
        args.reject_next()
    }

    fn tick(&mut self, id: u64) {
        let cluster = &mut self.cluster;
        if let Some(deadline) = cluster.group(id).deadline() {
            cluster.now = cluster.now.max(deadline);
        }
        let (now, conditions) = (cluster.now, cluster.nodes[&id].conditions);
        cluster.with(id, |group, effects| group.tick(now, conditions, effects));
    }

    /// Time goes on until it asks for votes. Everybody else's clock goes on with it, unseen.
    fn campaign(&mut self, id: u64) -> Outcome<()> {
        self.tick(id);
        if self.cluster.group(id).campaigns() { Ok(()) } else { Err("it does not campaign".into()) }
    }

    /// Everything becomes durable and arrives, until nothing is left to do.
    fn settle(&mut self) -> Outcome<()> {
        let cluster = &mut self.cluster;
        for _ in 0..ROUNDS_MAX {
            let ids: Vec<u64> =
                cluster.nodes.iter().filter(|(_, node)| node.group.is_some()).map(|(id, _)| *id).collect();
            ids.iter().for_each(|id| cluster.sync(*id, usize::MAX));
            let arriving: Vec<Envelope> = cluster.network.drain(..).collect();
            if arriving.is_empty() && !cluster.nodes.values().any(Node::has_unwritten) {
                return Ok(());
            }
            for envelope in arriving {
                cluster.deliver(envelope);
            }
        }
        Err("it never settles".into())
    }
}
