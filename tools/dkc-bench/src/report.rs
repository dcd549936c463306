//! Printing what was measured: a table for people, or one line of JSON.

use crate::args::Operation;
use crate::environment::Environment;
use crate::plan::{Plan, Until};
use crate::run::Outcome;
use crate::validate::Validation;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// The percentiles that are reported, with their names.
const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// Prints a table.
///
/// # Errors
/// Those of the writer.
pub(crate) fn text(
    out: &mut impl Write,
    plan: &Plan,
    outcome: &Outcome,
    validation: Option<&Validation>,
    environment: &Environment,
) -> io::Result<()> {
    let tally = &outcome.tally;
    writeln!(out, "{}", describe(plan))?;
    let addresses = outcome.addresses.join(", ");
    writeln!(out, "server {} at {addresses}, prefix {}, seed {}", environment.server_version, plan.prefix, plan.seed)?;
    let Environment { kernel, cpus, load, .. } = environment;
    writeln!(out, "kernel {kernel}, {cpus} CPUs, load averages {load}")?;
    writeln!(out)?;
    let seconds = outcome.elapsed.as_secs_f64();
    let mut row = |name: &str, count: u64| {
        writeln!(out, "{name:<12} {:>15} {:>15}/s", grouped(count), grouped(rate(count, seconds)))
    };
    row("requests", tally.requests)?;
    row(noun(plan.operation), tally.keys)?;
    if plan.operation == Operation::Get {
        row("of them found", tally.found)?;
    }
    writeln!(out, "{:<12} {seconds:>15.3} s", "elapsed")?;
    for (name, count) in tally.refused_by_name() {
        writeln!(out, "{:<12} {:>15} {name}", "refused", grouped(count))?;
    }
    writeln!(out, "{:<12} {:>15}", "unknown", grouped(tally.unknown))?;
    writeln!(out)?;
    let latencies = latencies(outcome);
    write!(out, "{:<12}", "latency, µs")?;
    latencies.iter().try_for_each(|(name, _)| write!(out, " {name:>11}"))?;
    write!(out, "\n{:<12}", "")?;
    latencies.iter().try_for_each(|(_, micros)| write!(out, " {micros:>11.1}"))?;
    writeln!(out)?;
    if let Some(validation) = validation {
        writeln!(out)?;
        writeln!(out, "{}", validation.verdict())?;
        validation.shown.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    out.flush()
}

/// The same as one value.
pub(crate) fn json(
    plan: &Plan,
    outcome: &Outcome,
    validation: Option<&Validation>,
    environment: &Environment,
) -> Value {
    let tally = &outcome.tally;
    let seconds = outcome.elapsed.as_secs_f64();
    let refused: Map<String, Value> = tally.refused_by_name().map(|(name, count)| (name, json!(count))).collect();
    let latency: Map<String, Value> =
        latencies(outcome).into_iter().map(|(name, micros)| (name.to_owned(), json!(micros))).collect();
    json!({
        "environment": environment.json(),
        "plan": plan_json(plan, outcome),
        "elapsed_seconds": seconds,
        "requests": tally.requests,
        "requests_per_second": tally.requests as f64 / seconds.max(1e-9),
        noun(plan.operation): tally.keys,
        format!("{}_per_second", noun(plan.operation)): tally.keys as f64 / seconds.max(1e-9),
        "keys_found": (plan.operation == Operation::Get).then_some(tally.found),
        "refused": refused,
        "unknown": tally.unknown,
        "latency_micros": latency,
        "failures": outcome.failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "validation": validation.map(|validation| json!({
            "valid": validation.is_ok(),
            "acknowledged": validation.acknowledged,
            "unknown": validation.unknown,
            "wrong": validation.wrong,
            "wrong_shown": validation.shown,
            "verdict": validation.verdict(),
        })),
    })
}

/// The plan with all that the command line left open.
fn plan_json(plan: &Plan, outcome: &Outcome) -> Value {
    let (seconds, requests) = match plan.until {
        Until::Elapsed(duration) => (Some(duration.as_secs_f64()), None),
        Until::Requests(requests) => (None, Some(requests)),
    };
    json!({
        "addresses": outcome.addresses,
        "connections": plan.connections,
        "depth": plan.depth,
        "batch": plan.batch,
        "keys": plan.keys,
        "key_bytes": plan.key_bytes,
        "prefix": plan.prefix,
        "distribution": plan.distribution.to_string(),
        "operation": operation_name(plan.operation),
        "values": plan.want_values,
        "top_keys": (plan.operation == Operation::Top).then_some(plan.top_keys),
        "seconds": seconds,
        "requests": requests,
        "warmup_seconds": plan.warmup.as_secs_f64(),
        "seed": plan.seed,
    })
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Increment => "increment",
        Operation::Get => "get",
        Operation::Top => "top",
    }
}

/// What a request consists of, or for a top: answers.
fn noun(operation: Operation) -> &'static str {
    if operation == Operation::Increment { "increments" } else { "keys" }
}

fn describe(plan: &Plan) -> String {
    let connections = format!("connections {}, depth {}", plan.connections, plan.depth);
    if plan.operation == Operation::Top {
        return format!("top {}: {connections}", plan.top_keys);
    }
    let answer = match (plan.operation, plan.want_values) {
        (Operation::Increment, true) => ", new counts asked for",
        (Operation::Increment, false) => ", acknowledged only",
        _ => "",
    };
    format!(
        "{}: {connections}, batch {}, {} keys of {} bytes, {}{answer}",
        operation_name(plan.operation),
        grouped(plan.batch as u64),
        grouped(plan.keys),
        plan.key_bytes,
        plan.distribution,
    )
}

/// Microseconds by the name of the percentile.
fn latencies(outcome: &Outcome) -> Vec<(&'static str, f64)> {
    let latency = &outcome.tally.latency;
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let percentiles = PERCENTILES.map(|(name, percent)| (name, micros(latency.value_at_percentile(percent))));
    percentiles.into_iter().chain([("max", micros(latency.max()))]).collect()
}

/// How many a second, rounded.
fn rate(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds.max(1e-9)).round() as u64
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
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

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn plans_are_described() {
        let plan = Plan::parse(&["--distribution", "zipf:0.99", "--values"]).expect("valid");
        assert_eq!(
            describe(&plan),
            "increment: connections 4, depth 8, batch 1,024, 1,000,000 keys of 16 bytes, \
             zipf:0.99, new counts asked for"
        );
        let plan = Plan::parse(&["--op", "top", "--k", "5"]).expect("valid");
        assert_eq!(describe(&plan), "top 5: connections 4, depth 1");
    }
}
