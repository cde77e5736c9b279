//! L6: which processors run workers, and what each worker gets of the machine. Decisions alone;
//! the facts come from `machine`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::limits::{DESCRIPTORS_PER_CORE_RESERVED, DESCRIPTORS_RESERVED},
    config::{Config, MachineShare},
    machine::{Cpu, Machine, parse_cpu_list},
};

/// The processors that `server.cores` comes to, and what the operator should know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Their numbers; worker n gets the n-th.
    pub(super) cpus: Vec<usize>,
    /// What decided, if it was not the operator alone.
    pub(super) why: Option<String>,
    /// What the operator may not have meant.
    pub(super) warning: Option<String>,
}

/// The processors of `spec`: `all`, `physical` or a list such as `0-3,6`.
///
/// # Errors
/// What is wrong with `spec`.
pub(super) fn choose(spec: &str, machine: &Machine) -> Result<Choice, String> {
    match spec.trim() {
        "all" => Ok(within_quota(machine.cpus.clone(), machine, None)),
        "physical" => {
            let mut seen = BTreeSet::new();
            let first = |cpu: &Cpu| seen.insert(cpu.core);
            let cpus: Vec<Cpu> = machine.cpus.iter().copied().filter(first).collect();
            let why = (cpus.len() < machine.cpus.len())
                .then(|| "one thread of each physical core".to_owned());
            Ok(within_quota(cpus, machine, why))
        }
        list => listed(list, machine),
    }
}

fn listed(list: &str, machine: &Machine) -> Result<Choice, String> {
    let cpus = parse_cpu_list(list)
        .ok_or("expected \"all\", \"physical\" or a list such as \"0-3,6\"".to_owned())?;
    if cpus.is_empty() {
        return Err("no core is listed".to_owned());
    }
    let usable = machine.cpu_ids();
    let mut seen = BTreeSet::new();
    for cpu in &cpus {
        if !usable.contains(cpu) {
            let usable = numbers(&usable);
            return Err(format!(
                "core {cpu} may not be used here; may be used: {usable}"
            ));
        }
        if !seen.insert(cpu) {
            return Err(format!("core {cpu} is listed twice"));
        }
    }
    let warning = machine
        .quota_workers()
        .filter(|most| cpus.len() > *most)
        .map(|_| {
            format!(
                "{} workers share a CPU quota of {}: the kernel will hold them up",
                cpus.len(),
                quota(machine),
            )
        });
    Ok(Choice {
        cpus,
        why: None,
        warning,
    })
}

/// At most as many of `cpus` as the quota keeps running: a worker that the kernel holds up holds
/// up the rooms that live with it. One thread of each physical core comes before the others, and
/// one NUMA node is filled before the next, the one with the most cores first.
fn within_quota(mut cpus: Vec<Cpu>, machine: &Machine, why: Option<String>) -> Choice {
    let most = machine.quota_workers().unwrap_or(usize::MAX);
    let mut why = why;
    if cpus.len() > most {
        why = Some(format!(
            "{most} of {} because of the CPU quota of {}",
            cpus.len(),
            quota(machine),
        ));
        let mut cores_of_node = BTreeMap::<usize, BTreeSet<usize>>::new();
        for cpu in &cpus {
            cores_of_node.entry(cpu.node).or_default().insert(cpu.core);
        }
        let mut threads = BTreeMap::<usize, usize>::new();
        let mut ranked: Vec<_> = cpus
            .iter()
            .map(|cpu| {
                let seen = threads.entry(cpu.core).or_default();
                let thread = *seen;
                *seen += 1;
                let cores = cores_of_node.get(&cpu.node).map_or(0, BTreeSet::len);
                ((thread, std::cmp::Reverse(cores), cpu.node, cpu.id), *cpu)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        cpus = ranked.into_iter().take(most).map(|(_, cpu)| cpu).collect();
        cpus.sort_by_key(|cpu| cpu.id);
    }
    Choice {
        cpus: cpus.iter().map(|cpu| cpu.id).collect(),
        why,
        warning: None,
    }
}

/// The quota in processors, such as `1.5`.
fn quota(machine: &Machine) -> String {
    let milli = machine.quota_milli.unwrap_or(0);
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Gives each worker its processor: the one that its file names, else its place in `chosen`.
///
/// # Errors
/// Everything that does not fit, each in words.
pub(super) fn assign(
    chosen: &[usize],
    config: &Config,
    machine: &Machine,
) -> Result<Vec<usize>, Vec<String>> {
    let mut wrong = strays(config, chosen.len());
    let usable = machine.cpu_ids();
    let mut cpus = Vec::with_capacity(chosen.len());
    let mut taken = BTreeMap::<usize, usize>::new();
    for (worker, listed) in chosen.iter().enumerate() {
        let own = config.core(worker as u16).cpu;
        let cpu = own.map_or(*listed, |cpu| cpu as usize);
        if !usable.contains(&cpu) {
            wrong.push(format!(
                "cores/{worker}.toml: cpu = {cpu} may not be used here; may be used: {}",
                numbers(&usable)
            ));
        } else if let Some(other) = taken.insert(cpu, worker) {
            wrong.push(format!(
                "workers {other} and {worker} would both run on cpu {cpu}; each takes the cpu \
                 of its file, or its place in server.cores ({})",
                numbers(chosen)
            ));
        }
        cpus.push(cpu);
    }
    if wrong.is_empty() {
        Ok(cpus)
    } else {
        Err(wrong)
    }
}

/// The files of workers that do not exist, each in words.
pub(super) fn strays(config: &Config, workers: usize) -> Vec<String> {
    config
        .cores
        .keys()
        .filter(|core| usize::from(**core) >= workers)
        .map(|core| {
            format!(
                "cores/{core}.toml: there is no worker {core}; the last of the {workers} is {}",
                workers.saturating_sub(1)
            )
        })
        .collect()
}

/// What the machine has for each of `workers` workers: an equal part of the descriptors that the
/// gateway does not need for itself, and of three quarters of the memory. The last quarter is for
/// what the budgets do not count: the allocator's slack, the kernel's socket buffers, the rest of
/// the process.
pub(super) fn share(machine: &Machine, workers: usize) -> MachineShare {
    let workers = workers.max(1) as u64;
    let reserved = DESCRIPTORS_RESERVED + workers * DESCRIPTORS_PER_CORE_RESERVED;
    let connections = machine.descriptors.saturating_sub(reserved) / workers;
    let memory = machine
        .memory_bytes
        .map_or(u64::MAX, |bytes| (bytes / 4).saturating_mul(3) / workers);
    MachineShare {
        connections: u32::try_from(connections.max(1)).unwrap_or(u32::MAX),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
    }
}

/// Numbers as a list for people, `0,1,6`.
pub(super) fn numbers(cpus: &[usize]) -> String {
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    cpus.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::CoreFile;

    /// Two NUMA nodes of `cores` physical cores each, each core with two threads, numbered as
    /// Linux does: first threads of all cores, then second threads.
    fn machine(cores: usize, quota_milli: Option<u64>) -> Machine {
        let cpus = (0..4 * cores).map(|id| Cpu {
            id,
            core: id % (2 * cores),
            node: id % (2 * cores) / cores,
        });
        Machine {
            cpus: cpus.collect(),
            quota_milli,
            memory_bytes: Some(8 << 30),
            descriptors: 1 << 20,
        }
    }

    fn config(files: &[(u16, u32)]) -> Config {
        let mut config = Config::default();
        for (core, cpu) in files {
            let file = CoreFile {
                cpu: Some(*cpu),
                ..CoreFile::default()
            };
            config.cores.insert(*core, file);
        }
        config
    }

    #[test]
    fn all_is_all_without_a_quota() {
        let choice = choose("all", &machine(2, None)).unwrap();
        assert_eq!(choice.cpus, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((choice.why, choice.warning), (None, None));
    }

    #[test]
    fn physical_is_one_thread_of_each_core() {
        let choice = choose("physical", &machine(2, None)).unwrap();
        assert_eq!(choice.cpus, [0, 1, 2, 3]);
        assert!(choice.why.is_some());
        let choice = choose("physical", &machine(2, Some(3000))).unwrap();
        assert_eq!(choice.cpus, [0, 1, 2]);
        // Only second threads may be used.
        let mut second = machine(2, None);
        second.cpus.drain(..4);
        let choice = choose("physical", &second).unwrap();
        assert_eq!(choice.cpus, [4, 5, 6, 7]);
        assert_eq!(choice.why, None);
    }

    #[test]
    fn a_quota_takes_cores_before_threads_and_one_node_before_the_next() {
        let cases: [(u64, &[usize]); 6] = [
            (1, &[0]),
            (1000, &[0]),
            (1500, &[0, 1]),
            (3000, &[0, 1, 2]),
            (4500, &[0, 1, 2, 3, 4]),
            (8000, &[0, 1, 2, 3, 4, 5, 6, 7]),
        ];
        for (milli, cpus) in cases {
            let choice = choose("all", &machine(2, Some(milli))).unwrap();
            assert_eq!(choice.cpus, cpus, "{milli}");
            assert_eq!(choice.why.is_some(), milli < 8000, "{milli}");
        }
        let choice = choose("all", &machine(2, Some(1500))).unwrap();
        assert_eq!(
            choice.why.as_deref(),
            Some("2 of 8 because of the CPU quota of 1.5")
        );
    }

    #[test]
    fn the_node_with_the_most_cores_comes_first() {
        let mut machine = machine(4, Some(3000));
        // Of node 0 only one core is left, with both its threads.
        machine.cpus.retain(|cpu| cpu.node == 1 || cpu.core == 0);
        let choice = choose("all", &machine).unwrap();
        assert_eq!(choice.cpus, [4, 5, 6]);
    }

    #[test]
    fn a_list_is_taken_as_given_and_a_quota_only_warned_of() {
        let choice = choose("6, 0-1", &machine(2, Some(2000))).unwrap();
        assert_eq!(choice.cpus, [6, 0, 1]);
        assert!(choice.warning.unwrap().contains("quota of 2:"));
        let choice = choose("6,0", &machine(2, Some(2000))).unwrap();
        assert_eq!(choice.warning, None);
    }

    #[test]
    fn a_list_that_does_not_fit_is_told() {
        for (list, told) in [
            ("x", "expected"),
            ("3-1", "expected"),
            ("", "no core"),
            ("0,8", "core 8 may not be used here; may be used: 0,1,2"),
            ("0,1,0-2", "core 0 is listed twice"),
        ] {
            let error = choose(list, &machine(2, None)).unwrap_err();
            assert!(error.contains(told), "{list}: {error}");
        }
    }

    #[test]
    fn a_file_decides_for_its_worker() {
        let machine = machine(1, None);
        let assigned = |chosen: &[usize], files| assign(chosen, &config(files), &machine);
        assert_eq!(assigned(&[0, 1], &[]), Ok(vec![0, 1]));
        assert_eq!(assigned(&[0, 1], &[(1, 3)]), Ok(vec![0, 3]));
        assert_eq!(assigned(&[0, 1], &[(0, 1), (1, 0)]), Ok(vec![1, 0]));
    }

    #[test]
    fn all_that_does_not_fit_is_told_at_once() {
        let files = [(0, 1), (2, 9), (7, 0)];
        let wrong = assign(&[0, 1, 2], &config(&files), &machine(1, None)).unwrap_err();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("cores/7.toml: there is no worker 7"));
        assert!(wrong[1].starts_with("workers 0 and 1 would both run on cpu 1"));
        assert!(wrong[2].starts_with("cores/2.toml: cpu = 9 may not be used here"));
    }

    #[test]
    fn a_share_is_an_equal_part_of_what_is_left() {
        let machine = machine(2, None);
        let one = share(&machine, 1);
        assert_eq!(one.memory_bytes, 6 << 30);
        let four = share(&machine, 4);
        assert_eq!(four.memory_bytes, one.memory_bytes / 4);
        assert!(four.connections > one.connections / 4 - 64);
        let small = Machine {
            descriptors: 10,
            memory_bytes: None,
            ..machine
        };
        assert_eq!(share(&small, 4).connections, 1);
        assert_eq!(share(&small, 0).connections, 1);
    }

    proptest! {
        /// Whatever the machine, the shares together stay within it.
        #[test]
        fn shares_fit_in_the_machine(
            descriptors in 1024u64..u64::MAX,
            memory in 1u64..u64::MAX,
            workers in 1usize..8,
        ) {
            let machine = Machine {
                descriptors,
                memory_bytes: Some(memory),
                ..machine(2, None)
            };
            let share = share(&machine, workers);
            let workers = workers as u64;
            prop_assert!(u64::from(share.connections) * workers < descriptors);
            prop_assert!((share.memory_bytes as u128) * u128::from(workers) <= u128::from(memory));
        }

        /// Whatever the quota, the choice has no duplicates and its size is what the quota says.
        #[test]
        fn a_choice_is_as_large_as_the_quota(milli in 0u64..20_000, cores in 1usize..5) {
            let machine = machine(cores, Some(milli));
            let cpus = choose("all", &machine).unwrap().cpus;
            let distinct: BTreeSet<_> = cpus.iter().collect();
            prop_assert_eq!(distinct.len(), cpus.len());
            let most = (milli.div_ceil(1000).max(1) as usize).min(4 * cores);
            prop_assert_eq!(cpus.len(), most);
        }
    }
}
