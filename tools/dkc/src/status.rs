//! Printing a node's status.

use crate::args::Format;
use crate::output::csv_field;
use dkc::engine::status::{CheckpointStatus, ShardStatus, StoreStatus};
use dkc::wire::client::Status;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// Prints a status.
pub(crate) fn write(out: &mut impl Write, format: Format, status: &Status) -> io::Result<()> {
    match format {
        Format::Text => write_text(out, status),
        Format::Json => writeln!(out, "{}", json_of(status)),
        Format::Csv => write_csv(out, status),
    }
}

fn write_text(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(out, "cluster    {:032x}, map epoch {}", status.cluster_id.0, status.map_epoch)?;
    writeln!(out, "node       {}, version {}", status.node, printable(&status.server_version))?;
    writeln!(out, "uptime     {}", HumanDuration(Duration::from_micros(status.uptime_micros)))?;
    for store in &status.stores {
        write_store(out, store)?;
    }
    Ok(())
}

fn write_store(out: &mut impl Write, store: &StoreStatus) -> io::Result<()> {
    let writes = if store.direct_io { "direct I/O" } else { "through the page cache" };
    let behind = store.log_bytes.saturating_sub(store.log_durable_bytes);
    writeln!(out)?;
    writeln!(out, "store {}, {} connections", store.store, HumanCount(store.connections.into()))?;
    if store.disk_full {
        writeln!(out, "  DISK FULL: increments are refused until space is free")?;
    }
    writeln!(
        out,
        "  log      {} written, {} of them not yet durable, {writes}",
        HumanBytes(store.log_bytes),
        HumanBytes(behind)
    )?;
    writeln!(
        out,
        "  segments {} files, {}, writing number {}",
        store.segments,
        HumanBytes(store.segment_bytes),
        store.segment
    )?;
    writeln!(out, "  memory   {} of {}", HumanBytes(store.memory_bytes), HumanBytes(store.memory_bytes_max))?;
    write_checkpoints(out, &store.checkpoints)?;
    if !store.shards.is_empty() {
        writeln!(
            out,
            "  {:>5} {:<9} {:>6} {:>14} {:>14} {:>14} {:>14} {:>14} {:>11}",
            "shard", "role", "term", "last", "committed", "applied", "checkpoint", "keys", "memory"
        )?;
    }
    store.shards.iter().try_for_each(|shard| write_shard(out, shard))
}

fn write_checkpoints(out: &mut impl Write, checkpoints: &CheckpointStatus) -> io::Result<()> {
    write!(out, "  ckpts    {} completed, {} given up", checkpoints.completed, checkpoints.failed)?;
    match checkpoints.running {
        Some(shard) => {
            writeln!(out, ", writing shard {shard}: {}", HumanBytes(checkpoints.running_bytes))?;
        }
        None => writeln!(out, ", {} kept free", HumanBytes(checkpoints.reserve_bytes))?,
    }
    if !checkpoints.last_failure.is_empty() {
        writeln!(out, "  CHECKPOINT FAILED, and will be tried again: {}", printable(&checkpoints.last_failure))?;
    }
    Ok(())
}

fn write_shard(out: &mut impl Write, shard: &ShardStatus) -> io::Result<()> {
    writeln!(
        out,
        "  {:>5} {:<9} {:>6} {:>14} {:>14} {:>14} {:>14} {:>14} {:>11}",
        shard.shard.0,
        printable(&shard.role),
        shard.term.0,
        HumanCount(shard.last_index.0).to_string(),
        HumanCount(shard.commit_index.0).to_string(),
        HumanCount(shard.applied_index.0).to_string(),
        HumanCount(shard.checkpoint_index.0).to_string(),
        HumanCount(shard.keys).to_string(),
        HumanBytes(shard.memory_bytes).to_string(),
    )
}

fn write_csv(out: &mut impl Write, status: &Status) -> io::Result<()> {
    for store in &status.stores {
        for shard in &store.shards {
            writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{}",
                status.node,
                store.store,
                shard.shard,
                csv_field(&printable(&shard.role)),
                shard.term,
                shard.last_index,
                shard.commit_index,
                shard.applied_index,
                shard.keys,
                shard.memory_bytes,
                shard.checkpoint_index,
            )?;
        }
    }
    Ok(())
}

fn json_of(status: &Status) -> Value {
    json!({
        "server_version": status.server_version,
        "cluster_id": format!("{:032x}", status.cluster_id.0),
        "node": status.node.0,
        "uptime_micros": status.uptime_micros,
        "map_epoch": status.map_epoch,
        "stores": status.stores.iter().map(json_of_store).collect::<Value>(),
    })
}

fn json_of_store(store: &StoreStatus) -> Value {
    json!({
        "store": store.store.0,
        "segment": store.segment,
        "log_bytes": store.log_bytes,
        "log_durable_bytes": store.log_durable_bytes,
        "segments": store.segments,
        "segment_bytes": store.segment_bytes,
        "disk_full": store.disk_full,
        "direct_io": store.direct_io,
        "connections": store.connections,
        "memory_bytes": store.memory_bytes,
        "memory_bytes_max": store.memory_bytes_max,
        "checkpoints": {
            "running_shard": store.checkpoints.running.map(|shard| shard.0),
            "running_bytes": store.checkpoints.running_bytes,
            "completed": store.checkpoints.completed,
            "failed": store.checkpoints.failed,
            "last_failure": store.checkpoints.last_failure,
            "reserve_bytes": store.checkpoints.reserve_bytes,
        },
        "shards": store.shards.iter().map(json_of_shard).collect::<Value>(),
    })
}

fn json_of_shard(shard: &ShardStatus) -> Value {
    json!({
        "shard": shard.shard.0,
        "role": shard.role,
        "term": shard.term.0,
        "last_index": shard.last_index.0,
        "commit_index": shard.commit_index.0,
        "applied_index": shard.applied_index.0,
        "range_start": shard.range_start.0,
        "range_end": shard.range_end.0,
        "keys": shard.keys,
        "memory_bytes": shard.memory_bytes,
        "checkpoint_index": shard.checkpoint_index.0,
        "checkpoint_bytes": shard.checkpoint_bytes,
    })
}

/// A server's text, made harmless for terminals.
fn printable(text: &str) -> String {
    crate::keys::escape(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_a_csv_line_and_a_text_line() {
        let shard = ShardStatus { role: "leader".into(), keys: 12_345, ..ShardStatus::default() };
        let store = StoreStatus { shards: vec![shard; 2], disk_full: true, ..StoreStatus::default() };
        let status = Status { stores: vec![store], server_version: "\x1b[1m".into(), ..Status::default() };
        let printed = |format| {
            let mut out = Vec::new();
            write(&mut out, format, &status).expect("a Vec takes everything");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(printed(Format::Csv), "0,0,0,leader,0,0,0,0,12345,0,0\n".repeat(2));
        let text = printed(Format::Text);
        assert_eq!(text.matches("leader").count(), 2);
        assert!(text.contains("12,345") && text.contains("DISK FULL") && !text.contains('\x1b'), "{text}");
        let parsed: Value = serde_json::from_str(&printed(Format::Json)).expect("JSON");
        assert_eq!(parsed["stores"][0]["shards"][1]["keys"], json!(12_345));
    }
}
