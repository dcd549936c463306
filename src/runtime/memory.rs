//! How much memory this process is offered: the machine's, or less if a cgroup says so.

use std::path::{Path, PathBuf};

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
