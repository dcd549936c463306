//! What a checkpoint's envelopes hold: rkyv archives of plain numbers and vectors of them, the format's words.
//!
//! Columns, not rows: a vector is checked by its bounds alone, and equal neighbours compress. A reader takes nothing of an
//! archive for granted but that its vectors lie in it; what they say is checked by whoever makes a state of it.

use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

/// First of all: where replay begins, and what is small, at that point (A).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Index of A.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// First and last hash of the shard's range.
    pub range: [u64; 2],
    /// The shard's epoch.
    pub epoch: u64,
    /// The replicas that vote.
    pub voters: Vec<u64>,
    /// The secret by which pages of crowds are ordered.
    pub secret: [u64; 2],
    /// Sessions up to it had expired.
    pub mark: u64,
    /// The meta shard: log time, microseconds.
    pub log_time: u64,
    /// The meta shard: the last session that was opened.
    pub last_session: u64,
    /// The meta shard: the cluster map, encoded as in the log.
    pub map: Vec<u8>,
}

/// Windows of some sessions, in ascending order; a window that is too large for one archive goes on in the next.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowsPiece {
    /// By session.
    pub sessions: Vec<u64>,
    /// Its holder's epoch.
    pub epochs: Vec<u32>,
    /// Its floor.
    pub floors: Vec<u64>,
    /// How many of the records are its.
    pub record_counts: Vec<u32>,
    /// By record: the request's number.
    pub sequences: Vec<u64>,
    /// Digest of its content.
    pub digests: Vec<u64>,
    /// The entry that decided it.
    pub indexes: Vec<u64>,
    /// What it decided: 0 applied, 1 applied with a detail, 2 fenced.
    pub outcomes: Vec<u8>,
    /// Place of its first increment in the entry; 0 if fenced.
    pub first_positions: Vec<u32>,
    /// Its increments; 0 if fenced.
    pub increments: Vec<u32>,
    /// By detail: 0 if its increments are the whole request, else 1 and how many places it names.
    pub position_counts: Vec<u32>,
    /// How many increments overflowed.
    pub overflowed_counts: Vec<u32>,
    /// How many new counts are kept.
    pub value_counts: Vec<u32>,
    /// Places in the original requests.
    pub positions: Vec<u32>,
    /// Places of what overflowed.
    pub overflowed: Vec<u32>,
    /// New counts.
    pub values: Vec<i64>,
}

/// One page of the table (a chunk): its place in the walk, the last entry that had been applied to it, its counters.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PagePiece {
    /// Prefix and depth of the page; of its crowd, if it is of one.
    pub position: u64,
    /// See `position`.
    pub depth: u32,
    /// 1 if it is a crowd's.
    pub crowded: u8,
    /// Prefix and depth of the page within its crowd.
    pub second: u64,
    /// See `second`.
    pub second_depth: u32,
    /// a of the module's text.
    pub applied: u64,
    /// By counter: bytes of the key. Lengths and not ends, because equal ones compress to nothing.
    pub key_lengths: Vec<u16>,
    /// The keys, one after another.
    pub keys: Vec<u8>,
    /// The counts.
    pub counts: Vec<i64>,
}

/// Sessions of the meta shard.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryPiece {
    /// When each session above the mark was opened, in the order of their ids, going on from the piece before.
    pub opened: Vec<u64>,
    /// By name, ascending: its bytes.
    pub name_lengths: Vec<u8>,
    /// The names, one after another.
    pub names: Vec<u8>,
    /// The last session of that name.
    pub sessions: Vec<u64>,
    /// Its epoch.
    pub epochs: Vec<u32>,
    /// What its last closing settled.
    pub progresses: Vec<u64>,
    /// 1 if it was closed.
    pub closed: Vec<u8>,
    /// Sessions above the mark that were opened by a name, ascending.
    pub named_sessions: Vec<u64>,
    /// The place of that name among all names.
    pub named_places: Vec<u32>,
}

/// Last of all: what there was, and up to where it reaches (B).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Foot {
    /// Index of B.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Sessions up to it had expired at B.
    pub mark: u64,
    /// Pages.
    pub pages: u64,
    /// Counters in them.
    pub keys: u64,
}

/// What can be put into an envelope.
pub trait Archived: Sized {
    /// Makes bytes of it.
    fn archive(&self) -> rkyv::util::AlignedVec<16>;

    /// Makes it of bytes, which lie at a multiple of 16.
    ///
    /// # Errors
    /// They are not an archive of it.
    fn restore(bytes: &[u8]) -> Result<Self, &'static str>;
}

macro_rules! archived {
    ($($name:ident)*) => {$(
        impl Archived for $name {
            fn archive(&self) -> rkyv::util::AlignedVec<16> {
                rkyv::to_bytes::<Error>(self).expect("vectors of numbers are always archived, memory permitting")
            }

            fn restore(bytes: &[u8]) -> Result<Self, &'static str> {
                rkyv::from_bytes::<$name, Error>(bytes).map_err(|_| NOT_AN_ARCHIVE)
            }
        }
    )*};
}

archived! { Head WindowsPiece PagePiece RegistryPiece Foot }

const NOT_AN_ARCHIVE: &str = "an envelope does not hold the archive that it names";

/// Reads a page where it lies. `bytes` begin at a multiple of 16.
///
/// # Errors
/// They are not an archive of a page.
pub fn page(bytes: &[u8]) -> Result<&ArchivedPagePiece, &'static str> {
    rkyv::access::<ArchivedPagePiece, Error>(bytes).map_err(|_| NOT_AN_ARCHIVE)
}

impl ArchivedPagePiece {
    /// The counters: keys and counts.
    ///
    /// # Errors
    /// The columns do not fit together.
    pub fn counters(&self) -> Result<impl Iterator<Item = (&[u8], i64)>, &'static str> {
        let bytes: u64 = self.key_lengths.iter().map(|length| u64::from(length.to_native())).sum();
        if self.key_lengths.len() != self.counts.len() || bytes != self.keys.len() as u64 {
            return Err("the columns of a page do not fit together");
        }
        let mut rest = self.keys.as_slice();
        Ok(self.key_lengths.iter().zip(self.counts.iter()).map(move |(length, count)| {
            let (key, after) = rest.split_at(usize::from(length.to_native()));
            rest = after;
            (key, count.to_native())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PagePiece {
        PagePiece {
            position: 5 << 60,
            depth: 4,
            applied: 77,
            key_lengths: vec![1, 3],
            keys: b"axyz".to_vec(),
            counts: vec![i64::MIN, 9],
            ..PagePiece::default()
        }
    }

    #[test]
    fn archives_come_back() {
        let page_piece = sample();
        let bytes = page_piece.archive();
        assert_eq!(PagePiece::restore(&bytes), Ok(page_piece));
        let found = page(&bytes).expect("an archive");
        let counters: Vec<_> = found.counters().expect("columns").collect();
        assert_eq!(counters, [(&b"a"[..], i64::MIN), (b"xyz", 9)]);
        let head = Head { index: 3, voters: vec![1, 2], map: vec![7; 33], ..Head::default() };
        assert_eq!(Head::restore(&head.archive()), Ok(head));
    }

    /// The layout is a format on disk: it may not change by itself.
    #[test]
    fn the_layout_is_pinned() {
        let bytes = sample().archive();
        assert_eq!(format!("{:08x} {}", crc32fast::hash(&bytes), bytes.len()), "e7d2b6e2 88");
    }

    #[test]
    fn cut_and_flipped_archives_never_panic() {
        let bytes = sample().archive();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = page(&flipped).and_then(|found| found.counters().map(|all| all.count()));
            assert!(read.is_err() || read.is_ok_and(|count| count <= 16));
        }
        for len in 0..bytes.len() {
            let mut cut = rkyv::util::AlignedVec::<16>::new();
            cut.extend_from_slice(&bytes[..len]);
            let _any = page(&cut).map(|found| found.counters().map(|all| all.count()));
        }
    }

    #[test]
    fn columns_of_other_lengths_are_refused() {
        for change in [
            |page: &mut PagePiece| page.counts.truncate(1),
            |page: &mut PagePiece| page.keys.push(0),
            |page: &mut PagePiece| page.key_lengths[0] = u16::MAX,
        ] {
            let mut changed = sample();
            change(&mut changed);
            let bytes = changed.archive();
            assert!(page(&bytes).expect("an archive").counters().is_err());
        }
    }
}
