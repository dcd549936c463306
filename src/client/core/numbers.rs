//! The numbers of one session: which are in use, up to which all are answered, and whether there is room for more.
//!
//! ```text
//!   … answered │ 41 answered │ 42 open │ 43 answered │ 44 left │ next: 45
//!              └ low water: 41, the highest number with all up to it answered
//! ```
//!
//! A number is answered when nothing more is to be known of its request: it had its answer, or no copy of it was ever
//! applied nor will be. A number that is *left* (its request ended without anybody knowing) holds up the low-water mark for good:
//! the shards keep its outcome for whoever resolves it. The window above the mark is bounded, so a session in which a
//! number was left comes to an end and the next one is opened; numbers are never used twice.

use crate::engine::sessions::Credentials;
use crate::ids::{Micros, Sequence};
use crate::limits::{CLIENT_WINDOW_BYTES_MAX, SESSION_SPAN_MAX};
use crate::mutant::mutant;
use std::collections::VecDeque;

/// What a number is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its request is under way.
    Open,
    /// Its request ended, and may have been applied or may be sent again.
    Left,
    /// Nothing more is to be known.
    Answered,
}

#[derive(Debug)]
struct Slot {
    standing: Standing,
    /// What a shard keeps of its outcome, about.
    bytes: u32,
}

/// The numbers of one session.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) credentials: Credentials,
    /// When to go on with another session.
    pub(super) rotate_at: Micros,
    low_water: Sequence,
    /// Those above the low-water mark, in order.
    window: VecDeque<Slot>,
    window_bytes: usize,
    open: usize,
    /// The session is being left: a number used now would come after the last one, as the server was told it.
    pub(super) closing: bool,
    /// A former holder came so far: a session that is closed earlier would forget what that one did.
    pub(super) reached: Sequence,
}

impl Numbers {
    /// Numbers go on after `settled`.
    pub(super) fn new(credentials: Credentials, settled: Sequence, rotate_at: Micros) -> Numbers {
        let window = VecDeque::new();
        Numbers {
            credentials,
            rotate_at,
            low_water: settled,
            window,
            window_bytes: 0,
            open: 0,
            closing: false,
            reached: settled,
        }
    }

    /// The highest number with all up to it answered.
    pub(super) fn low_water(&self) -> Sequence {
        self.low_water
    }

    /// The number after all that were ever used.
    pub(super) fn next(&self) -> Sequence {
        Sequence(self.low_water.0 + self.window.len() as u64 + 1)
    }

    /// What a number that was used is doing.
    pub(super) fn standing(&self, number: Sequence) -> Option<Standing> {
        if number <= self.low_water {
            return Some(Standing::Answered);
        }
        Some(self.window.get(self.place(number))?.standing)
    }

    /// Whether a request whose outcome takes so many bytes may have the next number now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.window.is_empty()
            || ((self.window.len() as u64) < SESSION_SPAN_MAX && self.window_bytes + bytes <= CLIENT_WINDOW_BYTES_MAX)
    }

    /// Whether waiting for room is in vain: a number that was left holds up the mark.
    pub(super) fn is_stuck(&self) -> bool {
        self.window.front().is_some_and(|slot| slot.standing == Standing::Left)
    }

    /// Whether requests are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.open > 0
    }

    /// Takes the next number.
    pub(super) fn take(&mut self, bytes: usize) -> Sequence {
        let number = self.next();
        self.window.push_back(Slot { standing: Standing::Open, bytes: bytes as u32 });
        self.window_bytes += bytes;
        self.open += 1;
        number
    }

    /// Uses a number again that was left.
    pub(super) fn take_again(&mut self, number: Sequence) {
        self.change(number, Standing::Open);
    }

    /// Nothing more is to be known of a number.
    pub(super) fn answer(&mut self, number: Sequence) {
        self.change(number, Standing::Answered);
        let over = |slot: &mut Slot| {
            slot.standing == Standing::Answered
                || (mutant!("low-water-past-unknown") && slot.standing == Standing::Left)
        };
        while let Some(slot) = self.window.pop_front_if(over) {
            self.low_water = self.low_water.next();
            self.window_bytes -= slot.bytes as usize;
        }
    }

    /// A request ended, and its number may have been applied or may be sent again.
    pub(super) fn leave(&mut self, number: Sequence) {
        self.change(number, Standing::Left);
    }

    fn change(&mut self, number: Sequence, standing: Standing) {
        let place = self.place(number);
        let slot = &mut self.window[place];
        self.open -= usize::from(slot.standing == Standing::Open);
        self.open += usize::from(standing == Standing::Open);
        slot.standing = standing;
    }

    fn place(&self, number: Sequence) -> usize {
        (number.0 - self.low_water.0 - 1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SessionEpoch, SessionId, SessionToken};

    fn numbers(settled: u64) -> Numbers {
        let credentials = Credentials { session: SessionId(1), epoch: SessionEpoch(1), token: SessionToken(0) };
        Numbers::new(credentials, Sequence(settled), Micros(0))
    }

    #[test]
    fn the_low_water_mark_never_passes_an_unanswered_number() {
        let mut numbers = numbers(40);
        let taken: Vec<u64> = (0..5).map(|_| numbers.take(10).0).collect();
        assert_eq!(taken, [41, 42, 43, 44, 45]);
        numbers.answer(Sequence(43));
        numbers.answer(Sequence(41));
        assert_eq!(numbers.low_water(), Sequence(41));
        numbers.answer(Sequence(42));
        assert_eq!(numbers.low_water(), Sequence(43));
        numbers.leave(Sequence(44));
        numbers.answer(Sequence(45));
        assert_eq!((numbers.low_water(), numbers.next()), (Sequence(43), Sequence(46)));
        assert!(numbers.is_stuck() && !numbers.is_busy());
        numbers.take_again(Sequence(44));
        assert!(numbers.is_busy() && !numbers.is_stuck());
        numbers.answer(Sequence(44));
        assert_eq!((numbers.low_water(), numbers.next()), (Sequence(45), Sequence(46)));
        assert_eq!(numbers.window_bytes, 0);
        assert_eq!(numbers.standing(Sequence(44)), Some(Standing::Answered));
        assert_eq!(numbers.standing(Sequence(46)), None);
    }

    #[test]
    fn a_window_is_bounded_in_numbers_and_bytes() {
        let mut narrow = numbers(0);
        (0..SESSION_SPAN_MAX).for_each(|_| {
            assert!(narrow.has_room(1));
            narrow.take(1);
        });
        assert!(!narrow.has_room(1));
        narrow.answer(Sequence(2));
        assert!(!narrow.has_room(1), "the first holds up the mark");
        narrow.answer(Sequence(1));
        assert!(narrow.has_room(1));
        let mut heavy = numbers(0);
        assert!(heavy.has_room(2 * CLIENT_WINDOW_BYTES_MAX), "one always has room");
        heavy.take(CLIENT_WINDOW_BYTES_MAX);
        assert!(!heavy.has_room(1));
    }
}
