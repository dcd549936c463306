//! The phases of a server, decided by the main thread and followed by every store.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

/// What the stores are to do. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recover, elect leaders; no clients yet.
    Starting,
    /// Serve clients.
    Serving,
    /// Finish what was accepted; accept nothing new.
    Draining,
    /// Return.
    Stopped,
}

/// The current phase, and the tasks of all threads that wait for the next one.
#[derive(Debug)]
pub struct Lifecycle {
    state: Mutex<(Phase, Vec<Waker>)>,
}

impl Lifecycle {
    /// A server that is starting.
    #[must_use]
    pub fn starting() -> Lifecycle {
        Lifecycle { state: Mutex::new((Phase::Starting, Vec::new())) }
    }

    /// Moves on to a later phase and wakes all that wait for it.
    pub fn enter(&self, phase: Phase) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(state.0 < phase, "phases only move forward");
            state.0 = phase;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until the phase is another than `seen`. One task a store may wait.
    pub async fn left(&self, seen: Phase) -> Phase {
        poll_fn(|context| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 != seen {
                return Poll::Ready(state.0);
            }
            if !state.1.iter().any(|waker| waker.will_wake(context.waker())) {
                state.1.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glommio::{LocalExecutorBuilder, Placement};
    use std::sync::Arc;
    use std::sync::mpsc;

    // The stores' executors sleep in the kernel; a phase entered by another thread must wake them.
    #[test]
    fn a_phase_entered_elsewhere_wakes_a_sleeping_executor() {
        let lifecycle = Arc::new(Lifecycle::starting());
        let (seen, phases) = mpsc::channel();
        let store = std::thread::spawn({
            let lifecycle = lifecycle.clone();
            move || {
                let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
                executor.run(async move {
                    let mut phase = lifecycle.phase();
                    while phase != Phase::Stopped {
                        seen.send(phase).expect("the test listens");
                        phase = lifecycle.left(phase).await;
                    }
                });
            }
        });
        assert_eq!(phases.recv(), Ok(Phase::Starting));
        lifecycle.enter(Phase::Serving);
        assert_eq!(phases.recv(), Ok(Phase::Serving));
        lifecycle.enter(Phase::Draining);
        assert_eq!(phases.recv(), Ok(Phase::Draining));
        lifecycle.enter(Phase::Stopped);
        store.join().expect("it returns");
    }
}
