//! The only place that reads a clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::ids::Micros;

/// No timer is set further ahead than this; a deadline beyond it is looked at again in between.
const AHEAD_MAX: Duration = Duration::from_secs(3_600);

/// A monotonic clock; its copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that shows 0 now.
    #[must_use]
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Micros {
        Micros(self.origin.elapsed().as_micros() as u64)
    }
}

/// Rings at a deadline, or earlier.
///
/// A deadline that moves further away does not move the timer: to ring too early costs one idle turn now and then, to
/// set a timer anew would cost something in every turn.
#[derive(Default)]
pub struct Alarm {
    armed: Option<(Micros, Timer)>,
}

impl Alarm {
    /// Makes sure that the alarm rings at the deadline at the latest.
    pub fn set(&mut self, now: Micros, deadline: Micros) {
        if self.armed.as_ref().is_none_or(|(armed, _)| deadline < *armed) {
            let ahead = Duration::from_micros(deadline.0.saturating_sub(now.0)).min(AHEAD_MAX);
            self.armed = Some((now.plus(ahead.as_micros() as u64), Timer::new(ahead)));
        }
    }

    /// Ready once for each time that it was set and has rung.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.armed else { return Poll::Pending };
        ready!(Pin::new(timer).poll(context));
        self.armed = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::poll_fn;
    use glommio::{LocalExecutorBuilder, Placement};

    #[test]
    fn an_alarm_rings_at_the_earliest_deadline_and_then_is_silent() {
        let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
        executor.run(async {
            let clock = Clock::start();
            let mut alarm = Alarm::default();
            alarm.set(clock.now(), Micros(u64::MAX));
            alarm.set(clock.now(), clock.now().plus(2_000));
            alarm.set(clock.now(), clock.now().plus(60_000_000));
            let before = clock.now();
            poll_fn(|context| alarm.poll(context)).await;
            assert!(clock.now() > before, "time passes");
            poll_fn(|context| {
                assert!(alarm.poll(context).is_pending(), "it was set once");
                Poll::Ready(())
            })
            .await;
        });
    }
}
