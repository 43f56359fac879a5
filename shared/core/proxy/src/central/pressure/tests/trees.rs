//! Hosts that are folders: every counter is written by the test.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{Pressure, Readings};
use super::texts::{PRESSURE, STAT};

const TICK_NS: u64 = 250_000_000;

struct Host {
    root: PathBuf,
    pressure: Option<Pressure>,
    now_ns: u64,
}

impl Host {
    /// A host with pressure, processors and one thread, and these groups.
    fn new(name: &str, membership: &str, mounts: &str) -> Self {
        let root = std::env::temp_dir().join(format!("pannier-pressure-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let host = Host { root, pressure: None, now_ns: 5_000_000_000 };
        host.write("proc/pressure/cpu", &waited(0));
        host.write("proc/stat", &processors(0, 0));
        host.write("proc/self/task/7/schedstat", "0 0 0\n");
        host.write("proc/self/cgroup", membership);
        host.write("proc/self/mountinfo", mounts);
        host
    }

    fn second(name: &str) -> Self {
        Self::new(name, "0::/pod/app\n", "29 23 0:25 / /cg rw - cgroup2 cgroup2 rw\n")
    }

    fn hybrid(name: &str) -> Self {
        let mounts = "1 2 0:1 / /cpu rw - cgroup cgroup rw,cpu\n2 2 0:1 / /acct rw - cgroup cgroup rw,cpuacct\n\
                      3 2 0:1 / /unified rw - cgroup2 cgroup2 rw\n";
        Self::new(name, "2:cpuacct:/app\n1:cpu:/app\n0::/\n", mounts)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.root.join(path)).unwrap();
    }

    fn read(&mut self) -> Readings {
        self.now_ns += TICK_NS;
        let root: &Path = &self.root;
        self.pressure.get_or_insert_with(|| Pressure::below(root, || None)).read(self.now_ns)
    }

    /// Until the files have been looked for again.
    fn read_for_a_second(&mut self) -> Readings {
        (0..3).for_each(|_| drop(self.read()));
        self.read()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn waited(us: u64) -> String {
    format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
}

/// Two of them.
fn processors(busy: u64, idle: u64) -> String {
    format!("cpu  0 0 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu1 {busy} 0 0 {idle} 0 0 0 0 0 0\nintr 1\n")
}

fn ran_out(periods: u64, throttled: u64, used_us: u64) -> String {
    format!("usage_usec {used_us}\nnr_periods {periods}\nnr_throttled {throttled}\n")
}

#[test]
fn a_host_with_version_2_and_a_quota_above_us() {
    let mut host = Host::second("second");
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    host.write("cg/pod/app/cpu.max", "max 100000\n");
    host.write("cg/pod/app/cpu.stat", "usage_usec 0\n");
    host.write("cg/pod/cpu.max", "50000 100000\n");
    host.write("cg/pod/cpu.stat", &ran_out(0, 0, 0));
    host.write("cg/cpu.stat", "usage_usec 0\n");
    let first = host.read();
    assert_eq!((first.host_pressure, first.cgroup_pressure, first.throttled, first.idle), (None, None, None, None));
    assert_eq!((first.trouble, first.cpus), (vec![], Some(0.5)));
    host.write("proc/pressure/cpu", &waited(100_000));
    host.write("cg/pod/app/cpu.pressure", &waited(200_000));
    host.write("cg/pod/cpu.stat", &ran_out(4, 1, 100_000));
    host.write("proc/stat", &processors(10, 30));
    host.write("proc/self/task/7/schedstat", "5 6000000 3\n");
    let second = host.read();
    assert_eq!((second.host_pressure, second.cgroup_pressure, second.throttled), (Some(40.0), Some(80.0), Some(25.0)));
    assert_eq!(second.run_delay_ms, Some(2.0));
    let idle = second.idle.unwrap();
    assert!((idle - 0.2).abs() < 1e-9, "0.4 CPUs of a quota of 0.5 are used, 1.5 of the host's are idle: {idle}");
    assert_eq!((second.cpus, second.trouble), (Some(0.5), vec![]));
}

#[test]
fn the_worst_of_all_quotas_counts_and_the_host_may_have_less_left_than_they() {
    let mut host = Host::second("worst");
    for (group, quota) in [("cg/pod/app", "150000 100000\n"), ("cg/pod", "180000 100000\n")] {
        host.write(&format!("{group}/cpu.max"), quota);
        host.write(&format!("{group}/cpu.stat"), &ran_out(0, 0, 0));
    }
    host.read();
    host.write("cg/pod/app/cpu.stat", &ran_out(10, 9, 25_000));
    host.write("cg/pod/cpu.stat", &ran_out(10, 2, 25_000));
    host.write("proc/stat", &processors(35, 5));
    let readings = host.read();
    assert_eq!((readings.throttled, readings.cpus), (Some(90.0), Some(1.5)));
    assert!((readings.idle.unwrap() - 0.25 / 1.5).abs() < 1e-9, "an eighth of two processors, of 1.5: {readings:?}");
}

#[test]
fn a_hybrid_host_has_quotas_of_version_1_and_pressure_of_version_2() {
    let mut host = Host::hybrid("hybrid");
    let period =
        |periods: u64, throttled: u64| format!("nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time 0\n");
    for (folder, quota) in [("cpu/app", "100000\n"), ("cpu", "-1\n")] {
        host.write(&format!("{folder}/cpu.cfs_quota_us"), quota);
        host.write(&format!("{folder}/cpu.cfs_period_us"), "100000\n");
        host.write(&format!("{folder}/cpu.stat"), &period(0, 0));
    }
    host.write("acct/app/cpuacct.usage", "0\n");
    host.write("acct/cpuacct.usage", "0\n");
    host.write("unified/cpu.pressure", &waited(7));
    host.read();
    host.write("cpu/app/cpu.stat", &period(3, 3));
    host.write("acct/app/cpuacct.usage", "200000000\n");
    host.write("unified/cpu.pressure", &waited(250_007));
    host.write("proc/stat", &processors(0, 40));
    let readings = host.read();
    assert_eq!((readings.throttled, readings.cgroup_pressure, readings.cpus), (Some(100.0), Some(100.0), Some(1.0)));
    assert!((readings.idle.unwrap() - 0.2).abs() < 1e-9, "{readings:?}");
    assert!(readings.trouble.is_empty(), "{readings:?}");
}

#[test]
fn without_usage_a_quota_that_ran_out_has_nothing_left() {
    let mut host = Host::hybrid("unused");
    host.write("proc/self/cgroup", "2:cpuacct:/\n1:cpu:/app\n0::/\n");
    host.write("unified/cpu.pressure", &waited(0));
    host.write("cpu/app/cpu.cfs_quota_us", "100000\n");
    host.write("cpu/app/cpu.cfs_period_us", "100000\n");
    host.write("cpu/app/cpu.stat", "nr_periods 0\nnr_throttled 0\n");
    host.read();
    for (at, throttled, idle) in [(1, 0, 1.0), (2, 1, 0.0), (3, 1, 1.0)] {
        host.write("proc/stat", &processors(0, 25 * at));
        host.write("cpu/app/cpu.stat", &format!("nr_periods {}\nnr_throttled {throttled}\n", 3 * at));
        assert_eq!(host.read().idle, Some(idle), "{at}");
    }
}

#[test]
fn a_host_without_quotas_is_not_throttled_and_that_is_no_trouble() {
    let mut host = Host::second("free");
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    host.read();
    host.write("proc/stat", &processors(10, 10));
    let readings = host.read();
    assert_eq!((readings.throttled, readings.idle, readings.cpus), (None, Some(0.5), Some(2.0)));
    assert!(readings.trouble.is_empty(), "{readings:?}");
}

#[test]
fn where_there_is_nothing_nothing_is_known_and_each_file_is_named() {
    let root = std::env::temp_dir().join("pannier-pressure-nowhere");
    let mut pressure = Pressure::below(&root, || None);
    pressure.read(1);
    let readings = pressure.read(TICK_NS);
    let unknown =
        Readings { proxy_cpu_ns: readings.proxy_cpu_ns, trouble: readings.trouble.clone(), ..Readings::default() };
    assert_eq!(readings, unknown);
    for named in
        ["version 2", "proc/pressure/cpu: No such file", "proc/stat: No such file", "proc/self/task: No such file"]
    {
        assert_eq!(readings.trouble.iter().filter(|line| line.contains(named)).count(), 1, "{named} in {readings:?}");
    }
    assert_eq!(pressure.read(2 * TICK_NS).trouble.len(), 4, "it does not grow");
}

#[test]
fn counters_that_go_back_and_clocks_that_stand_still_say_nothing() {
    let mut host = Host::second("back");
    host.write("cg/pod/app/cpu.pressure", &waited(900_000));
    host.write("proc/pressure/cpu", &waited(900_000));
    host.write("proc/self/task/7/schedstat", "5 6000000 3\n");
    host.write("proc/stat", &processors(1_000, 1_000));
    host.read();
    host.write("proc/pressure/cpu", &waited(10));
    host.write("proc/self/task/7/schedstat", "0 0 0\n");
    host.write("proc/stat", &processors(0, 2_000));
    let back = host.read();
    assert_eq!((back.host_pressure, back.run_delay_ms, back.idle), (None, None, None));
    host.write("proc/pressure/cpu", &waited(25_010));
    assert_eq!(host.read().host_pressure, Some(10.0));
    host.now_ns -= TICK_NS;
    assert_eq!(host.read().host_pressure, None);
    host.now_ns -= 3_000_000_000;
    assert_eq!(host.read().host_pressure, None);
    assert_eq!(host.read().host_pressure, Some(0.0));
}

#[test]
fn garbage_in_any_file_is_trouble_and_never_an_end() {
    let mut host = Host::second("garbage");
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    host.write("cg/pod/app/cpu.max", "50000 100000\n");
    host.write("cg/pod/app/cpu.stat", &ran_out(0, 0, 0));
    host.read();
    let files = [
        ("proc/pressure/cpu", PRESSURE),
        ("proc/stat", STAT),
        ("cg/pod/app/cpu.pressure", PRESSURE),
        ("cg/pod/app/cpu.max", "50000 100000\n"),
        ("cg/pod/app/cpu.stat", "usage_usec 1\nnr_periods 2\nnr_throttled 1\n"),
        ("proc/self/task/7/schedstat", "1 2 3\n"),
    ];
    for (path, whole) in files {
        for bad in (0..=whole.len()).map(|end| &whole.as_bytes()[..end]).chain([&b"\xff\xfe\0\n"[..], &[b'7'; 70_000]])
        {
            fs::write(host.root.join(path), bad).unwrap();
            let readings = host.read();
            if bad != whole.as_bytes() && (bad.len() < 8 || bad.len() > 1_000) {
                let named = readings.trouble.iter().filter(|line| line.contains(path)).count();
                assert_eq!(named, 1, "{path} {:?} {readings:?}", String::from_utf8_lossy(&bad[..bad.len().min(9)]));
            }
        }
        host.write(path, whole);
        assert!(host.read_for_a_second().trouble.is_empty(), "{path}");
    }
}

#[test]
fn a_file_that_comes_later_is_found_within_a_second() {
    let mut host = Host::second("later");
    host.remove("proc/pressure/cpu");
    assert_eq!(host.read().trouble.len(), 2);
    host.write("proc/pressure/cpu", &waited(0));
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    assert!(host.read_for_a_second().trouble.is_empty());
    assert_eq!(host.read().host_pressure, Some(0.0));
}

#[test]
fn a_process_that_is_moved_reads_its_new_group_within_a_second() {
    let mut host = Host::second("moved");
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    host.write("cg/other/cpu.pressure", &waited(0));
    host.write("cg/other/cpu.max", "20000 100000\n");
    host.write("cg/other/cpu.stat", &ran_out(0, 0, 0));
    assert_eq!(host.read().cpus, Some(2.0));
    host.write("proc/self/cgroup", "0::/other\n");
    assert_eq!(host.read_for_a_second().cpus, Some(0.2));
    host.write("cg/other/cpu.stat", &ran_out(2, 2, 0));
    assert_eq!(host.read().throttled, Some(100.0));
}

#[test]
fn threads_that_end_and_begin_are_followed_and_the_worst_counts() {
    let mut host = Host::second("threads");
    host.write("cg/pod/app/cpu.pressure", &waited(0));
    host.read();
    host.write("proc/self/task/8/schedstat", "0 0 0\n");
    host.read_for_a_second();
    host.write("proc/self/task/7/schedstat", "1 10000000 10\n");
    host.write("proc/self/task/8/schedstat", "1 90000000 10\n");
    assert_eq!(host.read().run_delay_ms, Some(9.0));
    host.remove("proc/self/task/8/schedstat");
    fs::remove_dir(host.root.join("proc/self/task/8")).unwrap();
    host.write("proc/self/task/7/schedstat", "1 30000000 20\n");
    let left = host.read_for_a_second();
    assert!(left.trouble.is_empty(), "{left:?}");
    assert_eq!(host.read().run_delay_ms, Some(0.0));
}
