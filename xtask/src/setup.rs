//! What the tests and the demo need from the system, and how to get it on Debian.
//!
//! A thing is looked for by what is used of it (a program, a header), never by its package, so that
//! other distributions and hand-made installations count. What is missing is installed when we are
//! root and there is an apt-get; else it is named, and what needs it is skipped.

use std::path::Path;
use std::process::Command;

use crate::shell::{has_program, is_root, run};

/// One need.
struct Need {
    found: Found,
    package: &'static str,
    why: &'static str,
}

enum Found {
    Program(&'static str),
    Header(&'static str),
    /// Of no user's path
    File(&'static str),
}

const NEEDS: &[Need] = &[
    program("cc", "gcc", "libbpf and the linker"),
    program("make", "make", "libbpf"),
    program("pkg-config", "pkg-config", "libbpf"),
    Need { found: Found::Header("libelf.h"), package: "libelf-dev", why: "libbpf" },
    Need { found: Found::Header("zlib.h"), package: "zlib1g-dev", why: "libbpf" },
    program("ip", "iproute2", "network namespaces"),
    program("ping", "iputils-ping", "reachability"),
    program("tcpdump", "tcpdump", "a second opinion on captures"),
    program("ethtool", "ethtool", "offload settings"),
    program("iperf3", "iperf3", "TCP rates"),
    program("ovs-ofctl", "openvswitch-common", "the reference for flow text"),
    program("ovs-vswitchd", "openvswitch-switch", "the reference for what flows do"),
];

/// What the peer of `bench pipeline` and `bench conntrack` needs: the switch, and what builds its
/// replay device.
const PEER_NEEDS: &[Need] = &[
    Need {
        found: Found::File("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"),
        package: "openvswitch-switch-dpdk",
        why: "the peer",
    },
    program("ovsdb-server", "openvswitch-switch", "the peer's database"),
    program("ovs-ofctl", "openvswitch-common", "the peer's rules"),
    Need { found: Found::Header("dpdk/rte_ethdev.h"), package: "libdpdk-dev", why: "its replay" },
    program("cc", "gcc", "its replay"),
    program("pkg-config", "pkg-config", "its replay"),
    program("dpkg-source", "dpkg-dev", "DPDK's sources"),
    program("xz", "xz-utils", "DPDK's sources"),
    program("taskset", "util-linux", "pinning"),
];

const fn program(name: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { found: Found::Program(name), package, why }
}

impl Need {
    fn is_met(&self) -> bool {
        match self.found {
            Found::Program(name) => has_program(name),
            Found::Header(name) => Path::new("/usr/include").join(name).is_file(),
            Found::File(path) => Path::new(path).is_file(),
        }
    }

    fn tell(&self) -> String {
        format!("{} (for {})", self.package, self.why)
    }
}

/// Installs what is missing, or says what is. Returns what is still missing.
pub fn ensure() -> Result<Vec<String>, String> {
    ensure_all(NEEDS)
}

/// The same for the peer of `bench pipeline` and `bench conntrack`.
pub fn ensure_peer() -> Result<Vec<String>, String> {
    ensure_all(PEER_NEEDS)
}

fn ensure_all(needs: &[Need]) -> Result<Vec<String>, String> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let told: Vec<String> = missing.iter().map(|need| need.tell()).collect();
    if !is_root() || !has_program("apt-get") {
        println!("setup: missing: {}", told.join(", "));
        println!("setup: on Debian, as root: apt-get install {}", packages(&missing));
        return Ok(told);
    }
    println!("setup: installing {}", told.join(", "));
    run(apt().args(["-q", "update"]))?;
    run(apt()
        .args(["-qq", "install", "-y", "--no-install-recommends"])
        .args(missing.iter().map(|need| need.package)))?;
    let still = missing.iter().filter(|need| !need.is_met()).map(|need| need.tell());
    Ok(still.collect())
}

fn packages(missing: &[&Need]) -> String {
    missing.iter().map(|need| need.package).collect::<Vec<_>>().join(" ")
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
