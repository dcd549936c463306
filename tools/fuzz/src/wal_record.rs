//! Target `wal_record`: the formats of the log, each by itself.
//!
//! ```text
//! u8 what │ 0  u16 store │ u64 epoch │ u32 chain │ bytes: records as they are
//!         │ 1  the same                          │ bytes: records of a header and up to 255 bytes, their checksums put right
//!         │ 2  a log entry
//!         │ 3  a segment header
//!         │ 4  a cluster map
//! ```

use dkc::engine::cluster::ClusterMap;
use dkc::engine::command::{self, Batch, Command, CommandError, MetaBatch, MetaPart, Original, Part, Stamped};
use dkc::engine::raft::configuration::{CONFIGURATION_PREFIX, Configuration};
use dkc::engine::sessions::Stamp;
use dkc::engine::wal::record::{Chain, RECORD_HEADER_BYTES, RecordKind};
use dkc::engine::wal::segment::SegmentHeader;
use dkc::ids::{SegmentEpoch, ShardId, StoreId};

use crate::allocator::peak_of;
use crate::script::Script;
use crate::{Fault, INPUT_BYTES_MAX};

pub(crate) const RECORDS: u8 = 0;
pub(crate) const SEALED: u8 = 1;
pub(crate) const ENTRY: u8 = 2;
pub(crate) const SEGMENT_HEADER: u8 = 3;
pub(crate) const MAP: u8 = 4;

const ROUTING_SEED: u64 = 7;

/// See the module.
pub fn wal_record(input: &[u8], fault: Fault) {
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let mut script = Script::new(input);
    match script.byte() {
        what @ (RECORDS | SEALED) => {
            let chain = Chain {
                store: StoreId(script.number::<2>() as u16),
                epoch: SegmentEpoch(script.number::<8>()),
                crc: script.number::<4>() as u32,
            };
            let stream = if what == SEALED { sealed(chain, &mut script) } else { script.rest().to_vec() };
            check_records(chain, &stream, fault);
        }
        ENTRY => check_entry(script.rest()),
        SEGMENT_HEADER => check_segment_header(script.rest()),
        MAP => check_map(script.rest()),
        _ => {}
    }
}

/// Records of the script's headers and payloads, with lengths and checksums that are right.
fn sealed(chain: Chain, script: &mut Script<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut crc = chain.crc;
    while !script.is_empty() {
        let length = usize::from(script.byte());
        let start = stream.len();
        stream.extend_from_slice(script.take(RECORD_HEADER_BYTES));
        stream.resize(start + RECORD_HEADER_BYTES, 0);
        let payload = script.take(length);
        stream.extend_from_slice(payload);
        let record = &mut stream[start..];
        record[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let mut hasher = crc32fast::Hasher::new_with_initial(crc);
        hasher.update(&chain.store.0.to_le_bytes());
        hasher.update(&chain.epoch.0.to_le_bytes());
        hasher.update(&record[4..]);
        crc = hasher.finalize();
        record[..4].copy_from_slice(&crc.to_le_bytes());
    }
    stream
}

fn check_records(chain: Chain, stream: &[u8], fault: Fault) {
    let mut reading = chain;
    let mut rest = stream;
    loop {
        let before = reading;
        let Ok((header, payload, after)) = reading.open(rest) else {
            assert_eq!(reading, before, "a chain stays where it is if nothing opens");
            return;
        };
        let taken = rest.len() - after.len();
        assert_eq!(taken, RECORD_HEADER_BYTES + payload.len(), "a record is its header and its payload");
        let mut again = header;
        // The planted fault: the votes of shards from the 256th on are sealed as those of another.
        if fault.is_planted() && header.kind == RecordKind::HardState {
            again.shard = ShardId(header.shard.0 & 0xff);
        }
        let (mut sealing, mut bytes) = (before, Vec::new());
        sealing.seal(&mut bytes, &again, payload);
        assert_eq!(bytes, rest[..taken], "what opens is what was sealed");
        assert_eq!(sealing, reading, "reading and writing move a chain alike");
        rest = after;
    }
}

fn check_entry(entry: &[u8]) {
    let (command, peak) = peak_of(|| command::decode(entry));
    // A configuration's members are few, and gathered to be checked.
    let allowed = if entry.starts_with(&CONFIGURATION_PREFIX) { 1_024 } else { 0 };
    assert!(peak <= allowed, "an entry is read in place");
    match command {
        Ok(Command::NoOp) => assert_eq!(entry, command::no_op()),
        Ok(Command::Map(encoded)) => {
            assert_eq!(entry, command::map(encoded));
            check_map(encoded);
        }
        Ok(Command::Configuration) => {
            let configuration = Configuration::decode(entry).expect("it begins like one").expect("it was read");
            assert_eq!(configuration.encode(), entry);
        }
        Ok(Command::Batch(batch)) => check_batch(batch),
        Ok(Command::Meta(batch)) => check_meta(batch),
        Ok(Command::Expire(mark)) => assert_eq!(command::decode(&command::expire(mark)), command),
        Err(_) => {}
    }
}

/// A part of a batch, as it is meant.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Increments(Option<Request>, Vec<(&'a [u8], i64)>),
    Other(Part<'a>),
}

/// The request of a session that increments belong to.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    stamp: Stamp,
    digest: u64,
    want_values: bool,
    places: Option<Box<[u32]>>,
}

fn read_batch(mut batch: Batch<'_>) -> Result<Vec<Said<'_>>, CommandError> {
    let mut said = Vec::new();
    while let Some(part) = batch.next_part()? {
        let Part::Increments { count, stamped } = part else {
            said.push(Said::Other(part));
            continue;
        };
        let request = match stamped {
            Some(stamped) => {
                let Stamped { stamp, digest, want_values, .. } = stamped;
                Some(Request { stamp, digest, want_values, places: stamped.places()? })
            }
            None => None,
        };
        let mut skipping = batch;
        let mut increments = Vec::new();
        for _ in 0..count {
            let increment = batch.next_increment(ROUTING_SEED)?;
            increments.push((increment.key, increment.delta));
        }
        assert_eq!(skipping.skip_increments(count), Ok(()), "what can be read can be passed over");
        assert_eq!(skipping, batch, "passing over ends where reading does");
        said.push(Said::Increments(request, increments));
    }
    Ok(said)
}

/// A batch that can be read to its end says the same after it has been written again.
fn check_batch(batch: Batch<'_>) {
    let Ok(said) = read_batch(batch) else { return };
    let mut again = Vec::new();
    command::begin_batch(&mut again, batch.epoch);
    for said in &said {
        match said {
            Said::Increments(request, increments) => {
                let stamped = request.as_ref().map(|Request { stamp, digest, want_values, places }| {
                    (stamp, Original { digest: *digest, want_values: *want_values, places: places.as_deref() })
                });
                command::begin_part(&mut again, increments.len() as u32, stamped);
                increments.iter().for_each(|(key, delta)| command::push_increment(&mut again, key, *delta));
            }
            Said::Other(Part::Attach { session, epoch }) => again.extend(command::attach_part(*session, *epoch)),
            Said::Other(Part::Resolve(stamp)) => again.extend(command::resolve_part(stamp)),
            Said::Other(Part::Increments { .. }) => unreachable!("increments are said apart"),
        }
    }
    let Ok(Command::Batch(written)) = command::decode(&again) else { panic!("a batch is no batch any more") };
    assert_eq!((written.epoch, read_batch(written)), (batch.epoch, Ok(said)), "a batch changes by being encoded");
}

fn read_meta(mut batch: MetaBatch<'_>) -> Result<Vec<MetaPart<'_>>, CommandError> {
    let mut said = Vec::new();
    while let Some(part) = batch.next_part()? {
        said.push(part);
    }
    Ok(said)
}

fn check_meta(batch: MetaBatch<'_>) {
    let Ok(said) = read_meta(batch) else { return };
    let mut again = Vec::new();
    command::begin_meta(&mut again, batch.elapsed_micros);
    for part in &said {
        again.extend(match *part {
            MetaPart::Open(name) => command::open_part(name),
            MetaPart::Close { session, epoch, progress } => command::close_part(session, epoch, progress),
            MetaPart::Expire(mark) => command::expire_part(mark),
        });
    }
    let Ok(Command::Meta(written)) = command::decode(&again) else { panic!("a meta entry is none any more") };
    assert_eq!((written.elapsed_micros, read_meta(written)), (batch.elapsed_micros, Ok(said)));
}

fn check_segment_header(bytes: &[u8]) {
    let (header, peak) = peak_of(|| SegmentHeader::decode(bytes));
    assert!(peak <= 4 * bytes.len() + 1_024, "{peak} bytes of memory for a header of {}", bytes.len());
    if let Ok(header) = header {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header), "a segment header changes by being encoded");
    }
}

fn check_map(bytes: &[u8]) {
    let (map, peak) = peak_of(|| ClusterMap::decode(bytes));
    assert!(peak <= 4 * bytes.len() + 1_024, "{peak} bytes of memory for a map of {}", bytes.len());
    if let Ok(map) = map {
        assert_eq!(ClusterMap::decode(&map.encode()), Ok(map), "a map changes by being encoded");
    }
}
