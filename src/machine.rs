//! L6: what the machine, or the container, has for the gateway: processors, memory, descriptors.
//!
//! Reads `/proc` and `/sys` below a root, so that tests read a tree of their own. What is not
//! there is no limit: a machine without NUMA or without cgroups is a plain one. It decides
//! nothing; `server` does.

use std::{
    collections::HashMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processors that the process may use, by number.
    pub cpus: Vec<Cpu>,
    /// CPU time that the process may use in each unit of time, in thousandths of one processor's;
    /// none if that is not limited.
    pub quota_milli: Option<u64>,
    /// Bytes of memory that the process may use; none if that is not known.
    pub memory_bytes: Option<u64>,
    /// Descriptors that it may have open.
    pub descriptors: u64,
}

/// One processor, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: usize,
    /// The physical core whose thread it is: the lowest number among that core's threads.
    pub core: usize,
    /// The NUMA node in which it is.
    pub node: usize,
}

impl Machine {
    /// This machine, as the process sees it. Raises the soft limit on descriptors to the hard one.
    ///
    /// # Errors
    /// If the system does not say which processors may be used.
    pub fn here() -> io::Result<Self> {
        // Reflects cpusets and whatever `taskset` did.
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cpus: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        Ok(Self::read(Path::new("/"), &cpus, raise_descriptor_limit()))
    }

    /// A machine whose `proc` and `sys` lie below `root`, of which the process may use the
    /// processors `allowed` and `descriptors` descriptors.
    pub fn read(root: &Path, allowed: &[usize], descriptors: u64) -> Self {
        let nodes = nodes(root);
        let cpus = allowed.iter().map(|&id| {
            let siblings = format!("sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list");
            let siblings = read_list(&root.join(siblings)).unwrap_or_default();
            Cpu {
                id,
                core: siblings.into_iter().min().unwrap_or(id),
                node: nodes.get(&id).copied().unwrap_or(0),
            }
        });
        let cgroups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
        Self {
            cpus: cpus.collect(),
            quota_milli: quota_milli(root, &cgroups),
            memory_bytes: memory_bytes(root, &cgroups),
            descriptors,
        }
    }

    /// Workers that the CPU quota can keep running at once; none if there is no quota.
    pub fn quota_workers(&self) -> Option<usize> {
        let milli = self.quota_milli?;
        Some(
            usize::try_from(milli.div_ceil(1000))
                .unwrap_or(usize::MAX)
                .max(1),
        )
    }

    /// The numbers of its processors.
    pub fn cpu_ids(&self) -> Vec<usize> {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }
}

/// Processors listed as the kernel and operators do, `0-3,6`; none if the text is no such list,
/// or longer than any machine.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    let text = text.trim();
    if text.is_empty() {
        return Some(cpus);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().ok()?;
        let last: usize = last.trim().parse().ok()?;
        if last < first || last - first >= LISTED_CPUS_MAX - cpus.len() {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// More than any kernel is built for.
const LISTED_CPUS_MAX: usize = 65_536;

/// Raises the soft limit on descriptors to the hard one; says what holds now.
fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => DESCRIPTORS_UNKNOWN,
    }
}

/// What every system gives at least.
const DESCRIPTORS_UNKNOWN: u64 = 1024;

/// The NUMA node of each processor that is in one.
fn nodes(root: &Path) -> HashMap<usize, usize> {
    let mut nodes = HashMap::new();
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/node")) else {
        return nodes;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let node = name.to_str().and_then(|name| name.strip_prefix("node"));
        let Some(node) = node.and_then(|node| node.parse::<usize>().ok()) else {
            continue;
        };
        let cpus = read_list(&entry.path().join("cpulist")).unwrap_or_default();
        nodes.extend(cpus.into_iter().map(|cpu| (cpu, node)));
    }
    nodes
}

/// The tightest quota of the process's cgroups and those above them.
fn quota_milli(root: &Path, cgroups: &str) -> Option<u64> {
    let unified = directories(root, cgroups, None)
        .into_iter()
        .filter_map(|directory| {
            let text = read(&directory.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            milli(quota, period)
        });
    let first_version = directories(root, cgroups, Some("cpu"))
        .into_iter()
        .filter_map(|directory| {
            let quota = read(&directory.join("cpu.cfs_quota_us"))?;
            let period = read(&directory.join("cpu.cfs_period_us"))?;
            milli(&quota, &period)
        });
    unified.chain(first_version).min()
}

/// A quota in thousandths, rounded up; none if there is none: `max`, or -1.
fn milli(quota: &str, period: &str) -> Option<u64> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    let milli = (u128::from(quota) * 1000).div_ceil(u128::from((period > 0).then_some(period)?));
    u64::try_from(milli).ok()
}

/// The machine's memory, or the tightest limit of the process's cgroups and those above them.
fn memory_bytes(root: &Path, cgroups: &str) -> Option<u64> {
    let total = read(&root.join("proc/meminfo")).and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    let limit = |directory: PathBuf, name: &str| -> Option<u64> {
        // `max` is no number; an unlimited group of the first version has more than any machine.
        read(&directory.join(name))?.trim().parse().ok()
    };
    let unified = directories(root, cgroups, None)
        .into_iter()
        .filter_map(|directory| limit(directory, "memory.max"));
    let first_version = directories(root, cgroups, Some("memory"))
        .into_iter()
        .filter_map(|directory| limit(directory, "memory.limit_in_bytes"));
    total.into_iter().chain(unified).chain(first_version).min()
}

/// Where the process's cgroup is mounted, and those above it: of `controller` in the first version
/// of cgroups, or of the unified hierarchy.
///
/// In a container the path may be the host's and not be there; what limits the container is then
/// at the mount's root, where every walk ends.
fn directories(root: &Path, cgroups: &str, controller: Option<&str>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mounts = match controller {
            None if id == "0" && controllers.is_empty() => {
                vec![
                    "sys/fs/cgroup".to_owned(),
                    "sys/fs/cgroup/unified".to_owned(),
                ]
            }
            Some(controller) if controllers.split(',').any(|one| one == controller) => vec![
                format!("sys/fs/cgroup/{controllers}"),
                format!("sys/fs/cgroup/{controller}"),
            ],
            _ => continue,
        };
        for mount in mounts {
            let mount = root.join(mount);
            let mut directory = mount.clone();
            found.push(mount);
            let names = Path::new(path).components();
            for name in names.filter(|name| matches!(name, Component::Normal(_))) {
                directory.push(name);
                found.push(directory.clone());
            }
        }
    }
    found
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn read_list(path: &Path) -> Option<Vec<usize>> {
    parse_cpu_list(&read(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root of this test's own with these files.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("tidegate-machine-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn read(&self, allowed: &[usize]) -> Machine {
            Machine::read(&self.0, allowed, 1024)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn siblings(cpu: usize) -> String {
        format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    }

    #[test]
    fn nothing_at_all_is_a_plain_machine_without_limits() {
        let machine = Tree::new("nothing", &[]).read(&[0, 2]);
        let plain = |id| Cpu {
            id,
            core: id,
            node: 0,
        };
        assert_eq!(machine.cpus, [plain(0), plain(2)]);
        assert_eq!((machine.quota_milli, machine.quota_workers()), (None, None));
        assert_eq!(machine.memory_bytes, None);
        assert_eq!(machine.descriptors, 1024);
    }

    #[test]
    fn two_cores_with_two_threads_each() {
        let (first, second) = (siblings(0), siblings(1));
        let (third, fourth) = (siblings(2), siblings(3));
        let tree = Tree::new(
            "smt",
            &[
                (&first, "0,2\n"),
                (&second, "1,3\n"),
                (&third, "0,2\n"),
                (&fourth, "1,3\n"),
                ("sys/devices/system/node/node0/cpulist", "0-3\n"),
                ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n"),
            ],
        );
        let machine = tree.read(&[0, 1, 2, 3]);
        let cores: Vec<usize> = machine.cpus.iter().map(|cpu| cpu.core).collect();
        assert_eq!(cores, [0, 1, 0, 1]);
        assert_eq!(machine.memory_bytes, Some(16 << 20));
    }

    #[test]
    fn sixteen_cores_in_two_nodes() {
        let tree = Tree::new(
            "numa",
            &[
                ("sys/devices/system/node/node0/cpulist", "0-7\n"),
                ("sys/devices/system/node/node1/cpulist", "8-15\n"),
                ("sys/devices/system/node/node2/cpulist", "\n"),
                ("sys/devices/system/node/has_cpu", "0-1\n"),
            ],
        );
        let machine = tree.read(&[0, 7, 8, 15]);
        let nodes: Vec<usize> = machine.cpus.iter().map(|cpu| cpu.node).collect();
        assert_eq!(nodes, [0, 0, 1, 1]);
    }

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        let tree = Tree::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("proc/meminfo", "MemTotal: 1048576 kB\n"),
                ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/a/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.max", "4096\n"),
                ("sys/fs/cgroup/c/cpu.max", "1 100000\n"),
            ],
        );
        let machine = tree.read(&[0]);
        assert_eq!(machine.quota_milli, Some(1500));
        assert_eq!(machine.quota_workers(), Some(2));
        assert_eq!(machine.memory_bytes, Some(4096));
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_finds_its_limits_at_the_root() {
        let tree = Tree::new(
            "container",
            &[
                ("proc/self/cgroup", "0::/../../docker/0123\n"),
                ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
                ("sys/fs/cgroup/memory.max", "1000\n"),
            ],
        );
        let machine = tree.read(&[0]);
        assert_eq!(machine.quota_milli, Some(500));
        assert_eq!(machine.quota_workers(), Some(1));
        assert_eq!(machine.memory_bytes, Some(1000));
    }

    #[test]
    fn the_first_version_of_cgroups() {
        let tree = Tree::new(
            "v1",
            &[
                (
                    "proc/self/cgroup",
                    "4:memory:/pod\n3:cpuset:/\n2:cpu,cpuacct:/pod\n0::/\n",
                ),
                ("proc/meminfo", "MemTotal: 1024 kB\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "250000\n"),
                (
                    "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us",
                    "100000\n",
                ),
                (
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "65536\n"),
            ],
        );
        let machine = tree.read(&[0]);
        assert_eq!(machine.quota_milli, Some(2500));
        assert_eq!(machine.quota_workers(), Some(3));
        assert_eq!(machine.memory_bytes, Some(65_536));
    }

    #[test]
    fn nonsense_is_no_limit() {
        let tree = Tree::new(
            "nonsense",
            &[
                ("proc/self/cgroup", "x\n0::/\n:::\n"),
                ("proc/meminfo", "MemTotal: lots\n"),
                ("sys/fs/cgroup/cpu.max", "100000 0\n"),
                ("sys/fs/cgroup/memory.max", "-5\n"),
                ("sys/devices/system/node/node0/cpulist", "a-b\n"),
            ],
        );
        let machine = tree.read(&[3]);
        assert_eq!((machine.quota_milli, machine.memory_bytes), (None, None));
        assert_eq!(machine.cpus[0].node, 0);
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_cpu_list("0-3,6"), Some(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse_cpu_list(" 5 , 7 - 8\n"), Some(vec![5, 7, 8]));
        assert_eq!(parse_cpu_list(""), Some(vec![]));
        for wrong in ["a", "1-", "3-1", "1,,2", "0-99999999999", "-1", "0-65535,7"] {
            assert_eq!(parse_cpu_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::here().unwrap();
        assert!(!machine.cpus.is_empty());
        assert!(machine.descriptors > 0);
        assert!(machine.memory_bytes.is_some());
    }
}
