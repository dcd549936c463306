//! Whether every count is what the acknowledgements say.
//!
//! The streams of keys are run through again, now with what became of each request. That gives two bounds a key: the
//! increments that were acknowledged, and those that may have been applied beside them because no answer came. Then
//! every key is read, those that were never counted as well.

use crate::plan::Plan;
use crate::run::Outcome;
use crate::stream::{Keys, Stream};
use crate::worker::Record;
use anyhow::{Context, bail};
use dkc::client::blocking::Connection;
use dkc::error::ErrorCode;
use dkc::limits::{BATCH_KEYS_MAX, REQUEST_BYTES_MAX};

/// Wrong counts that are shown.
const SHOWN_MAX: usize = 10;

/// What a key's count has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Expected {
    acknowledged: u64,
    unknown: u64,
}

impl Expected {
    fn allows(self, count: i64) -> bool {
        u64::try_from(count).is_ok_and(|count| (self.acknowledged..=self.acknowledged + self.unknown).contains(&count))
    }
}

/// What came of a validation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validation {
    /// Increments acknowledged, during the warm-up as well.
    pub(crate) acknowledged: u64,
    /// Increments that may have been applied or not.
    pub(crate) unknown: u64,
    /// Keys with a wrong count.
    pub(crate) wrong: u64,
    /// The first of them, a line each.
    pub(crate) shown: Vec<String>,
}

impl Validation {
    pub(crate) fn is_ok(&self) -> bool {
        self.wrong == 0
    }

    /// The verdict, in one line.
    pub(crate) fn verdict(&self) -> String {
        let Validation { acknowledged, unknown, wrong, .. } = self;
        match (wrong, unknown) {
            (0, 0) => format!("validated: {acknowledged} increments, every count equals what was acknowledged"),
            (0, _) => format!(
                "validated: {acknowledged} increments, every count is what was acknowledged or, of {unknown} \
                 increments without an answer, more"
            ),
            _ => format!(
                "NOT VALID: {wrong} counts differ from what was acknowledged ({acknowledged} increments); has the \
                 prefix been counted before?"
            ),
        }
    }
}

/// Compares every count with what was acknowledged.
///
/// # Errors
/// The counts could not be read, or too many increments were refused to remember which.
pub(crate) fn validate(plan: &Plan, outcome: &mut Outcome) -> anyhow::Result<Validation> {
    let expected = expected(plan, &outcome.records)?;
    let mut validation = Validation {
        acknowledged: expected.iter().map(|key| key.acknowledged).sum(),
        unknown: expected.iter().map(|key| key.unknown).sum(),
        ..Validation::default()
    };
    read_all(plan, &mut outcome.control, |number, count| {
        let expected = expected[number];
        if expected.allows(count) {
            return;
        }
        validation.wrong += 1;
        if validation.shown.len() < SHOWN_MAX {
            let Expected { acknowledged, unknown } = expected;
            let text = format!("key number {number}: count {count}, acknowledged {acknowledged}, unknown {unknown}");
            validation.shown.push(text);
        }
    })?;
    Ok(validation)
}

/// What the count of each key has to be, by the key's number.
fn expected(plan: &Plan, records: &[Record]) -> anyhow::Result<Vec<Expected>> {
    if records.iter().any(|record| record.exceptions_lost) {
        bail!("cannot validate: too many requests were refused to remember which; send fewer at once");
    }
    let count = usize::try_from(plan.keys).context("too many keys to validate")?;
    let mut expected: Vec<Expected> = Vec::new();
    expected.try_reserve_exact(count).context("not enough memory to validate so many keys")?;
    expected.resize(count, Expected::default());
    for (connection, record) in records.iter().enumerate() {
        let mut stream = Stream::new(plan, connection);
        for request in 0..record.sent {
            let exception = record.exceptions.get(&request);
            for place in 0..plan.batch {
                let key = &mut expected[stream.draw() as usize];
                match exception.map_or(ErrorCode::Ok, |exception| exception.code(place)) {
                    ErrorCode::Ok => key.acknowledged += 1,
                    ErrorCode::Unknown => key.unknown += 1,
                    _ => {}
                }
            }
        }
    }
    Ok(expected)
}

/// Reads the counts of all keys, and hands on each with the number of its key.
fn read_all(plan: &Plan, connection: &mut Connection, mut each: impl FnMut(usize, i64)) -> anyhow::Result<()> {
    // Half of what a request may hold, so that the columns beside the keys fit, whatever the keys' length.
    let batch = (REQUEST_BYTES_MAX / 2 / plan.key_bytes.max(16)).min(BATCH_KEYS_MAX) as u64;
    let mut keys = Keys::new(plan);
    let mut start = 0;
    while start < plan.keys {
        let end = (start + batch).min(plan.keys);
        let names: Vec<Vec<u8>> = (start..end).map(|number| keys.key(number).to_vec()).collect();
        let counts = connection.get(&names).context("the counts cannot be read for the validation")?;
        for (number, count) in (start..end).zip(counts) {
            each(number as usize, count.unwrap_or(0));
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;
    use crate::worker::Exception;
    use std::collections::BTreeMap;

    #[test]
    fn expected_counts_follow_what_became_of_each_increment() {
        let plan = Plan::parse(&["--keys", "5", "--batch", "3"]).expect("valid");
        let each = Exception::Each(vec![ErrorCode::Ok, ErrorCode::Overflow, ErrorCode::Unknown]);
        let exceptions =
            [(1, each), (2, Exception::Whole(ErrorCode::Overloaded)), (3, Exception::Whole(ErrorCode::Unknown))];
        let record = Record {
            tally: Tally::new(),
            sent: 5,
            exceptions: BTreeMap::from(exceptions),
            exceptions_lost: false,
            last_reply: None,
            failure: None,
        };
        let mut by_hand = vec![Expected::default(); 5];
        let mut stream = Stream::new(&plan, 0);
        for place in 0..15 {
            let key = &mut by_hand[stream.draw() as usize];
            match place {
                0..=3 | 12..=14 => key.acknowledged += 1,
                5 | 9..=11 => key.unknown += 1,
                _ => {}
            }
        }
        assert_eq!(expected(&plan, &[record]).expect("few exceptions"), by_hand);
    }

    #[test]
    fn a_count_lies_between_the_acknowledged_and_the_possible() {
        let expected = Expected { acknowledged: 3, unknown: 2 };
        let allowed: Vec<i64> = (-1..8).filter(|&count| expected.allows(count)).collect();
        assert_eq!(allowed, [3, 4, 5]);
    }

    #[test]
    fn the_verdict_tells_the_cases_apart() {
        let valid = Validation { acknowledged: 9, ..Validation::default() };
        assert_eq!(valid.verdict(), "validated: 9 increments, every count equals what was acknowledged");
        assert!(Validation { unknown: 1, ..valid.clone() }.verdict().starts_with("validated: 9 increments"));
        assert!(Validation { wrong: 1, ..valid }.verdict().starts_with("NOT VALID: 1 counts"));
    }
}
