//! The peer: ovs-vswitchd with DPDK, one polling thread, packets from memory.
//!
//! It runs in a network namespace with its database, sockets and logs in a folder of its own below
//! /run, so that an Open vSwitch of the machine is neither needed nor touched. Packets come from
//! `benches/peer/memrx.c`; what it outputs goes to DPDK's null device, which frees it. While ours
//! has its turn the whole process is stopped (SIGSTOP): a polling thread never sleeps.
//!
//! Three of its settings decide what it costs, and which is best depends on the traffic: how often
//! the exact-match cache (EMC) takes a flow up, whether the signature match cache (SMC) is on, and,
//! in a build that has them, code for AVX512. A quick scan picks the best for each case.
//! Source: Open vSwitch's documentation, "PMD Threads" and "Userspace Datapath".

mod pages;
mod stats;
mod unixctl;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use self::pages::HugePages;
pub use self::stats::PmdStats;
use self::unixctl::UnixCtl;
use super::WORKER_CPU;
use super::rules::ZONE;
use crate::bench::forwarder::{OVS_SCHEMA, absent, system_program};
use crate::netns::{Namespace, run_command};
use crate::process::{Process, wait_until};
use crate::scratch::Scratch;
use crate::{Error, Result};

/// Where Debian's package openvswitch-switch-dpdk has the daemon.
const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
pub const BRIDGE: &str = "br0";
/// All but the polling thread runs here.
const OTHER_CPU: usize = 0;
const START_LIMIT: Duration = Duration::from_secs(40);

/// A build of the peer.
#[derive(Clone, Debug)]
pub struct Build {
    pub name: String,
    pub vswitchd: PathBuf,
    /// The replay device, built for the DPDK that this build has.
    pub memrx: Option<PathBuf>,
}

impl Build {
    pub fn debian() -> Self {
        Self { name: "debian".to_owned(), vswitchd: VSWITCHD.into(), memrx: None }
    }

    /// `NAME=VSWITCHD` or `NAME=VSWITCHD:MEMRX.so`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let usage = "write NAME=PATH of ovs-vswitchd, or NAME=PATH:PATH of librte_net_memrx.so";
        let (name, rest) = text.split_once('=').ok_or(usage)?;
        let (vswitchd, memrx) = match rest.split_once(':') {
            Some((vswitchd, memrx)) => (vswitchd, Some(PathBuf::from(memrx))),
            None => (rest, None),
        };
        if name.is_empty() || !Path::new(vswitchd).is_file() {
            return Err(format!("{text}: {usage}"));
        }
        Ok(Self { name: name.to_owned(), vswitchd: vswitchd.into(), memrx })
    }

    /// Why it cannot run here, if so.
    pub fn missing(&self) -> Option<String> {
        let hint = "apt-get install openvswitch-switch-dpdk";
        let programs = ["ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"];
        let absent_program = programs.into_iter().find(|p| system_program(p).is_none());
        absent(&self.vswitchd, hint)
            .or_else(|| absent(Path::new(OVS_SCHEMA), hint))
            .or_else(|| absent_program.map(|p| format!("no {p}: {hint}")))
    }
}

/// How its caches are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    /// One of so many packets that missed goes into the exact-match cache; 0: off.
    emc_insert_inv_prob: &'static str,
    smc: bool,
    avx512: bool,
}

const fn setting(name: &'static str, emc: &'static str, smc: bool, avx512: bool) -> Setting {
    Setting { name, emc_insert_inv_prob: emc, smc, avx512 }
}

impl Setting {
    pub fn needs_avx512(&self) -> bool {
        self.avx512
    }

    /// Whether most packets must come many times until the exact-match cache has them.
    pub fn fills_slowly(&self) -> bool {
        !matches!(self.emc_insert_inv_prob, "0" | "1")
    }
}

/// The first is what it comes with; the first four are tried in the usual scan, the next four with
/// them where a build has them.
pub const SETTINGS: [Setting; 9] = [
    setting("emc 1/100", "100", false, false),
    setting("emc 1/1", "1", false, false),
    setting("smc", "0", true, false),
    setting("off", "0", false, false),
    setting("avx512, emc 1/100", "100", false, true),
    setting("avx512, emc 1/1", "1", false, true),
    setting("avx512, smc", "0", true, true),
    setting("avx512, off", "0", false, true),
    setting("emc 1/100, smc", "100", true, false),
];

const SCALAR: [&str; 5] = [
    "dpif-netdev/dpif-impl-set dpif_scalar",
    "dpif-netdev/miniflow-parser-set scalar",
    "dpif-netdev/subtable-lookup-prio-set generic 3",
    "dpif-netdev/subtable-lookup-prio-set avx512_gather 0",
    "odp-execute/action-impl-set scalar",
];
const AVX512: [&str; 4] = [
    "dpif-netdev/dpif-impl-set dpif_avx512",
    "dpif-netdev/miniflow-parser-set study",
    "dpif-netdev/subtable-lookup-prio-set avx512_gather 5",
    "odp-execute/action-impl-set avx512",
];

/// How packets of a file come.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    pub forever: bool,
    /// Each time as other connections.
    pub fresh: bool,
    /// The most at once; 0: as many as are asked for.
    pub burst: u64,
    /// None come until the device has been there so long.
    pub delay: Duration,
}

impl Replay {
    pub fn once(delay: Duration) -> Self {
        Self { forever: false, fresh: false, burst: 0, delay }
    }

    pub fn forever() -> Self {
        Self { forever: true, ..Self::once(Duration::ZERO) }
    }
}

fn port_name(number: u32) -> String {
    format!("port{number}")
}

/// A running peer with one empty bridge; ended on drop.
pub struct Ovs {
    // In the order in which they must go: the daemon first.
    processes: Vec<Process>,
    control: Option<UnixCtl>,
    folder: Scratch,
    ns: Namespace,
    _pages: HugePages,
    devices: u32,
    /// Where its polling threads run.
    cpus: Vec<usize>,
}

impl Ovs {
    /// Starts a build with so many polling threads; `memrx` is the replay device for Debian's DPDK.
    pub fn start(build: &Build, memrx: &Path, threads: usize) -> Result<Self> {
        let memrx = build.memrx.as_deref().unwrap_or(memrx);
        let folder = Scratch::private("peer")?;
        let plugin = folder.path().join("librte_net_memrx.so");
        std::fs::copy(memrx, &plugin).map_err(Error::io(format!("copy {}", memrx.display())))?;
        let mut ovs = Self {
            processes: Vec::new(),
            control: None,
            _pages: HugePages::take()?,
            ns: Namespace::new("peer")?,
            folder,
            devices: 0,
            cpus: if threads == 1 { vec![WORKER_CPU] } else { (0..threads).collect() },
        };
        match ovs.bring_up(build, &plugin) {
            Ok(()) => Ok(ovs),
            Err(error) => Err(Error::Unexpected(format!("{error}\n{}", ovs.log()))),
        }
    }

    fn bring_up(&mut self, build: &Build, plugin: &Path) -> Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        let (database, socket) = (at("conf.db"), at("db.sock"));
        run_command(self.tool("ovsdb-tool").arg("create").arg(&database).arg(OVS_SCHEMA))?;
        let mut server = self.daemon(Path::new("ovsdb-server"));
        server.arg(&database).arg(format!("--remote=punix:{}", socket.display()));
        server.arg(format!("--unixctl={}", at("ovsdb.ctl").display()));
        let log = at("ovsdb.log");
        self.processes.push(Process::start(&self.ns, &mut server, &log)?);
        // The file is there before anybody listens.
        let listens = || UnixStream::connect(&socket).is_ok().then_some(());
        wait_until("ovsdb-server's socket", START_LIMIT, listens)?;
        let extra = format!(
            "other_config:dpdk-extra=\"--no-pci --in-memory --no-telemetry -d {}\"",
            plugin.display()
        );
        let mask = self.cpus.iter().fold(0, |mask, cpu| mask | 1 << cpu);
        let masks = [
            format!("other_config:dpdk-lcore-mask={:#x}", 1 << OTHER_CPU),
            format!("other_config:pmd-cpu-mask={mask:#x}"),
        ];
        self.vsctl(&["--no-wait", "init"])?;
        // Longer than ours takes in its turn, so that no cached flow goes meanwhile.
        let idle = "other_config:max-idle=60000";
        let set = ["--no-wait", "set", "Open_vSwitch", ".", idle, "other_config:dpdk-init=true"];
        self.vsctl(&[&set[..], &[&extra, &masks[0], &masks[1]]].concat())?;
        let control = self.folder.path().join("vswitchd.ctl");
        let mut daemon = self.daemon(&build.vswitchd);
        daemon.arg(format!("unix:{}", socket.display()));
        daemon.arg(format!("--unixctl={}", control.display()));
        let log = self.folder.path().join("vswitchd.log");
        self.processes.push(Process::start(&self.ns, &mut daemon, &log)?);
        let ready = ["--timeout=40", "wait-until", "Open_vSwitch", ".", "dpdk_initialized=true"];
        self.vsctl(&ready)?;
        self.control = Some(UnixCtl::connect(&control)?);
        let secure = ["datapath_type=netdev", "fail_mode=secure"];
        self.vsctl(&[&["add-br", BRIDGE, "--", "set", "bridge", BRIDGE][..], &secure].concat())
    }

    fn tool(&self, name: &str) -> Command {
        let path = system_program(name).unwrap_or_else(|| name.into());
        let mut command = Command::new(path);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.folder.path());
        }
        command
    }

    /// A daemon, off the measured core from the start.
    fn daemon(&self, program: &Path) -> Command {
        let name = program.to_string_lossy();
        let path = if program.is_absolute() { None } else { system_program(&name) };
        let mut command = self.tool("taskset");
        command.args(["-c", &OTHER_CPU.to_string()]).arg(path.as_deref().unwrap_or(program));
        command
    }

    /// The last lines of what it logged.
    fn log(&self) -> String {
        let texts = self.processes.iter().map(|p| {
            let text = p.output();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    fn vsctl(&self, words: &[&str]) -> Result<()> {
        let mut command = self.tool("ovs-vsctl");
        let socket = self.folder.path().join("db.sock");
        command.arg(format!("--db=unix:{}", socket.display())).arg("--timeout=40").args(words);
        self.ns.run(|| run_command(&mut command)).map(drop)
    }

    fn ofctl(&self, words: &[&str]) -> Result<String> {
        let mut command = self.tool("ovs-ofctl");
        command.args(words);
        self.ns.run(|| run_command(&mut command))
    }

    pub fn call(&mut self, command: &str) -> Result<String> {
        match &mut self.control {
            Some(control) => control.call(command),
            None => Err(Error::Unexpected("the peer is not up".to_owned())),
        }
    }

    /// Loads rules; returns when the switch has taken the last one.
    pub fn load_rules(&self, file: &Path) -> Result<Duration> {
        let start = Instant::now();
        self.ofctl(&["add-flows", BRIDGE, &file.to_string_lossy()])?;
        Ok(start.elapsed())
    }

    pub fn delete_rules(&self) -> Result<()> {
        self.ofctl(&["del-flows", BRIDGE]).map(drop)
    }

    /// Adds a DPDK device as port `number`, with a queue for each polling thread.
    fn add_port(&mut self, number: u32, arguments: &str) -> Result<()> {
        let name = &port_name(number);
        let request = format!("ofport_request={number}");
        let device = format!("options:dpdk-devargs=\"{arguments}\"");
        let mut add = vec!["add-port", BRIDGE, name, "--", "set", "interface", name, "type=dpdk"];
        add.extend([&*request, &device]);
        let (queues, affinity) = self.queues();
        if self.cpus.len() > 1 {
            add.extend([&*queues, &affinity]);
        }
        self.vsctl(&add)?;
        let numbers = self.ofctl(&["show", BRIDGE])?;
        if numbers.contains(&format!("({name}):")) {
            return Ok(());
        }
        let log = self.log();
        Err(Error::Unexpected(format!("the peer refused port {name} ({arguments}):\n{log}")))
    }

    /// How many queues a port has, and which thread polls each: always the same one, so that both
    /// directions of a connection meet the same caches.
    fn queues(&self) -> (String, String) {
        let pairs = self.cpus.iter().enumerate().map(|(queue, cpu)| format!("{queue}:{cpu}"));
        let pairs: Vec<_> = pairs.collect();
        let affinity = format!("other_config:pmd-rxq-affinity=\"{}\"", pairs.join(","));
        (format!("options:n_rxq={}", self.cpus.len()), affinity)
    }

    /// A port whose packets end there.
    pub fn add_null_port(&mut self, number: u32) -> Result<()> {
        self.devices += 1;
        self.add_port(number, &format!("net_null{},no-rx=1", self.devices))
    }

    /// A port whose packets go into a file.
    pub fn add_pcap_port(&mut self, file: &Path, number: u32) -> Result<()> {
        self.devices += 1;
        let arguments = format!("net_pcap{},tx_pcap={}", self.devices, file.display());
        self.add_port(number, &arguments)
    }

    /// A port by which a file's packets come.
    pub fn add_replay_port(&mut self, file: &Path, number: u32, how: &Replay) -> Result<()> {
        self.devices += 1;
        let (n, file) = (self.devices, file.display());
        let (forever, fresh) = (u8::from(how.forever), u8::from(how.fresh));
        let mut arguments = format!(
            "net_memrx{n},file={file},loop={forever},fresh={fresh},delay={}",
            how.delay.as_millis()
        );
        if how.burst > 0 {
            arguments += &format!(",burst={}", how.burst);
        }
        self.add_port(number, &arguments)
    }

    pub fn delete_port(&mut self, number: u32) -> Result<()> {
        self.vsctl(&["del-port", BRIDGE, &port_name(number)])
    }

    pub fn clear_stats(&mut self) -> Result<()> {
        self.call("dpif-netdev/pmd-stats-clear").map(drop)
    }

    pub fn stats(&mut self) -> Result<PmdStats> {
        Ok(PmdStats::parse(&self.call("dpif-netdev/pmd-stats-show")?, &self.cpus))
    }

    /// Packets that its ports have sent.
    pub fn sent(&self) -> Result<u64> {
        let text = self.ofctl(&["dump-ports", BRIDGE])?;
        let counts = text.split("tx pkts=").skip(1).filter_map(|t| t.split(',').next());
        Ok(counts.filter_map(|t| t.parse::<u64>().ok()).sum())
    }

    /// Its flow limit begins at 10000 and grows by 1000 a round of its revalidators, minutes until
    /// 100000: for steady states it begins high.
    pub fn lift_flow_limit(&mut self) -> Result<()> {
        self.call("upcall/set-flow-limit 2000000").map(drop)
    }

    /// Forgets all cached flows: those of a port that went might be for one that came.
    pub fn purge(&mut self) -> Result<()> {
        self.call("revalidator/purge").map(drop)
    }

    /// Whether this build has code for AVX512, and this machine runs it.
    pub fn has_avx512(&mut self) -> bool {
        let info = self.call("dpif-netdev/subtable-lookup-info-get").unwrap_or_default();
        let line = info.lines().find(|l| l.contains("avx512_gather"));
        line.is_some_and(|l| !l.contains("not available"))
    }

    pub fn apply(&mut self, setting: &Setting) -> Result<()> {
        let emc = format!("other_config:emc-insert-inv-prob={}", setting.emc_insert_inv_prob);
        let smc = format!("other_config:smc-enable={}", setting.smc);
        self.vsctl(&["set", "Open_vSwitch", ".", &emc, &smc])?;
        let commands = if setting.avx512 { &AVX512[..] } else { &SCALAR[..] };
        for command in commands {
            // A build without AVX512 has only the scalar one and refuses to choose.
            drop(self.call(command));
        }
        Ok(())
    }

    /// Megaflows that are cached.
    pub fn megaflows(&mut self) -> u64 {
        let text = self.call("upcall/show").unwrap_or_default();
        let after = text.split("(current ").nth(1);
        after.and_then(|t| t.split(')').next()?.parse().ok()).unwrap_or(0)
    }

    /// How many connections it may track.
    pub fn limit_connections(&mut self, most: u32) -> Result<()> {
        self.call(&format!("dpctl/ct-set-maxconns {most}")).map(drop)
    }

    /// Connections that it tracks.
    pub fn connections(&mut self) -> u64 {
        let text = self.call("dpctl/ct-get-nconns").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Connections that its full table has refused so far.
    pub fn refused_connections(&mut self) -> Result<u64> {
        let text = self.call("coverage/read-counter conntrack_full")?;
        text.trim().parse().map_err(|e| Error::Unexpected(format!("conntrack_full: {text}: {e}")))
    }

    /// Forgets all connections.
    pub fn forget_connections(&mut self) -> Result<()> {
        self.call("dpctl/flush-conntrack").map(drop)
    }

    /// A second for connections of which one packet has come, in the rules' zone.
    pub fn shorten_first_timeouts(&mut self) -> Result<()> {
        let datapath = ["--id=@d", "create", "Datapath", "datapath_version=0"];
        let set = ["--", "set", "Open_vSwitch", ".", "datapaths:netdev=@d"];
        self.vsctl(&[&["--"], &datapath[..], &set[..]].concat())?;
        let zone = format!("zone={ZONE}");
        let first = ["udp_first=1", "udp_single=1", "tcp_syn_sent=1"];
        self.vsctl(&[&["add-zone-tp", "netdev", &zone][..], &first].concat())
    }

    fn signal(&self, signal: Signal) {
        let pid = self.processes.last().and_then(|p| Pid::from_raw(p.pid().cast_signed()));
        // It fails only for a process that is gone; whoever asks it next will say so.
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Runs `f` while the peer stands still.
    pub fn pause<T>(&self, f: impl FnOnce() -> T) -> T {
        self.signal(Signal::STOP);
        let result = f();
        self.signal(Signal::CONT);
        result
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        while let Some(mut process) = self.processes.pop() {
            process.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_named_with_their_program() {
        let own = std::env::current_exe().unwrap();
        let build = Build::parse(&format!("native={}", own.display())).unwrap();
        assert_eq!((build.name.as_str(), build.memrx), ("native", None));
        let build = Build::parse(&format!("n={}:/x/m.so", own.display())).unwrap();
        assert_eq!(build.memrx.unwrap(), Path::new("/x/m.so"));
        assert!(Build::parse("native").unwrap_err().contains("NAME=PATH"));
        assert!(Build::parse("native=/nowhere/vswitchd").unwrap_err().contains("/nowhere"));
    }
}
