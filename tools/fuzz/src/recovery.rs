//! Target `recovery`: damage to a log that was written well.
//!
//! The input names one of three logs, and then what is done to its files, step by step:
//!
//! ```text
//! 0  a bit flips                 u8 file │ u16 place │ u8 bit
//! 1  bytes are overwritten       u8 file │ u16 place │ u8 count │ the bytes
//! 2  a range becomes zero        u8 file │ u16 place │ u16 count
//! 3  whole sectors become zero   u8 file │ u8 first  │ u8 count
//! 4  a range is copied           u8 file │ u16 place │ u8 to file │ u16 place │ u16 count
//! 5  a file gets another length  u8 file │ u16 length
//! 6  a file vanishes             u8 file
//! 7  two files change places     u8 file │ u8 file
//! 8  a file is copied to the next name, or over the file that has it   u8 file
//! 9  a file is as it was before  u8 file │ u8 when
//! 10 a file is another store's   u8 file
//! 11 sectors of the last write do not arrive   u16 which of its first 16
//! ```
//!
//! What must hold, from the rules in `engine::wal::recovery`:
//!
//! 1. The log is refused by name, or what is found is a run of the records written, in order, from the start of a segment that
//!    is no later than the first still needed. No record appears that was not written.
//! 2. Nothing is lost but to zeros and missing files: the first record that is missing was in a write of which a sector reads as zeros
//!    now, or in a segment whose header has such a sector or whose file is gone. All else (flips, stale
//!    bytes, misplaced ones) is refused. The log cannot do better: a torn last write looks like this.
//! 3. What a crash can leave is never refused: if only sectors of the last write are missing, all before it is found.
//! 4. What was accepted stays: reading again finds the same, and a record appended to it follows. A log that goes on may give up
//!    records from its beginning, but only what the headers of later segments repeat.

use std::rc::Rc;

use dkc::engine::wal::recovery::Case;
use dkc::engine::wal::{
    Record, Recovered, RecoveryError, Wal, WalConfig, WalIdentity, parse_segment_file_name, recover, segment_file_name,
};
use dkc::ids::{ClusterId, Index, NodeId, ReplicaId, SegmentEpoch, ShardId, StoreId, Term};
use dkc::limits::WAL_SECTOR_BYTES;

use crate::log_dir::{Files, LogDir, Written};
use crate::script::Script;
use crate::{Fault, INPUT_BYTES_MAX};

const CONFIG: WalConfig = WalConfig { segment_bytes: 64 << 10, write_bytes_max: 8 << 10 };
/// Steps of damage, at most.
const STEPS_MAX: usize = 32;

thread_local! {
    static LOGS: [Log; 3] = [Log::short(), Log::long(), Log::released()];
}

/// See the module.
pub fn recovery(input: &[u8], fault: Fault) {
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let mut script = Script::new(input);
    LOGS.with(|logs| {
        let which = script.place(logs.len());
        let (log, other) = (&logs[which], &logs[(which + 1) % logs.len()]);
        let mut files = log.files.clone();
        for _ in 0..STEPS_MAX {
            if script.is_empty() {
                break;
            }
            damage(&mut files, &mut script, log, other);
        }
        log.check(&files, fault);
    });
}

/// A log that was written well, and what is known of it.
struct Log {
    identity: WalIdentity,
    files: Files,
    /// The files as they were after each write.
    history: Vec<Files>,
    /// Every record written, with the write it was in. All of them are durable.
    records: Vec<(Record, Written)>,
    /// The first record that is still needed.
    needed: usize,
}

/// A log while it is being written.
struct Writing {
    dir: LogDir,
    wal: Wal,
    log: Log,
    last: [u64; 2],
}

impl Writing {
    fn begin(store: u16) -> Writing {
        let identity = WalIdentity { cluster: ClusterId(77), node: NodeId(5), store: StoreId(store) };
        let mut dir = LogDir::default();
        let recovered = recover(&mut dir, identity, CONFIG, false, &mut |_| Ok(())).expect("an empty log is recovered");
        let log = Log { identity, files: Files::new(), history: Vec::new(), records: Vec::new(), needed: 0 };
        let mut writing = Writing { wal: Wal::new(identity, CONFIG, &recovered), dir, log, last: [0; 2] };
        writing.dir.drive(&mut writing.wal);
        let hard_state =
            |shard| Record::HardState { shard: ShardId(shard), term: Term(1), vote: ReplicaId(1), commit: Index(0) };
        writing.write([0, 1].map(hard_state).to_vec());
        writing
    }

    fn entry(&mut self, shard: usize, bytes: usize) -> Record {
        self.last[shard] += 1;
        let index = self.last[shard];
        let payload = Rc::new(vec![index as u8 | 0x40; bytes]);
        let (shard, commit) = (ShardId(shard as u32), Index(index - 1));
        Record::Entry { shard, term: Term(1), index: Index(index), commit, payload }
    }

    /// Appends records and makes them durable: in one write, or, where a segment ends between them, one each.
    fn write(&mut self, records: Vec<Record>) {
        let writes = self.dir.writes.len();
        for record in &records {
            self.wal.append(record.clone());
        }
        self.dir.drive(&mut self.wal);
        assert!(self.wal.is_quiet(), "what was appended is durable");
        let written: Vec<Written> = self.dir.writes[writes..].iter().copied().filter(|w| w.offset > 0).collect();
        assert!(written.len() == 1 || written.len() == records.len(), "which record is where? {written:?}");
        for (place, record) in records.into_iter().enumerate() {
            self.log.records.push((record, written[place.min(written.len() - 1)]));
        }
        self.log.history.push(self.dir.files.clone());
    }

    fn restart(&mut self) {
        let recovered =
            recover(&mut self.dir, self.log.identity, CONFIG, true, &mut |_| Ok(())).expect("nothing is wrong");
        self.wal = Wal::new(self.log.identity, CONFIG, &recovered);
    }

    fn end(mut self) -> Log {
        self.log.files = self.dir.files;
        self.log
    }
}

impl Log {
    /// One segment; the last write has two blocks.
    fn short() -> Log {
        let mut writing = Writing::begin(1);
        for bytes in [10, 600, 2_000, 5_000] {
            let entry = writing.entry(0, bytes);
            writing.write(vec![entry]);
        }
        writing.end()
    }

    /// Several segments, two shards, a restart among them.
    fn long() -> Log {
        let mut writing = Writing::begin(2);
        for round in 0..24 {
            let entries = vec![writing.entry(0, 3_000), writing.entry(1, 100 * round)];
            writing.write(entries);
            if round == 12 {
                writing.restart();
            }
        }
        let entry = writing.entry(1, 40);
        writing.write(vec![entry]);
        writing.end()
    }

    /// Segments whose files had another life: what they held is no longer needed.
    fn released() -> Log {
        let mut writing = Writing::begin(3);
        for _ in 0..40 {
            let entries = vec![writing.entry(0, 3_000), writing.entry(1, 200)];
            writing.write(entries);
            for shard in [0, 1] {
                writing.wal.release(ShardId(shard as u32), Index(writing.last[shard]));
            }
        }
        let mut log = writing.end();
        let (recovered, found) = log.read(&mut LogDir::of(log.files.clone()), Fault::None).expect("nothing is wrong");
        let oldest = recovered.segments[0].epoch;
        assert!(oldest > SegmentEpoch(1), "segments were freed");
        log.needed = log.first_record_of(oldest);
        assert_eq!(found.len(), log.records.len() - log.needed);
        log
    }

    fn first_record_of(&self, epoch: SegmentEpoch) -> usize {
        self.records.partition_point(|(_, written)| written.epoch < epoch)
    }

    fn read(&self, dir: &mut LogDir, fault: Fault) -> Result<(Recovered, Vec<Record>), RecoveryError> {
        let mut found = Vec::new();
        dir.hides_damage_of = fault.is_planted().then_some(self.identity.store);
        let recovered = recover(dir, self.identity, CONFIG, true, &mut |record| {
            found.push(record);
            Ok(())
        })?;
        Ok((recovered, found))
    }

    /// Holds recovery to the four rules of the module.
    fn check(&self, files: &Files, fault: Fault) {
        let is_crash = self.is_crash(files);
        let mut dir = LogDir::of(files.clone());
        let (recovered, found) = match self.read(&mut dir, fault) {
            Ok(found) => found,
            Err(error) => {
                assert_ne!(error.case, Case::Io, "the directory answers: {error}");
                assert!(!is_crash, "what a crash can leave is refused: {error}");
                return;
            }
        };
        let first = recovered.segments.first().map_or(0, |used| self.first_record_of(used.epoch));
        assert!(first <= self.needed, "the log begins at record {first}, {} is needed", self.needed);
        let end = first + found.len();
        assert!(end <= self.records.len(), "more records than were written");
        for (found, (written, _)) in found.iter().zip(&self.records[first..]) {
            assert_eq!(found, written, "a record is found that was not written there");
        }
        if let Some((_, lost)) = self.records.get(end) {
            assert!(is_excused(files, *lost), "record {end} is lost, although {lost:?} is there");
        }
        if is_crash {
            let (_, last) = self.records.last().expect("there are records");
            assert!(self.records[end..].iter().all(|(_, lost)| lost == last), "a crash takes more than the last write");
        }
        self.check_going_on(dir, &recovered, found, fault);
    }

    /// Whether the files differ from what was written by missing sectors of the last write at most.
    fn is_crash(&self, files: &Files) -> bool {
        let (_, last) = self.records.last().expect("there are records");
        let last_name = segment_file_name(last.epoch);
        files.len() == self.files.len()
            && files.iter().zip(&self.files).all(|((name, now), (name_before, before))| {
                let torn = |(number, (now, before)): (usize, (&[u8], &[u8]))| {
                    let inside = number * WAL_SECTOR_BYTES >= last.offset
                        && number * WAL_SECTOR_BYTES < last.offset + last.bytes
                        && *name == last_name;
                    now == before || (inside && is_zero(now))
                };
                let sectors = now.chunks(WAL_SECTOR_BYTES).zip(before.chunks(WAL_SECTOR_BYTES));
                name == name_before && now.len() == before.len() && sectors.enumerate().all(torn)
            })
    }

    /// What was accepted is found again, and what is written after it follows.
    fn check_going_on(&self, mut dir: LogDir, recovered: &Recovered, mut found: Vec<Record>, fault: Fault) {
        let again = self.read(&mut dir, fault);
        let same = matches!(&again, Ok((again, records)) if again.end == recovered.end && *records == found);
        assert!(same, "reading again finds {again:?}");
        let group = recovered.groups.get(&ShardId(0)).copied().unwrap_or_default();
        let index = group.last_index.next();
        let state =
            Record::HardState { shard: ShardId(0), term: Term(9), vote: ReplicaId(1), commit: group.last_index };
        let payload = Rc::new(vec![1; 100]);
        let entry = Record::Entry { shard: ShardId(0), term: Term(9), index, commit: group.last_index, payload };
        let mut wal = Wal::new(self.identity, CONFIG, recovered);
        for record in [state, entry] {
            wal.append(record.clone());
            found.push(record);
        }
        dir.drive(&mut wal);
        assert!(wal.is_quiet(), "the log goes on");
        let (after, longer) = self.read(&mut dir, fault).expect("the log that went on is trusted");
        assert!(found.ends_with(&longer), "what was appended follows: {found:?} became {longer:?}");
        // A segment that holds nothing more than headers repeat is given up as soon as a later one is durable.
        for record in &found[..found.len() - longer.len()] {
            let repeated = match record {
                Record::HardState { shard, term, commit, .. } => {
                    after.groups.get(shard).is_some_and(|group| group.term >= *term && group.commit >= *commit)
                }
                Record::Entry { shard, index, .. } => {
                    after.base.get(shard).is_some_and(|group| group.last_index >= *index)
                }
                Record::Checkpoint { .. } | Record::Truncate { .. } | Record::Install { .. } => false,
            };
            assert!(repeated, "{record:?} is given up, and nothing repeats it: {after:?}");
        }
    }
}

/// Whether a write, or the header of its segment, lacks a sector.
fn is_excused(files: &Files, lost: Written) -> bool {
    let Some(file) = files.get(&segment_file_name(lost.epoch)) else { return true };
    // A header of few groups is one block.
    let header = &file[..4_096.min(file.len())];
    let write = file.get(lost.offset..lost.offset + lost.bytes).unwrap_or_default();
    header.chunks(WAL_SECTOR_BYTES).chain(write.chunks(WAL_SECTOR_BYTES)).any(is_zero)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// One step of damage.
fn damage(files: &mut Files, script: &mut Script<'_>, log: &Log, other: &Log) {
    let step = script.byte() % 12;
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    if step == 11 {
        return tear(files, script.short(), log);
    }
    let name = &names[script.place(names.len())];
    let file = files.get_mut(name).expect("the name was just listed");
    let length = file.len();
    let range = |place: usize, count: usize| {
        let start = place.min(length);
        start..length.min(start + count)
    };
    match step {
        0 => {
            let range = range(script.short(), 1);
            let bit = script.byte() % 8;
            file[range].iter_mut().for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let place = script.short();
            let bytes = script.byte().into();
            let bytes = script.take(bytes);
            let range = range(place, bytes.len());
            let count = range.len();
            file[range].copy_from_slice(&bytes[..count]);
        }
        2 => file[range(script.short(), script.short())].fill(0),
        3 => {
            let (first, count) = (usize::from(script.byte()), usize::from(script.byte()));
            file[range(first * WAL_SECTOR_BYTES, count * WAL_SECTOR_BYTES)].fill(0);
        }
        4 => {
            let bytes = file[range(script.short(), usize::MAX / 2)].to_vec();
            let to = files.get_mut(&names[script.place(names.len())]).expect("the name was just listed");
            let (place, count) = (script.short().min(to.len()), script.short());
            let count = count.min(bytes.len()).min(to.len() - place);
            to[place..place + count].copy_from_slice(&bytes[..count]);
        }
        5 => file.resize(script.short(), 0),
        6 => drop(files.remove(name)),
        7 => {
            let second = &names[script.place(names.len())];
            let taken = std::mem::take(file);
            let other = std::mem::replace(files.get_mut(second).expect("the name was just listed"), taken);
            if name != second {
                files.insert(name.clone(), other);
            }
        }
        8 => {
            let copy = file.clone();
            if let Some(epoch) = parse_segment_file_name(name) {
                files.insert(segment_file_name(epoch.next()), copy);
            }
        }
        9 => {
            let then = &log.history[script.place(log.history.len())];
            if let Some(before) = then.get(name) {
                file.clone_from(before);
            }
        }
        _ => {
            if let Some(others) = other.files.get(name) {
                file.clone_from(others);
            }
        }
    }
}

/// What a crash does: some of the last write's sectors do not arrive.
fn tear(files: &mut Files, missing: usize, log: &Log) {
    let (_, last) = log.records.last().expect("there are records");
    let Some(write) = files.get_mut(&segment_file_name(last.epoch)).and_then(|f| f.get_mut(last.offset..)) else {
        return;
    };
    let sectors = write.chunks_mut(WAL_SECTOR_BYTES).take(last.bytes / WAL_SECTOR_BYTES);
    for (number, sector) in sectors.enumerate() {
        if missing >> number & 1 == 1 {
            sector.fill(0);
        }
    }
}
