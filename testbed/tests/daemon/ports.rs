//! Ports at run time: added, deleted, gone with their device and back with it.

use sluice_control::api::types::{ErrorCode, Request};
use sluice_testbed::process::wait_until;
use sluice_testbed::root_or_skip;

use crate::kit::*;

const NORMAL: &str = "actions=NORMAL\n";

fn add(scene: &Pair, port: &str) -> Result<(), sluice_control::api::types::ApiError> {
    let (bridge, port) = ("br0".to_owned(), port.to_owned());
    scene.daemon.call(Request::PortAdd { bridge, port }).map(drop)
}

fn delete(scene: &Pair, port: &str) -> Result<(), sluice_control::api::types::ApiError> {
    let (bridge, port) = ("br0".to_owned(), port.to_owned());
    scene.daemon.call(Request::PortDel { bridge, port }).map(drop)
}

#[test]
fn a_port_is_added_and_deleted() {
    if !root_or_skip("daemon: port add and del") {
        return;
    }
    let scene = Pair::start(NORMAL);
    assert!(scene.pings());
    let c3 = host("c3");
    wire(&scene.node, "veth3", &c3);
    c3.address("eth0", "192.0.2.3/24").unwrap();
    assert!(is_cut(&scene.c1.ns, "192.0.2.3"));
    let text = "name = \"p3\"\ntype = \"afxdp\"\ndevice = \"veth3\"";
    add(&scene, text).unwrap();
    heals(&scene.c1.ns, "192.0.2.3");
    tcp(&c3.ns, &scene.c2.ns, C2, 1 << 20);
    assert_eq!(add(&scene, text).unwrap_err().code, ErrorCode::Exists);
    // One that is not there yet is taken up when it comes.
    add(&scene, "name = \"p4\"\ntype = \"afxdp\"\ndevice = \"veth4\"").unwrap();
    let p4 = scene.daemon.port("p4").unwrap();
    assert!(!p4.up && p4.status.contains("no device veth4"), "{p4:?}");
    let c4 = host("c4");
    wire(&scene.node, "veth4", &c4);
    c4.address("eth0", "192.0.2.4/24").unwrap();
    scene.daemon.wait_port("p4", true).unwrap();
    heals(&scene.c2.ns, "192.0.2.4");

    delete(&scene, "p3").unwrap();
    assert!(is_cut(&scene.c1.ns, "192.0.2.3"));
    assert!(!xdp_is_on(&scene, "veth3"), "the program stays on a deleted port's device");
    delete(&scene, "p1").unwrap();
    assert!(scene.c1.ns.ip("link show eth0").is_err(), "the TAP of a deleted port stays");
    assert!(pings(&c4.ns, C2));
    for name in ["p3", "p9"] {
        let error = delete(&scene, name).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.contains(&format!("\"{name}\"")), "{error}");
    }
    let error = add(&scene, "name = \"p5\"\ntype = \"carrier pigeon\"").unwrap_err();
    assert!(error.message.contains("carrier pigeon"), "{error}");
    assert!(scene.daemon.port("p5").is_err());
}

fn xdp_is_on(scene: &Pair, dev: &str) -> bool {
    scene.node.ns.ip(&format!("link show dev {dev}")).unwrap().contains("xdp")
}

#[test]
fn a_device_goes_and_comes_back() {
    if !root_or_skip("daemon: a device disappears") {
        return;
    }
    let scene = Pair::start(NORMAL);
    let c3 = host("c3");
    wire(&scene.node, "veth3", &c3);
    c3.address("eth0", "192.0.2.3/24").unwrap();
    add(&scene, "name = \"p3\"\ntype = \"afxdp\"\ndevice = \"veth3\"").unwrap();
    heals(&c3.ns, C2);
    for _ in 0..2 {
        scene.node.ns.ip("link del veth2").unwrap();
        // The link goes down before it goes.
        let gone = || {
            let port = scene.daemon.wait_port("p2", false).unwrap();
            port.status.contains("veth2").then_some(())
        };
        wait_until("p2 says that veth2 is gone", LIMIT, gone).unwrap();
        assert!(pings(&c3.ns, C1), "the other ports go on");
        assert!(is_cut(&c3.ns, C2));
        wire(&scene.node, "veth2", &scene.c2);
        scene.c2.address("eth0", &format!("{C2}/24")).unwrap();
        scene.daemon.wait_port("p2", true).unwrap();
        heals(&scene.c1.ns, C2);
        tcp(&scene.c1.ns, &scene.c2.ns, C2, 1 << 20);
    }
    frames_are_whole(&scene.daemon);
}

#[test]
fn a_tap_goes_and_is_made_again() {
    if !root_or_skip("daemon: a TAP disappears") {
        return;
    }
    let scene = Pair::start(NORMAL);
    assert!(scene.pings());
    scene.c1.ns.ip("link del eth0").unwrap();
    heals(&scene.c2.ns, C1);
    tcp(&scene.c2.ns, &scene.c1.ns, C1, 1 << 20);
    frames_are_whole(&scene.daemon);
}

#[test]
fn a_link_is_set_down_and_up() {
    if !root_or_skip("daemon: link down and up") {
        return;
    }
    let scene = Pair::start(NORMAL);
    assert!(scene.pings());
    scene.node.ns.ip("link set veth2 down").unwrap();
    let port = scene.daemon.wait_port("p2", false).unwrap();
    assert!(port.status.contains("down"), "{port:?}");
    assert!(is_cut(&scene.c1.ns, C2));
    scene.node.ns.ip("link set veth2 up").unwrap();
    scene.daemon.wait_port("p2", true).unwrap();
    heals(&scene.c1.ns, C2);
    tcp(&scene.c1.ns, &scene.c2.ns, C2, 1 << 20);
    // The same for a TAP, inside the container.
    scene.c1.ns.ip("link set eth0 down").unwrap();
    assert!(is_cut(&scene.c2.ns, C1));
    scene.c1.ns.ip("link set eth0 up").unwrap();
    heals(&scene.c2.ns, C1);
    counters_add_up(&scene.daemon);
}
