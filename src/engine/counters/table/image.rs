//! A table out of the images of its pages, and what each of them covers.

use super::{CROWD, Crowd, Cursor, Directory, Table, top_bits};
use crate::engine::counters::hashing::Hashing;
use crate::engine::counters::page::{Page, end};
use crate::engine::counters::pool::Pool;
use crate::ids::{Index, KeyHash};
use crate::limits::{DIRECTORY_DEPTH_SLACK, IMAGE_DEPTH_SLACK};

/// What a page covers of the walk over all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First position of the page, or of its crowd.
    pub position: u64,
    /// How many top bits of a position decide that it belongs there.
    pub depth: u32,
    /// The same of second hashes within the crowd, if the page is of one.
    pub second: Option<(u64, u32)>,
}

impl Extent {
    /// Whether there can be such a page.
    fn is_valid(self) -> bool {
        let valid = |prefix: u64, depth: u32| depth <= u64::BITS && prefix.checked_shl(depth).unwrap_or(0) == 0;
        valid(self.position, self.depth) && self.second.is_none_or(|(prefix, depth)| valid(prefix, depth))
    }

    fn start(self) -> Cursor {
        Cursor { position: self.position, second: self.second.map_or(0, |(prefix, _)| prefix) }
    }

    fn end(self) -> Option<Cursor> {
        if let Some((prefix, depth)) = self.second
            && let Some(second) = end(prefix, depth)
        {
            return Some(Cursor { position: self.position, second });
        }
        end(self.position, self.depth).map(|position| Cursor { position, second: 0 })
    }
}

/// How finely the images of a walk are cut: whether the directories of a table made of them stay in proportion to their number. Who takes
/// images asks this before they are relied upon, and who makes a table of them before memory is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proportion {
    pages: usize,
    /// Depth of the main directory.
    deepest: u32,
    /// Depth of the directory of the crowd that began last.
    crowd_deepest: Option<u32>,
    /// Slots of the directories of the crowds before it.
    crowd_slots: u64,
}

impl Proportion {
    /// Notes the next image.
    pub fn note(&mut self, extent: Extent) {
        self.pages += 1;
        self.deepest = self.deepest.max(extent.depth);
        if let Some((prefix, depth)) = extent.second {
            if prefix == 0 {
                self.crowd_slots = self.slots_of_crowds();
                self.crowd_deepest = None;
            }
            self.crowd_deepest = self.crowd_deepest.max(Some(depth));
        }
    }

    /// Whether counters can be made again of so many images. Not if the table has outgrown its first images many times over; and all
    /// crowds together may have as many slots as the main directory, or a few pages in each would ask for any memory.
    #[must_use]
    pub fn holds(self) -> bool {
        let depth_max = depth_allowed(self.pages);
        self.deepest <= depth_max && self.slots_of_crowds() <= slots(depth_max)
    }

    fn slots_of_crowds(self) -> u64 {
        self.crowd_slots.saturating_add(self.crowd_deepest.map_or(0, slots))
    }
}

/// Slots of a directory.
fn slots(depth: u32) -> u64 {
    1u64.checked_shl(depth).unwrap_or(u64::MAX)
}

impl Table {
    /// What a page covers.
    pub(in crate::engine::counters) fn extent(&self, page: &Page) -> Extent {
        let (prefix, depth) = (page.prefix(), page.depth());
        match page.crowd().map(|crowd| &self.crowds[crowd as usize]) {
            None => Extent { position: prefix, depth, second: None },
            Some(crowd) => Extent { position: crowd.prefix, depth: crowd.depth, second: Some((prefix, depth)) },
        }
    }

    /// The place of a key in the walk.
    pub(in crate::engine::counters) fn cursor_of(&self, hash: KeyHash, key: &[u8]) -> Cursor {
        let position = self.hashing().position(hash);
        match self.directory.slot(position) {
            slot if slot & CROWD == 0 => Cursor { position, second: 0 },
            slot => {
                Cursor { position: self.crowds[(slot ^ CROWD) as usize].prefix, second: self.hashing().second(key) }
            }
        }
    }

    /// Number of pages.
    pub(in crate::engine::counters) fn page_count(&self) -> usize {
        self.pages.len()
    }
}

/// A table in the making. Pages come in the order of the walk, without a gap.
pub(in crate::engine::counters) struct Pages {
    /// What has come so far. Its directories are made in the end, when it is known that they are in proportion.
    table: Table,
    /// Where the next page begins; none after the last.
    next: Option<Cursor>,
    /// Prefixes and depths of what the main directory names, and what.
    named: Vec<(u64, u32, u32)>,
    /// The same for each crowd.
    crowded: Vec<Vec<(u64, u32, u32)>>,
    proportion: Proportion,
}

impl Pages {
    pub(in crate::engine::counters) fn new(hashing: Hashing, pool: Pool, keys_max: usize) -> Pages {
        let mut table = Table::new(hashing, pool, keys_max);
        table.pages.clear();
        Pages {
            table,
            next: Some(Cursor::START),
            named: Vec::new(),
            crowded: Vec::new(),
            proportion: Proportion::default(),
        }
    }

    /// Adds the next page. Returns where it begins.
    ///
    /// # Errors
    /// It is not the next one, or its counters are not those of such a page.
    pub(in crate::engine::counters) fn push<'a>(
        &mut self,
        extent: Extent,
        changed: Index,
        keys: usize,
        counters: impl Iterator<Item = (&'a [u8], i64)>,
    ) -> Result<Cursor, &'static str> {
        let start = extent.start();
        if !extent.is_valid() || self.next != Some(start) {
            return Err("pages do not tile the table: there is a gap, an overlap or a repetition");
        }
        let number = self.table.pages.len() as u32;
        if number >= CROWD {
            return Err("there are too many pages");
        }
        let place = match extent.second {
            None => {
                self.named.push((extent.position, extent.depth, number));
                (None, extent.position, extent.depth)
            }
            Some((prefix, depth)) => {
                let crowd = self.crowd_of(extent)?;
                self.crowded[crowd as usize].push((prefix, depth, number));
                (Some(crowd), prefix, depth)
            }
        };
        let page = Page::of_counters(&self.table.shared, place, changed, keys, counters)?;
        self.table.page_bytes += page.heap_bytes();
        self.table.len += page.len() as u64;
        self.table.pages.push(page);
        self.proportion.note(extent);
        self.next = extent.end();
        Ok(start)
    }

    /// The crowd that a page is of: a new one with its first page.
    fn crowd_of(&mut self, extent: Extent) -> Result<u32, &'static str> {
        let begins = extent.second.is_some_and(|(prefix, _)| prefix == 0);
        if begins {
            let crowd = self.table.crowds.len() as u32;
            let directory = Directory { depth: 0, slots: Vec::new() };
            self.table.crowds.push(Crowd { prefix: extent.position, depth: extent.depth, directory });
            self.crowded.push(Vec::new());
            self.named.push((extent.position, extent.depth, CROWD | crowd));
            return Ok(crowd);
        }
        match self.table.crowds.last() {
            Some(crowd) if (crowd.prefix, crowd.depth) == (extent.position, extent.depth) => {
                Ok(self.table.crowds.len() as u32 - 1)
            }
            _ => Err("a page is of a crowd that has not begun"),
        }
    }

    /// The table.
    ///
    /// # Errors
    /// Pages are missing, or a directory would be out of proportion to its pages.
    pub(in crate::engine::counters) fn finish(mut self) -> Result<Table, &'static str> {
        if self.next.is_some() {
            return Err("pages do not tile the table: the last ones are missing");
        }
        if !self.proportion.holds() {
            return Err("pages are cut finer than so many pages can be");
        }
        self.table.directory = directory(&self.named);
        for (crowd, pages) in self.table.crowds.iter_mut().zip(&self.crowded) {
            crowd.directory = directory(pages);
            self.table.page_bytes += crowd.directory.heap_bytes();
        }
        Ok(self.table)
    }
}

/// The depth up to which directories of images with so many pages are made: that of a table's own, and some more, since the pages of an
/// image were not taken all at the same time.
fn depth_allowed(pages: usize) -> u32 {
    pages.max(1).ilog2() + DIRECTORY_DEPTH_SLACK + IMAGE_DEPTH_SLACK
}

fn directory(named: &[(u64, u32, u32)]) -> Directory {
    let depth = named.iter().map(|(_, depth, _)| *depth).max().unwrap_or(0);
    let mut directory = Directory { depth, slots: vec![0; 1 << depth] };
    for &(prefix, depth, value) in named {
        let first = top_bits(prefix, directory.depth);
        directory.slots[first..first + (1 << (directory.depth - depth))].fill(value);
    }
    directory
}
