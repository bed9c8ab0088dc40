//! Open vSwitch as Debian ships it, as the reference: its userspace datapath over dummy devices,
//! in a private folder, without kernel module, namespaces or root.
//!
//! Packets come in by `netdev-dummy/receive` and go out into a pcap file per port (`tx_pcap`). With
//! dummy devices the main thread does all: it reads a packet, runs it through tables and datapath,
//! writes what leaves (a file is flushed per packet), and answers `ovs-appctl` in between. So when
//! the receive counter of a port shows a packet, all that came of it has been written.
//!
//! Before each packet the datapath's flows are purged, which also credits their statistics: every
//! packet meets the tables as they are, not a cached flow that a revalidator has yet to change.
//! That makes a run repeatable, and the reference the slow and right one. A second copy of a packet
//! that follows at once is sent without a purge, unless the first may have taught something.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::case::{BRIDGES, Case, CaseFlow, CasePacket, Outcome, Output, devices};
use super::unixctl::Unixctl;
use crate::cleanup::{Ticket, terminate};
use crate::process::wait_until;
use crate::scratch::Scratch;
use crate::{Error, Result};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Where Debian puts the daemons, which a plain user's PATH may lack.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const PROTOCOLS: &str = "OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15";
/// How long a packet may take.
const PACKET_PATIENCE: Duration = Duration::from_secs(10);
/// How long a daemon that does not answer may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Why a case could not be played.
#[derive(Debug)]
pub enum Trouble {
    /// Open vSwitch refuses this flow.
    Refused { bridge: usize, cookie: u64, why: String },
    /// It ended, and is there again.
    Died,
    /// It does not work at all.
    Broken(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Broken(e)
    }
}

/// What is missing to run it, if anything.
pub fn missing() -> Option<String> {
    let programs = ["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"];
    let absent = programs.into_iter().find(|p| program(p).is_none());
    let schema = || (!Path::new(SCHEMA).is_file()).then_some("vswitch.ovsschema");
    absent.or_else(schema).map(|what| format!("{what} (Debian: openvswitch-switch)"))
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A daemon, ended on drop.
struct Daemon {
    child: Child,
    ticket: Option<Ticket>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The number of one that has been waited for may be another's by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            terminate(self.child.id().cast_signed(), Duration::from_secs(3));
        }
        // Both fail only for a child that is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ticket = None;
    }
}

/// What leaves by one device.
struct Capture {
    name: &'static str,
    file: File,
    read_to: u64,
}

/// The running reference.
pub struct Ovs {
    control: Unixctl,
    captures: Vec<Capture>,
    /// Packets sent to each port so far.
    sent: BTreeMap<&'static str, u64>,
    /// Bridges that hold flows of the last case.
    used: [bool; BRIDGES.len()],
    /// Bridges that hold groups or meters of it.
    referred: [bool; BRIDGES.len()],
    daemons: [Daemon; 2],
    folder: Scratch,
}

impl Ovs {
    /// Starts both daemons and builds the scene.
    pub fn start() -> Result<Self> {
        let folder = Scratch::new("ovs")?;
        let dir = folder.path();
        let (database, socket) = (dir.join("conf.db"), dir.join("db.sock"));
        let unix = format!("unix:{}", socket.display());
        run(tool(dir, "ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;
        let mut server = tool(dir, "ovsdb-server");
        server.arg(&database).arg(format!("--remote=p{unix}")).arg(ctl(dir, "db"));
        let server = daemon(dir, "ovsdb-server", &mut server)?;
        wait_until("ovsdb-server's socket", START_PATIENCE, || socket.exists().then_some(()))?;
        let vsctl = |words: &[String]| {
            let mut command = tool(dir, "ovs-vsctl");
            run(command.arg(format!("--db={unix}")).arg("--timeout=15").args(words))
        };
        vsctl(&["--no-wait".into(), "init".into()])?;
        let mut switch = tool(dir, "ovs-vswitchd");
        switch.arg(&unix).args(["--enable-dummy=override", "--disable-system"]);
        switch.arg("--disable-system-route").arg(ctl(dir, "vs"));
        let switch = daemon(dir, "ovs-vswitchd", &mut switch)?;
        vsctl(&scene(dir))?;
        let control = Unixctl::connect(&dir.join("vs.ctl"))?;
        let captures = devices().map(|name| {
            let path = capture_path(dir, name);
            let file = wait_until("a capture", START_PATIENCE, || File::open(&path).ok())?;
            Ok(Capture { name, file, read_to: PCAP_HEADER })
        });
        let captures = captures.collect::<Result<_>>()?;
        Ok(Self {
            control,
            captures,
            sent: BTreeMap::new(),
            used: [true; BRIDGES.len()],
            referred: [true; BRIDGES.len()],
            daemons: [switch, server],
            folder,
        })
    }

    /// Plays a case from a clean state. A daemon that ends over it is started anew.
    pub fn play(&mut self, case: &Case) -> Result<Outcome, Trouble> {
        let played = self.play_once(case);
        if matches!(played, Err(Trouble::Broken(_))) && self.has_ended() {
            *self = Self::start()?;
            return Err(Trouble::Died);
        }
        played
    }

    /// Whether ovs-vswitchd is no more. One that ends closes its sockets before it is gone.
    fn has_ended(&mut self) -> bool {
        let switch = &mut self.daemons[0].child;
        let ended = || matches!(switch.try_wait(), Ok(Some(_))).then_some(());
        wait_until("the end of ovs-vswitchd", END_PATIENCE, ended).is_ok()
    }

    fn play_once(&mut self, case: &Case) -> Result<Outcome, Trouble> {
        self.control.call("fdb/flush", &[])?;
        self.control.call("dpctl/flush-conntrack", &[])?;
        for bridge in 0..BRIDGES.len() {
            self.refer(bridge, case)?;
            self.load(bridge, case)?;
        }
        let mut outcome = Outcome::default();
        let mut last: Option<&CasePacket> = None;
        self.collect()?;
        let teaches = case.teaches();
        for packet in &case.packets {
            if teaches || last != Some(packet) {
                self.control.call("revalidator/purge", &[])?;
            }
            last = Some(packet);
            self.inject(packet)?;
            outcome.out.push(self.collect()?);
        }
        self.control.call("revalidator/purge", &[])?;
        for bridge in 0..BRIDGES.len() {
            self.count(bridge, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Puts a case's groups and meters in the place of those that are there. The flows that name
    /// the old ones go first: Open vSwitch 3.1 may end in an assertion (`RULE_INSERTED`) when it
    /// deletes a group together with them.
    fn refer(&mut self, bridge: usize, case: &Case) -> Result<()> {
        let mine: Vec<_> = case.refs.iter().filter(|r| r.bridge == bridge).collect();
        let ofctl = |command: &str, rest: Option<&str>| {
            let mut tool = tool(self.folder.path(), "ovs-ofctl");
            tool.args(["-O", "OpenFlow15", command]).arg(self.management(bridge)).args(rest);
            run(&mut tool).map(drop)
        };
        if self.referred[bridge] {
            ofctl("del-flows", None)?;
            ofctl("del-groups", None)?;
            ofctl("del-meters", None)?;
        }
        let of = |what: &str| {
            let all = mine.iter().filter(|r| r.what == what);
            all.map(|r| format!("{}\n", r.text)).collect::<String>()
        };
        if !mine.is_empty() {
            let groups = self.folder.write("groups.txt", &of("group"))?;
            ofctl("add-groups", groups.to_str())?;
        }
        for meter in mine.iter().filter(|r| r.what == "meter") {
            ofctl("add-meter", Some(&meter.text))?;
        }
        self.referred[bridge] = !mine.is_empty();
        Ok(())
    }

    /// Puts a case's flows in the place of those that are there.
    fn load(&mut self, bridge: usize, case: &Case) -> Result<(), Trouble> {
        let mine: Vec<_> = case.flows.iter().filter(|f| f.bridge == bridge).collect();
        if mine.is_empty() && !self.used[bridge] {
            return Ok(());
        }
        self.used[bridge] = !mine.is_empty();
        // What OpenFlow 1.0 can say goes that way, as ovs-ofctl does by itself for a single flow:
        // later versions know no `mod_vlan_vid` and write it as a push and a set.
        let (later, first): (Vec<&CaseFlow>, _) =
            mine.into_iter().partition(|f| needs_later(&f.text));
        self.add_flows(bridge, "OpenFlow10", "delete\n", &first)?;
        if later.is_empty() {
            return Ok(());
        }
        self.add_flows(bridge, "OpenFlow13,OpenFlow14,OpenFlow15", "", &later)
    }

    fn add_flows(
        &self,
        bridge: usize,
        versions: &str,
        before: &str,
        flows: &[&CaseFlow],
    ) -> Result<(), Trouble> {
        let lines: Vec<String> = flows.iter().map(|f| f.line()).collect();
        let file = self.folder.write("flows.txt", &format!("{before}{}\n", lines.join("\n")))?;
        let mut command = tool(self.folder.path(), "ovs-ofctl");
        command.args(["-O", versions, "add-flows"]).arg(self.management(bridge)).arg(&file);
        let Err(why) = run(&mut command) else { return Ok(()) };
        let Error::Command { stderr, .. } = &why else { return Err(why.into()) };
        let skip = 1 + before.lines().count();
        let cookie = refused_line(stderr)
            .and_then(|line| flows.get(line.checked_sub(skip)?).map(|f| f.cookie))
            .or_else(|| cookie_of(stderr))
            .or_else(|| cookie_of_dump(stderr))
            .or_else(|| self.unspeakable(versions, flows));
        match cookie {
            Some(cookie) => Err(Trouble::Refused { bridge, cookie, why: stderr.clone() }),
            None => Err(why.into()),
        }
    }

    /// The flow that none of these versions can say: about that, ovs-ofctl names no line.
    fn unspeakable(&self, versions: &str, flows: &[&CaseFlow]) -> Option<u64> {
        let says = |f: &CaseFlow| {
            let mut command = tool(self.folder.path(), "ovs-ofctl");
            run(command.args(["-O", versions, "parse-flow", &f.line()])).is_ok()
        };
        flows.iter().find(|f| !says(f)).map(|f| f.cookie)
    }

    fn management(&self, bridge: usize) -> String {
        format!("unix:{}/{}.mgmt", self.folder.path().display(), BRIDGES[bridge].name)
    }

    /// Sends a packet in and waits until it is through.
    fn inject(&mut self, packet: &CasePacket) -> Result<()> {
        let hex: String = packet.bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.control.call("netdev-dummy/receive", &[packet.port, &hex])?;
        let sent = self.sent.entry(packet.port).or_default();
        *sent += 1;
        let want = *sent;
        let start = Instant::now();
        loop {
            let shown = self.control.call("dpctl/show", &["-s"])?;
            if received(&shown, packet.port) >= Some(want) {
                return Ok(());
            }
            if start.elapsed() > PACKET_PATIENCE {
                let what = format!("Open vSwitch takes a packet of port {}: {hex}", packet.port);
                let limit_ms = PACKET_PATIENCE.as_millis() as u64;
                return Err(Error::Timeout { what, limit_ms });
            }
        }
    }

    /// What has left since the last call.
    fn collect(&mut self) -> Result<Output> {
        let mut out = Output::new();
        for capture in &mut self.captures {
            let packets =
                capture.fresh().map_err(Error::io(format!("capture {}", capture.name)))?;
            if !packets.is_empty() {
                out.insert(capture.name.to_owned(), packets);
            }
        }
        Ok(out)
    }

    /// Packets of each flow.
    fn count(&self, bridge: usize, outcome: &mut Outcome) -> Result<()> {
        if !self.used[bridge] {
            return Ok(());
        }
        let mut command = tool(self.folder.path(), "ovs-ofctl");
        let text = run(command.arg("dump-flows").arg(self.management(bridge)))?;
        for line in text.lines() {
            if let Some((cookie, packets)) = cookie_of(line).zip(number_after(line, "n_packets=")) {
                *outcome.hits.entry((bridge, cookie)).or_default() += packets;
            }
        }
        Ok(())
    }
}

/// Length of a pcap file's header, and of a record's.
const PCAP_HEADER: u64 = 24;
const RECORD_HEADER: usize = 16;

impl Capture {
    /// Packets behind what has been read. The file grows by whole packets.
    fn fresh(&mut self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        let end = self.file.metadata()?.len();
        let mut bytes = vec![0; end.saturating_sub(self.read_to) as usize];
        self.file.read_exact_at(&mut bytes, self.read_to)?;
        let mut rest = bytes.as_slice();
        while let Some((head, behind)) = rest.split_at_checked(RECORD_HEADER) {
            let len = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) as usize;
            let Some((packet, behind)) = behind.split_at_checked(len) else { break };
            packets.push(packet.to_vec());
            rest = behind;
        }
        self.read_to = end - rest.len() as u64;
        Ok(packets)
    }
}

fn capture_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-tx.pcap"))
}

/// The words for ovs-vsctl that build all bridges in one transaction.
fn scene(dir: &Path) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
    for bridge in BRIDGES {
        let name = bridge.name;
        add(&format!("-- add-br {name} -- set bridge {name} fail_mode=secure"));
        add(&format!("protocols={PROTOCOLS}"));
        let pcap = |name: &str| format!("options:tx_pcap={}", capture_path(dir, name).display());
        add(&format!("-- set interface {name} {}", pcap(name)));
        for p in bridge.ports {
            let (port, number) = (p.name, p.number);
            add(&format!("-- add-port {name} {port} -- set interface {port}"));
            add(&format!("ofport_request={number}"));
            match p.peer {
                Some(peer) => add(&format!("type=patch options:peer={peer}")),
                None => add(&format!("type=dummy {}", pcap(port))),
            }
        }
    }
    words
}

fn tool(dir: &Path, name: &str) -> Command {
    let mut command = Command::new(program(name).unwrap_or_else(|| name.into()));
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    command.stdin(Stdio::null());
    command
}

fn ctl(dir: &Path, name: &str) -> String {
    format!("--unixctl={}", dir.join(format!("{name}.ctl")).display())
}

fn daemon(dir: &Path, name: &str, command: &mut Command) -> Result<Daemon> {
    crate::cleanup::wait_if_closing();
    let log = dir.join(format!("{name}.log"));
    let out = File::create(&log).map_err(Error::io(format!("make {}", log.display())))?;
    let err = out.try_clone().map_err(Error::io("duplicate the log's descriptor"))?;
    let child = command.stdout(out).stderr(err).spawn();
    let child = child.map_err(Error::io(format!("start {name}")))?;
    let ticket = Some(Ticket::process(child.id()));
    Ok(Daemon { child, ticket })
}

/// Runs a command to its end; its output.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(Error::io(format!("start {name}")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let stderr = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    let command = format!("{name} {}", words.join(" "));
    Err(Error::Command { command, status: done.status.to_string(), stderr })
}

/// The number that follows `word` in a text.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let rest = &text[text.find(word)? + word.len()..];
    match rest.strip_prefix("0x") {
        Some(hex) => {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            u64::from_str_radix(&hex[..end], 16).ok()
        }
        None => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        }
    }
}

/// Whether a flow has something that OpenFlow 1.0 cannot say, not even with Nicira's extensions.
pub fn needs_later(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "goto_table:",
        "push_vlan:",
        "write_actions(",
        "clear_actions",
        "write_metadata:",
        "group:",
        "meter:",
    ];
    // By OpenFlow 1.0 ovs-ofctl leaves out the mask of a `set_field`.
    let values = text.split("set_field:").skip(1).filter_map(|rest| rest.split("->").next());
    WORDS.iter().any(|w| text.contains(w)) || values.into_iter().any(|v| v.contains('/'))
}

/// The cookie that a flow or a refused message shows.
fn cookie_of(text: &str) -> Option<u64> {
    number_after(text, "cookie=").or_else(|| number_after(text, "cookie:"))
}

/// The cookie of a refused flow that is shown as bytes: the second eight of them since OpenFlow
/// 1.1, the third in Nicira's message.
fn cookie_of_dump(stderr: &str) -> Option<u64> {
    let (_, dump) = stderr.split_once("T_FLOW_MOD")?;
    let line = |at: &str| dump.lines().find_map(|line| line.strip_prefix(at));
    let is_nicira = stderr.contains("NXT_FLOW_MOD");
    let bytes = match is_nicira {
        true => line("00000010  ")?.get(..23)?,
        false => line("00000000  ")?.get(24..47)?,
    };
    let bytes = bytes.replace([' ', '-'], "");
    u64::from_str_radix(&bytes, 16).ok()
}

/// The line of a file that ovs-ofctl complains about: `ovs-ofctl: FILE:LINE: why`.
fn refused_line(stderr: &str) -> Option<usize> {
    number_after(stderr, "flows.txt:").map(|n| n as usize)
}

/// Packets received by a port, from `dpctl/show -s`.
fn received(shown: &str, port: &str) -> Option<u64> {
    let at = shown.find(&format!(": {port} ("))?;
    number_after(&shown[at..], "RX packets:")
}

#[cfg(test)]
mod shown;

#[cfg(test)]
mod tests;
