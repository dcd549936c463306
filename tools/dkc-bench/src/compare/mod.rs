//! Side by side: dkc, a Redis server that is as durable, and what the machine itself can do.
//!
//! On a machine that others use as well, figures of different minutes cannot be compared. So everything is measured in
//! one run, in short slices that take turns; the order within a load rotates from round to round; and a ratio is taken
//! within each round, of slices that lie next to each other. What is reported is the median over the rounds, with
//! the lowest and the highest.
//!
//! The same loop drives both servers ([`crate::generator`]), so what the generator costs is the same for both. Redis
//! counts as a peer only if it writes and syncs its log before it answers, as dkc does: it is asked, and without that
//! no ratio is given.

mod floor;
mod library;
pub(crate) mod redis;
mod summary;

use crate::args::CompareArgs;
use crate::distribution::Distribution;
use crate::environment::Environment;
use crate::link::{Control, Link};
use crate::mix::{Mix, Operation};
use crate::owners::Owners;
use crate::plan::{Pace, Plan, Until, random_prefix};
use crate::protocol::Protocol;
use crate::run::{addresses, measure};
use floor::{DurableFile, Echo};
use library::Library;
use redis::{Facts, Redis};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use summary::{Sample, Summary};

/// Of each slice, so much is warm-up.
const WARMUP_PART: u32 = 5;
const KEY_BYTES: usize = 16;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One connection, one increment at a time.
    One,
    /// Many connections, one increment at a time each.
    Many,
    /// Batches of increments, several in flight.
    Batches,
}

impl Load {
    const ALL: [Load; 3] = [Load::One, Load::Many, Load::Batches];

    /// Connections, requests in flight on each, increments of each request.
    fn shape(self, args: &CompareArgs) -> (usize, usize, usize) {
        match self {
            Load::One => (1, 1, 1),
            Load::Many => (args.connections as usize, 1, 1),
            Load::Batches => (args.batch_connections as usize, args.batch_depth as usize, args.batch as usize),
        }
    }

    /// Who is measured under it.
    fn contestants(self) -> &'static [Contestant] {
        match self {
            Load::One => &[
                Contestant::Dkc,
                Contestant::DkcLibrary,
                Contestant::Redis,
                Contestant::DurableWrite,
                Contestant::Echo,
            ],
            Load::Many => &[Contestant::Dkc, Contestant::DkcRouted, Contestant::Redis],
            Load::Batches => &[Contestant::Dkc, Contestant::DkcValues, Contestant::Redis],
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    Dkc,
    /// It answers with the new counts, as Redis always does.
    DkcValues,
    /// Each connection asks its store for what it owns.
    DkcRouted,
    /// By the client library, which sends each increment to the store that owns its key, and gets the new count.
    DkcLibrary,
    Redis,
    DurableWrite,
    Echo,
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contestant::Dkc => "dkc",
            Contestant::DkcValues => "dkc, values",
            Contestant::DkcRouted => "dkc, routed",
            Contestant::DkcLibrary => "dkc, client library",
            Contestant::Redis => "redis",
            Contestant::DurableWrite => "durable write",
            Contestant::Echo => "tcp echo",
        }
    }
}

/// Everything that is measured.
struct Contest<'a> {
    args: &'a CompareArgs,
    prefix: String,
    addresses: Vec<String>,
    owners: Arc<Owners>,
    file: DurableFile,
    echo: Echo,
    library: Library,
}

/// Measures and reports.
///
/// # Errors
/// Somebody could not be reached, or anything was refused or failed: then there is nothing to compare.
pub(crate) fn execute(args: &CompareArgs) -> anyhow::Result<bool> {
    let server = &args.server;
    let mut control = Control::connect(&server.endpoints, server.dial_timeout, server.timeout)?;
    let environment = Environment::new(Some(&control.status()?));
    let facts = args.redis.as_ref().map(|endpoint| Facts::ask(endpoint, Instant::now() + server.dial_timeout));
    let facts = facts.transpose()?;
    let prefix = random_prefix().map_err(anyhow::Error::msg)?;
    let all = plan(args, Load::Many, &prefix);
    let addresses = addresses(&all, &control);
    let file = DurableFile::create(&args.dir)?;
    let library = Library::connect(&server.endpoints, server.timeout, &prefix, args.keys)?;
    let mut contest = Contest {
        args,
        prefix,
        addresses,
        owners: Arc::new(Owners::of(&control.welcome)?),
        file,
        echo: Echo::start()?,
        library,
    };

    let mut summary = Summary::new();
    for load in Load::ALL {
        let takes_part = |who: &Contestant| *who != Contestant::Redis || args.redis.is_some();
        summary.add(load, load.contestants().iter().copied().filter(takes_part).collect(), load.shape(args));
    }
    let slice = args.seconds / (args.rounds * summary.slices() as u32);
    for round in 0..args.rounds as usize {
        summary.round(round, |load, who| contest.slice(load, who, slice, round as u64))?;
    }

    let unfair = facts.as_ref().and_then(Facts::unfair);
    let report = summary::Report {
        summary: &summary,
        environment: &environment,
        facts: facts.as_ref(),
        unfair: unfair.as_deref(),
        is_direct: contest.file.is_direct,
        rounds: args.rounds,
        slice,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        report.text(&mut out)?;
    }
    Ok(true)
}

fn plan(args: &CompareArgs, load: Load, prefix: &str) -> Plan {
    let (connections, depth, batch) = load.shape(args);
    Plan {
        endpoints: args.server.endpoints.clone(),
        dial_timeout: args.server.dial_timeout,
        timeout: args.server.timeout,
        connections,
        threads: 1,
        spread: true,
        route: false,
        owners: None,
        depth,
        batch,
        keys: args.keys,
        key_bytes: KEY_BYTES,
        prefix: prefix.to_owned(),
        distribution: Distribution::Uniform,
        mix: Mix::only(Operation::Increment),
        want_values: false,
        sessions: true,
        top_keys: 1,
        pace: Pace::Closed,
        until: Until::Elapsed(Duration::ZERO),
        warmup: Duration::ZERO,
        seed: 0,
        validate: false,
        hgrm: None,
    }
}

impl Contest<'_> {
    /// Measures one contestant under one load for so long.
    fn slice(&mut self, load: Load, who: Contestant, slice: Duration, round: u64) -> anyhow::Result<Sample> {
        let warmup = slice / WARMUP_PART;
        let measured = slice - warmup;
        let mut plan = plan(self.args, load, &self.prefix);
        plan.want_values = who == Contestant::DkcValues;
        plan.owners = (who == Contestant::DkcRouted).then(|| self.owners.clone());
        (plan.warmup, plan.until, plan.seed) = (warmup, Until::Elapsed(measured), round);
        match who {
            Contestant::Dkc | Contestant::DkcRouted | Contestant::DkcValues => {
                drive::<Link>(&plan, &self.addresses, who)
            }
            Contestant::Redis => drive::<Redis>(&plan, self.args.redis.as_slice(), who),
            Contestant::DkcLibrary => {
                self.library.measure(warmup)?;
                Ok(Sample::of_times(&self.library.measure(measured)?))
            }
            Contestant::DurableWrite => {
                self.file.measure(warmup)?;
                Ok(Sample::of_times(&self.file.measure(measured)?))
            }
            Contestant::Echo => {
                self.echo.measure(warmup)?;
                Ok(Sample::of_times(&self.echo.measure(measured)?))
            }
        }
    }
}

fn drive<P: Protocol + Send>(plan: &Plan, addresses: &[String], who: Contestant) -> anyhow::Result<Sample> {
    let measured = measure::<P>(plan, addresses)?;
    let name = who.name();
    if let Some(failure) = measured.failures().next() {
        anyhow::bail!("{name}: {failure}");
    }
    let tally = measured.tallies.of(Operation::Increment);
    if let Some((code, count)) = tally.refused_by_name().next() {
        anyhow::bail!("{name}: {count} increments were refused with {code}");
    }
    anyhow::ensure!(tally.unknown == 0, "{name}: {} increments have an unknown outcome", tally.unknown);
    anyhow::ensure!(tally.requests > 0, "{name}: no answer in a slice of its own; give more --seconds");
    Ok(Sample::new(tally.keys as f64 / measured.elapsed.as_secs_f64(), &tally.latency))
}
