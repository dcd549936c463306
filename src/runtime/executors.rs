//! The executors: a thread a store, pinned to a core.
//!
//! # A fault of glommio 0.9, and what is done about it
//!
//! Its loop collects events, wakes the tasks that wait for them, and runs these tasks, unless a task before them has used
//! up its time. That is known by an entry in one of its rings. But some other events leave an entry there too, and if one
//! comes after the tasks were woken and before the first of them runs, the loop concludes that nothing is left to run, and
//! sleeps until something else happens. The wake-up is not lost, but late: by seconds, in one request of 25,000 on a busy
//! machine. (The fork `glommio-ng` 0.12 has the same loop.) Two measures contain it:
//!
//! - The preemption timer, the most frequent of those events, is set to never. Whoever has more to do than one turn
//!   gives way by himself, with [`cede`].
//! - A driver has a heartbeat: it looks again [`HEARTBEAT_MICROS_MIN`](crate::limits::HEARTBEAT_MICROS_MIN) after it did
//!   something, and less and less often while it finds nothing. That bounds the delay and costs next to nothing.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::thread::CpuSet;

use crate::ids::StoreId;
use crate::limits::EXECUTOR_IO_BYTES;

/// The preemption timer of executors: never, for all practical purposes.
const PREEMPT_AFTER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The cores this process may run on. Empty if the kernel does not tell.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

/// Starts a store's thread on a core of `cores`; with fewer cores than stores, several share one. `body` makes the
/// future there. Its error, or the executor's, goes to `failed`.
///
/// # Errors
/// If there can be no further thread.
pub fn spawn<F>(
    store: StoreId,
    cores: &[usize],
    body: F,
    failed: impl FnOnce(String) + Send + 'static,
) -> io::Result<JoinHandle<()>>
where
    F: AsyncFnOnce() -> Result<(), String> + Send + 'static,
{
    let core = cores.get(usize::from(store.0) % cores.len().max(1)).copied();
    std::thread::Builder::new().name(format!("store-{store}")).spawn(move || {
        if let Err(text) = run(core, body) {
            failed(text);
        }
    })
}

fn run<F: AsyncFnOnce() -> Result<(), String>>(core: Option<usize>, body: F) -> Result<(), String> {
    if let Some(core) = core {
        pin(core);
    }
    // Pinned by ourselves: glommio's pinning wants a complete /sys, which sandboxes often lack. The default 10 MiB of
    // registered memory would exceed an ordinary user's limit, and nothing here reads files through it.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(EXECUTOR_IO_BYTES)
        .preempt_timer(PREEMPT_AFTER)
        .make()
        .map_err(|error| format!("cannot start an executor: {error}"))?;
    executor.run(body())
}

/// Lets every other task run, and the executor look for network, disk and timer events. Merely to yield would not do:
/// the executor looks for events only when no task is left to run, or when the preemption timer fires.
pub async fn cede() {
    // Not due yet when it is polled first, due when the executor has looked around.
    Timer::new(Duration::from_micros(1)).await;
}

/// Keeps this thread on one core. Without that the store only runs slower.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(core, %error, "a store's thread cannot be kept on its core");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn stores_take_turns_over_the_cores_they_may_use() {
        let cores = allowed_cores();
        assert!(!cores.is_empty());
        for store in 0..3 {
            let (sender, receiver) = mpsc::channel();
            let body = async move || {
                sender
                    .send((allowed_cores(), std::thread::current().name().map(String::from)))
                    .expect("the test listens");
                Ok(())
            };
            let thread = spawn(StoreId(store), &cores, body, |text| panic!("{text}")).expect("a thread");
            thread.join().expect("it ends");
            let (pinned, name) = receiver.recv().expect("it ran");
            assert_eq!(pinned, [cores[usize::from(store) % cores.len()]]);
            assert_eq!(name, Some(format!("store-{store}")));
        }
    }

    #[test]
    fn a_failure_is_told() {
        let (sender, receiver) = mpsc::channel();
        let failed = move |text| sender.send(text).expect("the test listens");
        let thread = spawn(StoreId(0), &[], async || Err("no disk".into()), failed).expect("a thread");
        thread.join().expect("it ends");
        assert_eq!(receiver.recv(), Ok("no disk".into()));
    }
}
