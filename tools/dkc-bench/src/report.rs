//! Printing what was measured: a table for people, or one line of JSON.

use crate::environment::Environment;
use crate::generator::Lateness;
use crate::mix::Operation;
use crate::plan::{Pace, Plan, Until};
use crate::run::{Cost, Measured};
use crate::tally::Tally;
use crate::validate::Validation;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// The percentiles that are reported, with their names.
const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];
/// A generator keeps up if nine requests in ten left so soon after their moment, as far as it was its own doing.
const KEPT_UP_PERCENT: f64 = 90.0;
const KEPT_UP_MAX: Duration = Duration::from_millis(1);

/// All there is to report of a run.
pub(crate) struct Report<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) addresses: &'a [String],
    pub(crate) measured: &'a Measured,
    pub(crate) validation: Option<&'a Validation>,
    pub(crate) environment: &'a Environment,
}

impl Report<'_> {
    /// Rows of the tables: each operation, and the total if there are several.
    fn rows(&self) -> Vec<(&'static str, Tally)> {
        let tallies = &self.measured.tallies;
        let each = |operation: Operation| (operation.name(), tallies.of(operation).clone());
        let mut rows: Vec<_> = self.plan.mix.operations().map(each).collect();
        if rows.len() > 1 {
            rows.push(("total", tallies.total()));
        }
        rows
    }

    /// Prints tables.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let Report { plan, addresses, measured, .. } = self;
        writeln!(out, "{}", describe(plan))?;
        writeln!(out, "at {}, prefix {}, seed {}", addresses.join(", "), plan.prefix, plan.seed)?;
        self.environment.text(out)?;
        let rows = self.rows();
        self.text_of_rates(out, &rows)?;
        self.text_of_latencies(out, &rows)?;
        writeln!(out)?;
        writeln!(out, "{}", describe_cost(measured.cost))?;
        if let Some(Lateness { own, all }) = &measured.lateness {
            let verdict = if kept_up(own) { "" } else { "; THE GENERATOR DID NOT KEEP UP" };
            writeln!(
                out,
                "requests left after their moment, by the generator's own doing: {}{verdict}",
                lateness(own)
            )?;
            writeln!(out, "with the wait for room on a connection, all of it in the latencies: {}", lateness(all))?;
        }
        if let Some(validation) = self.validation {
            writeln!(out)?;
            writeln!(out, "{}", validation.verdict())?;
            validation.shown.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
        }
        out.flush()
    }

    fn text_of_rates(&self, out: &mut impl Write, rows: &[(&str, Tally)]) -> io::Result<()> {
        let seconds = self.measured.elapsed.as_secs_f64();
        writeln!(
            out,
            "\n{:<10} {:>13} {:>13} {:>14} {:>14} {:>10} {:>10}",
            format!("{seconds:.3} s"),
            "requests",
            "a second",
            "keys",
            "a second",
            "refused",
            "unknown"
        )?;
        for (name, tally) in rows {
            writeln!(
                out,
                "{name:<10} {:>13} {:>13} {:>14} {:>14} {:>10} {:>10}",
                grouped(tally.requests),
                grouped(rate(tally.requests, seconds)),
                grouped(tally.keys),
                grouped(rate(tally.keys, seconds)),
                grouped(tally.refused.values().sum()),
                grouped(tally.unknown),
            )?;
        }
        for (name, tally) in rows.iter().filter(|(name, _)| *name != "total") {
            for (code, count) in tally.refused_by_name() {
                writeln!(out, "{name}: {} refused with {code}", grouped(count))?;
            }
            if *name == Operation::Get.name() {
                writeln!(out, "{name}: {} of the keys exist", grouped(tally.found))?;
            }
        }
        Ok(())
    }

    fn text_of_latencies(&self, out: &mut impl Write, rows: &[(&str, Tally)]) -> io::Result<()> {
        write!(out, "\n{:<12}", "latency, µs")?;
        latencies(&rows[0].1.latency).iter().try_for_each(|(name, _)| write!(out, " {name:>11}"))?;
        writeln!(out)?;
        for (name, tally) in rows {
            write!(out, "{name:<12}")?;
            latencies(&tally.latency).iter().try_for_each(|(_, micros)| write!(out, " {micros:>11.1}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// The same as one value.
    pub(crate) fn json(&self) -> Value {
        let measured = self.measured;
        let seconds = measured.elapsed.as_secs_f64();
        let of_tally = |tally: &Tally| tally_json(tally, seconds);
        let operations: Map<String, Value> = (self.plan.mix.operations())
            .map(|operation| (operation.name().to_owned(), of_tally(measured.tallies.of(operation))))
            .collect();
        json!({
            "environment": self.environment.json(),
            "plan": plan_json(self.plan, self.addresses),
            "elapsed_seconds": seconds,
            "operations": operations,
            "total": of_tally(&measured.tallies.total()),
            "generator": {
                "busy_seconds": measured.cost.busy.as_secs_f64(),
                "elapsed_seconds": measured.cost.elapsed.as_secs_f64(),
                "requests_sent": measured.cost.requests,
                "lateness": measured.lateness.as_ref().map(|lateness| json!({
                    "own_micros": latency_json(&lateness.own),
                    "all_micros": latency_json(&lateness.all),
                    "kept_up": kept_up(&lateness.own),
                })),
            },
            "failures": measured.failures().collect::<Vec<_>>(),
            "validation": self.validation.map(|validation| json!({
                "valid": validation.is_ok(),
                "acknowledged": validation.acknowledged,
                "unknown": validation.unknown,
                "wrong": validation.wrong,
                "wrong_shown": validation.shown,
                "verdict": validation.verdict(),
            })),
        })
    }
}

fn tally_json(tally: &Tally, seconds: f64) -> Value {
    let refused: Map<String, Value> = tally.refused_by_name().map(|(name, count)| (name, json!(count))).collect();
    let per_second = |count| count as f64 / seconds.max(1e-9);
    json!({
        "requests": tally.requests,
        "requests_per_second": per_second(tally.requests),
        "keys": tally.keys,
        "keys_per_second": per_second(tally.keys),
        "keys_found": tally.found,
        "refused": refused,
        "unknown": tally.unknown,
        "latency_micros": latency_json(&tally.latency),
    })
}

/// The plan with all that the command line left open.
fn plan_json(plan: &Plan, addresses: &[String]) -> Value {
    let (seconds, requests) = match plan.until {
        Until::Elapsed(duration) => (Some(duration.as_secs_f64()), None),
        Until::Requests(requests) => (None, Some(requests)),
        Until::Exhausted => (None, None),
    };
    let (rate, arrivals) = match plan.pace {
        Pace::Closed => (None, None),
        Pace::Open { rate, arrivals } => (Some(rate), Some(arrivals.name())),
    };
    json!({
        "addresses": addresses,
        "connections": plan.connections,
        "threads": plan.threads,
        "depth": plan.depth,
        "batch": plan.batch,
        "keys": plan.keys,
        "key_bytes": plan.key_bytes,
        "prefix": plan.prefix,
        "distribution": plan.distribution.to_string(),
        "mix": plan.mix.to_string(),
        "route": plan.route,
        "values": plan.want_values,
        "sessions": plan.sessions,
        "top_keys": plan.top_keys,
        "rate": rate,
        "arrivals": arrivals,
        "seconds": seconds,
        "requests": requests,
        "warmup_seconds": plan.warmup.as_secs_f64(),
        "seed": plan.seed,
    })
}

fn describe(plan: &Plan) -> String {
    let loop_ = match plan.pace {
        Pace::Closed => format!("depth {}", plan.depth),
        Pace::Open { rate, arrivals } => format!("{} requests a second, {}", grouped(rate), arrivals.name()),
    };
    let mut text = format!("{}: connections {}, {loop_}", plan.mix, plan.connections);
    if plan.mix.has(Operation::Increment) || plan.mix.has(Operation::Get) {
        let (batch, keys) = (grouped(plan.batch as u64), grouped(plan.keys));
        text += &format!(", batch {batch}, {keys} keys of {} bytes, {}", plan.key_bytes, plan.distribution);
    }
    if plan.mix.has(Operation::Increment) {
        text += if plan.route { ", each asked of its owner" } else { "" };
        text += if plan.want_values { ", new counts asked for" } else { ", acknowledged only" };
        text += if plan.sessions { ", exactly once" } else { ", without sessions" };
    }
    if plan.mix.has(Operation::Top) {
        text += &format!(", top {}", plan.top_keys);
    }
    text
}

fn describe_cost(cost: Cost) -> String {
    let share = 100.0 * cost.busy.as_secs_f64() / cost.elapsed.as_secs_f64().max(1e-9);
    let each = cost.busy.as_secs_f64() * 1e6 / cost.requests.max(1) as f64;
    format!("generator: {share:.0} % of a processor, {each:.2} µs for each request sent, system calls included")
}

/// Microseconds by name.
pub(crate) fn latencies(nanos: &Histogram<u64>) -> Vec<(&'static str, f64)> {
    let percentiles = PERCENTILES.map(|(name, percent)| (name, micros(nanos.value_at_percentile(percent))));
    [("mean", nanos.mean() / 1e3)].into_iter().chain(percentiles).chain([("max", micros(nanos.max()))]).collect()
}

fn latency_json(nanos: &Histogram<u64>) -> Value {
    latencies(nanos).into_iter().map(|(name, micros)| (name.to_owned(), json!(micros))).collect::<Map<_, _>>().into()
}

/// How late requests were, in short.
fn lateness(nanos: &Histogram<u64>) -> String {
    let at = |percent| micros(nanos.value_at_percentile(percent));
    format!("p50 {:.1} µs, p99 {:.1} µs, at worst {:.1} µs", at(50.0), at(99.0), micros(nanos.max()))
}

fn kept_up(own: &Histogram<u64>) -> bool {
    u128::from(own.value_at_percentile(KEPT_UP_PERCENT)) <= KEPT_UP_MAX.as_nanos()
}

pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// How many a second, rounded.
fn rate(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds.max(1e-9)).round() as u64
}

/// A number with a comma between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{histogram, record};

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn plans_are_described() {
        let described = |arguments: &[&str]| describe(&Plan::parse(arguments).expect("valid"));
        assert_eq!(
            described(&["--distribution", "zipf:0.99", "--values"]),
            "increment: connections 4, depth 8, batch 1,024, 1,000,000 keys of 16 bytes, \
             zipf:0.99, new counts asked for, exactly once"
        );
        assert_eq!(described(&["--op", "top", "--k", "5"]), "top: connections 4, depth 8, top 5");
        assert_eq!(
            described(&["--mix", "get=9,top=1", "--rate", "2000", "--batch", "1", "--arrivals", "poisson"]),
            "get=9,top=1: connections 4, 2,000 requests a second, poisson, batch 1, 1,000,000 keys of 16 bytes, \
             uniform, top 10"
        );
    }

    #[test]
    fn a_generator_keeps_up_unless_a_tenth_is_late() {
        let mut own = histogram();
        (0..90).for_each(|_| record(&mut own, Duration::from_micros(30)));
        (0..10).for_each(|_| record(&mut own, Duration::from_millis(30)));
        assert!(kept_up(&own));
        (0..5).for_each(|_| record(&mut own, Duration::from_millis(30)));
        assert!(!kept_up(&own));
    }
}
