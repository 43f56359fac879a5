//! What an orderly end leaves of the service directory: nothing of ours.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The keeper's own socket, by which a successor tells whether the directory is still in use.
const SOCKET: &str = "keeper.sock";

/// Removes regular files and sockets of this user directly inside `directory`, then the directory if that emptied it.
///
/// The keeper's socket goes last: until then a starting supervisor finds the keeper alive and waits, so nothing of a
/// successor can be among the files that go. Whatever cannot be removed stays; there is nobody left to tell.
pub fn remove(directory: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let removable = entry
            .metadata()
            .is_ok_and(|found| found.uid() == own && (found.file_type().is_file() || found.file_type().is_socket()));
        if removable && entry.file_name() != SOCKET {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_file(directory.join(SOCKET));
    let _ = fs::remove_dir(directory);
}
