//! Who asks for much does not hold up who asks for little.
//!
//! A store does one thing after another, so a request waits at least for what is being done when it comes. Three things bound
//! that while there is anybody *modest*: a client that sends a request now and then and takes its answers.
//!
//! - A connection that has had its share of a turn and wants more, or asks for what takes long, is *patient*: for a while it comes after everybody
//!   else, and a turn ends once it has lasted [`TURN_MICROS_MAX`].
//! - Reads that take long (TopK, scans) take turns of their own, and after each the store does something else for
//!   [`LONG_READ_PAUSE`] times as long.
//! - A large reply is sent in pieces, each at the place of a patient connection.
//!
//! While nobody is modest, nobody has to wait for anything, and large turns are cheaper than many.

use crate::ids::Micros;
use crate::limits::{LONG_READ_MICROS, LONG_READ_PAUSE, MODEST_MICROS, TURN_MICROS_MAX};

/// What a driver knows of it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    modest_until: Micros,
    reads_from: Micros,
}

impl Pace {
    /// Somebody asked for little.
    pub(super) fn note_modest(&mut self, now: Micros) {
        self.modest_until = now.plus(MODEST_MICROS);
    }

    /// When a turn that began then has lasted long enough, with patient connections waiting.
    pub(super) fn turn_ends(&self, began: Micros) -> Option<Micros> {
        (began < self.modest_until).then(|| began.plus(TURN_MICROS_MAX))
    }

    /// When long reads may go on.
    pub(super) fn reads_from(&self) -> Micros {
        self.reads_from
    }

    /// A turn with long reads has ended.
    pub(super) fn has_read(&mut self, began: Micros, ended: Micros) {
        let took = ended.0.saturating_sub(began.0);
        let pause = if took > LONG_READ_MICROS && ended < self.modest_until { LONG_READ_PAUSE * took } else { 0 };
        self.reads_from = ended.plus(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: u64 = 2 * LONG_READ_MICROS;

    #[test]
    fn turns_and_reads_take_their_time_while_nobody_is_modest() {
        let mut pace = Pace::default();
        let now = Micros(1_000_000);
        pace.has_read(now, now.plus(LONG));
        assert_eq!((pace.turn_ends(now), pace.reads_from()), (None, now.plus(LONG)));
        pace.note_modest(now);
        assert_eq!(pace.turn_ends(now.plus(MODEST_MICROS)), None);
    }

    #[test]
    fn somebody_modest_has_the_store_for_most_of_the_time() {
        let mut pace = Pace::default();
        let now = Micros(1_000_000);
        pace.note_modest(now);
        assert_eq!(pace.turn_ends(now), Some(now.plus(TURN_MICROS_MAX)));
        pace.has_read(now, now.plus(LONG));
        assert_eq!(pace.reads_from(), now.plus((1 + LONG_READ_PAUSE) * LONG));
        pace.has_read(now, now.plus(LONG_READ_MICROS));
        assert_eq!(pace.reads_from(), now.plus(LONG_READ_MICROS), "short ones hold up nobody");
    }
}
