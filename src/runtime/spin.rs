//! Looking again and again instead of sleeping, as long as nobody else wants the core.
//!
//! To be woken can take a core longer than what it waits for. So short waits spin, and give way to others at each look. But if
//! there are others, giving way lasts as long as their time slice, milliseconds, where a sleeper would be woken in the midst of it. That is
//! noticed at the first time, and then this thread does not spin for a while, longer each time it happens again.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits::{SPIN_GIVE_WAY_MICROS_MAX, SPIN_PAUSE_MICROS_MAX, SPIN_PAUSE_MICROS_MIN};

/// What this thread knows of its core.
#[derive(Clone, Copy)]
struct Crowding {
    /// When it was last noticed that others want the core.
    noticed: Option<Instant>,
    /// For how long not to spin after that.
    pause: Duration,
}

impl Crowding {
    const NONE: Crowding = Crowding { noticed: None, pause: Duration::from_micros(SPIN_PAUSE_MICROS_MIN) };

    fn may_spin(self, now: Instant) -> bool {
        self.noticed.is_none_or(|noticed| now >= noticed + self.pause)
    }

    /// Giving way took until now.
    fn gave_way(self, began: Instant, now: Instant) -> Crowding {
        if now - began <= Duration::from_micros(SPIN_GIVE_WAY_MICROS_MAX) {
            // It has been quiet for as long as it was crowded.
            let is_over = self.noticed.is_some_and(|noticed| now >= noticed + 2 * self.pause);
            return if is_over { Crowding::NONE } else { self };
        }
        let again = if self.noticed.is_some() { 2 * self.pause } else { self.pause };
        Crowding { noticed: Some(now), pause: again.min(Duration::from_micros(SPIN_PAUSE_MICROS_MAX)) }
    }
}

std::thread_local! {
    static CROWDING: Cell<Crowding> = const { Cell::new(Crowding::NONE) };
}

/// Whether this thread may spin now.
pub(super) fn is_allowed() -> bool {
    CROWDING.get().may_spin(Instant::now())
}

/// Lets others have the core for a moment, the kernel's own threads among them. Whether to go on spinning.
pub(super) fn give_way() -> bool {
    let began = Instant::now();
    std::thread::yield_now();
    let now = Instant::now();
    let crowding = CROWDING.get().gave_way(began, now);
    CROWDING.set(crowding);
    crowding.may_spin(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_core_is_left_alone_longer_each_time_and_then_tried_again() {
        let start = Instant::now();
        let (short, long) = (Duration::from_micros(1), Duration::from_micros(10 * SPIN_GIVE_WAY_MICROS_MAX));
        let least = Duration::from_micros(SPIN_PAUSE_MICROS_MIN);
        let quiet = Crowding::NONE.gave_way(start, start + short);
        assert!(quiet.may_spin(start));
        let once = quiet.gave_way(start, start + long);
        assert!(!once.may_spin(start + long) && once.may_spin(start + long + least));
        let then = start + long + least;
        let twice = once.gave_way(then, then + long);
        assert_eq!(twice.pause, 2 * least);
        let mut often = twice;
        (0..20).for_each(|_| often = often.gave_way(then, then + long));
        assert_eq!(often.pause, Duration::from_micros(SPIN_PAUSE_MICROS_MAX));
        let after = then + long + 2 * often.pause;
        assert_eq!(often.gave_way(after, after + short).pause, least, "it is quiet again");
    }
}
