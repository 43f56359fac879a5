//! Where our control groups are: `/proc/self/cgroup` says which, `/proc/self/mountinfo` says where.
//!
//! A mount may show a part of the hierarchy only (a container's): what it shows begins at its root.

use std::path::{Path, PathBuf};

/// A hierarchy of control groups that is mounted.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    root: String,
    point: String,
    second: bool,
    options: String,
}

/// One of our groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    point: PathBuf,
    /// Below the mount, without a slash in front.
    group: String,
}

impl Place {
    /// The same in a tree of files elsewhere.
    pub fn below(&self, root: &Path) -> Self {
        Place { point: root.join(self.point.strip_prefix("/").unwrap_or(&self.point)), group: self.group.clone() }
    }

    /// Its files.
    pub fn folder(&self) -> PathBuf {
        self.point.join(&self.group)
    }

    /// Below the mount.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// It, and those above it as far as they are mounted.
    pub fn and_above(&self) -> impl Iterator<Item = PathBuf> {
        let depth = self.group.split('/').filter(|name| !name.is_empty()).count();
        self.folder().ancestors().take(depth + 1).map(Path::to_owned).collect::<Vec<_>>().into_iter()
    }
}

/// A line of mountinfo, if it is one of control groups.
pub fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let second = match after.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    Some(Mount { root: unescaped(root), point: unescaped(point), second, options: after.nth(1)?.to_owned() })
}

/// Our group of version 2.
pub fn unified(membership: &str, mounts: &[Mount]) -> Option<Place> {
    let group = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    place(group, mounts.iter().filter(|mount| mount.second))
}

/// Our group of a controller of version 1.
pub fn controller(membership: &str, mounts: &[Mount], name: &str) -> Option<Place> {
    let has = |names: &str| names.split(',').any(|one| one == name);
    let group = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next().filter(|names| has(names)).and(parts.next())
    })?;
    place(group, mounts.iter().filter(|mount| !mount.second && has(&mount.options)))
}

/// The mount that shows the group and begins closest to it.
fn place<'a>(group: &str, mounts: impl Iterator<Item = &'a Mount>) -> Option<Place> {
    let shown = mounts.filter_map(|mount| {
        let below = group.strip_prefix(mount.root.trim_end_matches('/'))?;
        let whole = below.is_empty() || below.starts_with('/');
        let inside = !below.split('/').any(|name| name == "..");
        (whole && inside).then(|| (mount, below.trim_matches('/')))
    });
    let (mount, below) = shown.max_by_key(|(mount, _)| mount.root.len())?;
    Some(Place { point: PathBuf::from(&mount.point), group: below.to_owned() })
}

/// mountinfo writes blanks, tabs, line ends and backslashes as `\` and three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                plain.push(char::from(code));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}
