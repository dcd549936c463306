//! `dkc export`: every key with its count, each shard's as they were at one applied index.
//!
//! Shards are read one after another, piece by piece, and written as they come: memory is bounded by a piece. A file appears under its name
//! only when it is whole.

use crate::args::{ExportArgs, Format};
use crate::output::{Row, write_line};
use crate::warn;
use anyhow::{Context, bail};
use dkc::client::blocking::Client;
use dkc::client::core::{Answer, Op};
use dkc::ids::{Index, ShardId};
use dkc::wire::client::ScanRequest;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes all counters; returns the exit code.
///
/// # Errors
/// Those of the cluster and of the output. A file that was begun is removed.
pub(crate) fn run(client: &mut Client, format: Format, args: &ExportArgs) -> anyhow::Result<u8> {
    let started = Instant::now();
    let (shards, keys) = shards(client)?;
    let progress = progress(keys);
    let exported = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let exported = write_shards(client, format, &shards, &mut out, &progress);
            exported.and_then(|exported| Ok(out.flush().map(|()| exported)?))
        }
        Some(path) => write_file(client, format, &shards, path, &progress),
    };
    progress.finish_and_clear();
    let exported = exported?;
    let at: Vec<String> = exported.indexes.iter().map(|(shard, index)| format!("shard {shard} at {index}")).collect();
    let time = HumanDuration(started.elapsed());
    warn(&format!("{} keys exported in {time}: {}", HumanCount(exported.keys), at.join(", ")));
    Ok(0)
}

/// The shards that count, in order, and about how many keys they have.
fn shards(client: &mut Client) -> anyhow::Result<(Vec<ShardId>, u64)> {
    let status = client.status()?;
    let counting = status.stores.iter().flat_map(|store| &store.shards).filter(|shard| shard.shard != ShardId::META);
    let (mut shards, keys): (Vec<ShardId>, Vec<u64>) = counting.map(|shard| (shard.shard, shard.keys)).unzip();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        bail!("the server names no shard");
    }
    Ok((shards, keys.iter().sum()))
}

fn progress(keys: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{wide_bar} {human_pos} of {human_len} keys, {per_sec}, {eta} left";
    ProgressBar::new(keys).with_style(ProgressStyle::with_template(template).expect("a valid template"))
}

/// What was written.
struct Exported {
    keys: u64,
    /// The point at which each shard was read.
    indexes: Vec<(ShardId, Index)>,
}

/// Writes beside the file, and gives it its name when all is on the disk.
fn write_file(
    client: &mut Client,
    format: Format,
    shards: &[ShardId],
    path: &Path,
    progress: &ProgressBar,
) -> anyhow::Result<Exported> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let mut write = || {
        let mut out = BufWriter::new(File::create(&partial)?);
        let exported = write_shards(client, format, shards, &mut out, progress)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)?;
        anyhow::Ok(exported)
    };
    write()
        .inspect_err(|_| {
            // What went wrong matters more than that it cannot be removed.
            let _ = fs::remove_file(&partial);
        })
        .with_context(|| format!("{} was not written", path.display()))
}

fn write_shards(
    client: &mut Client,
    format: Format,
    shards: &[ShardId],
    out: &mut impl Write,
    progress: &ProgressBar,
) -> anyhow::Result<Exported> {
    let mut exported = Exported { keys: 0, indexes: Vec::new() };
    for &shard in shards {
        // A number that nobody else uses: two exports at once must not take pieces of each other.
        let scan = RandomState::new().hash_one(shard.0);
        let mut applied_index = Index(0);
        for piece in 0.. {
            let answer = client.call(Op::Scan(ScanRequest { shard, scan, piece, applied_index }))?;
            let Answer::Scanned(reply) = answer else { bail!("an answer of another kind to a scan") };
            applied_index = reply.applied_index;
            for (key, &count) in reply.keys.iter().zip(&reply.counts) {
                write_line(out, format, &Row { key, count: Some(count) })?;
            }
            exported.keys += reply.counts.len() as u64;
            progress.set_position(exported.keys);
            if reply.last {
                exported.indexes.push((shard, reply.applied_index));
                break;
            }
        }
    }
    Ok(exported)
}
