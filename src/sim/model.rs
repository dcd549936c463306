//! What answers are checked against.
//!
//! Truth is the log: after every crash, and at the end, what recovery finds on disk is replayed by a plain map, and
//! every answer any client ever got must agree with it:
//!
//! 1. an acknowledged increment stands in the log where its answer said, with its outcome and new count;
//! 2. no increment stands there more often than it was asked for, and none that was refused;
//! 3. a read saw exactly the state after the index it named;
//! 4. an answer given before a question was asked lies before that question's answer in the log;
//! 5. what was once found after a crash is found again after every later one.

use std::collections::BTreeMap;

use super::workload::Ask;
use crate::engine::command::{self, Command};
use crate::engine::wal::Record;
use crate::error::ErrorCode;
use crate::ids::{Index, ShardId};
use crate::wire::client::{Reply, TopKReply};

/// A question and what became of it.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) ask: Ask,
    /// For each shard, the last point (index, position past it) that an answer had named when this was asked.
    pub(super) floor: BTreeMap<ShardId, (Index, u32)>,
    pub(super) reply: Option<Reply>,
    pub(super) checked: bool,
}

type Point = (Index, u32);

/// The increments of one entry: keys and deltas.
type Items = Vec<(Vec<u8>, i64)>;

/// One shard's log, replayed.
#[derive(Debug, Default)]
struct Replay {
    entries: Vec<(Index, Items)>,
}

/// Everything that was asked and answered, and what the log held when last looked at.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) ops: Vec<Op>,
    floor: BTreeMap<ShardId, Point>,
    found: BTreeMap<ShardId, Replay>,
}

/// What an increment did, by the plain map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Applied(i64),
    Overflow,
}

impl Model {
    pub(super) fn ask(&mut self, ask: Ask) -> usize {
        self.ops.push(Op { ask, floor: self.floor.clone(), reply: None, checked: false });
        self.ops.len() - 1
    }

    pub(super) fn answer(&mut self, op: usize, reply: Reply) -> Result<(), String> {
        let parts = match &reply {
            Reply::Increment(reply) => &reply.parts[..],
            Reply::Get(reply) => &reply.parts,
            Reply::TopK(reply) => &reply.parts,
            _ => &[],
        };
        for part in parts.iter().filter(|part| part.applied_index > Index(0)) {
            let past = if matches!(reply, Reply::Increment(_)) { part.first_position + part.keys } else { u32::MAX };
            let floor = self.floor.entry(part.shard).or_default();
            *floor = (*floor).max((part.applied_index, past));
        }
        let op = &mut self.ops[op];
        if op.reply.replace(reply).is_some() {
            return Err("a request was answered twice".into());
        }
        Ok(())
    }

    /// Checks every answer so far against the records that recovery found, of all stores.
    pub(super) fn check(&mut self, records: &[Record]) -> Result<(), String> {
        let found = read_log(records)?;
        for (shard, before) in &self.found {
            let now = found.get(shard).map_or(&[][..], |replay| &replay.entries[..]);
            if now.len() < before.entries.len() || now[..before.entries.len()] != before.entries[..] {
                return Err(format!(
                    "shard {shard}: entries that were found after an earlier crash are gone or changed"
                ));
            }
        }
        self.check_counts(&found)?;
        for (shard, replay) in &found {
            self.check_shard(*shard, replay)?;
        }
        for op in &mut self.ops {
            let parts = match &op.reply {
                Some(Reply::Increment(reply)) => &reply.parts[..],
                Some(Reply::Get(reply)) => &reply.parts,
                Some(Reply::TopK(reply)) => &reply.parts,
                _ => &[],
            };
            for part in parts.iter().filter(|part| part.applied_index > Index(0)) {
                let last = found.get(&part.shard).and_then(|replay| replay.entries.last()).map(|entry| entry.0);
                if last.is_none_or(|last| last < part.applied_index) {
                    return Err(format!("shard {}: acknowledged index {} is lost", part.shard, part.applied_index));
                }
            }
            op.checked |= op.reply.is_some();
        }
        self.found = found;
        Ok(())
    }

    /// Nothing is in the log more often than asked for; nothing refused is there at all.
    fn check_counts(&self, found: &BTreeMap<ShardId, Replay>) -> Result<(), String> {
        let mut allowed: BTreeMap<(&[u8], i64), usize> = BTreeMap::new();
        for op in &self.ops {
            let Ask::Increment { items, .. } = &op.ask else { continue };
            for (position, (key, delta)) in items.iter().enumerate() {
                let refused = match &op.reply {
                    Some(Reply::Error { code, .. }) => code.is_definite(),
                    Some(Reply::Increment(reply)) => reply
                        .outcomes
                        .get(position)
                        .is_some_and(|&outcome| outcome != ErrorCode::Ok as u8 && outcome != ErrorCode::Overflow as u8),
                    _ => false,
                };
                *allowed.entry((key, *delta)).or_default() += usize::from(!refused);
            }
        }
        for (key, delta) in found.values().flat_map(|replay| &replay.entries).flat_map(|(_, items)| items) {
            match allowed.get_mut(&(&key[..], *delta)) {
                Some(left) if *left > 0 => *left -= 1,
                _ => return Err(format!("an increment by {delta} is in the log, but was refused, or is there twice")),
            }
        }
        Ok(())
    }

    fn check_shard(&self, shard: ShardId, replay: &Replay) -> Result<(), String> {
        let mut state: BTreeMap<&[u8], i64> = BTreeMap::new();
        let mut outcomes: BTreeMap<Point, (&[u8], i64, Outcome)> = BTreeMap::new();
        let mut reads: BTreeMap<Index, Vec<&Op>> = BTreeMap::new();
        for op in self.ops.iter().filter(|op| !op.checked) {
            for index in read_points(op, shard) {
                reads.entry(index).or_default().push(op);
            }
        }
        for (index, items) in &replay.entries {
            for (position, (key, delta)) in items.iter().enumerate() {
                let before = state.get(&key[..]).copied().unwrap_or(0);
                let outcome = before.checked_add(*delta).map_or(Outcome::Overflow, Outcome::Applied);
                if let Outcome::Applied(count) = outcome {
                    state.insert(key, count);
                }
                outcomes.insert((*index, position as u32), (key, *delta, outcome));
            }
            for op in reads.remove(index).unwrap_or_default() {
                check_read(op, shard, *index, &state)?;
            }
        }
        for op in self.ops.iter().filter(|op| !op.checked) {
            check_increments(op, shard, &outcomes)?;
        }
        Ok(())
    }
}

fn read_log(records: &[Record]) -> Result<BTreeMap<ShardId, Replay>, String> {
    let mut found: BTreeMap<ShardId, Replay> = BTreeMap::new();
    for record in records {
        let Record::Entry { shard, index, payload, .. } = record else { continue };
        if *shard == ShardId::META {
            continue;
        }
        let mut items = Vec::new();
        if let Command::Batch(mut batch) = command::decode(payload).map_err(|error| error.to_string())? {
            while let Some(part) = batch.next_part().map_err(|error| error.to_string())? {
                let command::Part::Increments { count, .. } = part else { continue };
                for _ in 0..count {
                    let one = batch.next_increment(0).map_err(|error| error.to_string())?;
                    items.push((one.key.to_vec(), one.delta));
                }
            }
        }
        found.entry(*shard).or_default().entries.push((*index, items));
    }
    Ok(found)
}

fn read_points(op: &Op, shard: ShardId) -> Vec<Index> {
    let parts = match &op.reply {
        Some(Reply::Get(reply)) => &reply.parts,
        Some(Reply::TopK(reply)) => &reply.parts,
        _ => return Vec::new(),
    };
    parts.iter().filter(|part| part.shard == shard).map(|part| part.applied_index).collect()
}

fn check_read(op: &Op, shard: ShardId, index: Index, state: &BTreeMap<&[u8], i64>) -> Result<(), String> {
    if op.floor.get(&shard).is_some_and(|floor| index < floor.0) {
        return Err(format!("shard {shard}: a read at {index} does not see what was acknowledged before it"));
    }
    match (&op.ask, &op.reply) {
        (Ask::Get { keys }, Some(Reply::Get(reply))) => {
            for position in part_positions(&reply.parts, &reply.order, shard) {
                let expected = state.get(&keys[position][..]).copied();
                let found = (reply.found[position] != 0).then_some(reply.counts[position]);
                if found != expected {
                    return Err(format!("shard {shard} at {index}: read {found:?}, the log says {expected:?}"));
                }
            }
            Ok(())
        }
        (Ask::TopK { k }, Some(Reply::TopK(reply))) => check_top(*k as usize, reply, shard, index, state),
        _ => Err("an answer of another kind than its question".into()),
    }
}

/// A shard's keys in a TopK answer are its own highest, in order, with their counts; and none that is missing would have preceded
/// the last one of the answer.
fn check_top(
    k: usize,
    reply: &TopKReply,
    shard: ShardId,
    index: Index,
    state: &BTreeMap<&[u8], i64>,
) -> Result<(), String> {
    let mut expected: Vec<(i64, &[u8])> = state.iter().map(|(key, count)| (*count, *key)).collect();
    expected.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let all: Vec<(i64, &[u8])> = reply.counts.iter().copied().zip(reply.keys.iter()).collect();
    let own: Vec<(i64, &[u8])> = all.iter().filter(|(_, key)| state.contains_key(key)).copied().collect();
    let wrong = |what: &str| Err(format!("shard {shard} at {index}: TopK {what}"));
    if !all.is_sorted_by(|a, b| (b.0, a.1) < (a.0, b.1)) || all.len() > k {
        return wrong("is out of order or too long");
    }
    let claimed = reply.parts.iter().find(|part| part.shard == shard).map_or(0, |part| part.keys);
    if own.len() != claimed as usize || own[..] != expected[..own.len()] {
        return wrong("has other keys or counts than the log");
    }
    let next = expected.get(own.len());
    let missing = match (next, all.last()) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(next), Some(last)) => all.len() < k || (last.0, next.1) < (next.0, last.1),
    };
    if missing { wrong("lacks a key") } else { Ok(()) }
}

fn check_increments(op: &Op, shard: ShardId, outcomes: &BTreeMap<Point, (&[u8], i64, Outcome)>) -> Result<(), String> {
    let (Ask::Increment { items, want_values }, Some(Reply::Increment(reply))) = (&op.ask, &op.reply) else {
        return Ok(());
    };
    let Some(part) = reply.parts.iter().find(|part| part.shard == shard && part.applied_index > Index(0)) else {
        return Ok(());
    };
    let index = part.applied_index;
    if op.floor.get(&shard).is_some_and(|floor| (index, part.first_position) < *floor) {
        return Err(format!("shard {shard}: an increment at {index} lies before what was acknowledged before it"));
    }
    for (place, position) in part_positions(&reply.parts, &reply.order, shard).into_iter().enumerate() {
        let (key, delta) = &items[position];
        let point = (index, part.first_position + place as u32);
        let refused = reply.outcomes.get(position).is_some_and(|&outcome| outcome == ErrorCode::Overflow as u8);
        let value = want_values.then(|| reply.values[position]);
        match outcomes.get(&point) {
            Some((logged, by, outcome)) if *logged == &key[..] && by == delta => match outcome {
                Outcome::Overflow if refused => {}
                Outcome::Applied(count) if !refused && value.is_none_or(|value| value == *count) => {}
                _ => return Err(format!("shard {shard} at {point:?}: answered {value:?}, the log says {outcome:?}")),
            },
            _ => return Err(format!("shard {shard} at {point:?}: an acknowledged increment is not there")),
        }
    }
    Ok(())
}

/// Places in the request of the keys that fell to a shard.
fn part_positions(parts: &[crate::wire::client::Part], order: &[u32], shard: ShardId) -> Vec<usize> {
    let mut start = 0;
    for part in parts {
        let end = start + part.keys as usize;
        if part.shard == shard {
            let position = |place: usize| if order.is_empty() { place } else { order[place] as usize };
            return (start..end).map(position).collect();
        }
        start = end;
    }
    Vec::new()
}
