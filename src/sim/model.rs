//! What answers are checked against.
//!
//! Truth is the log: after every crash, and at the end, what recovery finds on disk is replayed by a plain map, and
//! every answer any client ever got must agree with it:
//!
//! 1. an acknowledged increment stands in the log where its answer said, with its outcome and new count;
//! 2. no increment stands there more often than it was asked for, and none that was refused;
//! 3. a read saw exactly the state after the index it named;
//! 4. an answer given before a question was asked lies before that question's answer in the log;
//! 5. what was once found after a crash is found again after every later one;
//! 6. every copy of a numbered request gets the answer that the first one got;
//! 7. what was resolved as applied stands where the resolution said, and what was resolved as not applied stands nowhere, ever.

use std::collections::{BTreeMap, BTreeSet};

use super::replay::{Fate, Number, Replay, read_log};
use super::workload::Ask;
use crate::engine::part::PackedKeys;
use crate::engine::wal::Record;
use crate::error::ErrorCode;
use crate::ids::{Index, Sequence, SessionId, ShardId};
use crate::wire::client::{Reply, Resolution, ResolvedPart, ScanReply, ScanRequest, TopKReply};

/// A question and what became of it.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) ask: Ask,
    /// For each shard, the last point (index, position past it) that an answer had named when this was asked.
    pub(super) floor: BTreeMap<ShardId, (Index, u32)>,
    pub(super) reply: Option<Reply>,
    pub(super) checked: bool,
    /// All that a scan has shown, if this is the request for its last piece.
    scanned: Option<ScanReply>,
}

type Point = (Index, u32);

/// Everything that was asked and answered, and what the log held when last looked at.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) ops: Vec<Op>,
    floor: BTreeMap<ShardId, Point>,
    found: BTreeMap<ShardId, Replay>,
    /// The first answer to any copy of a numbered request, by shard.
    firsts: BTreeMap<(Number, ShardId), First>,
    decided: BTreeSet<Number>,
    /// Up to which number each session's client has had the answers, as it said.
    low_waters: BTreeMap<SessionId, Sequence>,
    /// What numbers were resolved to.
    resolved: Vec<(Number, Vec<ResolvedPart>)>,
    /// The pieces so far of each scan at each index that it was begun at.
    scans: BTreeMap<(u64, Index), BTreeMap<u64, ScanReply>>,
    /// What had been acknowledged before a scan was first asked for.
    scan_floors: BTreeMap<u64, BTreeMap<ShardId, Point>>,
    /// Scans that showed a whole shard in several pieces.
    pub(super) whole_scans: u64,
}

/// One shard's share of an answer: its point, and outcome and value of each increment by its place in the request.
type First = (Point, Vec<(usize, ErrorCode, Option<i64>)>);

/// What an increment did, by the plain map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Applied(i64),
    Overflow,
}

impl Model {
    pub(super) fn ask(&mut self, ask: Ask) -> usize {
        if let Ask::Scan(ScanRequest { scan, piece: 0, .. }) = &ask {
            self.scan_floors.entry(*scan).or_insert_with(|| self.floor.clone());
        }
        self.ops.push(Op { ask, floor: self.floor.clone(), reply: None, checked: false, scanned: None });
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
        if let Reply::Scan(piece) = &reply {
            self.scanned(op, piece)?;
        }
        let op = &mut self.ops[op];
        if op.reply.replace(reply).is_some() {
            return Err("a request was answered twice".into());
        }
        Ok(())
    }

    /// A piece of a scan: the same each time. With the last one of an index the scan is whole, and was read when its first piece was
    /// asked for, at the earliest.
    fn scanned(&mut self, op: usize, reply: &ScanReply) -> Result<(), String> {
        let Ask::Scan(ScanRequest { scan, piece, .. }) = self.ops[op].ask else {
            return Err("a piece of a scan answers another question".into());
        };
        let pieces = self.scans.entry((scan, reply.applied_index)).or_default();
        let first = pieces.entry(piece).or_insert_with(|| reply.clone());
        if first != reply {
            return Err(format!("piece {piece} of a scan was {first:?} and then {reply:?}"));
        }
        if reply.last && pieces.len() as u64 == piece + 1 {
            let mut whole = ScanReply { keys: PackedKeys::default(), counts: Vec::new(), ..reply.clone() };
            for part in pieces.values() {
                part.keys.iter().for_each(|key| whole.keys.push(key));
                whole.counts.extend(&part.counts);
            }
            self.whole_scans += u64::from(piece > 0);
            self.ops[op].floor = self.scan_floors.get(&scan).cloned().unwrap_or_default();
            self.ops[op].scanned = Some(whole);
        }
        Ok(())
    }

    /// A request of a named session ended: for its client, or for one that took its place. Both get the same answer.
    pub(super) fn answer_again(&mut self, op: usize, reply: Reply) -> Result<(), String> {
        match (&self.ops[op].reply, &reply) {
            (None, _) => self.answer(op, reply),
            (Some(Reply::Increment(before)), Reply::Increment(now)) if before != now => {
                Err(format!("a repeated request was answered {now:?} after {before:?}"))
            }
            _ => Ok(()),
        }
    }

    /// A client says that it has had the answers up to a number.
    pub(super) fn low_water_sent(&mut self, session: SessionId, low_water: Sequence) {
        let sent = self.low_waters.entry(session).or_default();
        *sent = (*sent).max(low_water);
    }

    /// A copy of a numbered request was answered: as the first one was. It is forgotten only if its client has said so.
    pub(super) fn copy_answered(&mut self, number: Number, reply: &Reply) -> Result<(), String> {
        let forgotten = match reply {
            Reply::Error { code, .. } => *code == ErrorCode::Forgotten,
            Reply::Increment(reply) => reply.outcomes.contains(&(ErrorCode::Forgotten as u8)),
            _ => false,
        };
        if forgotten && self.low_waters.get(&number.0).is_none_or(|sent| number.1 > *sent) {
            return Err(format!("{number:?} is forgotten, although its client has not said that it had the answer"));
        }
        let Reply::Increment(reply) = reply else { return Ok(()) };
        for part in reply.parts.iter().filter(|part| part.applied_index > Index(0)) {
            let outcomes = part_positions(&reply.parts, &reply.order, part.shard)
                .into_iter()
                .map(|position| (position, reply.outcome(position), reply.values.get(position).copied()))
                .collect();
            let now = ((part.applied_index, part.first_position), outcomes);
            let first = self.firsts.entry((number, part.shard)).or_insert_with(|| now.clone());
            if *first != now {
                return Err(format!("shard {}: a copy of {number:?} got {now:?}, the first got {first:?}", part.shard));
            }
        }
        if reply.parts.iter().all(|part| part.applied_index > Index(0)) {
            self.decided.insert(number);
        }
        Ok(())
    }

    /// Whether every shard that a request touches has applied it: what copies of it there still are may come as they like. Before
    /// that only its client repeats it, and knows how often it did.
    pub(super) fn is_decided(&self, number: Number) -> bool {
        self.decided.contains(&number)
    }

    /// A number was resolved.
    pub(super) fn resolved(&mut self, number: Number, parts: Vec<ResolvedPart>) {
        self.resolved.push((number, parts));
    }

    /// Copies that the log holds and that were not applied: repeated ones, and those of expired sessions.
    pub(super) fn copies(&self) -> (u64, u64) {
        let sum = |count: fn(&Replay) -> u64| self.found.values().map(count).sum();
        (sum(|replay| replay.repeats), sum(|replay| replay.expired))
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
        for (number, parts) in &self.resolved {
            parts.iter().try_for_each(|part| check_resolved(*number, part, found.get(&part.shard)))?;
        }
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
        for item in found.values().flat_map(|replay| &replay.entries).flat_map(|(_, items)| items) {
            match allowed.get_mut(&(&item.key[..], item.delta)) {
                Some(left) if *left > 0 => *left -= 1,
                _ => return Err(format!("an increment was refused, but applied, or was applied twice: {item:?}")),
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
            for item in items {
                let before = state.get(&item.key[..]).copied().unwrap_or(0);
                let outcome = before.checked_add(item.delta).map_or(Outcome::Overflow, Outcome::Applied);
                if let Outcome::Applied(count) = outcome {
                    state.insert(&item.key, count);
                }
                outcomes.insert((*index, item.position), (&item.key, item.delta, outcome));
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

/// A resolution agrees with the log.
fn check_resolved(number: Number, part: &ResolvedPart, replay: Option<&Replay>) -> Result<(), String> {
    let fate = replay.and_then(|replay| replay.fates.get(&number)).copied();
    let agrees = match part.resolution {
        Resolution::Applied => {
            let (index, first_position, increments) = (part.applied_index, part.first_position, part.increments);
            fate == Some(Fate::Applied { index, first_position, increments })
        }
        Resolution::Fenced => fate == Some(Fate::Fenced),
        Resolution::Forgotten => true,
    };
    if agrees { Ok(()) } else { Err(format!("{number:?} was resolved to {part:?}, the log says {fate:?}")) }
}

fn read_points(op: &Op, shard: ShardId) -> Vec<Index> {
    let parts = match &op.reply {
        Some(Reply::Get(reply)) => &reply.parts,
        Some(Reply::TopK(reply)) => &reply.parts,
        Some(Reply::Scan(_)) => {
            let whole = op.scanned.iter().filter(|whole| whole.shard == shard);
            return whole.map(|whole| whole.applied_index).collect();
        }
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
        (Ask::Scan(_), Some(Reply::Scan(_))) => {
            let whole = op.scanned.as_ref().ok_or("a scan that is not whole")?;
            let mut shown: Vec<(&[u8], i64)> = whole.keys.iter().zip(whole.counts.iter().copied()).collect();
            shown.sort_unstable();
            if shown.iter().copied().eq(state.iter().map(|(key, count)| (*key, *count))) {
                Ok(())
            } else {
                Err(format!("shard {shard} at {index}: a scan shows {shown:?}, the log says {state:?}"))
            }
        }
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
