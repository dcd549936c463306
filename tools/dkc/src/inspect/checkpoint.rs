//! Printing checkpoints: what each holds, and whether the log names it.

use super::folder::{self, CHECKPOINTS, Folder, LOG};
use crate::args::{Format, InspectCheckpointArgs, UsageError};
use crate::keys::escape;
use crate::output::csv_field;
use dkc::engine::checkpoint::envelope::CHECKPOINT_FORMAT;
use dkc::engine::checkpoint::inspection::Manifest;
use dkc::engine::checkpoint::{CheckpointDir, CheckpointFile, Kept, Reference};
use dkc::engine::cluster::ClusterMap;
use dkc::engine::command::{self, Command};
use dkc::engine::wal::inspection::look_over;
use dkc::engine::wal::{Record, RecoveryError, Survey};
use dkc::ids::ShardId;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Prints the checkpoints that are meant. Returns whether they are whole.
pub(crate) fn print(out: &mut dyn Write, format: Format, args: &InspectCheckpointArgs) -> anyhow::Result<bool> {
    let path = &args.path;
    let (folders, only) = if path.is_dir() {
        (folder::directories(path, CHECKPOINTS, "checkpoint")?, None)
    } else {
        let (parent, name) = folder::parted(path)?;
        let Some(file) = CheckpointFile::parse(&name) else {
            let text = format!("{}: a checkpoint has a name like 00000001-000000000000002a.checkpoint", path.display());
            return Err(UsageError(text).into());
        };
        std::fs::metadata(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        (vec![parent], Some(file))
    };
    let mut whole = true;
    for path in folders {
        let beside = Beside::read(&path);
        let map = if args.verify { beside.map() } else { None };
        whole &= print_folder(out, format, args, &path, only, &beside, map.as_ref())?;
    }
    Ok(whole)
}

/// What lies beside a directory of checkpoints.
struct Beside {
    /// The data directory, if it is in one.
    data: Option<PathBuf>,
    /// What the log names, by shard; none if there is no log.
    named: Option<Result<BTreeMap<ShardId, Kept>, RecoveryError>>,
}

impl Beside {
    fn read(path: &Path) -> Beside {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let store = path.parent().filter(|store| path.ends_with(CHECKPOINTS) && store.join(LOG).is_dir());
        let data = store.and_then(Path::parent).map(Path::to_path_buf);
        Beside { data, named: store.map(|store| named_by(&store.join(LOG))) }
    }

    /// The cluster map: as a checkpoint of the meta shard holds it, or its log.
    fn map(&self) -> Option<ClusterMap> {
        let store = self.data.as_ref()?.join("store-000");
        let mut folder = Folder::new(&store.join(CHECKPOINTS));
        let mut files = CheckpointDir::list(&mut folder).unwrap_or_default();
        files.retain(|file| file.shard == ShardId::META);
        let held = files.iter().rev().find_map(|file| {
            let bytes = folder.length(&file.name()).ok()?;
            ClusterMap::decode(&Manifest::read(&mut folder, *file, bytes).ok()?.head.map).ok()
        });
        held.or_else(|| map_of_log(&store.join(LOG)))
    }
}

/// The checkpoints that a log names.
fn named_by(path: &Path) -> Result<BTreeMap<ShardId, Kept>, RecoveryError> {
    let mut folder = Folder::new(path);
    let Some((identity, config)) = look_over(&mut folder)?.owner else { return Ok(BTreeMap::new()) };
    let survey = Survey::read(&mut folder, identity, config, true)?;
    Ok(survey.end().iter().map(|(shard, group)| (*shard, group.kept)).collect())
}

fn map_of_log(path: &Path) -> Option<ClusterMap> {
    let mut folder = Folder::new(path);
    let (identity, config) = look_over(&mut folder).ok()?.owner?;
    let mut map = None;
    let survey = Survey::read(&mut folder, identity, config, true).ok()?;
    let read = survey.examine(&mut folder, &mut |_, record| {
        if let Record::Entry { shard: ShardId::META, payload, .. } = record
            && let Ok(Command::Map(encoded)) = command::decode(&payload)
        {
            map = ClusterMap::decode(encoded).ok();
        }
        Ok(())
    });
    // The map is the first that is written: what is damaged behind it does not matter here.
    drop(read);
    map
}

/// What a log says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Newest(Reference),
    Older(Reference),
    Unnamed,
    /// There is no log, or none that can be read.
    Unknown,
}

impl Standing {
    fn of(file: CheckpointFile, beside: &Beside) -> Standing {
        let Some(Ok(named)) = &beside.named else { return Standing::Unknown };
        let kept = named.get(&file.shard).copied().unwrap_or_default();
        let is = |reference: &Reference| reference.number == file.number;
        match (kept.newest.filter(is), kept.older.filter(is)) {
            (Some(newest), _) => Standing::Newest(newest),
            (None, Some(older)) => Standing::Older(older),
            (None, None) => Standing::Unnamed,
        }
    }

    fn reference(self) -> Option<Reference> {
        match self {
            Standing::Newest(reference) | Standing::Older(reference) => Some(reference),
            Standing::Unnamed | Standing::Unknown => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Standing::Newest(_) => "newest",
            Standing::Older(_) => "older",
            Standing::Unnamed => "unnamed",
            Standing::Unknown => "unknown",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Standing::Newest(_) => "the newest that the log names",
            Standing::Older(_) => "the older one that the log names",
            Standing::Unnamed => "not named by the log: the next start removes it",
            Standing::Unknown => "without a log that says whether it is in force",
        }
    }
}

/// A file, and what was found of it.
struct Found {
    file: CheckpointFile,
    standing: Standing,
    /// Length of the file.
    bytes: u64,
    manifest: Option<Manifest>,
    /// Counters of the state that was made of it.
    verified: Option<u64>,
    damage: Option<String>,
}

fn print_folder(
    out: &mut dyn Write,
    format: Format,
    args: &InspectCheckpointArgs,
    path: &Path,
    only: Option<CheckpointFile>,
    beside: &Beside,
    map: Option<&ClusterMap>,
) -> anyhow::Result<bool> {
    let mut folder = Folder::new(path);
    let mut files = match only {
        Some(file) => vec![file],
        None => CheckpointDir::list(&mut folder).map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    if only.is_none()
        && let Some(Ok(named)) = &beside.named
    {
        // What is named and missing is damage too.
        let all = named.iter().flat_map(|(&shard, kept)| {
            kept.iter().map(move |one| CheckpointFile { shard, number: one.number }).collect::<Vec<_>>()
        });
        files.extend(all);
        files.sort_unstable();
        files.dedup();
    }
    if format == Format::Text {
        writeln!(out, "{}", escape(path.as_os_str().as_encoded_bytes()))?;
    }
    let mut whole = true;
    if let Some(Err(error)) = &beside.named {
        whole = false;
        crate::warn(&format!("which checkpoints are in force cannot be told: {error}"));
    }
    for file in files {
        let found = look(&mut folder, file, Standing::of(file, beside), args, map);
        // What is left of one that was never finished is no damage.
        whole &= found.damage.is_none() || found.standing == Standing::Unnamed;
        match format {
            Format::Text => write_text(out, &found)?,
            Format::Json => writeln!(out, "{}", json_of(&found))?,
            Format::Csv => write_csv(out, &found)?,
        }
    }
    Ok(whole)
}

fn look(
    folder: &mut Folder,
    file: CheckpointFile,
    standing: Standing,
    args: &InspectCheckpointArgs,
    map: Option<&ClusterMap>,
) -> Found {
    let mut found = Found { file, standing, bytes: 0, manifest: None, verified: None, damage: None };
    match folder.length(&file.name()) {
        Ok(bytes) => found.bytes = bytes,
        Err(error) => {
            found.damage = Some(format!("checkpoint {}: {error}", file.name()));
            return found;
        }
    }
    let manifest = match Manifest::read(folder, file, found.bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            found.damage = Some(error.to_string());
            return found;
        }
    };
    let reference = standing.reference().unwrap_or(manifest.reference);
    if reference != manifest.reference {
        found.damage = Some(format!("checkpoint {}: it is whole, but not the one that the log names", file.name()));
    } else if args.verify {
        match verified(folder, &manifest, &reference, map) {
            Ok(counters) => found.verified = Some(counters),
            Err(damage) => found.damage = Some(damage),
        }
    }
    found.manifest = Some(manifest);
    found
}

/// Makes a state of a checkpoint; returns the counters in it.
fn verified(
    folder: &mut Folder,
    manifest: &Manifest,
    reference: &Reference,
    map: Option<&ClusterMap>,
) -> Result<u64, String> {
    let held = ClusterMap::decode(&manifest.head.map).ok();
    let Some(map) = held.as_ref().or(map) else {
        let file = manifest.preamble.file.name();
        return Err(format!(
            "checkpoint {file}: where its keys belong is not known: verify it within its data directory, whose store-000 holds the \
             cluster map"
        ));
    };
    manifest.verify(folder, reference, map).map_err(|error| error.to_string())?;
    Ok(manifest.contents.pages.1)
}

fn write_text(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    let CheckpointFile { shard, number } = found.file;
    writeln!(out, "  {}: shard {shard}, number {number}, {}", found.file.name(), found.standing.sentence())?;
    if let Some(manifest) = &found.manifest {
        write_manifest(out, manifest, found.bytes)?;
    }
    if let Some(counters) = found.verified {
        writeln!(out, "    verified: a start can be made from it, with {} counters", HumanCount(counters))?;
    }
    match &found.damage {
        Some(damage) if found.standing == Standing::Unnamed => writeln!(out, "    not whole: {damage}"),
        Some(damage) => writeln!(
            out,
            "    DAMAGED: {damage}. A start uses the other one that the log names, if that is whole; do not edit the file"
        ),
        None => Ok(()),
    }
}

fn write_manifest(out: &mut dyn Write, manifest: &Manifest, file_bytes: u64) -> io::Result<()> {
    let Manifest { preamble, head, contents, reference, .. } = manifest;
    let Reference { from, to, bytes, digest, .. } = reference;
    writeln!(
        out,
        "    format {CHECKPOINT_FORMAT}, cluster {:032x}, node {}, store {}",
        preamble.store.cluster.0, preamble.store.node, preamble.store.store
    )?;
    let (a, b) = ((from.index, from.term), (to.index, to.term));
    writeln!(out, "    from A, entry {} of term {}, to B, entry {} of term {}", a.0, a.1, b.0, b.1)?;
    if preamble.file.shard == ShardId::META {
        let (registry, names) = (contents.registry, contents.names);
        writeln!(
            out,
            "    {} open sessions, the last is {}, expired up to {}; {names} names; a cluster map of {} bytes",
            registry.1,
            head.last_session,
            head.mark,
            head.map.len()
        )?;
    } else {
        writeln!(out, "    hashes {:016x} to {:016x}, epoch {}", head.range[0], head.range[1], head.epoch)?;
        let applied =
            contents.applied.map_or(String::new(), |(first, last)| format!(", as of entries {first} to {last}"));
        writeln!(out, "    {} counters on {} pages{applied}", HumanCount(contents.pages.1), contents.pages.0)?;
        writeln!(
            out,
            "    sessions: {} with {} outcomes at A, {} at B; expired up to {}",
            contents.windows.1, contents.outcomes, contents.windows_at_end.1, head.mark
        )?;
    }
    let (unpacked, digest) = (HumanBytes(contents.archive_bytes), format!("{digest:016x}"));
    writeln!(out, "    {bytes} bytes of a file of {file_bytes}, {unpacked} unpacked, digest {digest}")
}

fn write_csv(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    let CheckpointFile { shard, number } = found.file;
    let name = found.file.name();
    let columns = found.manifest.as_ref().map_or(",,,,,,".to_owned(), |manifest| {
        let (Reference { from, to, bytes, .. }, contents) = (manifest.reference, manifest.contents);
        let (pages, counters) = contents.pages;
        format!("{},{},{},{},{pages},{counters},{bytes}", from.index, from.term, to.index, to.term)
    });
    let damage = found.damage.as_deref().unwrap_or_default();
    writeln!(out, "{name},{shard},{number},{},{columns},{}", found.standing.word(), csv_field(damage))
}

/// A checkpoint as a log names it.
pub(super) fn json_of_reference(reference: &Reference) -> Value {
    let Reference { number, from, to, bytes, digest } = reference;
    json!({
        "number": number.0,
        "from_index": from.index.0,
        "from_term": from.term.0,
        "to_index": to.index.0,
        "to_term": to.term.0,
        "bytes": bytes,
        "digest": format!("{digest:016x}"),
    })
}

fn json_of(found: &Found) -> Value {
    let manifest = found.manifest.as_ref().map(|manifest| {
        let Manifest { preamble, head, contents, foot, reference } = manifest;
        json!({
            "format": CHECKPOINT_FORMAT,
            "cluster": format!("{:032x}", preamble.store.cluster.0),
            "node": preamble.store.node.0,
            "store": preamble.store.store.0,
            "reference": json_of_reference(reference),
            "range_start": head.range[0],
            "range_end": head.range[1],
            "epoch": head.epoch,
            "voters": head.voters,
            "mark": head.mark,
            "mark_at_end": foot.mark,
            "pages": contents.pages.0,
            "counters": contents.pages.1,
            "sessions": contents.windows.1,
            "sessions_at_end": contents.windows_at_end.1,
            "outcomes": contents.outcomes,
            "open_sessions": contents.registry.1,
            "names": contents.names,
            "archive_bytes": contents.archive_bytes,
        })
    });
    json!({
        "file": found.file.name(),
        "shard": found.file.shard.0,
        "number": found.file.number.0,
        "standing": found.standing.word(),
        "file_bytes": found.bytes,
        "manifest": manifest,
        "verified": found.verified.is_some(),
        "damage": found.damage,
    })
}
