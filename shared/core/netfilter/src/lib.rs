//! The kernel's redirect of new connections, by nftables over netlink.
