//! The second part of a run: everything is healed, and then things must get done. A leader emerges in each group, what is proposed to it
//! is committed and applied by all members, reads are answered by each of them, joint configurations are left, and terms stop growing.

use super::world::World;
use crate::ids::{Index, ReadToken, Term};

/// Rounds within which a group must have come to rest. A round delivers all packets, completes all writes, and goes on to the next
/// moment at which something is due: a heartbeat, or an election.
const ROUNDS_MAX: usize = 400;
/// Packets delivered in a round, at most.
const ROUND_PACKETS_MAX: usize = 4_096;

/// What a group has still to show.
#[derive(Clone, Debug, Default)]
struct Goal {
    proposed: Option<(Index, Term)>,
    reads: Vec<(usize, ReadToken)>,
    read: bool,
}

impl World {
    /// Heals everything and waits for it to come to rest.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        self.trace(|| "everything is healed".into());
        self.network.heal();
        self.swarm.lags = false;
        for at in 0..self.stores.len() {
            (self.stores[at].is_stuck, self.stores[at].dozes) = (false, false);
            self.start(at)?;
        }
        let mut goals = vec![Goal::default(); self.truths.len()];
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            let mut rests = true;
            for (group, goal) in goals.iter_mut().enumerate() {
                rests &= self.pursue(group, goal)?;
            }
            if rests {
                self.report.digest = self.digest();
                return Ok(());
            }
            self.tick()?;
        }
        Err(format!("liveness: no rest within {ROUNDS_MAX} rounds: {}", self.state_of_all()))
    }

    /// Goes on in good order until a group has a leader.
    pub(super) fn elect(&mut self, group: usize) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            if self.stores.iter().flat_map(|store| &store.replicas[group]).any(|replica| replica.group.is_leader()) {
                return Ok(());
            }
            self.tick()?;
        }
        Err("no leader emerges".into())
    }

    fn round(&mut self) -> Result<(), String> {
        let reorders = std::mem::replace(&mut self.swarm.reorders, false);
        let mut packets = 0;
        loop {
            for at in 0..self.stores.len() {
                for group in 0..self.truths.len() {
                    self.with(at, group, |_, _| {})?;
                }
                self.write(at)?;
            }
            if self.network.len() == 0 && self.stores.iter().all(|store| !store.has_unwritten() && !store.has_work()) {
                break;
            }
            let arrived = self.network.len();
            for _ in 0..arrived {
                self.deliver(false)?;
            }
            packets += arrived.max(1);
            if packets > ROUND_PACKETS_MAX {
                break;
            }
        }
        self.swarm.reorders = reorders;
        self.report.steps += packets as u64;
        Ok(())
    }

    /// Brings a group nearer to its goal; whether it is there.
    fn pursue(&mut self, group: usize, goal: &mut Goal) -> Result<bool, String> {
        let leads = |at: &usize| self.stores[*at].replicas[group].as_ref().is_some_and(|one| one.group.is_leader());
        let leaders: Vec<usize> = (0..self.stores.len()).filter(leads).collect();
        let newest =
            leaders.into_iter().max_by_key(|at| self.stores[*at].replicas[group].as_ref().map(|r| r.group.term()));
        let Some(leader) = newest else { return Ok(false) };
        let Some((index, _)) = goal.proposed else {
            if self.propose_at(leader, group)? {
                let Some(replica) = &self.stores[leader].replicas[group] else { return Ok(false) };
                goal.proposed = Some((replica.group.last(), replica.group.term()));
            }
            return Ok(false);
        };
        let Some(replica) = &self.stores[leader].replicas[group] else { return Ok(false) };
        let raft = &replica.group;
        if goal.proposed.is_some_and(|(_, term)| term != raft.term()) && raft.commit() < index {
            // Another leader: what was proposed may be gone.
            goal.proposed = None;
            return Ok(false);
        }
        let (at, configuration) = raft.configuration();
        if configuration.is_joint() || at > raft.commit() {
            return Ok(false);
        }
        let (last, term) = (raft.last(), raft.term());
        let members: Vec<_> = configuration.members().iter().map(|member| member.replica).collect();
        let mut hosts = Vec::new();
        for member in members {
            let host = self.truths[group].place(member).map(|node| node as usize - 1);
            let replica = host.and_then(|host| self.stores[host].replicas[group].as_ref());
            let Some((host, replica)) = host.zip(replica.filter(|replica| replica.group.replica() == member)) else {
                return Ok(false);
            };
            let member = &replica.group;
            if member.applied() < last || member.last() != last || member.term() != term {
                return Ok(false);
            }
            hosts.push(host);
        }
        if !goal.read {
            goal.read = true;
            for host in hosts {
                let Some(token) = self.read_at(host, group)? else {
                    goal.read = false;
                    continue;
                };
                goal.reads.push((host, token));
            }
            return Ok(false);
        }
        let waits = |(host, token): &(usize, ReadToken)| {
            self.stores[*host].replicas[group].as_ref().is_some_and(|replica| replica.reads.contains_key(token))
        };
        Ok(!goal.reads.iter().any(waits))
    }

    fn state_of_all(&self) -> String {
        let mut state = String::new();
        for (at, store) in self.stores.iter().enumerate() {
            for replica in store.replicas.iter().flatten() {
                let raft = &replica.group;
                state += &format!(
                    "\n  store {at} group {} replica {}: {} term {} before {} commit {} last {} of {:?}",
                    raft.shard(),
                    raft.replica(),
                    raft.role_name(),
                    raft.term(),
                    raft.before().index,
                    raft.commit(),
                    raft.last(),
                    raft.configuration()
                        .1
                        .members()
                        .iter()
                        .map(|m| (m.replica.0, m.incoming, m.outgoing))
                        .collect::<Vec<_>>(),
                );
            }
        }
        state
    }
}
