//! Whether every count is what the acknowledgements say.
//!
//! The streams of keys are run through again, now with what became of each request. That gives two bounds a key: the
//! increments that were acknowledged, and those that may have been applied beside them because no answer came. Then
//! every key is read, those that were never counted as well.

use crate::lane::Record;
use crate::link::Control;
use crate::mix::Operation;
use crate::plan::Plan;
use crate::stream::{KeyColumn, Stream};
use anyhow::{Context, bail};
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
pub(crate) fn validate(plan: &Plan, records: &[Record], control: &mut Control) -> anyhow::Result<Validation> {
    let expected = expected(plan, records)?;
    let mut validation = Validation {
        acknowledged: expected.iter().map(|key| key.acknowledged).sum(),
        unknown: expected.iter().map(|key| key.unknown).sum(),
        ..Validation::default()
    };
    read_all(plan, expected.len() as u64, control, |number, count| {
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

/// What the count of each key has to be, by the key's number: all keys of the plan, and those beyond that were added.
fn expected(plan: &Plan, records: &[Record]) -> anyhow::Result<Vec<Expected>> {
    if records.iter().any(|record| record.exceptions_lost) {
        bail!("cannot validate: too many requests were refused to remember which; send fewer at once");
    }
    let count = usize::try_from(plan.keys).context("too many keys to validate")?;
    let mut expected: Vec<Expected> = Vec::new();
    expected.try_reserve_exact(count).context("not enough memory to validate so many keys")?;
    expected.resize(count, Expected::default());
    let mut numbers = Vec::with_capacity(plan.batch);
    for (connection, record) in records.iter().enumerate() {
        let mut stream = Stream::new(plan, connection);
        for request in 0..record.sent {
            numbers.clear();
            let operation = stream.next(|number| numbers.push(number as usize));
            if operation != Some(Operation::Increment) {
                continue;
            }
            let exception = record.exceptions.get(&request);
            for (place, &number) in numbers.iter().enumerate() {
                if number >= expected.len() {
                    expected.resize(number + 1, Expected::default());
                }
                match exception.map_or(ErrorCode::Ok, |exception| exception.code(place)) {
                    ErrorCode::Ok => expected[number].acknowledged += 1,
                    ErrorCode::Unknown => expected[number].unknown += 1,
                    _ => {}
                }
            }
        }
    }
    Ok(expected)
}

/// Reads the counts of all keys, and hands on each with the number of its key.
fn read_all(
    plan: &Plan,
    key_count: u64,
    control: &mut Control,
    mut each: impl FnMut(usize, i64),
) -> anyhow::Result<()> {
    // Half of what a request may hold, so that the columns beside the keys fit, whatever the keys' length.
    let batch = (REQUEST_BYTES_MAX / 2 / plan.key_bytes.max(16)).min(BATCH_KEYS_MAX) as u64;
    let mut column = KeyColumn::new(plan);
    let mut start = 0;
    while start < key_count {
        let end = (start + batch).min(key_count);
        column.clear();
        (start..end).for_each(|number| column.push(number));
        let counts = control.get(column.keys()).context("the counts cannot be read for the validation")?;
        for (number, count) in (start..end).zip(counts) {
            each(number as usize, count);
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Exception;
    use std::collections::BTreeMap;

    fn record(sent: u64, exceptions: &[(u64, Exception)]) -> Record {
        Record { sent, exceptions: BTreeMap::from_iter(exceptions.iter().cloned()), ..Record::default() }
    }

    #[test]
    fn expected_counts_follow_what_became_of_each_increment() {
        let plan = Plan::parse(&["--keys", "5", "--batch", "3"]).expect("valid");
        let each = Exception::Each(vec![ErrorCode::Ok, ErrorCode::Overflow, ErrorCode::Unknown]);
        let exceptions =
            [(1, each), (2, Exception::Whole(ErrorCode::Overloaded)), (3, Exception::Whole(ErrorCode::Unknown))];
        let mut by_hand = vec![Expected::default(); 5];
        let mut stream = Stream::new(&plan, 0);
        let mut place = 0;
        for _ in 0..5 {
            stream.next(|number| {
                match place {
                    0..=3 | 12..=14 => by_hand[number as usize].acknowledged += 1,
                    5 | 9..=11 => by_hand[number as usize].unknown += 1,
                    _ => {}
                }
                place += 1;
            });
        }
        assert_eq!(expected(&plan, &[record(5, &exceptions)]).expect("few exceptions"), by_hand);
    }

    #[test]
    fn only_increments_count_and_new_keys_are_known() {
        let arguments =
            ["--keys", "50", "--batch", "4", "--mix", "increment=1,get=1,top=1", "--distribution", "latest"];
        let plan = Plan::parse(&arguments).expect("valid");
        let (mut stream, mut increments) = (Stream::new(&plan, 0), 0);
        for _ in 0..300 {
            increments += if stream.next(|_| ()) == Some(Operation::Increment) { 4 } else { 0 };
        }
        let expected = expected(&plan, &[record(300, &[])]).expect("no exceptions");
        assert!(expected.len() > 50, "keys were added");
        assert_eq!(expected.iter().map(|key| key.acknowledged).sum::<u64>(), increments);
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
