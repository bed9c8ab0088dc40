//! Checks of the host as a whole: kernel, rights, memory, processors.

use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use sluice_dataplane::sys;

use super::{Level, Report, Wish};
use crate::netlink::netns;

/// `bpf_xdp_load_bytes`, which the steering program needs.
const KERNEL_MIN: (u32, u32) = (5, 18);
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Where the host's files are.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub dev: PathBuf,
    pub release: String,
}

impl Host {
    pub fn this() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            release: release.trim().to_owned(),
        }
    }

    pub fn examine(&self, wish: &Wish, report: &mut Report) {
        self.kernel(report);
        self.rights(wish, report);
        af_xdp(report);
        bpf(report);
        self.jit(report);
        self.btf(report);
        self.memlock(wish, report);
        self.hugepages(wish, report);
        self.cpus(wish, report);
        self.tun(wish, report);
        self.netns(wish, report);
    }

    pub fn kernel(&self, report: &mut Report) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
        let (Some(major), Some(minor)) = (next(), next()) else {
            let why = format!("cannot read the version \"{}\"", self.release);
            return report.add(Level::Warn, "kernel", why, "use Linux 5.18 or newer");
        };
        if (major, minor) < KERNEL_MIN {
            let why = format!("{}: the XDP program needs bpf_xdp_load_bytes", self.release);
            report.add(Level::Fail, "kernel", why, "use Linux 5.18 or newer");
        } else {
            report.ok("kernel", format!("Linux {}", self.release));
        }
    }

    fn capabilities(&self) -> Option<u64> {
        let status = fs::read_to_string(self.proc.join("self/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    }

    pub fn rights(&self, wish: &Wish, report: &mut Report) {
        let Some(caps) = self.capabilities() else {
            let why = "cannot read the capabilities of this process";
            return report.add(Level::Warn, "rights", why, "mount /proc");
        };
        let has = |cap: u32| caps >> cap & 1 == 1;
        let admin = has(CAP_SYS_ADMIN);
        let mut missing = Vec::new();
        for (there, name, what) in [
            (has(CAP_NET_ADMIN), "CAP_NET_ADMIN", "attach XDP programs, set up devices"),
            (has(CAP_NET_RAW), "CAP_NET_RAW", "open AF_XDP and AF_PACKET sockets"),
            (has(CAP_BPF) || admin, "CAP_BPF", "load XDP programs"),
            (admin || wish.netns.is_empty(), "CAP_SYS_ADMIN", "enter network namespaces"),
        ] {
            if !there {
                missing.push(format!("{name} ({what})"));
            }
        }
        if missing.is_empty() {
            report.ok("rights", "all needed capabilities are there");
        } else {
            let why = format!("missing {}", missing.join(", "));
            report.add(Level::Fail, "rights", why, "run as root, or grant these capabilities");
        }
    }

    fn jit(&self, report: &mut Report) {
        let file = self.proc.join("sys/net/core/bpf_jit_enable");
        match fs::read_to_string(file).as_deref().map(str::trim) {
            Ok("0") => {
                let fix = "sysctl net.core.bpf_jit_enable=1";
                report.add(Level::Warn, "bpf jit", "off: XDP programs are interpreted", fix);
            }
            Ok(_) => report.ok("bpf jit", "on"),
            // Built in and always on, or not visible.
            Err(_) => {}
        }
    }

    pub fn btf(&self, report: &mut Report) {
        if self.sys.join("kernel/btf/vmlinux").exists() {
            report.ok("btf", "the kernel describes its types");
        } else {
            let why = "no type information of the kernel: programs load, tools show less";
            report.add(Level::Warn, "btf", why, "use a kernel with CONFIG_DEBUG_INFO_BTF");
        }
    }

    /// The kernel pins the packet memory once per socket and counts it against the limit of locked
    /// memory, unless the process may ignore that.
    pub fn memlock(&self, wish: &Wish, report: &mut Report) {
        if self.capabilities().is_some_and(|caps| caps >> CAP_IPC_LOCK & 1 == 1) {
            return report.ok("memlock", "the limit does not hold for this process (CAP_IPC_LOCK)");
        }
        let limits = fs::read_to_string(self.proc.join("self/limits")).unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("");
        let need = wish.umem_bytes * wish.devices.len().max(1) as u64;
        match soft.parse::<u64>() {
            _ if soft == "unlimited" => report.ok("memlock", "unlimited"),
            Ok(bytes) if bytes >= need => report.ok("memlock", format!("{bytes} bytes")),
            _ => {
                let why = format!("{soft} bytes may be locked, {need} are needed");
                let fix = "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited";
                report.add(Level::Fail, "memlock", why, fix);
            }
        }
    }

    pub fn hugepages(&self, wish: &Wish, report: &mut Report) {
        let meminfo = fs::read_to_string(self.proc.join("meminfo")).unwrap_or_default();
        let value = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let (free, size_kib) = (value("HugePages_Free:"), value("Hugepagesize:"));
        if wish.hugepages && free * size_kib * 1024 < wish.umem_bytes {
            let need = wish.umem_bytes.div_ceil((size_kib * 1024).max(1));
            let why = format!("{free} pages free, {need} wanted: small pages are used instead");
            report.add(Level::Warn, "hugepages", why, format!("sysctl vm.nr_hugepages={need}"));
        } else {
            report.ok("hugepages", format!("{free} free of {size_kib} KiB; not required"));
        }
    }

    pub fn cpus(&self, wish: &Wish, report: &mut Report) {
        let status = fs::read_to_string(self.proc.join("self/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let Some(list) = line.map(str::trim) else { return };
        let allowed = cpu_list(list);
        let not: Vec<String> =
            wish.cpus.iter().filter(|c| !allowed.contains(c)).map(usize::to_string).collect();
        if not.is_empty() {
            if wish.workers > allowed.len() {
                let (workers, cpus) = (wish.workers, allowed.len());
                let why = format!("{workers} workers take turns on {cpus} CPUs ({list})");
                let fix = format!("workers = {cpus}, or less: the rest of the host needs some");
                return report.add(Level::Warn, "cpus", why, fix);
            }
            return report.ok("cpus", format!("{} workers; allowed: {list}", wish.workers));
        }
        let why = format!("cpus = [{}] are outside of the cpuset {list}", not.join(", "));
        let fix = format!("name CPUs of {list}, or leave cpus out of the configuration");
        report.add(Level::Fail, "cpus", why, fix);
    }

    pub fn tun(&self, wish: &Wish, report: &mut Report) {
        let file = self.dev.join("net/tun");
        let opened = fs::OpenOptions::new().read(true).write(true).open(&file);
        match opened {
            Ok(_) => report.ok("tun", format!("{} can be opened", file.display())),
            Err(error) => {
                let level = if wish.taps { Level::Fail } else { Level::Warn };
                let why = format!("{}: {error}: no internal and no tap ports", file.display());
                let fix = "modprobe tun; in a container, pass /dev/net/tun through";
                report.add(level, "tun", why, fix);
            }
        }
    }

    fn netns(&self, wish: &Wish, report: &mut Report) {
        for name in &wish.netns {
            let what = format!("netns {}", name.display());
            match netns::open(name) {
                Ok(_) => report.ok(what, "there"),
                Err(error) => {
                    let fix = format!("ip netns add {}", name.display());
                    report.add(Level::Fail, what, error.to_string(), fix);
                }
            }
        }
    }
}

/// `0-3,8`.
fn cpu_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<usize>()) {
            cpus.extend(first..=last.min(first + 4096));
        }
    }
    cpus
}

fn af_xdp(report: &mut Report) {
    match sys::xdp::open() {
        Ok(_) => report.ok("af_xdp", "sockets can be opened"),
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => "run as root, or with CAP_NET_RAW",
                _ => "use a kernel with CONFIG_XDP_SOCKETS",
            };
            report.add(Level::Fail, "af_xdp", format!("no socket: {error}"), fix);
        }
    }
}

fn bpf(report: &mut Report) {
    match aya::programs::loaded_programs().next() {
        None | Some(Ok(_)) => report.ok("bpf", "the system call works"),
        Some(Err(error)) => {
            let source = std::error::Error::source(&error)
                .and_then(|e| e.downcast_ref::<io::Error>())
                .and_then(io::Error::raw_os_error);
            let why = format!("bpf(): {error}");
            if source == Some(Errno::NOSYS.raw_os_error()) {
                report.add(Level::Fail, "bpf", why, "use a kernel with CONFIG_BPF_SYSCALL");
            } else {
                let fix = "run as root; in a container, allow bpf() in the seccomp profile";
                report.add(Level::Warn, "bpf", why, fix);
            }
        }
    }
}
