//! The XDP program on a veth pair between two network namespaces: attached, refused, detached.
//!
//! Tests enter the near namespace with their own thread, so attach works on "the current network
//! namespace" as it does in the daemon; the far end answers pings from its own kernel.

use std::{
    fs::File,
    io::Read,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use libbpf_rs::{ObjectBuilder, Xdp, XdpFlags};
use rustix::{
    net::{AddressFamily, SocketType, socket},
    thread::{
        CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space,
        set_capabilities,
    },
};
use sluice_control::attach::{
    AttachError, AttachedMode, Endpoint, NatAddress, NatPart, OBJECT, OnDevice, Place, Steer,
    SteerConfig, TunnelProto, device,
};

const NEAR: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";
/// In the environment of the child that holds a program: the namespace to enter.
const CHILD_ENV: &str = "SLUICE_XDP_CHILD_NETNS";

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}: {status}");
}

/// Two namespaces and the pair between them; gone at the end, also of a failed test.
struct Net {
    near: String,
    far: String,
}

impl Net {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root (network namespaces, XDP)");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("sluice-xdp-{}-{number}-{end}", std::process::id());
        let net = Self { near: name("near"), far: name("far") };
        let Self { near, far } = &net;
        ip(&format!("netns add {near}"));
        ip(&format!("netns add {far}"));
        ip(&format!("-n {near} link add v0 type veth peer name v1 netns {far}"));
        for (netns, dev, addr) in [(near, "v0", NEAR), (far, "v1", FAR)] {
            ip(&format!("-n {netns} addr add {addr}/24 dev {dev}"));
            ip(&format!("-n {netns} link set {dev} up"));
        }
        enter(near);
        Some(net)
    }

    fn ifindex(&self) -> u32 {
        ifindex_of("v0")
    }

    /// From the far end to us, where the program is.
    fn ping(&self) -> bool {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.far, "ping", "-c", "1", "-W", "1", NEAR]);
        ping.stdout(Stdio::null()).status().unwrap().success()
    }

    /// A datagram from the far end to a port of ours.
    fn send_udp(&self, port: u16) {
        let far = self.far.clone();
        let send = move || {
            enter(&far);
            let socket = std::net::UdpSocket::bind((FAR, 0)).unwrap();
            socket.send_to(b"x", (NEAR, port)).unwrap();
        };
        std::thread::spawn(send).join().unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for netns in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

/// The calling thread goes there; its later threads and sockets with it.
fn enter(netns: &str) {
    let file = File::open(PathBuf::from("/run/netns").join(netns)).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn ifindex_of(name: &str) -> u32 {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    rustix::net::netdevice::name_to_index(any, name).unwrap()
}

fn xdp_on(ifindex: u32) -> Option<OnDevice> {
    device(ifindex).unwrap().xdp
}

fn count(steer: &Steer, name: &str) -> u64 {
    steer.verdicts().unwrap().into_iter().find(|(each, _)| *each == name).unwrap().1
}

fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn takes_the_device_and_gives_it_back() {
    let Some(net) = Net::new() else { return };
    let ifindex = net.ifindex();
    assert!(net.ping());
    for frags in [false, true] {
        let mut steer = Steer::attach(ifindex, &SteerConfig::all(frags)).unwrap();
        assert_eq!(steer.mode(), AttachedMode::Native);
        assert_eq!(xdp_on(ifindex).map(|xdp| xdp.how), Some("native"));
        // No socket yet: everything still reaches the kernel.
        assert!(net.ping());
        assert!(count(&steer, "pass_no_socket") >= 1);
        // A socket that nobody reads: nothing does.
        let xsk = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        steer.set_socket(0, &xsk).unwrap();
        assert!(!net.ping());
        assert!(count(&steer, "redirect_all") >= 1);
        steer.clear_socket(0).unwrap();
        steer.clear_socket(0).unwrap();
        assert!(net.ping());
        drop(steer);
        assert!(soon(|| xdp_on(ifindex).is_none()));
        assert!(net.ping());
    }
}

#[test]
fn generic_mode_when_asked_for() {
    let Some(net) = Net::new() else { return };
    let config = SteerConfig { place: Place::Generic, ..SteerConfig::all(true) };
    let steer = Steer::attach(net.ifindex(), &config).unwrap();
    assert_eq!(steer.mode(), AttachedMode::Generic);
    assert_eq!(xdp_on(net.ifindex()).map(|xdp| xdp.how), Some("generic"));
    assert!(net.ping());
    assert!(count(&steer, "pass_no_socket") >= 1);
}

/// `lo` has no XDP in its driver.
#[test]
fn generic_mode_where_the_driver_has_none() {
    let Some(_net) = Net::new() else { return };
    let steer = Steer::attach(1, &SteerConfig::all(false)).unwrap();
    assert_eq!(steer.mode(), AttachedMode::Generic);
    drop(steer);
    let native = SteerConfig { place: Place::Native, ..SteerConfig::all(false) };
    let refused = Steer::attach(1, &native).unwrap_err();
    assert!(matches!(refused, AttachError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("lo takes no XDP program"), "{refused}");
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    let Some(net) = Net::new() else { return };
    let ifindex = net.ifindex();
    let check = |how: &str, program: &str| {
        let before = xdp_on(ifindex).unwrap();
        let refused = Steer::attach(ifindex, &SteerConfig::all(true)).unwrap_err();
        let text = refused.to_string();
        let AttachError::Foreign { device, id, name, how: is } = refused else {
            panic!("{text}");
        };
        assert_eq!((&*device, id, &*name, is), ("v0", before.id, program, how));
        assert!(text.contains(&format!("id {id}, name \"{program}\"")), "{text}");
        assert_eq!(xdp_on(ifindex), Some(before));
    };
    // One on a link, as another sluice has it.
    let first = Steer::attach(ifindex, &SteerConfig::all(false)).unwrap();
    check("native", "steer");
    drop(first);
    assert!(soon(|| xdp_on(ifindex).is_none()));
    // One by netlink, as `ip link` does it, in each mode.
    let object = ObjectBuilder::default().open_memory(OBJECT).unwrap().load().unwrap();
    let program = object.progs().find(|program| program.name() == "steer_frags").unwrap();
    for (how, flags) in [("native", XdpFlags::DRV_MODE), ("generic", XdpFlags::SKB_MODE)] {
        let by_netlink = Xdp::new(program.as_fd());
        by_netlink.attach(ifindex as i32, XdpFlags::from_bits_retain(flags.bits())).unwrap();
        check(how, "steer_frags");
        by_netlink.detach(ifindex as i32, flags).unwrap();
    }
    Steer::attach(ifindex, &SteerConfig::all(true)).unwrap();
}

#[test]
fn shared_mode_leaves_the_node_its_traffic() {
    let Some(net) = Net::new() else { return };
    let near = NEAR.parse().unwrap();
    let geneve = [Endpoint { addr: near, proto: TunnelProto::Udp(6081) }];
    let config = SteerConfig::shared(true, geneve.to_vec(), Vec::new());
    let mut steer = Steer::attach(net.ifindex(), &config).unwrap();
    let xsk = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
    steer.set_socket(0, &xsk).unwrap();
    assert!(net.ping());
    assert_eq!(count(&steer, "redirect_tunnel"), 0);
    net.send_udp(6081);
    assert!(soon(|| count(&steer, "redirect_tunnel") == 1));
    net.send_udp(40000);
    assert_eq!(count(&steer, "redirect_nat"), 0);

    #[expect(clippy::reversed_empty_ranges, reason = "no echo identifier is reserved")]
    let ranges = NatPart::Ranges { ports: 40000..=40010, icmp_ids: 1..=0 };
    steer.update_nat(&[NatAddress { addr: near, part: ranges }]).unwrap();
    steer.update_endpoints(&[]).unwrap();
    net.send_udp(40000);
    assert!(soon(|| count(&steer, "redirect_nat") == 1));
    net.send_udp(6081);
    assert!(net.ping());
    assert_eq!(count(&steer, "redirect_tunnel"), 1);

    steer.update_nat(&[NatAddress { addr: near, part: NatPart::Whole }]).unwrap();
    assert!(!net.ping());
    steer.update_nat(&[]).unwrap();
    assert!(net.ping());
}

#[test]
fn bad_input_is_an_error_that_helps() {
    let Some(net) = Net::new() else { return };
    let none = Steer::attach(0x7fff_fff0, &SteerConfig::all(true)).unwrap_err();
    assert!(none.to_string().contains("no network device with index 2147483632"), "{none}");
    let mut steer = Steer::attach(net.ifindex(), &SteerConfig::all(true)).unwrap();
    let xsk = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
    let queue = steer.set_socket(256, &xsk).unwrap_err();
    assert!(queue.to_string().contains("holds queues 0 to 255"), "{queue}");
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(steer.set_socket(0, &file), Err(AttachError::Map { map: "XSKS", .. })));
    let address =
        |n: u32| NatAddress { addr: std::net::Ipv4Addr::from(n).into(), part: NatPart::Whole };
    let nat: Vec<_> = (0..4097).map(address).collect();
    let full = steer.update_nat(&nat).unwrap_err();
    assert!(full.to_string().contains("4097 entries do not fit"), "{full}");
    // The map to the brim, then all of it exchanged.
    steer.update_nat(&nat[..4096]).unwrap();
    steer.update_nat(&(5000..9096).map(address).collect::<Vec<_>>()).unwrap();
}

/// Capabilities belong to a thread, so one can lose them without the rest of the test.
#[test]
fn without_rights_it_says_so() {
    let unprivileged = || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).unwrap();
        Steer::attach(1, &SteerConfig::all(true)).unwrap_err()
    };
    let refused = std::thread::spawn(unprivileged).join().unwrap();
    assert!(matches!(refused, AttachError::Permission { .. }), "{refused:?}");
    assert!(refused.to_string().contains("run as root, or with CAP_BPF"), "{refused}");
}

/// Not a test of its own: the child of the next one, which holds a program until it is killed.
#[test]
fn child_that_holds_a_program() {
    let Some(netns) = std::env::var_os(CHILD_ENV) else { return };
    enter(netns.to_str().unwrap());
    let _steer = Steer::attach(ifindex_of("v0"), &SteerConfig::all(true)).unwrap();
    println!("holding");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_no_program() {
    let Some(net) = Net::new() else { return };
    let ifindex = net.ifindex();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_holds_a_program", "--exact", "--nocapture"])
        .env(CHILD_ENV, &net.near)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let attached = soon(|| xdp_on(ifindex).is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(attached, "{text}");
    assert!(soon(|| xdp_on(ifindex).is_none()));
    assert!(net.ping());
}
