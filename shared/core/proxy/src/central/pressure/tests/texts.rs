//! Recorded texts, whole, cut off at every byte, and garbage.

use std::path::{Path, PathBuf};

use super::super::groups::{controller, mount, unified};
use super::super::parse::{self, Slices, Times};

pub const PRESSURE: &str =
    "some avg10=2.48 avg60=19.50 avg300=22.91 total=17990074127\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
pub const STAT: &str = "cpu  300 10 100 700 50 0 30 10 40 0\ncpu0 100 5 50 400 25 0 10 5 40 0\ncpu1 200 5 50 300 25 0 20 5 0 0\nintr 86004 0 0 9\nctxt 7\n";
pub const FIRST_STAT: &str = "nr_periods 40\nnr_throttled 30\nthrottled_time 123456789\nnr_bursts 0\nburst_time 0\n";
pub const SECOND_STAT: &str = "usage_usec 64920129605\nuser_usec 52884870329\nsystem_usec 12035259275\nnice_usec 12198671415\nnr_periods 40\nnr_throttled 30\nthrottled_usec 9\n";
pub const SECOND_ROOT_STAT: &str = "usage_usec 64920129605\nuser_usec 52884870329\nsystem_usec 12035259275\n";

const FIRST_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,size=4096k
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const SECOND_MOUNTS: &str = "29 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
const SHOWN_IN_PART: &str = "\
700 680 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu
701 680 0:29 /docker /mnt/wider ro - cgroup cgroup rw,cpu
702 680 0:38 /docker/abc /with\\040blank\\134 ro - cgroup2 cgroup2 rw
";

fn cpu(names: &str, mounts: &str) -> Option<PathBuf> {
    let mounts: Vec<_> = mounts.lines().filter_map(mount).collect();
    controller(names, &mounts, "cpu").map(|place| place.folder())
}

fn second(names: &str, mounts: &str) -> Option<PathBuf> {
    let mounts: Vec<_> = mounts.lines().filter_map(mount).collect();
    unified(names, &mounts).map(|place| place.folder())
}

#[test]
fn groups_are_found_where_they_are_mounted() {
    let hybrid = "9:name=systemd:/\n3:cpuset:/sets\n2:cpu,cpuacct:/a/b\n0::/a\n";
    let cases = [
        ("hybrid", cpu(hybrid, FIRST_MOUNTS), Some("/sys/fs/cgroup/cpu,cpuacct/a/b")),
        ("hybrid, pressure", second(hybrid, FIRST_MOUNTS), Some("/sys/fs/cgroup/unified/a")),
        ("version 2", second("0::/user.slice/x\n", SECOND_MOUNTS), Some("/sys/fs/cgroup/user.slice/x")),
        ("version 2 has no controller of version 1", cpu("0::/user.slice/x\n", SECOND_MOUNTS), None),
        ("the root", second("0::/\n", SECOND_MOUNTS), Some("/sys/fs/cgroup/")),
        ("a name with a colon", second("0::/a:b\n", SECOND_MOUNTS), Some("/sys/fs/cgroup/a:b")),
        ("a part, the closest", cpu("2:cpu:/docker/abc/in\n", SHOWN_IN_PART), Some("/sys/fs/cgroup/cpu/in")),
        ("a part, the wider", cpu("2:cpu:/docker/other\n", SHOWN_IN_PART), Some("/mnt/wider/other")),
        ("a name that only begins alike", cpu("2:cpu:/docker-x\n", SHOWN_IN_PART), None),
        ("not in the part", cpu("2:cpu:/elsewhere\n", SHOWN_IN_PART), None),
        ("outside of the name space", second("0::/../../up\n", SECOND_MOUNTS), None),
        ("a mount with odd letters", second("0::/docker/abc/in\n", SHOWN_IN_PART), Some("/with blank\\/in")),
        ("no mounts", second("0::/\n", ""), None),
        ("no groups", second("", SECOND_MOUNTS), None),
        ("garbage", cpu("2:cpu\n::\nx", "1 2 3 - cgroup\n - \n4 5 6 / - cgroup cgroup cpu"), None),
    ];
    for (case, found, expected) in cases {
        assert_eq!(found.as_deref(), expected.map(Path::new), "{case}");
    }
}

#[test]
fn those_above_are_named_up_to_the_mount() {
    let mounts: Vec<_> = SECOND_MOUNTS.lines().filter_map(mount).collect();
    let above: Vec<_> = unified("0::/a/b\n", &mounts).unwrap().and_above().collect();
    assert_eq!(above, ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"].map(PathBuf::from));
    let above: Vec<_> = unified("0::/\n", &mounts).unwrap().and_above().collect();
    assert_eq!(above, [PathBuf::from("/sys/fs/cgroup/")]);
}

#[test]
fn texts_of_the_kernel_are_understood() {
    assert_eq!(parse::waited_us(PRESSURE), Some(17_990_074_127));
    assert_eq!(parse::periods(FIRST_STAT), Some((40, 30)));
    assert_eq!(parse::periods(SECOND_STAT), Some((40, 30)));
    assert_eq!(parse::periods(SECOND_ROOT_STAT), None);
    assert_eq!(parse::field(SECOND_STAT, "usage_usec"), Some(64_920_129_605));
    assert_eq!(parse::quota("50000 100000\n"), Some(0.5));
    assert_eq!(parse::quota("max 100000\n"), Some(f64::INFINITY));
    assert_eq!(parse::number("-1\n"), Some(-1));
    assert_eq!(parse::slices("1234 5678 9\n"), Some(Slices { waited_ns: 5_678, count: 9 }));
    assert_eq!(parse::cpu_times(STAT, |_| true), Some(Times { cpus: 2, idle: 750, whole: 1_200 }));
    assert_eq!(parse::cpu_times(STAT, |cpu| cpu == 1), Some(Times { cpus: 1, idle: 325, whole: 605 }));
}

#[test]
fn what_is_cut_off_is_never_another_number() {
    for end in 0..PRESSURE.find('\n').unwrap() {
        assert_eq!(parse::waited_us(&PRESSURE[..end]), None);
    }
    for end in 0..FIRST_STAT.find("30\n").unwrap() + 2 {
        assert_eq!(parse::periods(&FIRST_STAT[..end]), None);
    }
    for end in 0..STAT.find("cpu1").unwrap() + 8 {
        assert!(parse::cpu_times(&STAT[..end], |_| true).is_none_or(|times| times.cpus == 1 && times.idle == 425));
    }
    for text in ["50000 100000", "50000", "1234 5678 9", "-1"] {
        for end in 0..=text.len() {
            let text = &text[..end];
            let nothing = (parse::quota(text), parse::number(text), parse::slices(text));
            assert_eq!(nothing, (None, None, None), "{text}");
        }
    }
}

#[test]
fn garbage_is_not_understood() {
    let garbage = [
        "",
        "\n",
        "some\n",
        "some total=\n",
        "some total=-1\n",
        "some total=99999999999999999999999\n",
        "full total=7\n",
        "0 0\n",
        "x y z\n",
        "5 0\n",
        "cpu0 1 2 3\n",
        "cpu0 a b c d e f g h\n",
        "cpu0 18446744073709551615 1 1 1 1 1 1 1\n",
        "nr_periods x\nnr_throttled 1\n",
        "nr_periods 1\n",
        "\u{1f980}\0\n",
    ];
    for text in garbage {
        assert_eq!(parse::waited_us(text), None, "{text:?}");
        assert_eq!(parse::periods(text), None, "{text:?}");
        assert_eq!(parse::quota(text), None, "{text:?}");
        assert_eq!(parse::cpu_times(text, |_| true), None, "{text:?}");
        assert_eq!(parse::slices(text), None, "{text:?}");
    }
}
