//! Printing logs: segments, records, where each log ends and why.

use super::folder::{self, Folder};
use crate::args::{Format, InspectWalArgs, UsageError};
use crate::keys::escape;
use crate::output::csv_field;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dkc::engine::checkpoint::{Kept, Reference};
use dkc::engine::command::{self, Batch, Command, CommandError, MetaBatch, Part};
use dkc::engine::wal::inspection::{Beginning, LogView, SegmentView, beginning, examine_segment, look_over};
use dkc::engine::wal::recovery::Case;
use dkc::engine::wal::segment::SegmentHeader;
use dkc::engine::wal::{
    GroupState, Place, Record, Recovered, RecoveryError, Survey, WAL_FORMAT, parse_segment_file_name, segment_file_name,
};
use dkc::ids::{Index, ShardId, StoreId, Term};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// Prints the logs that are meant. Returns whether they are whole.
pub(crate) fn print(out: &mut dyn Write, format: Format, args: &InspectWalArgs) -> anyhow::Result<bool> {
    let path = &args.path;
    let mut printer = Printer { out, format, keys: args.keys, records: !args.verify, failed: None };
    if path.is_dir() {
        let mut whole = true;
        for folder in folder::directories(path, folder::LOG, "wal")? {
            whole &= print_log(&mut printer, &folder)?;
        }
        return Ok(whole);
    }
    let (parent, name) = folder::parted(path)?;
    let Some(epoch) = parse_segment_file_name(&name) else {
        let text = format!("{}: a segment has a name like {}", path.display(), segment_file_name(epoch_one()));
        return Err(UsageError(text).into());
    };
    let mut folder = Folder::new(&parent);
    let bytes = folder.length(&name).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let segment = SegmentView { epoch, bytes, beginning: beginning(&mut folder, epoch, bytes) };
    printer.log(path)?;
    printer.segment(&segment)?;
    let read = examine_segment(&mut folder, &segment, &mut |place, record| printer.record(place, &record));
    printer.end(&read)
}

fn epoch_one() -> dkc::ids::SegmentEpoch {
    dkc::ids::SegmentEpoch(1)
}

fn print_log(printer: &mut Printer<'_>, path: &Path) -> anyhow::Result<bool> {
    let mut folder = Folder::new(path);
    printer.log(path)?;
    let view: LogView = match look_over(&mut folder) {
        Ok(view) => view,
        Err(error) => return printer.end(&Err(error)),
    };
    for segment in &view.segments {
        printer.segment(segment)?;
    }
    let Some((identity, config)) = view.owner else {
        // Not one header: what is there is told by the newest that is not empty.
        let broken = view.segments.iter().rev().find_map(|segment| segment.beginning.as_ref().err());
        return match broken {
            Some(error) => printer.end(&Err(error.clone())),
            None => printer.nothing(),
        };
    };
    let read = match Survey::read(&mut folder, identity, config, true) {
        Ok(survey) => survey.examine(&mut folder, &mut |place, record| printer.record(place, &record)),
        Err(error) => {
            // Whatever can still be read, a segment at a time; what is wrong with the whole is told in the end.
            for segment in &view.segments {
                let _told = examine_segment(&mut folder, segment, &mut |place, record| printer.record(place, &record));
                printer.check()?;
            }
            Err(error)
        }
    };
    printer.end(&read)
}

/// Prints in one of the formats.
struct Printer<'a> {
    out: &'a mut dyn Write,
    format: Format,
    /// Whether keys are printed.
    keys: bool,
    /// Whether records are printed.
    records: bool,
    /// Why printing failed within the reading.
    failed: Option<io::Error>,
}

impl Printer<'_> {
    fn log(&mut self, path: &Path) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{}", escape(path.as_os_str().as_encoded_bytes())),
            Format::Json => writeln!(self.out, "{}", json!({"type": "log", "path": path.to_string_lossy()})),
            Format::Csv => Ok(()),
        }
    }

    fn segment(&mut self, segment: &SegmentView) -> io::Result<()> {
        let name = segment_file_name(segment.epoch);
        match (self.format, &segment.beginning) {
            (Format::Csv, _) => Ok(()),
            (Format::Json, beginning) => {
                let header = match beginning {
                    Ok(Beginning::Header(store, header)) => json_of_header(*store, header),
                    _ => Value::Null,
                };
                let line = json!({
                    "type": "segment",
                    "segment": name,
                    "bytes": segment.bytes,
                    "state": state_of(segment),
                    "header": header,
                    "damage": beginning.as_ref().err().map(ToString::to_string),
                });
                writeln!(self.out, "{line}")
            }
            (Format::Text, beginning) => {
                writeln!(self.out, "  segment {name}, {} bytes, {}", segment.bytes, state_of(segment))?;
                if let Ok(Beginning::Header(store, header)) = beginning {
                    write_header(self.out, *store, header)?;
                }
                Ok(())
            }
        }
    }

    /// Prints a record. What it says has to be readable: an entry that is not cannot be applied.
    fn record(&mut self, place: Place, record: &Record) -> Result<(), String> {
        let said = Said::of(record).map_err(|error| error.to_string())?;
        if !self.records {
            return Ok(());
        }
        let written = match self.format {
            Format::Text => self.record_text(place, record, &said),
            Format::Json => self.record_json(place, record, &said),
            Format::Csv => self.record_csv(place, record, &said),
        };
        written.map_err(|error| {
            self.failed = Some(error);
            "it is not printed any further".to_owned()
        })
    }

    fn record_text(&mut self, place: Place, record: &Record, said: &Said<'_>) -> io::Result<()> {
        let Line { kind, shard, term, index, commit, bytes } = Line::of(record);
        let (segment, offset, lsn) = (place.epoch.0, place.offset, place.lsn);
        writeln!(
            self.out,
            "  record  lsn {lsn}, segment {segment:x} at {offset}: {kind}, shard {shard}, term {term}{}, commit {commit}, \
             {bytes} bytes{}{}",
            index.map_or(String::new(), |index| format!(", index {index}")),
            if said.what.is_empty() { "" } else { ": " },
            said.what
        )?;
        if self.keys {
            for (key, delta) in &said.increments {
                writeln!(self.out, "    {}\t{delta}", escape(key))?;
            }
        }
        Ok(())
    }

    fn record_json(&mut self, place: Place, record: &Record, said: &Said<'_>) -> io::Result<()> {
        let Line { kind, shard, term, index, commit, bytes } = Line::of(record);
        let mut line = json!({
            "type": "record",
            "lsn": place.lsn.0,
            "segment": segment_file_name(place.epoch),
            "offset": place.offset,
            "kind": kind,
            "shard": shard.0,
            "term": term.0,
            "index": index.map(|index| index.0),
            "commit": commit.0,
            "bytes": bytes,
            "what": said.what,
            "increments": said.count,
        });
        if let Record::Checkpoint { kept, .. } | Record::Install { kept, .. } = record {
            line["checkpoints"] = json_of_kept(kept);
        }
        if self.keys {
            let increment = |(key, delta): &(&[u8], i64)| match str::from_utf8(key) {
                Ok(key) => json!({"key": key, "delta": delta}),
                Err(_) => json!({"key_base64": STANDARD.encode(key), "delta": delta}),
            };
            line["keys"] = said.increments.iter().map(increment).collect();
        }
        writeln!(self.out, "{line}")
    }

    fn record_csv(&mut self, place: Place, record: &Record, said: &Said<'_>) -> io::Result<()> {
        let Line { kind, shard, term, index, commit, bytes } = Line::of(record);
        let (segment, offset, lsn) = (segment_file_name(place.epoch), place.offset, place.lsn);
        let (index, what) = (index.map(|index| index.to_string()).unwrap_or_default(), csv_field(&said.what));
        let count = said.count;
        let line = format!("{lsn},{segment},{offset},{kind},{shard},{term},{index},{commit},{bytes},{what},{count}");
        if !self.keys {
            return writeln!(self.out, "{line}");
        }
        if said.increments.is_empty() {
            return writeln!(self.out, "{line},,");
        }
        said.increments
            .iter()
            .try_for_each(|(key, delta)| writeln!(self.out, "{line},{},{delta}", csv_field(&escape(key))))
    }

    /// Gives back why printing failed, if it has.
    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Says where the log ends and why. Returns whether that is as it should be.
    fn end(&mut self, read: &Result<Recovered, RecoveryError>) -> anyhow::Result<bool> {
        self.check()?;
        match (self.format, read) {
            (Format::Text, Ok(found)) => write_end(self.out, found)?,
            (Format::Text, Err(error)) => writeln!(self.out, "  DAMAGED: {error}")?,
            (Format::Json, Ok(found)) => {
                let groups: Value = found.groups.iter().map(|(shard, group)| json_of_group(*shard, group)).collect();
                let removed: Value =
                    found.removed.iter().map(|(name, why)| json!({"file": name, "why": why})).collect();
                let line = json!({
                    "type": "end",
                    "case": format!("{:?}", found.case),
                    "segment": segment_file_name(found.end.epoch),
                    "offset": found.end.offset,
                    "lsn": found.lsn.0,
                    "records": found.records,
                    "groups": groups,
                    "next_start_removes": removed,
                    "damage": Value::Null,
                });
                writeln!(self.out, "{line}")?;
            }
            (Format::Json, Err(error)) => {
                let (segment, offset, case) = (&error.file, error.offset, format!("{:?}", error.case));
                let damage = error.to_string();
                let line = json!({"type": "end", "case": case, "segment": segment, "offset": offset, "damage": damage});
                writeln!(self.out, "{line}")?;
            }
            (Format::Csv, Ok(_)) => {}
            (Format::Csv, Err(error)) => crate::warn(&error.to_string()),
        }
        Ok(read.is_ok())
    }

    fn nothing(&mut self) -> anyhow::Result<bool> {
        let text =
            "no segment holds anything: nothing was ever written here, or the log is lost; dkc-server --verify tells";
        match self.format {
            Format::Text => writeln!(self.out, "  {text}")?,
            Format::Json => writeln!(self.out, "{}", json!({"type": "end", "case": "NeverOpened", "damage": null}))?,
            Format::Csv => crate::warn(text),
        }
        Ok(true)
    }
}

fn state_of(segment: &SegmentView) -> &'static str {
    match &segment.beginning {
        Ok(Beginning::Unused) => "prepared, never used",
        Ok(Beginning::Torn) => "its header never became durable",
        Ok(Beginning::Header(..)) => "used",
        Err(_) => "damaged",
    }
}

fn write_header(out: &mut dyn Write, store: StoreId, header: &SegmentHeader) -> io::Result<()> {
    let SegmentHeader { cluster, node, segment_bytes, write_bytes_max, previous, oldest, start, groups } = header;
    writeln!(
        out,
        "    format {WAL_FORMAT}, cluster {:032x}, node {node}, store {store}, segments of {}, writes of up to {}",
        cluster.0,
        HumanBytes(*segment_bytes),
        HumanBytes(*write_bytes_max)
    )?;
    let (epoch, offset) = (previous.epoch.0, previous.offset);
    match epoch {
        0 => writeln!(out, "    begins at lsn {start}, the first of its log")?,
        _ => writeln!(
            out,
            "    begins at lsn {start}, where segment {epoch:x} ends at byte {offset}; needs {oldest:x} on",
            oldest = oldest.0
        )?,
    }
    groups.iter().try_for_each(|(shard, group)| write_group(out, *shard, group))
}

fn write_group(out: &mut dyn Write, shard: ShardId, group: &GroupState) -> io::Result<()> {
    let GroupState { term, vote, commit, first_index, last_index, last_term, kept } = group;
    write!(
        out,
        "    shard {shard}: term {term}, vote {vote}, commit {commit}, entries {first_index} to {last_index} (term {last_term})"
    )?;
    writeln!(out, "{}{}", if kept.newest.is_some() { ", " } else { "" }, text_of_kept(kept))
}

fn text_of_kept(kept: &Kept) -> String {
    let one = |reference: Reference| {
        let Reference { number, from, to, bytes, .. } = reference;
        format!("checkpoint {number} of entries {} to {}, {bytes} bytes", from.index, to.index)
    };
    kept.iter().map(one).collect::<Vec<_>>().join(", before that ")
}

fn write_end(out: &mut dyn Write, found: &Recovered) -> io::Result<()> {
    let (lsn, records) = (found.lsn, found.records);
    let (name, offset) = (segment_file_name(found.end.epoch), found.end.offset);
    match found.case {
        Case::Prepared => writeln!(out, "  end: prepared, never used")?,
        Case::TornHeader => {
            let why = "its header never became durable, so nothing can follow; a start removes it";
            writeln!(out, "  end: {why}")?;
        }
        Case::TornTail => writeln!(
            out,
            "  end: torn: the write at byte {offset} of {name}, lsn {lsn}, did not arrive whole; it was never acknowledged, and the \
             next start leaves it out. {records} records before it"
        )?,
        _ => writeln!(out, "  end: clean, at byte {offset} of {name}, lsn {lsn}, after {records} records")?,
    }
    found.groups.iter().try_for_each(|(shard, group)| write_group(out, *shard, group))?;
    found.removed.iter().try_for_each(|(name, why)| writeln!(out, "  the next start removes {name}: {why}"))
}

fn json_of_header(store: StoreId, header: &SegmentHeader) -> Value {
    json!({
        "format": WAL_FORMAT,
        "cluster": format!("{:032x}", header.cluster.0),
        "node": header.node.0,
        "store": store.0,
        "segment_bytes": header.segment_bytes,
        "write_bytes_max": header.write_bytes_max,
        "start_lsn": header.start.0,
        "previous_epoch": header.previous.epoch.0,
        "previous_offset": header.previous.offset,
        "oldest_epoch": header.oldest.0,
        "groups": header.groups.iter().map(|(shard, group)| json_of_group(*shard, group)).collect::<Value>(),
    })
}

fn json_of_group(shard: ShardId, group: &GroupState) -> Value {
    json!({
        "shard": shard.0,
        "term": group.term.0,
        "vote": group.vote.0,
        "commit": group.commit.0,
        "first_index": group.first_index.0,
        "last_index": group.last_index.0,
        "last_term": group.last_term.0,
        "checkpoints": json_of_kept(&group.kept),
    })
}

fn json_of_kept(kept: &Kept) -> Value {
    kept.iter().map(|one| super::checkpoint::json_of_reference(&one)).collect()
}

/// The columns of a record.
struct Line {
    kind: &'static str,
    shard: ShardId,
    term: Term,
    index: Option<Index>,
    commit: Index,
    bytes: usize,
}

impl Line {
    fn of(record: &Record) -> Line {
        let bytes = record.stream_bytes();
        match *record {
            Record::HardState { shard, term, commit, .. } => {
                Line { kind: "hard-state", shard, term, index: None, commit, bytes }
            }
            Record::Entry { shard, term, index, commit, .. } => {
                Line { kind: "entry", shard, term, index: Some(index), commit, bytes }
            }
            Record::Checkpoint { shard, kept } => {
                let (term, index) = kept.newest.map_or_else(Default::default, |one| (one.to.term, one.to.index));
                Line { kind: "checkpoint", shard, term, index: Some(index), commit: Index(0), bytes }
            }
            Record::Truncate { shard, last } => {
                Line { kind: "truncate", shard, term: last.term, index: Some(last.index), commit: Index(0), bytes }
            }
            Record::Install { shard, kept } => {
                let (term, index) = kept.newest.map_or_else(Default::default, |one| (one.from.term, one.from.index));
                Line { kind: "install", shard, term, index: Some(index), commit: index, bytes }
            }
        }
    }
}

/// What a record says.
struct Said<'a> {
    what: String,
    /// Increments in it.
    count: usize,
    increments: Vec<(&'a [u8], i64)>,
}

impl<'a> Said<'a> {
    fn of(record: &'a Record) -> Result<Said<'a>, CommandError> {
        let says = |what: String| Said { what, count: 0, increments: Vec::new() };
        Ok(match record {
            Record::HardState { vote, .. } => says(format!("vote {vote}")),
            Record::Checkpoint { kept, .. } | Record::Install { kept, .. } => says(text_of_kept(kept)),
            Record::Truncate { .. } => says("the log ends here".to_owned()),
            Record::Entry { payload, .. } => match command::decode(payload)? {
                Command::NoOp => says("no-op".to_owned()),
                Command::Configuration => says("configuration".to_owned()),
                Command::Expire(mark) => says(format!("sessions up to {mark} expire")),
                Command::Map(map) => says(format!("cluster map of {} bytes", map.len())),
                Command::Batch(batch) => Said::of_batch(batch)?,
                Command::Meta(batch) => says(said_of_meta(batch)?),
            },
        })
    }

    fn of_batch(mut batch: Batch<'a>) -> Result<Said<'a>, CommandError> {
        let (mut parts, mut stamped_parts) = (0, 0);
        let mut increments = Vec::new();
        while let Some(part) = batch.next_part()? {
            parts += 1;
            if let Part::Increments { count, stamped } = part {
                stamped_parts += usize::from(stamped.is_some());
                for _ in 0..count {
                    // Where keys belong does not matter here.
                    let increment = batch.next_increment(0)?;
                    increments.push((increment.key, increment.delta));
                }
            } else {
                stamped_parts += 1;
            }
        }
        let count = increments.len();
        Ok(Said {
            what: format!("batch of {parts} parts, {stamped_parts} of sessions; {count} increments"),
            count,
            increments,
        })
    }
}

fn said_of_meta(mut batch: MetaBatch<'_>) -> Result<String, CommandError> {
    let mut parts = 0;
    while batch.next_part()?.is_some() {
        parts += 1;
    }
    Ok(format!("{parts} parts for the registry of sessions, {} µs later", batch.elapsed_micros))
}
