//! Target `checkpoint`: a checkpoint's file on its way into the state of a shard that starts.
//!
//! ```text
//! u8 what │ 0  a file as it is
//!         │ 1  u8 shard │ envelopes behind a preamble, their checksums put right:
//!         │      u8 kind │ u8 how (1: packed, then u32 bytes unpacked) │ u16 bytes │ the bytes
//!         │ 2  a history, step by step, in the midst of which a checkpoint is taken:
//!         │      0  an increment of a key        u8 key │ u8 delta
//!         │      1  the extreme of a key         u8 key │ u8 which
//!         │      2  the next page is taken; before the first, the checkpoint begins
//!         │      3  a session's request          u8 session │ u8 number │ u8 what of it is remembered
//!         │      4  sessions expire              u8 up to which
//! ```
//!
//! What must hold:
//!
//! 1. Whatever the bytes, they are refused or make a state; memory is bounded by what they say that they hold.
//! 2. A state that was made keeps the laws of states, and its own image makes the same state again.
//! 3. The pages of a history, taken on the way, and the rest of the history make the state that was there (`engine::checkpoint`).

use dkc::engine::checkpoint::archive::{Archived, Foot, Head, PagePiece, RegistryPiece, WindowsPiece};
use dkc::engine::checkpoint::envelope::{ENVELOPE_HEADER_BYTES, Kind, PREAMBLE_BYTES, Position, Preamble};
use dkc::engine::checkpoint::inspection::Manifest;
use dkc::engine::checkpoint::loader::{Loaded, LoadedCounters, Wanted, load};
use dkc::engine::checkpoint::{CheckpointDir, CheckpointFile, Reference};
use dkc::engine::cluster::ClusterMap;
use dkc::engine::counters::{Counters, Increment, Outcome, PageCursor, PageView, Pool, Setup};
use dkc::engine::input::DiskError;
use dkc::engine::sessions::Stamp;
use dkc::engine::sessions::registry::Registry;
use dkc::engine::sessions::window::{Decision, Detail, Windows};
use dkc::engine::wal::{AlignedBuffer, WalIdentity};
use dkc::ids::{
    CheckpointNumber, ClusterId, Index, KeyHash, NodeId, Sequence, SessionEpoch, SessionId, ShardId, StoreId,
};
use dkc::limits::{ARCHIVE_BYTES_MAX, WAL_BLOCK_BYTES};

use crate::allocator::peak_of;
use crate::script::Script;
use crate::{Fault, INPUT_BYTES_MAX};

pub(crate) const FILE: u8 = 0;
pub(crate) const SEALED: u8 = 1;
pub(crate) const HISTORY: u8 = 2;

/// Marks what is packed in an envelope.
const LZ4: u8 = 1;
const SHARD: ShardId = ShardId(1);
const TERM: u64 = 3;
const ROUTING_SEED: u64 = 7;
const RANGE: (KeyHash, KeyHash) = (KeyHash(0), KeyHash(u64::MAX));
/// Pages are small, so that few keys split them.
const PAGE_KEYS: usize = 3;
const STEPS_MAX: usize = 2_048;

/// See the module.
pub fn checkpoint(input: &[u8], fault: Fault) {
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let mut script = Script::new(input);
    match script.byte() {
        FILE => {
            let bytes = script.rest();
            let preamble = bytes.first_chunk::<PREAMBLE_BYTES>().and_then(|bytes| Preamble::decode(bytes).ok());
            check(preamble.unwrap_or_else(|| preamble_of(SHARD)), bytes.to_vec());
        }
        SEALED => {
            let preamble = preamble_of(if script.byte() == 0 { ShardId::META } else { SHARD });
            check(preamble, sealed(&preamble, &mut script));
        }
        HISTORY => history(&mut script, fault),
        _ => {}
    }
}

fn preamble_of(shard: ShardId) -> Preamble {
    let store = WalIdentity { cluster: ClusterId(77), node: NodeId(5), store: StoreId(2) };
    Preamble { store, file: CheckpointFile { shard, number: CheckpointNumber(9) } }
}

/// A file of the script's envelopes, with lengths and checksums that are right.
fn sealed(preamble: &Preamble, script: &mut Script<'_>) -> Vec<u8> {
    let mut file = preamble.encode().to_vec();
    let seed = u32::from_le_bytes(file[PREAMBLE_BYTES - 4..].try_into().expect("four bytes"));
    let mut place = 0u32;
    while !script.is_empty() {
        let (kind, how) = (script.byte(), script.byte());
        let unpacked = (how == LZ4).then(|| script.number::<4>() as u32);
        let length = script.short();
        let content = script.take(length);
        let mut header = [0; ENVELOPE_HEADER_BYTES];
        (header[4], header[5]) = (kind, how);
        header[8..12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        header[12..].copy_from_slice(&unpacked.unwrap_or(content.len() as u32).to_le_bytes());
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&place.to_le_bytes());
        hasher.update(&header[4..]);
        hasher.update(content);
        header[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(content);
        place += 1;
    }
    file
}

/// A directory of one file.
struct OneFile {
    file: CheckpointFile,
    bytes: Vec<u8>,
}

impl OneFile {
    fn new(file: CheckpointFile, mut bytes: Vec<u8>) -> OneFile {
        bytes.resize(bytes.len().next_multiple_of(WAL_BLOCK_BYTES), 0);
        OneFile { file, bytes }
    }

    fn manifest(&mut self) -> Result<Manifest, String> {
        let (file, bytes) = (self.file, self.bytes.len() as u64);
        Manifest::read(self, file, bytes).map_err(|error| error.to_string())
    }
}

impl CheckpointDir for OneFile {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        Ok(vec![self.file])
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let bytes = self.bytes.get(offset as usize..).and_then(|bytes| bytes.get(..into.len()));
        let bytes = bytes.filter(|_| file == self.file);
        into.copy_from_slice(bytes.ok_or_else(|| DiskError::Failed("there is no such place".into()))?);
        Ok(())
    }
}

fn restored(dir: &mut OneFile, preamble: &Preamble, reference: &Reference) -> Result<Loaded, String> {
    let wanted = if preamble.file.shard == ShardId::META {
        Wanted { range: (KeyHash(0), KeyHash(0)), setup: None }
    } else {
        Wanted { range: RANGE, setup: Some(setup()) }
    };
    load(dir, preamble, reference, &wanted, &mut |_| {}).map_err(|error| error.to_string())
}

fn setup() -> Setup {
    Setup { page_keys_max: PAGE_KEYS, pool: Pool::borrowed(), ..Setup::new(RANGE.0..=RANGE.1, ROUTING_SEED, 4) }
}

/// Holds the loader to the first two rules of the module.
fn check(preamble: Preamble, bytes: Vec<u8>) {
    let mut dir = OneFile::new(preamble.file, bytes);
    let (manifest, peak) = peak_of(|| dir.manifest());
    assert!(peak <= 4 * ARCHIVE_BYTES_MAX, "{peak} bytes of memory to look at a file of {}", dir.bytes.len());
    let Ok(manifest) = manifest else { return };
    let contents = manifest.contents;
    let (loaded, peak) = peak_of(|| restored(&mut dir, &preamble, &manifest.reference));
    let bound = 4 * ARCHIVE_BYTES_MAX as u64 + 32 * contents.archive_bytes + (contents.pages.0 << 18);
    assert!(peak as u64 <= bound, "{peak} bytes of memory for {contents:?}");
    match loaded {
        Err(_) => {}
        Ok(Loaded::Meta { registry, map }) => check_meta(&preamble, &registry, &map),
        Ok(Loaded::Counters(loaded)) => {
            let LoadedCounters { counters, windows, windows_at_end, .. } = *loaded;
            counters.invariants();
            let windows = windows_at_end.unwrap_or(windows);
            let mut image = Image::begin(&windows, manifest.foot.index);
            counters.pages().for_each(|page| image.page(page, manifest.foot.index));
            let again = image.end(&windows, manifest.foot.index).load();
            assert!(again.windows_at_end.is_none(), "its entries are one");
            assert_eq!(again.counters.digest(), counters.digest(), "counters change by being saved");
            assert_eq!(again.windows.digest(), windows.digest(), "sessions change by being saved");
        }
    }
}

fn check_meta(preamble: &Preamble, registry: &Registry, map: &ClusterMap) {
    let mut head = Head { map: map.encode(), ..Head::default() };
    registry.put_into(&mut head);
    let mut file = preamble.encode().to_vec();
    let mut position = Position::first(&preamble.encode());
    position.seal(Kind::Head, &head, &mut file);
    registry.pieces().iter().for_each(|piece| position.seal(Kind::Registry, piece, &mut file));
    position.seal(Kind::Foot, &Foot { mark: head.mark, ..Foot::default() }, &mut file);
    let mut dir = OneFile::new(preamble.file, file);
    let manifest = dir.manifest().expect("it was just made");
    let Ok(Loaded::Meta { registry: again, map: same }) = restored(&mut dir, preamble, &manifest.reference) else {
        panic!("the image of a registry is none");
    };
    let mut said = Head { map: same.encode(), ..Head::default() };
    again.put_into(&mut said);
    assert_eq!((again.pieces(), said), (registry.pieces(), head), "the registry changes by being saved");
}

/// A file in the making, of a counting shard.
struct Image {
    file: Vec<u8>,
    position: Position,
    from: u64,
    pages: u64,
    keys: u64,
}

impl Image {
    fn begin(windows: &Windows, index: u64) -> Image {
        let preamble = preamble_of(SHARD).encode();
        let (file, position) = (preamble.to_vec(), Position::first(&preamble));
        let mut image = Image { file, position, from: index, pages: 0, keys: 0 };
        let range = [RANGE.0.0, RANGE.1.0];
        image.seal(Kind::Head, &Head { index, term: TERM, range, epoch: 1, mark: windows.mark().0, ..Head::default() });
        windows.pieces().iter().for_each(|piece| image.seal(Kind::Windows, piece));
        image
    }

    fn seal(&mut self, kind: Kind, content: &impl Archived) {
        self.position.seal(kind, content, &mut self.file);
    }

    fn page(&mut self, page: PageView<'_>, applied: u64) {
        let extent = page.extent();
        let (second, second_depth) = extent.second.unwrap_or_default();
        let (position, depth, crowded) = (extent.position, extent.depth, u8::from(extent.second.is_some()));
        let mut piece = PagePiece { position, depth, crowded, second, second_depth, applied, ..PagePiece::default() };
        page.for_each(|key, count| {
            piece.key_lengths.push(key.len() as u16);
            piece.keys.extend_from_slice(key);
            piece.counts.push(count);
        });
        (self.pages, self.keys) = (self.pages + 1, self.keys + piece.counts.len() as u64);
        self.seal(Kind::Page, &piece);
    }

    fn end(mut self, windows: &Windows, index: u64) -> Image {
        if index > self.from {
            windows.pieces().iter().for_each(|piece| self.seal(Kind::Windows, piece));
        }
        let (mark, pages, keys) = (windows.mark().0, self.pages, self.keys);
        self.seal(Kind::Foot, &Foot { index, term: TERM, mark, pages, keys });
        self
    }

    fn load(self) -> LoadedCounters {
        let preamble = preamble_of(SHARD);
        let mut dir = OneFile::new(preamble.file, self.file);
        let manifest = dir.manifest().expect("it was just made");
        assert_eq!(manifest.contents.pages, (self.pages, self.keys));
        match restored(&mut dir, &preamble, &manifest.reference) {
            Ok(Loaded::Counters(loaded)) => *loaded,
            Ok(Loaded::Meta { .. }) => panic!("counters became a registry"),
            Err(error) => panic!("an image of a state is refused: {error}"),
        }
    }
}

/// What a history has come to.
struct Live {
    counters: Counters,
    windows: Windows,
    /// The last entry.
    index: u64,
    /// Increments since the checkpoint began: each an entry of its own, by index.
    since: Vec<(u64, [u8; 2], i64)>,
}

impl Live {
    fn increment(&mut self, key: u8, delta: i64) {
        let key = [b'k', key];
        self.index += 1;
        apply(&mut self.counters, self.index, key, delta);
        self.since.push((self.index, key, delta));
    }

    fn request(&mut self, session: u8, number: u8, detail: u8) {
        self.index += 1;
        let stamp = Stamp {
            session: SessionId(1 + u64::from(session % 4)),
            epoch: SessionEpoch(1),
            sequence: Sequence(1 + u64::from(number % 32)),
            low_water: Sequence(u64::from(number % 32) / 2),
        };
        let decision = self.windows.decide(&stamp, u64::from(number), Index(self.index), 0, 2);
        if decision == Decision::Apply && detail & 1 > 0 {
            let positions = (detail & 2 > 0).then(|| [0, 5].into());
            let overflowed = if detail & 4 > 0 { [1].into() } else { Box::default() };
            let values = if detail & 8 > 0 { [i64::from(detail), -1].into() } else { Box::default() };
            self.windows.record(stamp.session, stamp.sequence, Detail { positions, overflowed, values });
        }
    }

    fn expire(&mut self, mark: u8) {
        self.index += 1;
        self.windows.expire(SessionId(u64::from(mark % 4)));
    }
}

fn apply(counters: &mut Counters, index: u64, key: [u8; 2], delta: i64) -> Outcome {
    let mut outcomes = Vec::new();
    counters.set_applying(Index(index));
    counters.apply_batch(&[increment(&key, delta)], &mut outcomes);
    outcomes[0]
}

fn increment(key: &[u8], delta: i64) -> Increment<'_> {
    Increment { hash: KeyHash::of(ROUTING_SEED, key), key, delta }
}

/// Holds images to the third rule of the module.
fn history(script: &mut Script<'_>, fault: Fault) {
    let (counters, windows) = (Counters::new(setup()), Windows::default());
    let mut live = Live { counters, windows, index: 0, since: Vec::new() };
    let mut taking: Option<(Image, Option<PageCursor>)> = None;
    for _ in 0..STEPS_MAX {
        if script.is_empty() {
            break;
        }
        match script.byte() {
            0 => live.increment(script.byte(), i64::from(script.byte()) - 100),
            1 => live.increment(script.byte(), if script.byte() & 1 > 0 { i64::MAX } else { i64::MIN }),
            2 => taking = Some(take(&mut live, taking)),
            3 => live.request(script.byte(), script.byte(), script.byte()),
            4 => live.expire(script.byte()),
            _ => {}
        }
        if taking.as_ref().is_some_and(|(_, cursor)| cursor.is_none()) {
            break;
        }
    }
    // What the script has left over is taken now.
    let image = loop {
        match take(&mut live, taking.take()) {
            (image, None) => break image,
            going_on => taking = Some(going_on),
        }
    };
    let mut loaded = image.end(&live.windows, live.index).load();
    for &(index, key, delta) in &live.since {
        // The planted fault: the entry right before a page was taken is taken for one after it.
        let asked = Index(index + u64::from(fault.is_planted()));
        if !loaded.counters.is_past(&loaded.applied, &increment(&key, delta), asked) {
            apply(&mut loaded.counters, index, key, delta);
        }
    }
    loaded.counters.invariants();
    assert_eq!(loaded.counters.digest(), live.counters.digest(), "images and the rest of the log are another state");
    assert!(loaded.counters.top(5) == live.counters.top(5), "other keys are the highest");
    let windows = loaded.windows_at_end.unwrap_or(loaded.windows);
    assert_eq!(windows.digest(), live.windows.digest(), "sessions are others");
}

/// Takes the next page; begins if nothing has been taken. Returns where the next one begins, none after the last.
fn take(live: &mut Live, taking: Option<(Image, Option<PageCursor>)>) -> (Image, Option<PageCursor>) {
    let (mut image, cursor) = taking.unwrap_or_else(|| {
        live.since.clear();
        (Image::begin(&live.windows, live.index), Some(PageCursor::START))
    });
    let Some(cursor) = cursor else { return (image, None) };
    let page = live.counters.page(cursor);
    image.page(page, live.index);
    let next = page.next();
    (image, next)
}

/// Seeds: valid files, valid envelopes, histories.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut windows =
        Live { counters: Counters::new(setup()), windows: Windows::default(), index: 0, since: Vec::new() };
    for number in 0..6 {
        windows.request(number, number * 3, 0b1111);
        (0..4).for_each(|key| windows.increment(number * 7 + key, 9));
    }
    let mut image = Image::begin(&windows.windows, windows.index);
    let (index, live) = (windows.index, &windows);
    live.counters.pages().for_each(|page| image.page(page, index));
    let counting = image.end(&windows.windows, index).file;
    let mut registry = Registry::default();
    registry.open();
    registry.open_named(b"job");
    let mut head = Head { map: ClusterMap::even(ROUTING_SEED, NodeId(5), 1, 1).encode(), ..Head::default() };
    registry.put_into(&mut head);
    let page =
        PagePiece { key_lengths: vec![2, 1], keys: b"abc".to_vec(), counts: vec![5, -5], ..PagePiece::default() };
    let own = Head { index: 4, term: TERM, range: [RANGE.0.0, RANGE.1.0], epoch: 1, ..Head::default() };
    let whole = PagePiece { applied: 4, ..page.clone() };
    let foot = Foot { index: 4, term: TERM, mark: 0, pages: 1, keys: 2 };
    let envelope =
        |kind: Kind, content: &[u8]| [&[kind as u8, 0][..], &(content.len() as u16).to_le_bytes(), content].concat();
    let sessions: Vec<Vec<u8>> =
        live.windows.pieces().iter().map(|piece: &WindowsPiece| envelope(Kind::Windows, &piece.archive())).collect();
    let counting_parts = [
        vec![SEALED, 1],
        envelope(Kind::Head, &own.archive()),
        sessions.concat(),
        envelope(Kind::Page, &whole.archive()),
        envelope(Kind::Foot, &foot.archive()),
    ];
    let names: Vec<Vec<u8>> =
        registry.pieces().iter().map(|piece: &RegistryPiece| envelope(Kind::Registry, &piece.archive())).collect();
    let meta_parts = [
        vec![SEALED, 0],
        envelope(Kind::Head, &head.archive()),
        names.concat(),
        envelope(Kind::Foot, &Foot::default().archive()),
    ];
    let mut steps = vec![HISTORY];
    for step in 0..30u8 {
        steps.extend([0, step.wrapping_mul(11), step, 3, step, step / 2, step]);
    }
    for step in 0..20u8 {
        steps.extend([2, 0, step.wrapping_mul(22), 7, 1, step, step, 3, step, 16 + step / 2, step]);
    }
    steps.extend([4, 1, 2]);
    vec![
        ("file".to_owned(), [&[FILE][..], &counting].concat()),
        ("sealed-counters".to_owned(), counting_parts.concat()),
        ("sealed-meta".to_owned(), meta_parts.concat()),
        ("sealed-packed".to_owned(), vec![SEALED, 1, Kind::Head as u8, LZ4, 0, 0, 128, 0, 4, 0, 0x1f, 0, 1, 0]),
        ("history".to_owned(), steps),
        ("history-short".to_owned(), vec![HISTORY, 0, 1, 200, 2, 0, 1, 7, 0, 2, 9]),
    ]
}
