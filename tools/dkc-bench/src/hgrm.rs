//! The percentile output of HdrHistogram, as its Java implementation prints it and its plotters read it.
//!
//! Columns: a value, the share of all that is at or below it, how many that is, and 1 / (1 - share), which is the axis
//! that plotters use: the tail is where it gets wide.

use crate::plan::Plan;
use crate::tally::Tallies;
use anyhow::Context;
use hdrhistogram::Histogram;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Lines for each halving of the distance to 100 %: what other tools use.
const TICKS_PER_HALVING: u32 = 5;

/// Writes the files that a plan asks for.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write_files(plan: &Plan, tallies: &Tallies) -> anyhow::Result<()> {
    let Some(path) = &plan.hgrm else { return Ok(()) };
    let write_file = |path: &Path, nanos: &Histogram<u64>| {
        let mut out = BufWriter::new(File::create(path)?);
        write(&mut out, nanos)?;
        out.flush()
    };
    let mut files = vec![(path.clone(), tallies.total().latency)];
    if plan.mix.operations().count() > 1 {
        let each = plan.mix.operations().map(|operation| (named(path, operation.name()), tallies.of(operation)));
        files.extend(each.map(|(path, tally)| (path, tally.latency.clone())));
    }
    for (path, nanos) in files {
        write_file(&path, &nanos).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The path with a name before its extension.
fn named(path: &Path, name: &str) -> PathBuf {
    let mut file = path.file_stem().unwrap_or_default().to_owned();
    file.push(".");
    file.push(name);
    if let Some(extension) = path.extension() {
        file.push(".");
        file.push(extension);
    }
    path.with_file_name(file)
}

/// Prints a histogram of nanoseconds, in microseconds.
///
/// # Errors
/// Those of the writer.
pub(crate) fn write(out: &mut impl Write, nanos: &Histogram<u64>) -> io::Result<()> {
    let micros = |nanos: f64| nanos / 1e3;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for step in nanos.iter_quantiles(TICKS_PER_HALVING) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (micros(step.value_iterated_to() as f64), step.quantile_iterated_to());
        write!(out, "{value:12.3} {quantile:.12} {count:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (micros(nanos.mean()), micros(nanos.stdev()));
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", micros(nanos.max() as f64), nanos.len())?;
    // All buckets but the first have only the upper half of their sub-buckets to themselves.
    let buckets = usize::from(nanos.buckets());
    let sub_buckets = nanos.distinct_values() / (buckets + 1) * 2;
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{histogram, record};
    use std::time::Duration;

    fn printed(nanos: &Histogram<u64>) -> String {
        let mut out = Vec::new();
        write(&mut out, nanos).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn plotters_find_their_columns() {
        let mut nanos = histogram();
        (1..=1_000).for_each(|micros| record(&mut nanos, Duration::from_micros(micros)));
        let text = printed(&nanos);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        let rows: Vec<Vec<f64>> = (lines[2..].iter().take_while(|line| !line.starts_with('#')))
            .map(|line| line.split_whitespace().map(|column| column.parse().expect("a number")).collect())
            .collect();
        let (last, rows) = rows.split_last().expect("some rows");
        assert!(last.len() == 3 && last[1] == 1.0 && last[2] == 1_000.0, "{last:?}");
        assert!((last[0] - 1_000.0).abs() < 1.0, "{last:?}");
        for row in rows {
            assert_eq!(row.len(), 4);
            // The value is that of the share, and the last column follows from the second.
            assert!((row[0] / 1_000.0 - row[1]).abs() < 0.002 && row[2] >= row[1] * 1_000.0 - 0.5, "{row:?}");
            assert!((row[3] - 1.0 / (1.0 - row[1])).abs() < 0.01, "{row:?}");
        }
        assert!(rows.len() > 20 && rows.iter().any(|row| row[1] == 0.5));
        let footer: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with('#')).collect();
        assert_eq!(footer[1], "#[Max     =     1000.447, Total count    =         1000]");
        assert!(
            footer[0].starts_with("#[Mean    =      500.") && footer[2].ends_with("SubBuckets     =         2048]")
        );
    }

    #[test]
    fn each_operation_has_a_file_beside_the_total() {
        assert_eq!(named(Path::new("a/run.hgrm"), "get"), Path::new("a/run.get.hgrm"));
        assert_eq!(named(Path::new("run"), "get"), Path::new("run.get"));
    }

    #[test]
    fn nothing_measured_is_no_reason_to_fail() {
        assert!(printed(&histogram()).contains("Total count    =            0]"));
    }
}
