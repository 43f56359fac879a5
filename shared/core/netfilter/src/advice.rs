//! What the kernel refused, as a line that says what to do.

use rustix::io::Errno;

use crate::netlink::Refused;

/// One line.
pub fn on(refused: &Refused) -> String {
    let Refused { what, errno } = refused;
    let todo = match *errno {
        Errno::EXIST | Errno::PERM if *what == "the table" => {
            "another holds the name: one redirect of a process for a port is enough"
        }
        Errno::PERM | Errno::ACCESS => {
            "give it CAP_NET_ADMIN (root, or AmbientCapabilities=CAP_NET_ADMIN), or use the relay"
        }
        Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
            "the kernel has no nf_tables: modprobe nf_tables, or use the relay"
        }
        Errno::OPNOTSUPP | Errno::INVAL if *what == "the table" => "it takes Linux 5.12 or newer; use the relay",
        Errno::NOENT | Errno::OPNOTSUPP => {
            "the kernel lacks a part of nf_tables: modprobe -a nft_chain_nat nft_numgen nft_ct nft_nat nft_masq, or use the relay"
        }
        Errno::MSGSIZE | Errno::NOBUFS => "too many Centrals at once: name fewer",
        Errno::MFILE | Errno::NFILE => "too many open files: raise the limit",
        _ => "the kernel's reason is all that is known; use the relay",
    };
    format!("the kernel refuses {what} ({errno}): {todo}")
}
