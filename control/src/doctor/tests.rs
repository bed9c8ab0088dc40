//! Findings on hosts made of files, and on a real veth.

use std::fs;
use std::path::Path;

use super::host::Host;
use super::*;
use crate::netlink::{Link, Socket, netns};

/// A host of files below a fresh directory, removed at the end.
struct FakeHost {
    dir: PathBuf,
    host: Host,
}

impl FakeHost {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("sluice-doctor-{}-{name}", std::process::id()));
        for (file, text) in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let at = |part: &str| dir.join(part);
        let host =
            Host { proc: at("proc"), sys: at("sys"), dev: at("dev"), release: "6.1.0-13".into() };
        Self { dir, host }
    }

    fn finding(&self, check: impl Fn(&Host, &mut Report)) -> Finding {
        let mut report = Report::default();
        check(&self.host, &mut report);
        assert_eq!(report.findings.len(), 1, "{report:?}");
        report.findings.remove(0)
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.dir);
    }
}

fn wish() -> Wish {
    Wish::of_devices(&[])
}

#[test]
fn kernels_old_new_and_odd() {
    let mut fake = FakeHost::new("kernel", &[]);
    for (release, level) in [
        ("5.4.0-91-generic", Level::Fail),
        ("5.17.99", Level::Fail),
        ("5.18.0", Level::Ok),
        ("6.18.44-fc-v657", Level::Ok),
        ("10.0", Level::Ok),
        ("unknown", Level::Warn),
    ] {
        fake.host.release = release.into();
        let finding = fake.finding(Host::kernel);
        assert_eq!(finding.level, level, "{release}: {finding:?}");
        assert_eq!(finding.fix.is_empty(), level == Level::Ok);
    }
}

#[test]
fn missing_rights_are_named() {
    let rights = |caps: &str, wish: &Wish| {
        let status = format!("Name:\tx\nCapEff:\t{caps}\nCpus_allowed_list:\t0-1\n");
        let fake = FakeHost::new(&format!("rights-{caps}"), &[("proc/self/status", &status)]);
        fake.finding(|host, report| host.rights(wish, report))
    };
    assert_eq!(rights("000001ffffffffff", &wish()).level, Level::Ok);
    let none = rights("0000000000000000", &wish());
    assert_eq!(none.level, Level::Fail);
    for cap in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"] {
        assert!(none.why.contains(cap), "{}", none.why);
    }
    assert!(!none.why.contains("CAP_SYS_ADMIN"));
    // NET_ADMIN, NET_RAW and BPF: enough without namespaces.
    let three = "0000008000003000";
    assert_eq!(rights(three, &wish()).level, Level::Ok);
    let with_netns = Wish { netns: vec!["ns1".into()], ..wish() };
    let finding = rights(three, &with_netns);
    assert!(finding.level == Level::Fail && finding.why.contains("CAP_SYS_ADMIN"));
}

#[test]
fn the_limit_of_locked_memory() {
    let memlock = |name: &str, caps: &str, limit: &str| {
        let status = format!("CapEff:\t{caps}\n");
        let limits =
            format!("Limit  Soft  Hard  Units\nMax locked memory  {limit}  {limit}  bytes\n");
        let files = [("proc/self/status", &*status), ("proc/self/limits", &*limits)];
        FakeHost::new(name, &files).finding(|host, report| host.memlock(&wish(), report)).level
    };
    assert_eq!(memlock("ml1", "0", "65536"), Level::Fail);
    assert_eq!(memlock("ml2", "0", "unlimited"), Level::Ok);
    assert_eq!(memlock("ml3", "0", "33554432"), Level::Ok);
    assert_eq!(memlock("ml4", "0000000000004000", "65536"), Level::Ok);
}

#[test]
fn processors_pages_tun_and_btf() {
    let files = [
        ("proc/self/status", "Cpus_allowed_list:\t0-1,4\n"),
        ("proc/meminfo", "HugePages_Total:  4\nHugePages_Free:  3\nHugepagesize:  2048 kB\n"),
    ];
    let fake = FakeHost::new("rest", &files);
    let cpus = |cpus: Vec<usize>| {
        let wish = Wish { cpus, ..wish() };
        fake.finding(|host, report| host.cpus(&wish, report))
    };
    assert_eq!(cpus(vec![1, 4]).level, Level::Ok);
    let outside = cpus(vec![1, 2, 5]);
    assert!(outside.level == Level::Fail && outside.why.contains("[2, 5]"), "{outside:?}");
    let many = Wish { workers: 4, ..wish() };
    let many = fake.finding(|host, report| host.cpus(&many, report));
    assert!(many.level == Level::Warn && many.why.contains("4 workers take turns on 3 CPUs"));
    let huge = Wish { hugepages: true, ..wish() };
    let finding = fake.finding(|host, report| host.hugepages(&huge, report));
    assert!(finding.level == Level::Warn && finding.fix.ends_with("=16"), "{finding:?}");
    assert_eq!(fake.finding(|h, r| h.hugepages(&wish(), r)).level, Level::Ok);
    assert_eq!(fake.finding(|h, r| h.tun(&wish(), r)).level, Level::Fail);
    let without = Wish { taps: false, ..wish() };
    assert_eq!(fake.finding(|h, r| h.tun(&without, r)).level, Level::Warn);
    assert_eq!(fake.finding(Host::btf).level, Level::Warn);
}

fn link(kind: &str, mtu_bytes: u32, rx_queues: u32) -> Link {
    Link {
        ifindex: 7,
        name: "eth7".into(),
        mac: Some(crate::config::MacAddr([2; 6])),
        mtu_bytes,
        up: true,
        admin_up: true,
        kind: kind.into(),
        rx_queues,
        tx_queues: 1,
        xdp_prog_id: None,
    }
}

#[test]
fn devices_that_do_not_fit() {
    let one = |check: &dyn Fn(&mut Report)| {
        let mut report = Report::default();
        check(&mut report);
        report.findings.pop()
    };
    let device = |queues, mode| DeviceWish { name: "eth7".into(), queues, mode, afxdp: true };
    let queues = |n, has| {
        let device = device(n, PortMode::All);
        one(&|r| device::queues(&device, &link("", 1500, has), r)).unwrap().level
    };
    assert_eq!(queues(0, 8), Level::Ok);
    assert_eq!(queues(8, 8), Level::Ok);
    assert_eq!(queues(8, 1), Level::Fail);
    assert_eq!(queues(1, 8), Level::Warn);
    let mtu = |frame_size_bytes, mtu| {
        let wish = Wish { frame_size_bytes, ..wish() };
        one(&|r| device::mtu(&wish, &link("veth", mtu, 1), r)).unwrap()
    };
    assert_eq!(mtu(2048, 1500).level, Level::Ok);
    assert_eq!(mtu(2048, 1774).level, Level::Ok);
    assert!(mtu(2048, 1775).fix.contains("4096"));
    assert_eq!(mtu(4096, 3498).level, Level::Ok);
    assert_eq!(mtu(4096, 3499).level, Level::Warn);
    assert!(mtu(4096, 9000).fix.contains("mtu 3498"));
    assert_eq!(one(&|r| device::kind(&link("bond", 1500, 1), r)).unwrap().level, Level::Fail);
    assert_eq!(one(&|r| device::kind(&link("vlan", 1500, 1), r)).unwrap().level, Level::Warn);
    assert_eq!(one(&|r| device::kind(&link("veth", 1500, 1), r)), None);
    let features = ["rx-gro".to_owned(), "rx-lro".to_owned()];
    let shared = device(0, PortMode::Shared);
    let finding = one(&|r| device::lro(&shared, &link("", 1500, 1), &features, r)).unwrap();
    assert!(finding.level == Level::Warn && finding.fix == "ethtool -K eth7 lro off");
}

#[test]
fn a_configuration_says_what_is_wanted() {
    let text = include_str!("../../examples/node1.toml");
    let wish = Wish::of_config(&Config::parse(Path::new("x"), text).unwrap());
    assert_eq!(wish.netns, [Path::new("ns1")]);
    let devices: Vec<&str> = wish.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(devices, ["veth-ns2", "underlay0", "uplink0"]);
    assert!(wish.taps && wish.cpus == [1]);
    assert_eq!(wish.umem_bytes, 2048 * 16384);
}

#[test]
fn a_real_veth_and_a_missing_device() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root (doctor on a real veth)");
        return;
    }
    let report = netns::run_in_new(|| {
        let mut s = Socket::open().unwrap();
        s.add_veth("va", "vb", 2).unwrap();
        for name in ["va", "vb"] {
            let link = s.link_required(name).unwrap();
            s.set_up(link.ifindex, true).unwrap();
        }
        examine(&Wish::of_devices(&["va".into(), "absent".into()]))
    })
    .unwrap();
    let level = |what: &str| {
        report.findings.iter().find(|f| f.what == what).map(|f| (f.level, f.why.as_str()))
    };
    assert_eq!(level("va"), Some((Level::Ok, "up, veth")));
    assert_eq!(level("va queues"), Some((Level::Ok, "2 rx, 2 tx")));
    assert_eq!(level("va lro").unwrap(), (Level::Ok, "off"));
    assert_eq!(level("va xdp").unwrap(), (Level::Ok, "no program there"));
    assert_eq!(level("absent").unwrap().0, Level::Fail);
    assert_eq!(report.worst(), Level::Fail);
    assert!(level("kernel").is_some() && level("af_xdp").is_some() && level("bpf").is_some());
}
