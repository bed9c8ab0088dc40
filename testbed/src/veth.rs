//! veth pairs between namespaces, with several queues, and offload settings left as they come.

use std::process::Command;

use crate::Result;
use crate::netns::{Namespace, run_command};

/// What a pair is made with.
#[derive(Clone, Copy, Debug)]
pub struct VethOptions {
    /// Receive and transmit queues at each end.
    pub queues: u32,
    pub mtu_bytes: u32,
}

impl Default for VethOptions {
    fn default() -> Self {
        Self { queues: 1, mtu_bytes: 1500 }
    }
}

/// One end of a pair: where, and under what name.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub ns: &'a Namespace,
    pub dev: &'a str,
}

/// Makes a pair and sets both ends up. It goes when either namespace goes.
pub fn join(a: End<'_>, b: End<'_>, options: VethOptions) -> Result<()> {
    let queues = options.queues.to_string();
    let mtu = options.mtu_bytes.to_string();
    let shape = ["numtxqueues", &queues, "numrxqueues", &queues, "mtu", &mtu];
    let mut command = Command::new("ip");
    command.args(["link", "add", a.dev, "netns", a.ns.name()]).args(shape);
    command.args(["type", "veth", "peer", "name", b.dev, "netns", b.ns.name()]).args(shape);
    run_command(&mut command)?;
    for end in [a, b] {
        end.ns.ip(&format!("link set {} up", end.dev))?;
    }
    Ok(())
}

/// The link-layer address of a device, as iproute2 prints it.
pub fn mac_of(ns: &Namespace, dev: &str) -> Result<String> {
    let line = ns.ip(&format!("-o link show dev {dev}"))?;
    let mut words = line.split_whitespace().skip_while(|w| *w != "link/ether").skip(1);
    let missing = || crate::Error::Unexpected(format!("{dev} has no Ethernet address: {line}"));
    words.next().map(str::to_owned).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root_or_skip;

    #[test]
    fn a_pair_has_the_asked_queues_and_mtu() {
        if !root_or_skip("veth") {
            return;
        }
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        let options = VethOptions { queues: 3, mtu_bytes: 1400 };
        join(End { ns: &a, dev: "eth0" }, End { ns: &b, dev: "p1" }, options).unwrap();
        for (ns, dev) in [(&a, "eth0"), (&b, "p1")] {
            let link = ns.ip(&format!("-d -o link show dev {dev}")).unwrap();
            assert!(link.contains("mtu 1400"), "{link}");
            assert!(link.contains("numtxqueues 3") && link.contains("numrxqueues 3"), "{link}");
            assert_eq!(mac_of(ns, dev).unwrap().len(), 17);
        }
        assert!(mac_of(&a, "lo").is_err());
    }
}
