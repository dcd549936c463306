//! Windows as a checkpoint holds them: columns, in pieces of bounded size.

use std::collections::BTreeMap;

use super::{Applied, Detail, Outcome, Record, Window, Windows};
use crate::engine::checkpoint::archive::WindowsPiece;
use crate::ids::{Index, Sequence, SessionEpoch, SessionId};
use crate::limits::ARCHIVE_PIECE_BYTES;

const APPLIED: u8 = 0;
const APPLIED_IN_DETAIL: u8 = 1;
const FENCED: u8 = 2;

/// Bytes that a record takes beside its detail, and a session beside its records.
const ENTRY_BYTES: usize = 40;

impl Windows {
    /// All windows, in pieces.
    #[must_use]
    pub fn pieces(&self) -> Vec<WindowsPiece> {
        let mut pieces = Vec::new();
        let mut piece = WindowsPiece::default();
        let mut bytes = 0;
        for (session, window) in &self.windows {
            piece.begin(*session, window);
            bytes += ENTRY_BYTES;
            for record in &window.records {
                if bytes >= ARCHIVE_PIECE_BYTES {
                    pieces.push(std::mem::take(&mut piece));
                    piece.begin(*session, window);
                    bytes = ENTRY_BYTES;
                }
                bytes += ENTRY_BYTES + piece.push(record);
            }
        }
        if !piece.sessions.is_empty() {
            pieces.push(piece);
        }
        pieces
    }

    /// The windows that were put into pieces when the mark stood there.
    ///
    /// # Errors
    /// What the pieces say is not the state of any windows.
    pub fn of_pieces(mark: SessionId, pieces: &[WindowsPiece]) -> Result<Windows, &'static str> {
        let mut windows = BTreeMap::new();
        for piece in pieces {
            piece.add_to(mark, &mut windows)?;
        }
        let bytes = windows.values().map(Window::bytes).sum();
        Ok(Windows { mark, windows, bytes })
    }
}

impl WindowsPiece {
    fn begin(&mut self, session: SessionId, window: &Window) {
        self.sessions.push(session.0);
        self.epochs.push(window.epoch.0);
        self.floors.push(window.floor.0);
        self.record_counts.push(0);
    }

    /// Returns the bytes of the record's detail.
    fn push(&mut self, record: &Record) -> usize {
        *self.record_counts.last_mut().expect("a session has begun") += 1;
        self.sequences.push(record.sequence.0);
        self.digests.push(record.digest);
        let (outcome, index, first_position, increments) = match &record.outcome {
            Outcome::Fenced(index) => (FENCED, index, 0, 0),
            Outcome::Applied(Applied { index, first_position, increments, detail }) => {
                let outcome = if detail.is_some() { APPLIED_IN_DETAIL } else { APPLIED };
                (outcome, index, *first_position, *increments)
            }
        };
        self.outcomes.push(outcome);
        self.indexes.push(index.0);
        self.first_positions.push(first_position);
        self.increments.push(increments);
        let Outcome::Applied(Applied { detail: Some(detail), .. }) = &record.outcome else { return 0 };
        let positions = detail.positions.as_deref();
        self.position_counts.push(positions.map_or(0, |positions| 1 + positions.len() as u32));
        self.overflowed_counts.push(detail.overflowed.len() as u32);
        self.value_counts.push(detail.values.len() as u32);
        self.positions.extend_from_slice(positions.unwrap_or_default());
        self.overflowed.extend_from_slice(&detail.overflowed);
        self.values.extend_from_slice(&detail.values);
        4 * positions.map_or(0, <[u32]>::len) + 4 * detail.overflowed.len() + 8 * detail.values.len()
    }

    fn add_to(&self, mark: SessionId, windows: &mut BTreeMap<SessionId, Window>) -> Result<(), &'static str> {
        let of_sessions = [self.epochs.len(), self.floors.len(), self.record_counts.len()];
        let of_records = [
            self.digests.len(),
            self.indexes.len(),
            self.outcomes.len(),
            self.first_positions.len(),
            self.increments.len(),
        ];
        let fits = of_sessions.iter().all(|&count| count == self.sessions.len())
            && of_records.iter().all(|&count| count == self.sequences.len());
        if !fits {
            return Err("the columns of sessions do not fit together");
        }
        let mut record = 0;
        let mut details = Details::of(self);
        for place in 0..self.sessions.len() {
            let session = SessionId(self.sessions[place]);
            let (epoch, floor) = (SessionEpoch(self.epochs[place]), Sequence(self.floors[place]));
            let last = windows.last_key_value().map_or(mark, |(session, _)| *session);
            let goes_on = windows.get(&session).is_some_and(|window| (window.epoch, window.floor) == (epoch, floor));
            if session < last || (session == last && !goes_on) || session <= mark {
                return Err("sessions are out of order");
            }
            let window = windows.entry(session).or_insert_with(|| Window { epoch, floor, ..Window::default() });
            let after = record + self.record_counts[place] as usize;
            if after > self.sequences.len() {
                return Err("there are fewer records than sessions say");
            }
            while record < after {
                let one = self.record(record, &mut details)?;
                if one.sequence <= window.records.back().map_or(floor, |last| last.sequence) {
                    return Err("the records of a session are out of order");
                }
                if let Outcome::Applied(Applied { detail: Some(detail), .. }) = &one.outcome {
                    window.detail_bytes += detail.bytes();
                }
                window.records.push_back(one);
                record += 1;
            }
        }
        if record != self.sequences.len() || !details.is_empty() {
            return Err("there are more records than sessions say");
        }
        Ok(())
    }

    fn record(&self, place: usize, details: &mut Details<'_>) -> Result<Record, &'static str> {
        let index = Index(self.indexes[place]);
        let detail = match self.outcomes[place] {
            APPLIED | FENCED => None,
            APPLIED_IN_DETAIL => Some(Box::new(details.next()?)),
            _ => return Err("a request has an unknown kind of outcome"),
        };
        let outcome = match self.outcomes[place] {
            FENCED => Outcome::Fenced(index),
            _ => Outcome::Applied(Applied {
                index,
                first_position: self.first_positions[place],
                increments: self.increments[place],
                detail,
            }),
        };
        Ok(Record { sequence: Sequence(self.sequences[place]), digest: self.digests[place], outcome })
    }
}

/// What is left of the columns of details.
struct Details<'a> {
    counts:
        std::iter::Zip<std::slice::Iter<'a, u32>, std::iter::Zip<std::slice::Iter<'a, u32>, std::slice::Iter<'a, u32>>>,
    positions: &'a [u32],
    overflowed: &'a [u32],
    values: &'a [i64],
}

impl<'a> Details<'a> {
    fn of(piece: &'a WindowsPiece) -> Details<'a> {
        Details {
            counts: piece.position_counts.iter().zip(piece.overflowed_counts.iter().zip(&piece.value_counts)),
            positions: &piece.positions,
            overflowed: &piece.overflowed,
            values: &piece.values,
        }
    }

    fn next(&mut self) -> Result<Detail, &'static str> {
        const TOO_FEW: &str = "there are fewer details than requests say";
        let (&positions, (&overflowed, &values)) = self.counts.next().ok_or(TOO_FEW)?;
        let named = positions.checked_sub(1).map(|count| self.positions.split_off(..count as usize).ok_or(TOO_FEW));
        let overflowed = self.overflowed.split_off(..overflowed as usize).ok_or(TOO_FEW)?;
        let values = self.values.split_off(..values as usize).ok_or(TOO_FEW)?;
        Ok(Detail {
            positions: named.transpose()?.map(Into::into),
            overflowed: overflowed.into(),
            values: values.into(),
        })
    }

    fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.overflowed.is_empty() && self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;
    use crate::engine::sessions::Stamp;
    use crate::engine::sessions::window::Decision;

    fn history(seed: u64, values_max: u64) -> Windows {
        let mut prng = Prng::new(seed);
        let mut windows = Windows::default();
        for index in 1..400 {
            let (session, sequence) = (SessionId(1 + prng.below(9)), 1 + prng.below(40));
            let low_water = Sequence(sequence.saturating_sub(1 + prng.below(40)));
            let stamp = Stamp {
                session,
                epoch: SessionEpoch(1 + prng.below(2) as u32),
                sequence: Sequence(sequence),
                low_water,
            };
            if prng.chance(1, 6) {
                let _refused = windows.resolve(&stamp, Index(index));
                continue;
            }
            let decision = windows.decide(&stamp, prng.bits(), Index(index), 3, 2);
            if decision == Decision::Apply && prng.chance(1, 2) {
                let column =
                    |prng: &mut Prng| (0..prng.below(values_max)).map(|one| one as u32).collect::<Box<[u32]>>();
                let positions = prng.chance(1, 2).then(|| column(&mut prng));
                let overflowed = column(&mut prng);
                let values = (0..prng.below(values_max)).map(|one| -(one as i64)).collect();
                windows.record(session, Sequence(sequence), Detail { positions, overflowed, values });
            }
            if prng.chance(1, 150) {
                windows.expire(SessionId(windows.mark().0 + 1));
            }
        }
        windows
    }

    #[test]
    fn windows_come_back_out_of_their_pieces() {
        for seed in 0..40 {
            let windows = history(seed, 6);
            let again = Windows::of_pieces(windows.mark(), &windows.pieces()).expect("our own pieces");
            assert!(again.mark == windows.mark && again.windows == windows.windows, "seed {seed}");
            assert_eq!(again.digest(), windows.digest());
            assert_eq!(again.bytes, again.windows.values().map(Window::bytes).sum::<usize>());
        }
        assert_eq!(Windows::of_pieces(SessionId(4), &[]).expect("none").mark(), SessionId(4));
    }

    #[test]
    fn a_window_that_is_too_large_goes_on_in_the_next_piece() {
        let windows = history(1, 16_000);
        let pieces = windows.pieces();
        assert!(pieces.len() > 2);
        let again = Windows::of_pieces(windows.mark(), &pieces).expect("our own pieces");
        assert!(again.windows == windows.windows);
    }

    #[test]
    fn pieces_that_contradict_themselves_are_refused() {
        let windows = history(2, 6);
        let mark = windows.mark();
        let piece = windows.pieces().remove(0);
        let changes: [fn(&mut WindowsPiece); 12] = [
            |piece| piece.sessions.reverse(),
            |piece| piece.sessions[0] = 0,
            |piece| piece.epochs.push(0),
            |piece| piece.floors[0] = u64::MAX,
            |piece| piece.record_counts[0] += 1,
            |piece| piece.record_counts[0] = u32::MAX,
            |piece| piece.sequences.reverse(),
            |piece| piece.outcomes[0] = 9,
            |piece| piece.digests.truncate(1),
            |piece| piece.position_counts.truncate(1),
            |piece| piece.value_counts[0] = u32::MAX,
            |piece| piece.values.push(0),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = piece.clone();
            change(&mut changed);
            assert!(Windows::of_pieces(mark, &[changed]).is_err(), "change {number}");
        }
        assert!(Windows::of_pieces(mark, &[piece.clone(), piece]).is_err(), "the same piece twice");
    }
}
