//! Memory: how much of it this process is offered, and where stores have that of their counters from.
//!
//! What is offered is the machine's memory, or less if a cgroup says so.
//!
//! **Counters** are looked up all over their memory, so on pages of 4 KiB nearly every access also misses the processor's cache
//! of addresses. So a store's pool maps its memory by itself, aligned to huge pages of 2 MiB, and asks for those (`MADV_HUGEPAGE`):
//! then whoever set the kernel to "madvise", which is the usual default, gets them. Where the kernel has none left it gives
//! small ones, and nothing changes but the speed. Addresses are mapped `RESERVE_BYTES` at a time, which costs nothing until
//! they are touched; the pool gets them in regions that begin small and grow with it, since all of a region counts as used.

use std::path::{Path, PathBuf};

use memmap2::{Advice, MmapMut};

use crate::engine::counters::{BlockBytes, Pool, REGION_BYTES_MIN};
use crate::limits::BLOCK_BYTES;

/// Bytes of a huge page, on the machines there are. On others less of the reserve is on huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes of addresses that are mapped at a time.
const RESERVE_BYTES: usize = 64 << 20;
/// Regions are a thirty-second of what the pool has already had, within these bounds: two of them may be nearly empty.
const REGION_BYTES: std::ops::RangeInclusive<usize> = REGION_BYTES_MIN..=HUGE_PAGE_BYTES;

/// A pool for the counters of one store, on huge pages if wanted and possible.
#[must_use]
pub fn pool(huge_pages: bool) -> Pool {
    let mut reserve: &'static mut [BlockBytes] = &mut [];
    let mut had = 0;
    Pool::with_indexes(move || {
        if reserve.is_empty() {
            reserve = map(huge_pages);
        }
        let bytes = (had / 32).clamp(*REGION_BYTES.start(), *REGION_BYTES.end());
        let blocks = (bytes.next_multiple_of(REGION_BYTES_MIN) / BLOCK_BYTES).min(reserve.len());
        let (region, rest) = std::mem::take(&mut reserve).split_at_mut(blocks);
        reserve = rest;
        had += size_of_val(region);
        region
    })
}

/// Maps a reserve. Heap if the kernel refuses: an address limit, or strict accounting of what is mapped.
fn map(huge_pages: bool) -> &'static mut [BlockBytes] {
    match MmapMut::map_anon(RESERVE_BYTES + HUGE_PAGE_BYTES) {
        Ok(map) => {
            // A kernel without huge pages does not know the advice.
            let refused = huge_pages.then(|| map.advise(Advice::HugePage)).and_then(Result::err);
            refused.inspect(|error| tracing::debug!(%error, "no huge pages for counters"));
            // Never unmapped: see the pool.
            let map: &'static mut MmapMut = Box::leak(Box::new(map));
            let bytes: &'static mut [u8] = map;
            let skipped = bytes.as_ptr().align_offset(HUGE_PAGE_BYTES);
            bytes[skipped..skipped + RESERVE_BYTES].as_chunks_mut().0
        }
        Err(error) => {
            tracing::debug!(%error, "cannot map memory for counters: taking heap");
            vec![[0; BLOCK_BYTES]; HUGE_PAGE_BYTES / BLOCK_BYTES].leak()
        }
    }
}

/// Bytes of memory this process may use at most. What cannot be found out does not count as a limit.
#[must_use]
pub fn offered() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&groups).iter().filter_map(|file| read_limit(file)).fold(machine, u64::min)
}

/// The files that may hold a memory limit for a process whose `/proc/self/cgroup` reads like this: those of its group
/// and of every group around it, because each of them binds.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

/// The number in the file; `max` or anything else is no limit.
fn read_limit(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::{Counters, Increment, Setup};
    use crate::ids::KeyHash;

    #[test]
    fn every_group_around_the_process_binds() {
        let files = |groups| limit_files(groups).iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            files("0::/system.slice/dkc.service\n"),
            [
                "/sys/fs/cgroup/system.slice/dkc.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            files("12:cpu:/a\n3:memory:/a\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert!(files("nonsense").is_empty());
    }

    #[test]
    fn reserves_are_aligned_to_huge_pages_and_begin_as_zeros() {
        for huge_pages in [false, true] {
            let reserve = map(huge_pages);
            assert_eq!(reserve.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
            assert_eq!(size_of_val(reserve), RESERVE_BYTES);
            assert!(reserve.iter().step_by(1_024).all(|block| *block == [0; BLOCK_BYTES]));
        }
    }

    #[test]
    fn a_pool_holds_little_more_than_its_counters_use() {
        let pool = pool(true);
        let hashes = KeyHash(0)..=KeyHash(u64::MAX);
        let mut counters = Counters::new(Setup { pool: pool.clone(), ..Setup::new(hashes, 0, 100) });
        for number in 0..300_000u64 {
            let key = number.to_le_bytes();
            counters.apply_batch(&[Increment { hash: KeyHash::of(0, &key), key: &key, delta: 1 }], &mut Vec::new());
            if number % 10_000 == 0 {
                // A region of blocks, one of pieces, and what a page that was split has left.
                let free_max = pool.regions_bytes() / 4 + 4 * REGION_BYTES_MIN;
                assert!(pool.free_bytes() <= free_max, "{} of {} bytes", pool.free_bytes(), pool.regions_bytes());
            }
        }
        counters.invariants();
        assert!(pool.regions_bytes() > 4 << 20);
        drop(counters);
        assert!(pool.free_bytes() >= pool.regions_bytes(), "all of it came back");
    }

    #[test]
    fn a_limit_is_a_number() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("memory.max");
        assert_eq!(read_limit(&file), None);
        for (text, limit) in [("max\n", None), ("1073741824\n", Some(1 << 30)), ("", None)] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(read_limit(&file), limit, "{text:?}");
        }
        assert!(offered() > 0);
    }
}
