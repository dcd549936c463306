//! What the slices come to: medians, and ratios within rounds.

use super::redis::Facts;
use super::{Contestant, Load};
use crate::environment::Environment;
use crate::report::{grouped, micros};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// What a slice came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Increments, writes or round trips.
    per_second: f64,
    /// Microseconds of a request.
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Sample {
    pub(crate) fn new(per_second: f64, nanos: &Histogram<u64>) -> Sample {
        let at = |percent| micros(nanos.value_at_percentile(percent));
        Sample { per_second, p50: at(50.0), p99: at(99.0), p999: at(99.9) }
    }

    /// Of what happens one at a time: the rate follows from the times.
    pub(crate) fn of_times(nanos: &Histogram<u64>) -> Sample {
        Sample::new(1e9 / nanos.mean().max(1.0), nanos)
    }
}

/// A load, and the slices of its contestants by round.
struct Table {
    load: Load,
    /// Connections, requests in flight on each, increments of each request.
    shape: (usize, usize, usize),
    rows: Vec<(Contestant, Vec<Sample>)>,
}

/// A ratio, round by round.
#[derive(Clone, Debug, PartialEq)]
struct Ratio {
    name: &'static str,
    median: f64,
    min: f64,
    max: f64,
}

impl Ratio {
    fn new(name: &'static str, rounds: Vec<f64>) -> Ratio {
        let fold = |start, pick: fn(f64, f64) -> f64| rounds.iter().copied().fold(start, pick);
        Ratio { name, min: fold(f64::INFINITY, f64::min), max: fold(0.0, f64::max), median: median(rounds) }
    }
}

/// The middle of some numbers, of which there is at least one.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 }
}

impl Table {
    fn samples(&self, who: Contestant) -> Option<&[Sample]> {
        self.rows.iter().find(|(each, _)| *each == who).map(|(_, samples)| samples.as_slice())
    }

    /// The median of a figure.
    fn median(&self, who: Contestant, figure: fn(&Sample) -> f64) -> f64 {
        median(self.samples(who).unwrap_or_default().iter().map(figure).collect())
    }

    /// One figure by another, round by round. `None` if somebody does not take part.
    fn ratio(
        &self,
        name: &'static str,
        above: Contestant,
        below: &[Contestant],
        of: fn(&Sample) -> f64,
    ) -> Option<Ratio> {
        let above = self.samples(above)?;
        let below: Vec<&[Sample]> = below.iter().map(|&who| self.samples(who)).collect::<Option<_>>()?;
        let in_round = |round: usize| of(&above[round]) / below.iter().map(|samples| of(&samples[round])).sum::<f64>();
        Some(Ratio::new(name, (0..above.len()).map(in_round).collect()))
    }

    fn ratios(&self, with_redis: bool) -> Vec<Ratio> {
        use Contestant::{Dkc, DkcLibrary, DkcRouted, DkcValues, DurableWrite, Echo, Redis};
        let with_redis = |ratio: Option<Ratio>| ratio.filter(|_| with_redis);
        let floor = self.ratio("p50, dkc / (write + echo)", Dkc, &[DurableWrite, Echo], |s| s.p50);
        let floor_library = self.ratio("p50, library / (write + echo)", DkcLibrary, &[DurableWrite, Echo], |s| s.p50);
        let rate = self.ratio("rate, dkc / redis", Dkc, &[Redis], |s| s.per_second);
        let rate_routed = self.ratio("rate, dkc routed / redis", DkcRouted, &[Redis], |s| s.per_second);
        let rate_values = self.ratio("rate, dkc with values / redis", DkcValues, &[Redis], |s| s.per_second);
        let p50 = self.ratio("p50, dkc / redis", Dkc, &[Redis], |s| s.p50);
        let p99 = self.ratio("p99, dkc / redis", Dkc, &[Redis], |s| s.p99);
        let ratios = [
            floor,
            floor_library,
            with_redis(rate),
            with_redis(rate_routed),
            with_redis(rate_values),
            with_redis(p50),
            with_redis(p99),
        ];
        ratios.into_iter().flatten().collect()
    }
}

/// All loads.
pub(crate) struct Summary {
    tables: Vec<Table>,
}

impl Summary {
    pub(crate) fn new() -> Summary {
        Summary { tables: Vec::new() }
    }

    /// Adds a load and its contestants.
    pub(crate) fn add(&mut self, load: Load, contestants: Vec<Contestant>, shape: (usize, usize, usize)) {
        self.tables.push(Table { load, shape, rows: contestants.into_iter().map(|who| (who, Vec::new())).collect() });
    }

    /// Slices of a round.
    pub(crate) fn slices(&self) -> usize {
        self.tables.iter().map(|table| table.rows.len()).sum()
    }

    /// Measures every slice once. Who comes first under a load rotates with the rounds.
    ///
    /// # Errors
    /// Those of measuring.
    pub(crate) fn round(
        &mut self,
        round: usize,
        mut measure: impl FnMut(Load, Contestant) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<()> {
        for table in &mut self.tables {
            let count = table.rows.len();
            for turn in 0..count {
                let (who, samples) = &mut table.rows[(round + turn) % count];
                samples.push(measure(table.load, *who)?);
            }
        }
        Ok(())
    }
}

/// All there is to report.
pub(crate) struct Report<'a> {
    pub(crate) summary: &'a Summary,
    pub(crate) environment: &'a Environment,
    /// Of Redis, if it takes part.
    pub(crate) facts: Option<&'a Facts>,
    /// Why the comparison with it is not fair.
    pub(crate) unfair: Option<&'a str>,
    /// Whether the durable writes bypassed the page cache.
    pub(crate) is_direct: bool,
    pub(crate) rounds: u32,
    pub(crate) slice: Duration,
}

impl Report<'_> {
    fn has_fair_redis(&self) -> bool {
        self.facts.is_some() && self.unfair.is_none()
    }

    /// Prints tables.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        self.environment.text(out)?;
        if let Some(Facts { version, appendonly, appendfsync }) = self.facts {
            writeln!(out, "redis {version}: appendonly {appendonly}, appendfsync {appendfsync}")?;
        }
        let writes =
            if self.is_direct { "O_DIRECT" } else { "through the page cache, the file system has no O_DIRECT" };
        writeln!(out, "durable write: 4 KiB, {writes}, then fdatasync")?;
        let slice = self.slice.as_secs_f64();
        writeln!(out, "medians of {} rounds, slices of {slice:.2} s that take turns", self.rounds)?;
        for table in &self.summary.tables {
            let (connections, depth, batch) = table.shape;
            let title = format!("connections {connections}, depth {depth}, batch {}", grouped(batch as u64));
            writeln!(out, "\n{title:<40} {:>14} {:>10} {:>10} {:>10}", "a second", "p50 µs", "p99 µs", "p99.9 µs")?;
            for &(who, _) in &table.rows {
                let rate = grouped(table.median(who, |sample| sample.per_second).round() as u64);
                let (p50, p99) = (table.median(who, |sample| sample.p50), table.median(who, |sample| sample.p99));
                let p999 = table.median(who, |sample| sample.p999);
                writeln!(out, "  {:<38} {rate:>14} {p50:>10.1} {p99:>10.1} {p999:>10.1}", who.name())?;
            }
            for Ratio { name, median, min, max } in table.ratios(self.has_fair_redis()) {
                writeln!(out, "  {name:<38} {median:>14.2}   ({min:.2} to {max:.2})")?;
            }
        }
        if let Some(warning) = self.environment.busy() {
            writeln!(out, "\n{warning}")?;
        }
        if let Some(reason) = self.unfair {
            writeln!(out, "\nNOT A FAIR COMPARISON, so without ratios: {reason}")?;
        }
        out.flush()
    }

    /// The same as one value, with every slice.
    pub(crate) fn json(&self) -> Value {
        json!({
            "environment": self.environment.json(),
            "redis": self.facts.map(|facts| json!({
                "version": facts.version,
                "appendonly": facts.appendonly,
                "appendfsync": facts.appendfsync,
                "fair": self.unfair.is_none(),
                "unfair_because": self.unfair,
            })),
            "durable_write_direct": self.is_direct,
            "rounds": self.rounds,
            "slice_seconds": self.slice.as_secs_f64(),
            "loads": self.summary.tables.iter().map(|table| self.table_json(table)).collect::<Value>(),
        })
    }

    fn table_json(&self, table: &Table) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "per_second": sample.per_second,
                "p50_micros": sample.p50,
                "p99_micros": sample.p99,
                "p99.9_micros": sample.p999,
            })
        };
        let contestant = |(who, samples): &(Contestant, Vec<Sample>)| {
            json!({
                "name": who.name(),
                "per_second": table.median(*who, |sample| sample.per_second),
                "p50_micros": table.median(*who, |sample| sample.p50),
                "p99_micros": table.median(*who, |sample| sample.p99),
                "p99.9_micros": table.median(*who, |sample| sample.p999),
                "slices": samples.iter().map(sample).collect::<Value>(),
            })
        };
        let ratio =
            |Ratio { name, median, min, max }: Ratio| json!({ "name": name, "median": median, "min": min, "max": max });
        let (connections, depth, batch) = table.shape;
        json!({
            "connections": connections,
            "depth": depth,
            "batch": batch,
            "contestants": table.rows.iter().map(contestant).collect::<Value>(),
            "ratios": table.ratios(self.has_fair_redis()).into_iter().map(ratio).collect::<Value>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contestant::{Dkc, DurableWrite, Echo, Redis};

    /// Three rounds in which everything becomes slower, so that only ratios within a round are right.
    fn summary() -> (Summary, Vec<Contestant>) {
        let (mut summary, mut order) = (Summary::new(), Vec::new());
        summary.add(Load::One, vec![Dkc, Redis, DurableWrite, Echo], (1, 1, 1));
        for round in 0..3 {
            let slow = [1.0, 10.0, 100.0][round];
            let measure = |_, who| {
                order.push(who);
                let p50 = slow
                    * [(Dkc, 120.0), (Redis, 60.0), (DurableWrite, 80.0), (Echo, 20.0)]
                        .iter()
                        .find(|(each, _)| *each == who)
                        .expect("one of them")
                        .1;
                Ok(Sample { per_second: 1e6 / p50, p50, p99: 2.0 * p50, p999: 3.0 * p50 })
            };
            summary.round(round, measure).expect("measured");
        }
        (summary, order)
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_the_order_rotates() {
        let (summary, order) = summary();
        assert_eq!(order[..8], [Dkc, Redis, DurableWrite, Echo, Redis, DurableWrite, Echo, Dkc]);
        let ratios = summary.tables[0].ratios(true);
        let shown: Vec<(&str, f64, bool)> =
            ratios.iter().map(|r| (r.name, (r.median * 100.0).round() / 100.0, r.max - r.min < 1e-9)).collect();
        assert_eq!(
            shown,
            [
                ("p50, dkc / (write + echo)", 1.2, true),
                ("rate, dkc / redis", 0.5, true),
                ("p50, dkc / redis", 2.0, true),
                ("p99, dkc / redis", 2.0, true),
            ]
        );
        assert_eq!((summary.slices(), summary.tables[0].median(Dkc, |sample| sample.p50)), (4, 1_200.0));
    }

    #[test]
    fn an_unfair_comparison_has_no_ratio_with_redis() {
        let (summary, _) = summary();
        let facts = Facts { version: "7".into(), appendonly: "no".into(), appendfsync: "always".into() };
        let (unfair, environment) = (facts.unfair(), Environment::new(None));
        let report = Report {
            summary: &summary,
            environment: &environment,
            facts: Some(&facts),
            unfair: unfair.as_deref(),
            is_direct: true,
            rounds: 3,
            slice: Duration::from_secs(1),
        };
        let mut text = Vec::new();
        report.text(&mut text).expect("a Vec takes everything");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("NOT A FAIR COMPARISON") && !text.contains("dkc / redis"), "{text}");
        let json = report.json();
        assert_eq!(
            (&json["redis"]["fair"], json["loads"][0]["ratios"].as_array().map(Vec::len)),
            (&json!(false), Some(1))
        );
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }
}
