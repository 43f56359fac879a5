//! Signals to everything under the keeper: the processes it started, their groups, and orphans re-parented to it.

use std::fs;

use rustix::process::{Pid, Signal};

use crate::processes::Processes;

/// Who has had a TERM in this ending.
#[derive(Default)]
pub struct Sweep {
    told: Vec<Pid>,
    groups: Vec<Pid>,
}

impl Sweep {
    /// TERM to groups and children that have not had one. A child of a group that was told has had it.
    pub fn terminate(&mut self, processes: &Processes) {
        for group in processes.groups() {
            if !self.groups.contains(&group) {
                let _ = rustix::process::kill_process_group(group, Signal::TERM);
                self.groups.push(group);
            }
        }
        for child in children(processes) {
            if self.told.contains(&child) {
                continue;
            }
            let group = rustix::process::getpgid(Some(child)).ok();
            if !group.is_some_and(|group| self.groups.contains(&group)) {
                let _ = rustix::process::kill_process(child, Signal::TERM);
            }
            self.told.push(child);
        }
    }

    /// KILL to all groups and children. Their own children come to the keeper as they die: repeat until there are none.
    pub fn kill(processes: &Processes) {
        for group in processes.groups() {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        for child in children(processes) {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
    }
}

/// Every direct child; without the kernel's list of them, those that were started here.
fn children(processes: &Processes) -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero();
    fs::read_to_string(format!("/proc/self/task/{own}/children")).map_or_else(
        |_| processes.running(),
        |list| list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect(),
    )
}
