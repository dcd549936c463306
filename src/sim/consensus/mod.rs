//! The core world: groups of the engine's Raft, and nothing else of it, against a network, disks, clocks and operators that do whatever a
//! finite string of bytes says.
//!
//! | file | what it is |
//! |---|---|
//! | `entropy` | where choices come from: bytes that run out, or an odometer that tries all |
//! | `swarm` | what a run is like |
//! | `world` | stores, what can happen to them in a step, and what is checked after each |
//! | `store`, `disk`, `network` | replicas with one log and one watermark a store; what survives a crash; what gets lost |
//! | `truth` | the laws, by the plainest means |
//! | `liveness` | the second part: all is healed, and things must get done |
//! | `shrink` | makes a failing string small |
//!
//! After every step, of the replica that was touched: election safety, log matching, leader completeness, state machine safety; what is newly
//! committed is durable on a quorum, counted plainly; nothing committed changes or is taken back; checkpoint ≤ applied ≤ committed
//! ≤ last; term, vote, commit and applied index never go back, across crashes neither behind what others were told; reads are linearizable;
//! a refused proposal is nowhere, and a taken one in one place; a leader has a quorum that answers and a disk that moves.

mod disk;
mod entropy;
mod liveness;
mod network;
mod report;
mod shrink;
mod store;
mod swarm;
#[cfg(test)]
mod tests;
mod truth;
mod world;

pub use entropy::{Entropy, Odometer};
pub use report::{Report, Violation};
pub use shrink::shrink;
use swarm::{Action, Swarm};
pub use world::Tracer;
use world::World;

/// Bytes of entropy of a run that is made of a seed.
pub const RUN_BYTES: usize = 3_000;

/// Runs the world on the bytes made of a seed.
///
/// # Errors
/// A law that was broken.
pub fn run(seed: u64) -> Result<Report, Violation> {
    run_bytes(bytes_of(seed), None).map_err(|violation| Violation { seed: Some(seed), ..violation })
}

/// The bytes of a seed.
#[must_use]
pub fn bytes_of(seed: u64) -> Vec<u8> {
    match Entropy::of_seed(seed, RUN_BYTES) {
        Entropy::Bytes(bytes, _) => bytes,
        Entropy::Every(_) => Vec::new(),
    }
}

/// Runs the world on bytes, and tells a tracer what happens.
///
/// # Errors
/// A law that was broken.
pub fn run_bytes(bytes: Vec<u8>, tracer: Option<Tracer>) -> Result<Report, Violation> {
    run_world(World::new(Entropy::Bytes(bytes, 0), tracer))
}

/// Runs a world of three stores, which have a leader and an entry that it has just proposed, through *every* sequence of so many choices,
/// and returns how many there were. What can happen: a packet arrives or is lost, a disk moves, a store dies or starts, time goes on, an entry
/// is proposed. A step takes one or two choices.
///
/// # Errors
/// A law that was broken.
pub fn run_every(choices_max: usize) -> Result<u64, Violation> {
    let mut odometer = Odometer::new(choices_max);
    let violation = |world: &World, what| Violation { seed: None, step: world.report.steps, what };
    let mut runs = 0;
    loop {
        runs += 1;
        let mut world = World::of(Swarm::plain(3, EVERY), Entropy::Every(Odometer::new(0)), None);
        let drive = |world: &mut World| {
            begin(world)?;
            world.entropy = Entropy::Every(odometer.clone());
            while world.step()? {}
            Ok(())
        };
        drive(&mut world).map_err(|what| violation(&world, what))?;
        if let Entropy::Every(used) = world.entropy {
            odometer = used;
        }
        if !odometer.advance() {
            return Ok(runs);
        }
    }
}

/// The actions of which all sequences are tried.
const EVERY: &[Action] =
    &[Action::Deliver, Action::Write, Action::Lose, Action::Crash, Action::Tick, Action::Start, Action::Propose];

fn begin(world: &mut World) -> Result<(), String> {
    for at in 0..world.stores.len() {
        world.start(at)?;
    }
    world.elect(0)?;
    for at in 0..world.stores.len() {
        world.propose_at(at, 0)?;
    }
    Ok(())
}

fn run_world(mut world: World) -> Result<Report, Violation> {
    let outcome = drive(&mut world);
    let step = world.report.steps;
    outcome.map(|()| world.report).map_err(|what| Violation { seed: None, step, what })
}

fn drive(world: &mut World) -> Result<(), String> {
    for at in 0..world.stores.len() {
        world.start(at)?;
    }
    while world.step()? {}
    world.recover()
}
