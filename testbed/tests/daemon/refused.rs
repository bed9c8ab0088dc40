//! Starts that are refused: exit code 1, the reason on stderr, nothing left behind.

use aya::programs::{Xdp, XdpMode};
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::{Daemon, Refusal};

use crate::kit::*;

const FLOWS: &str = "actions=NORMAL\n";

fn scene() -> (sluice_testbed::host::Host, sluice_testbed::host::Host, String) {
    let (node, c2) = (host("node"), host("c2"));
    wire(&node, "veth2", &c2);
    let config = "[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
                  [[bridge.port]]\nname = \"p1\"\ntype = \"internal\"\ndevice = \"tap1\"\n\
                  [[bridge.port]]\nname = \"p2\"\ntype = \"afxdp\"\ndevice = \"veth2\"\n";
    (node, c2, config.to_owned())
}

fn told(refusal: &Refusal, words: &[&str]) {
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    for word in words {
        assert!(refusal.stderr.contains(word), "no `{word}` in: {}", refusal.stderr);
    }
}

fn nothing_left(node: &sluice_testbed::host::Host) {
    let links = node.ns.ip("link show").unwrap();
    assert!(!links.contains("tap1") && !links.contains("xdp"), "{links}");
}

#[test]
fn a_wrong_file_is_refused() {
    if !root_or_skip("daemon: refused files") {
        return;
    }
    let (node, _c2, config) = scene();
    let wrong = config.replace("afxdp", "afxpd");
    told(&Daemon::refused(&node.ns, &wrong, FLOWS).unwrap(), &["sluiced.toml", "afxpd"]);
    let wrong = config.replace("device = \"veth2\"", "device = \"veth2\"\ncolour = \"red\"");
    told(&Daemon::refused(&node.ns, &wrong, FLOWS).unwrap(), &["sluiced.toml", "colour"]);
    let flows = "actions=NORMAL\n\npriority=5,ip,nw_dst=10.0.0.0/99 actions=drop\n";
    told(&Daemon::refused(&node.ns, &config, flows).unwrap(), &["flows", "3", "10.0.0.0/99"]);
    nothing_left(&node);
}

#[test]
fn a_foreign_program_is_refused_by_name() {
    if !root_or_skip("daemon: foreign XDP") {
        return;
    }
    let (node, _c2, config) = scene();
    let mut object = aya::Ebpf::load(sluice_control::attach::OBJECT).unwrap();
    let program: &mut Xdp = object.program_mut("steer").unwrap().try_into().unwrap();
    program.load().unwrap();
    node.ns.run(|| program.attach("veth2", XdpMode::Driver)).unwrap();
    let before = node.ns.ip("link show veth2").unwrap();
    assert!(before.contains("xdp"));
    let refusal = Daemon::refused(&node.ns, &config, FLOWS).unwrap();
    told(&refusal, &["veth2", "steer", "id "]);
    assert_eq!(node.ns.ip("link show veth2").unwrap(), before, "the other's program stays");
    assert!(!node.ns.ip("link show").unwrap().contains("tap1"));
    drop(object);
}

#[test]
fn a_second_daemon_is_refused() {
    if !root_or_skip("daemon: socket in use") {
        return;
    }
    let mut scene = Pair::start(FLOWS);
    assert!(scene.pings());
    let refusal = scene.daemon.refused_again(&scene.node.ns).unwrap();
    told(&refusal, &["s.sock", "another sluiced is using it"]);
    assert!(scene.pings(), "the first goes on");
    assert!(scene.daemon.show().is_ok());
}
