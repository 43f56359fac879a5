//! This host, and a process whose quota is a fifth of a CPU.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::super::{Pressure, Readings, process_cpu_ns};

const TICK: Duration = Duration::from_millis(250);
/// How a test binary is told that it is the one that starves.
const STARVING: &str = "PANNIER_TEST_STARVING";

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Uses a CPU for a tick.
fn spin() {
    let end = Instant::now() + TICK;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn this_host_can_be_read() {
    let mut pressure = Pressure::new();
    pressure.read(now_ns());
    spin();
    let readings = pressure.read(now_ns());
    let idle = readings.idle.unwrap();
    assert!((0.0..=1.0).contains(&idle) && readings.cpus.unwrap() > 0.0, "{readings:?}");
    assert!(readings.proxy_cpu_ns > 0, "{readings:?}");
    let has_pressure = fs::read("/proc/pressure/cpu").is_ok();
    assert_eq!(readings.host_pressure.is_some(), has_pressure, "{readings:?}");
}

/// A group with that quota, of whichever version, removed at the end.
struct Group(PathBuf);

impl Group {
    fn with_quota(quota_us: u64) -> std::io::Result<Group> {
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let above = if first.is_dir() { first.clone() } else { PathBuf::from("/sys/fs/cgroup") };
        let folder = above.join(format!("pannier-pressure-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let group = Group(folder);
        if above == first {
            fs::write(group.0.join("cpu.cfs_period_us"), "100000")?;
            fs::write(group.0.join("cpu.cfs_quota_us"), quota_us.to_string())?;
        } else {
            fs::write(group.0.join("cpu.max"), format!("{quota_us} 100000"))?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_process_that_runs_out_of_its_quota_sees_it() {
    let group = match Group::with_quota(20_000) {
        Ok(group) => group,
        Err(error) => return eprintln!("skipped: no control group with a quota here: {error}"),
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "central::pressure::tests::live::starves", "--ignored", "--nocapture"])
        .env(STARVING, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(group.0.join("cgroup.procs"), child.id().to_string()).unwrap();
    let ended = child.wait().unwrap();
    assert!(ended.success(), "see above");
}

#[test]
#[ignore = "the child of the one above"]
fn starves() {
    if std::env::var_os(STARVING).is_none() {
        return;
    }
    let mut pressure = Pressure::new();
    let end = Instant::now() + Duration::from_secs(30);
    let mut readings = Readings::default();
    while Instant::now() < end {
        spin();
        readings = pressure.read(now_ns());
        let ran_out = readings.throttled.is_some_and(|percent| percent > 0.0);
        if ran_out && readings.cpus == Some(0.2) && readings.idle.is_some_and(|idle| idle < 0.5) {
            return;
        }
    }
    panic!("half a minute above the quota, and {readings:?}");
}

#[test]
#[ignore = "a measurement: cargo test --release -p pannier-proxy costs -- --ignored --nocapture"]
fn costs_little() {
    let threads = 4;
    let parked: Vec<_> = (0..threads).map(|_| std::thread::spawn(std::thread::park)).collect();
    let mut pressure = Pressure::new();
    pressure.read(now_ns());
    let looks = 60;
    let mut spent_ns = 0;
    for _ in 0..looks {
        // As it is in a proxy: whatever was in the caches is gone by the next look.
        std::thread::sleep(TICK);
        let before = process_cpu_ns();
        std::hint::black_box(pressure.read(now_ns()));
        spent_ns += process_cpu_ns() - before;
    }
    let per_look_us = spent_ns as f64 / f64::from(looks) / 1e3;
    let share = per_look_us * 4.0 / 1e6 * 100.0;
    println!("a look costs {per_look_us:.1} µs: {share:.3} % of a core at four a second, {threads} threads beside us");
    for thread in parked {
        thread.thread().unpark();
        thread.join().unwrap();
    }
    assert!(share <= 0.1);
}
