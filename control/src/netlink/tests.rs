//! Against the real kernel, in fresh network namespaces that end with their threads.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Cidr, Internal, MacAddr, NetnsRoute};

/// Runs in a new namespace, or says what is skipped.
fn in_netns(what: &str, test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root ({what})");
        return;
    }
    match netns::run_in_new(test) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: may not make network namespaces ({what})");
        }
        Err(error) => panic!("{error}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// Waits for a snapshot that pleases.
fn wait(watch: &UnderlayWatch, what: &str, pleases: impl Fn(&Underlay) -> bool) -> Arc<Underlay> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let now = watch.current();
        if pleases(&now) {
            return now;
        }
        assert!(Instant::now() < end, "no snapshot with {what}: {now:#?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn links_addresses_and_routes_are_followed() {
    in_netns("following links, addresses and routes", || {
        let watch = UnderlayWatch::start().unwrap();
        let mut s = Socket::open().unwrap();
        s.add_veth("va", "vb", 2).unwrap();
        let va = s.link_required("va").unwrap();
        let vb = s.link_required("vb").unwrap();
        assert_eq!((va.kind.as_str(), va.rx_queues, va.up), ("veth", 2, false));
        s.set_mac(va.ifindex, MacAddr([2, 0, 0, 0, 0, 1])).unwrap();
        s.set_mtu(va.ifindex, 1400).unwrap();
        s.add_address(va.ifindex, cidr("10.7.0.1/24")).unwrap();
        s.add_address(va.ifindex, cidr("fd07::1/64")).unwrap();
        for link in [&va, &vb] {
            s.set_up(link.ifindex, true).unwrap();
        }
        s.add_route(va.ifindex, cidr("10.8.0.0/16"), Some(ip("10.7.0.254"))).unwrap();
        s.add_route(va.ifindex, cidr("fd08::/32"), Some(ip("fd07::fe"))).unwrap();
        let to = ip("10.8.1.1");
        let u = wait(&watch, "the routes", |u| {
            u.path(to, None).is_ok() && u.path(ip("fd08::1"), None).is_ok()
        });
        let path = u.path(to, None).unwrap();
        assert_eq!((path.ifindex, path.next_hop), (va.ifindex, ip("10.7.0.254")));
        assert_eq!((path.source, path.mtu_bytes), (ip("10.7.0.1"), 1400));
        assert_eq!(path.source_mac, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(u.path(ip("fd08::1"), None).unwrap().source, ip("fd07::1"));
        assert_eq!(u.path(ip("10.7.0.1"), None), Err(NoPath::Local));

        // The far end goes down: no carrier, no way; and back.
        s.set_up(vb.ifindex, false).unwrap();
        wait(&watch, "the link down", |u| u.path(to, None).is_err());
        s.set_up(vb.ifindex, true).unwrap();
        wait(&watch, "the link up", |u| u.path(to, None).is_ok());

        s.delete_link(va.ifindex).unwrap();
        let u = wait(&watch, "the link gone", |u| u.link_by_name("va").is_none());
        assert_eq!(u.path(to, None), Err(NoPath::NoRoute));
    });
}

#[test]
fn a_neighbour_is_resolved_by_the_kernel_and_followed() {
    in_netns("resolving a neighbour", || {
        let watch = UnderlayWatch::start().unwrap();
        let mut s = Socket::open().unwrap();
        s.add_veth("va", "vb", 1).unwrap();
        let va = s.link_required("va").unwrap();
        let vb = s.link_required("vb").unwrap();
        // The peer lives in a namespace of its own, held by a thread until the end.
        let (give_path, path) = mpsc::channel();
        let (end, wait_end) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Dropped by a failed assertion too, so that the other thread ends.
            let end = end;
            scope.spawn(move || {
                netns::run_in_new(move || {
                    give_path.send(netns::current().unwrap()).unwrap();
                    _ = wait_end.recv();
                })
            });
            let far: std::os::fd::OwnedFd = path.recv().unwrap();
            s.move_to_netns(vb.ifindex, &far).unwrap();
            netns::run_in(&far, || {
                let mut s = Socket::open().unwrap();
                let vb = s.link_required("vb").unwrap();
                s.add_address(vb.ifindex, cidr("10.7.0.2/24")).unwrap();
                s.set_up(vb.ifindex, true).unwrap();
            })
            .unwrap();
            s.add_address(va.ifindex, cidr("10.7.0.1/24")).unwrap();
            s.set_up(va.ifindex, true).unwrap();
            wait(&watch, "the route", |u| u.path(ip("10.7.0.2"), None).is_ok());
            let mut resolver = Resolver::new().unwrap();
            assert!(resolver.resolve(va.ifindex, ip("10.7.0.2")).unwrap());
            assert!(!resolver.resolve(va.ifindex, ip("10.7.0.2")).unwrap(), "too soon");
            let known = |u: &Underlay| u.neighbour_mac(va.ifindex, ip("10.7.0.2")).is_some();
            let u = wait(&watch, "the neighbour", known);
            assert_eq!(u.neighbour_mac(va.ifindex, ip("10.7.0.2")), vb.mac);
            // One that is not there: asked, and never usable.
            resolver.resolve(va.ifindex, ip("10.7.0.9")).unwrap();
            let at = (va.ifindex, ip("10.7.0.9"));
            let u = wait(&watch, "the unknown neighbour", |u| u.neighbours.contains_key(&at));
            assert_eq!(u.neighbour_mac(at.0, at.1), None);
            // Losing the link forgets the neighbours.
            s.delete_link(va.ifindex).unwrap();
            wait(&watch, "no neighbours", |u| u.neighbours.is_empty());
            end.send(()).unwrap();
        });
    });
}

#[test]
fn an_internal_port_is_set_up_in_its_namespace() {
    in_netns("moving a device into a namespace", || {
        let mut s = Socket::open().unwrap();
        s.add_veth("port0", "vb", 1).unwrap();
        let vb = s.link_required("vb").unwrap();
        s.set_up(vb.ifindex, true).unwrap();
        let port0 = s.link_required("port0").unwrap();
        let (give_path, path) = mpsc::channel();
        let (end, wait_end) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Dropped by a failed assertion too, so that the other thread ends.
            let end = end;
            scope.spawn(move || {
                netns::run_in_new(move || {
                    let (pid, tid) = (std::process::id(), rustix::thread::gettid());
                    let tid = tid.as_raw_nonzero();
                    give_path
                        .send(PathBuf::from(format!("/proc/{pid}/task/{tid}/ns/net")))
                        .unwrap();
                    _ = wait_end.recv();
                })
            });
            let path: PathBuf = path.recv().unwrap();
            let port = Internal {
                device: "port0".into(),
                netns: Some(path.clone()),
                addresses: vec![cidr("192.168.255.1/24"), cidr("fd00::1/64")],
                routes: vec![NetnsRoute {
                    to: cidr("0.0.0.0/0"),
                    via: Some(ip("192.168.255.254")),
                }],
                mac: Some(MacAddr([2, 0, 0, 0, 9, 9])),
                mtu_bytes: Some(1450),
            };
            configure_internal(port0.ifindex, &port).unwrap();
            assert!(s.link_named("port0").unwrap().is_none(), "it left this namespace");
            let far = netns::open(&path).unwrap();
            netns::run_in(&far, || {
                let watch = UnderlayWatch::start().unwrap();
                let u = wait(&watch, "the default route", |u| u.path(ip("8.8.8.8"), None).is_ok());
                let link = u.link_by_name("port0").unwrap();
                assert_eq!((link.mtu_bytes, link.up), (1450, true));
                assert_eq!(link.mac, port.mac);
                let path = u.path(ip("8.8.8.8"), None).unwrap();
                assert_eq!(path.next_hop, ip("192.168.255.254"));
                assert!(u.is_local(ip("fd00::1")));
            })
            .unwrap();
            end.send(()).unwrap();
        });
    });
}

#[test]
fn local_ports_are_reserved_in_the_own_namespace_only() {
    in_netns("reserving local ports", || {
        let file = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let text = || std::fs::read_to_string(file).unwrap();
        let reserved = ReservedPorts::reserve(&[(40000, 49999)]).unwrap();
        assert_eq!(text(), "40000-49999\n");
        drop(reserved);
        assert_eq!(text(), "\n");
    });
}

#[test]
fn refusals_say_what_was_wanted() {
    in_netns("refused changes", || {
        let mut s = Socket::open().unwrap();
        assert_eq!(s.link_named("nothere").unwrap(), None);
        let error = s.link_required("nothere").unwrap_err().to_string();
        assert!(error.contains("nothere") && error.contains("no such device"), "{error}");
        let error = s.set_mtu(9999, 1500).unwrap_err().to_string();
        assert!(error.starts_with("set mtu 1500: "), "{error}");
        let error = netns::open(std::path::Path::new("sluice-no-such-ns")).unwrap_err().to_string();
        assert!(error.contains("/run/netns/sluice-no-such-ns"), "{error}");
    });
}
