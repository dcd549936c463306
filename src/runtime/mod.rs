//! The shell around the engine: everything that touches the outside world, and nothing that decides.
//!
//! One thread a store, pinned to a core, with one glommio executor and one [`driver`] on it. Stores share nothing but
//! the [`mesh`], bounded channels from each to each, and the [`lifecycle`], by which the main thread tells them all
//! whether to serve, to drain or to stop.
//!
//! ```text
//! main thread    config ─► lock, node, checks, ports ─► server (phases, signals)
//!                                                          │ lifecycle      ▲ events
//! a core each    net (clients) ─┐                          ▼                │
//!                mesh ──────────┼─► inbox ─► driver: engine::gateway, engine::store ─► disk, mesh, net
//!                disk, clock ───┘
//! ```
//!
//! What waits, waits in small tasks that only ring a bell ([`inbox`]); the driver looks at everything that is ready, lets
//! the engine decide, and performs the outcome. There is no `.await` between a decision and its effects.
//!
//! Absent on purpose: locks on the way of a request, a thread pool, and any second place that reads the clock.
//!
//! A store whose log fails ends the whole process at once ([`logs::fatal`]); so does a panic, which aborts. What was
//! acknowledged is recovered at the next start; that is the one way back from trouble, and it is used all the time.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is where clocks, files and sockets are used"
)]

pub mod checkpoint_dir;
pub mod checks;
pub mod clock;
pub mod config;
pub mod disk;
pub mod driver;
pub mod executors;
pub mod inbox;
pub mod lifecycle;
pub mod lock;
pub mod logs;
pub mod memory;
pub mod mesh;
pub mod net;
pub mod node;
mod opening_log;
mod pace;
pub mod segment_dir;
pub mod server;
mod spin;
pub mod verify;
