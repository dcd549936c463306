//! Windows: what one shard remembers of the sessions that have touched it. Part of its replicated state: it changes by
//! entries alone, and depends on no counter.
//!
//! ```text
//!   mark ── sessions at or under it are refused, and have no window
//!   session ─► epoch │ floor │ sequence ─► digest, outcome      sequences above the floor, ascending
//! ```
//!
//! A window is sparse: a session's requests go to many shards, and each keeps the numbers that came to it.

mod image;

use std::collections::{BTreeMap, VecDeque};

use super::Stamp;
use crate::engine::prng::mix;
use crate::error::ErrorCode;
use crate::ids::{Index, Sequence, SessionEpoch, SessionId};
use crate::limits::SESSION_WINDOW_BYTES_MAX;
use crate::mutant::mutant;

/// What a map of windows takes for each, beside the window itself: its key and its share of a node.
const WINDOW_ENTRY_BYTES: usize = 48;
/// Outcomes for which a window that has held more keeps room.
const RECORDS_KEPT: usize = 16;

/// What is to be done with a request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Apply it. Its number is taken from now on.
    Apply,
    /// It was applied before: its answer is the original one.
    Repeat,
    /// Do not apply it.
    Refuse(ErrorCode),
}

/// What became of a request's increments in this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Index of the entry that applied them.
    pub index: Index,
    /// Place of the first of them in the entry.
    pub first_position: u32,
    /// How many there were.
    pub increments: u32,
    /// What cannot be said in general: absent if every increment was applied and no values were wanted.
    pub detail: Option<Box<Detail>>,
}

/// Outcomes of single increments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Places of the increments in the original request, ascending; `None` if they are the whole request.
    pub positions: Option<Box<[u32]>>,
    /// Places among the increments here of those that overflowed, ascending.
    pub overflowed: Box<[u32]>,
    /// New counts, one for each increment, if they were wanted; 0 where refused.
    pub values: Box<[i64]>,
}

/// How far the former holders of a session came in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Up to this number they had all answers.
    pub floor: Sequence,
    /// The highest number that was decided; none of theirs will be from now on.
    pub reached: Sequence,
}

/// What became of a number, as [`Windows::resolve`] finds or decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its request was applied.
    Applied {
        /// Index of the entry.
        index: Index,
        /// Place of its first increment.
        first_position: u32,
        /// How many increments.
        increments: u32,
        /// How many of them overflowed.
        overflowed: u32,
    },
    /// Its request was not applied, and never will be, since the entry at this index.
    Fenced(Index),
    /// It is at or under the floor.
    Forgotten,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Applied(Applied),
    Fenced(Index),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    sequence: Sequence,
    digest: u64,
    outcome: Outcome,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Window {
    epoch: SessionEpoch,
    floor: Sequence,
    /// By sequence, ascending, all above the floor.
    records: VecDeque<Record>,
    detail_bytes: usize,
}

/// The windows of one shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Windows {
    mark: SessionId,
    windows: BTreeMap<SessionId, Window>,
    /// Sum of [`Window::bytes`].
    bytes: usize,
}

impl Applied {
    /// The answer to a copy of the request whose increments here have these places in it: places of its overflowed
    /// increments, and values. Increments that this shard did not decide (another one did, before a split) are left out.
    #[must_use]
    pub fn answer_to(&self, positions: Option<&[u32]>) -> (Vec<u32>, Vec<i64>) {
        let Some(detail) = &self.detail else { return (Vec::new(), Vec::new()) };
        if detail.positions.as_deref() == positions {
            return (detail.overflowed.to_vec(), detail.values.to_vec());
        }
        let stored = |position: u32| match &detail.positions {
            Some(positions) => positions.binary_search(&position).ok(),
            None => Some(position as usize),
        };
        let (mut overflowed, mut values) = (Vec::new(), Vec::new());
        let asked = positions.unwrap_or_default();
        for (place, at) in asked.iter().enumerate().filter_map(|(place, &position)| Some((place, stored(position)?))) {
            if detail.overflowed.binary_search(&(at as u32)).is_ok() {
                overflowed.push(place as u32);
            }
            values.extend(detail.values.get(at));
        }
        (overflowed, values)
    }
}

impl Detail {
    fn bytes(&self) -> usize {
        let positions = self.positions.as_ref().map_or(0, |positions| size_of_val(&**positions));
        size_of::<Detail>() + positions + size_of_val(&*self.overflowed) + size_of_val(&*self.values)
    }
}

impl Window {
    fn bytes(&self) -> usize {
        size_of::<Window>() + WINDOW_ENTRY_BYTES + self.records.capacity() * size_of::<Record>() + self.detail_bytes
    }

    /// The place of a sequence's record, or where it would stand. Sequences mostly come in order.
    fn find(&self, sequence: Sequence) -> Result<usize, usize> {
        match self.records.back() {
            None => Err(0),
            Some(last) if last.sequence < sequence => Err(self.records.len()),
            Some(_) => self.records.binary_search_by_key(&sequence, |record| record.sequence),
        }
    }

    fn raise_floor(&mut self, floor: Sequence) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while let Some(record) = self.records.pop_front_if(|record| record.sequence <= floor) {
            if let Outcome::Applied(Applied { detail: Some(detail), .. }) = &record.outcome {
                self.detail_bytes -= detail.bytes();
            }
        }
        if self.records.capacity() > RECORDS_KEPT && self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(RECORDS_KEPT.max(2 * self.records.len()));
        }
    }

    fn digest(&self, session: SessionId) -> u64 {
        let mut hash = mix(session.0 ^ mix(u64::from(self.epoch.0) ^ mix(self.floor.0)));
        for record in &self.records {
            let outcome = match &record.outcome {
                Outcome::Fenced(index) => mix(index.0),
                Outcome::Applied(Applied { index, first_position, increments, detail }) => {
                    let values = detail.iter().flat_map(|detail| detail.values.iter().map(|&value| value as u64));
                    let overflowed = detail.iter().flat_map(|detail| detail.overflowed.iter().map(|&at| u64::from(at)));
                    let place = u64::from(*first_position) << 32 | u64::from(*increments);
                    values.chain(overflowed).fold(mix(!index.0) ^ place, |hash, word| mix(hash ^ word))
                }
            };
            hash = mix(hash ^ mix(record.sequence.0 ^ mix(record.digest ^ mix(outcome))));
        }
        hash
    }
}

impl Windows {
    /// Decides about a request, by its session alone. If it is to be applied, the increments take the places from
    /// `first_position` of the entry at `index`, and [`Windows::record`] may add to what is remembered.
    pub fn decide(
        &mut self,
        stamp: &Stamp,
        digest: u64,
        index: Index,
        first_position: u32,
        increments: u32,
    ) -> Decision {
        let applied = Applied { index, first_position, increments, detail: None };
        self.change(stamp.session, stamp.epoch, |window| {
            window.raise_floor(stamp.low_water);
            if stamp.sequence <= window.floor {
                return match mutant!("forgotten-applied") {
                    true => Decision::Apply,
                    false => Decision::Refuse(ErrorCode::Forgotten),
                };
            }
            match window.find(stamp.sequence) {
                Ok(place) => match &window.records[place] {
                    Record { outcome: Outcome::Fenced(_), .. } => Decision::Refuse(ErrorCode::Fenced),
                    record if record.digest != digest && !mutant!("content-not-compared") => {
                        Decision::Refuse(ErrorCode::OtherContent)
                    }
                    _ if mutant!("retry-applied-again") => Decision::Apply,
                    _ => Decision::Repeat,
                },
                Err(place) => {
                    let outcome = Outcome::Applied(applied);
                    window.records.insert(place, Record { sequence: stamp.sequence, digest, outcome });
                    if mutant!("floor-slides") && stamp.sequence == window.floor.next() {
                        window.raise_floor(stamp.sequence);
                    }
                    Decision::Apply
                }
            }
        })
        .unwrap_or_else(Decision::Refuse)
    }

    /// Remembers the outcomes of single increments of a request that [`Windows::decide`] let be applied. A floor that was
    /// raised over it meanwhile wins.
    pub fn record(&mut self, session: SessionId, sequence: Sequence, detail: Detail) {
        let Some(window) = self.windows.get_mut(&session) else { return };
        let Ok(place) = window.find(sequence) else { return };
        if mutant!("values-not-kept") {
            return;
        }
        if let Outcome::Applied(applied) = &mut window.records[place].outcome {
            let bytes = detail.bytes();
            applied.detail = Some(Box::new(detail));
            window.detail_bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// What became of a request that was applied.
    #[must_use]
    pub fn applied(&self, session: SessionId, sequence: Sequence) -> Option<&Applied> {
        let window = self.windows.get(&session)?;
        match &window.records[window.find(sequence).ok()?].outcome {
            Outcome::Applied(applied) => Some(applied),
            Outcome::Fenced(_) => None,
        }
    }

    /// Refuses earlier holders of a session from now on, and says how far they came.
    ///
    /// # Errors
    /// The session has expired, or there is a later holder.
    pub fn attach(&mut self, session: SessionId, epoch: SessionEpoch) -> Result<Attachment, ErrorCode> {
        self.change(session, epoch, |window| Attachment {
            floor: window.floor,
            reached: window.records.back().map_or(window.floor, |last| last.sequence),
        })
    }

    /// Makes sure that the request of a number has an outcome: one that was not applied by now never will be.
    ///
    /// # Errors
    /// The session has expired, or there is a later holder.
    pub fn resolve(&mut self, stamp: &Stamp, index: Index) -> Result<(), ErrorCode> {
        self.change(stamp.session, stamp.epoch, |window| {
            if mutant!("fence-forgets-repeats")
                && let Ok(place) = window.find(stamp.sequence)
            {
                window.records[place].outcome = Outcome::Fenced(index);
            }
            if stamp.sequence > window.floor
                && !mutant!("resolve-without-fence")
                && let Err(place) = window.find(stamp.sequence)
            {
                let outcome = Outcome::Fenced(index);
                window.records.insert(place, Record { sequence: stamp.sequence, digest: 0, outcome });
            }
        })
    }

    /// What became of a number that [`Windows::resolve`] has settled.
    #[must_use]
    pub fn fate(&self, session: SessionId, sequence: Sequence) -> Fate {
        let window = self.windows.get(&session);
        match window.and_then(|window| Some(&window.records[window.find(sequence).ok()?].outcome)) {
            None if mutant!("resolve-without-fence") => Fate::Fenced(Index(0)),
            None => Fate::Forgotten,
            Some(Outcome::Fenced(index)) => Fate::Fenced(*index),
            Some(Outcome::Applied(Applied { index, first_position, increments, detail })) => Fate::Applied {
                index: *index,
                first_position: *first_position,
                increments: *increments,
                overflowed: detail.as_ref().map_or(0, |detail| detail.overflowed.len() as u32),
            },
        }
    }

    /// Moves the mark: drops the windows of sessions at or under it, and refuses these sessions from now on.
    pub fn expire(&mut self, mark: SessionId) {
        if mark <= self.mark {
            return;
        }
        self.mark = mark;
        let living = self.windows.split_off(&SessionId(mark.0.saturating_add(1)));
        let dropped: usize = self.windows.values().map(Window::bytes).sum();
        self.bytes -= dropped;
        self.windows = living;
    }

    /// Whether there is room to remember one more request. The one that holds up the low-water mark has room always: its
    /// answer is what makes room. What was decided before needs none.
    #[must_use]
    pub fn has_room(&self, stamp: &Stamp) -> bool {
        let Some(window) = self.windows.get(&stamp.session) else { return true };
        window.bytes() <= SESSION_WINDOW_BYTES_MAX
            || stamp.sequence == stamp.low_water.next()
            || window.find(stamp.sequence).is_ok()
    }

    /// Whether the shard knows a session.
    #[must_use]
    pub fn knows(&self, session: SessionId) -> bool {
        self.windows.contains_key(&session)
    }

    /// Sessions at or under it have expired.
    #[must_use]
    pub fn mark(&self) -> SessionId {
        self.mark
    }

    /// Number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether no session is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Bytes in use, about.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// A hash of everything remembered: equal for equal states.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.windows.iter().fold(mix(self.mark.0), |hash, (&session, window)| mix(hash ^ window.digest(session)))
    }

    /// Changes the window of a session, which it creates if need be, as the holder of an epoch.
    fn change<T>(
        &mut self,
        session: SessionId,
        epoch: SessionEpoch,
        change: impl FnOnce(&mut Window) -> T,
    ) -> Result<T, ErrorCode> {
        if session <= self.mark && !mutant!("expired-taken-for-new") {
            return Err(ErrorCode::SessionExpired);
        }
        if mutant!("window-evicted") && self.windows.len() > 2 && !self.windows.contains_key(&session) {
            self.bytes -= self.windows.pop_first().map_or(0, |(_, window)| window.bytes());
        }
        let bytes = &mut self.bytes;
        let window = self.windows.entry(session).or_insert_with(|| {
            let window = Window::default();
            *bytes += window.bytes();
            window
        });
        if epoch < window.epoch && !mutant!("former-holder-admitted") {
            return Err(ErrorCode::SessionTaken);
        }
        window.epoch = epoch.max(window.epoch);
        let before = window.bytes();
        let changed = change(window);
        self.bytes = self.bytes - before + window.bytes();
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(session: u64, sequence: u64, low_water: u64) -> Stamp {
        Stamp {
            session: SessionId(session),
            epoch: SessionEpoch(1),
            sequence: Sequence(sequence),
            low_water: Sequence(low_water),
        }
    }

    fn decide(windows: &mut Windows, stamp: Stamp, digest: u64) -> Decision {
        windows.decide(&stamp, digest, Index(10 + stamp.sequence.0), 3, 2)
    }

    fn bytes_add_up(windows: &Windows) {
        let sum: usize = windows.windows.values().map(Window::bytes).sum();
        assert_eq!(windows.bytes, sum, "the sum is that of the windows");
        for window in windows.windows.values() {
            assert!(window.records.iter().is_sorted_by(|a, b| a.sequence < b.sequence), "ascending");
            assert!(window.records.front().is_none_or(|record| record.sequence > window.floor), "above the floor");
        }
    }

    #[test]
    fn a_number_is_applied_once_whatever_order_it_comes_in() {
        let mut windows = Windows::default();
        for sequence in [5, 1, 9, 3] {
            assert_eq!(decide(&mut windows, stamp(7, sequence, 0), sequence), Decision::Apply);
            assert_eq!(decide(&mut windows, stamp(7, sequence, 0), sequence), Decision::Repeat);
            bytes_add_up(&windows);
        }
        let applied = windows.applied(SessionId(7), Sequence(9)).expect("kept");
        assert_eq!((applied.index, applied.first_position, applied.increments), (Index(19), 3, 2));
        assert_eq!(decide(&mut windows, stamp(8, 5, 0), 5), Decision::Apply, "another session");
    }

    /// H6: the same number with other content is not a retry.
    #[test]
    fn other_content_under_the_same_number_is_refused() {
        let mut windows = Windows::default();
        assert_eq!(decide(&mut windows, stamp(7, 1, 0), 1), Decision::Apply);
        assert_eq!(decide(&mut windows, stamp(7, 1, 0), 2), Decision::Refuse(ErrorCode::OtherContent));
        assert_eq!(decide(&mut windows, stamp(7, 1, 0), 1), Decision::Repeat);
    }

    /// S2: only the client raises the floor, and at or under it the answer is never success.
    #[test]
    fn only_the_low_water_mark_forgets() {
        let mut windows = Windows::default();
        for sequence in 1..=100 {
            assert_eq!(decide(&mut windows, stamp(7, sequence, 0), 0), Decision::Apply);
        }
        assert_eq!(decide(&mut windows, stamp(7, 1, 0), 0), Decision::Repeat, "nothing slides by itself");
        assert_eq!(decide(&mut windows, stamp(7, 101, 60), 0), Decision::Apply);
        assert_eq!(decide(&mut windows, stamp(7, 60, 0), 0), Decision::Refuse(ErrorCode::Forgotten));
        assert_eq!(decide(&mut windows, stamp(7, 61, 0), 0), Decision::Repeat);
        assert_eq!(decide(&mut windows, stamp(7, 200, 199), 0), Decision::Apply);
        assert_eq!(windows.windows[&SessionId(7)].records.len(), 1);
        bytes_add_up(&windows);
    }

    /// S1: a shard drops a window exactly when its id is at or under the mark, and refuses exactly then.
    #[test]
    fn the_mark_ends_the_sessions_under_it_and_no_other() {
        let mut windows = Windows::default();
        for session in 1..=4 {
            assert_eq!(decide(&mut windows, stamp(session, 1, 0), 0), Decision::Apply);
        }
        windows.expire(SessionId(2));
        windows.expire(SessionId(1));
        assert_eq!((windows.len(), windows.mark()), (2, SessionId(2)));
        for session in 1..=2 {
            let refused = Decision::Refuse(ErrorCode::SessionExpired);
            assert_eq!(decide(&mut windows, stamp(session, 1, 0), 0), refused, "never taken for new");
        }
        assert_eq!(windows.attach(SessionId(1), SessionEpoch(9)), Err(ErrorCode::SessionExpired));
        assert_eq!(windows.resolve(&stamp(2, 5, 4), Index(1)), Err(ErrorCode::SessionExpired));
        assert_eq!(decide(&mut windows, stamp(3, 1, 0), 0), Decision::Repeat);
        bytes_add_up(&windows);
    }

    /// S4: what was resolved as not applied is never applied afterwards, in a window that did not exist, too.
    #[test]
    fn resolving_fences_what_was_not_applied() {
        let mut windows = Windows::default();
        assert_eq!(windows.resolve(&stamp(7, 2, 0), Index(50)), Ok(()));
        assert_eq!(windows.fate(SessionId(7), Sequence(2)), Fate::Fenced(Index(50)));
        assert_eq!(decide(&mut windows, stamp(7, 2, 0), 0), Decision::Refuse(ErrorCode::Fenced));
        assert_eq!(decide(&mut windows, stamp(7, 3, 0), 0), Decision::Apply);
        assert_eq!(windows.resolve(&stamp(7, 3, 0), Index(51)), Ok(()));
        let fate = Fate::Applied { index: Index(13), first_position: 3, increments: 2, overflowed: 0 };
        assert_eq!(windows.fate(SessionId(7), Sequence(3)), fate);
        assert_eq!(decide(&mut windows, stamp(7, 9, 8), 0), Decision::Apply);
        assert_eq!(windows.resolve(&stamp(7, 3, 0), Index(52)), Ok(()));
        assert_eq!(windows.fate(SessionId(7), Sequence(3)), Fate::Forgotten);
        bytes_add_up(&windows);
    }

    #[test]
    fn a_later_holder_ends_the_earlier_one() {
        let mut windows = Windows::default();
        assert_eq!(decide(&mut windows, stamp(7, 3, 2), 0), Decision::Apply);
        assert_eq!(
            windows.attach(SessionId(7), SessionEpoch(2)),
            Ok(Attachment { floor: Sequence(2), reached: Sequence(3) })
        );
        assert_eq!(decide(&mut windows, stamp(7, 3, 2), 0), Decision::Refuse(ErrorCode::SessionTaken));
        assert_eq!(windows.attach(SessionId(7), SessionEpoch(1)), Err(ErrorCode::SessionTaken));
        let later = Stamp { epoch: SessionEpoch(2), ..stamp(7, 3, 2) };
        assert_eq!(decide(&mut windows, later, 0), Decision::Repeat);
    }

    /// S3: outcomes are kept by original position, so a copy that was cut otherwise gets its own.
    #[test]
    fn outcomes_are_found_by_original_position() {
        let detail = |positions: Option<&[u32]>| Detail {
            positions: positions.map(Into::into),
            overflowed: [1].into(),
            values: [10, 0, 30].into(),
        };
        let applied = |positions| Applied {
            index: Index(1),
            first_position: 0,
            increments: 3,
            detail: Some(Box::new(detail(positions))),
        };
        let whole = applied(None);
        assert_eq!(whole.answer_to(None), (vec![1], vec![10, 0, 30]));
        assert_eq!(whole.answer_to(Some(&[1, 2])), (vec![0], vec![0, 30]));
        let part = applied(Some(&[4, 7, 9]));
        assert_eq!(part.answer_to(Some(&[4, 7, 9])), (vec![1], vec![10, 0, 30]));
        assert_eq!(part.answer_to(Some(&[7])), (vec![0], vec![0]));
        assert_eq!(part.answer_to(Some(&[5, 9])), (vec![], vec![30]));
    }

    #[test]
    fn a_full_window_takes_what_makes_room() {
        let mut windows = Windows::default();
        let values = vec![0; SESSION_WINDOW_BYTES_MAX / 8].into_boxed_slice();
        assert_eq!(decide(&mut windows, stamp(7, 2, 0), 0), Decision::Apply);
        windows.record(SessionId(7), Sequence(2), Detail { values, ..Detail::default() });
        bytes_add_up(&windows);
        assert!(!windows.has_room(&stamp(7, 3, 0)));
        assert!(windows.has_room(&stamp(7, 1, 0)), "it holds up the low-water mark");
        assert!(windows.has_room(&stamp(7, 2, 0)), "it was decided before");
        assert!(windows.has_room(&stamp(8, 3, 0)), "another session's");
        assert_eq!(decide(&mut windows, stamp(7, 3, 2), 0), Decision::Apply);
        assert!(windows.has_room(&stamp(7, 4, 2)));
        bytes_add_up(&windows);
    }

    #[test]
    fn equal_histories_have_equal_digests() {
        let history = |last: u64| {
            let mut windows = Windows::default();
            (1..=last).for_each(|sequence| {
                decide(&mut windows, stamp(7, sequence, sequence / 2), sequence);
            });
            windows.digest()
        };
        assert_eq!(history(9), history(9));
        assert_ne!(history(9), history(10));
    }
}
