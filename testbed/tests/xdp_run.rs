//! The XDP program on packets, without a device: BPF_PROG_TEST_RUN through libbpf.
//!
//! libbpf is the reference loader: that it takes the object proves the BTF maps and sections to be
//! what every BPF tool understands. Each packet of `cases` runs at every length, through both
//! programs; the frags program also with a first buffer of every length, which must change nothing.
//! A run must end in the documented verdict, move exactly one counter, and return the action that
//! belongs to it. Kernel: Documentation/bpf/bpf_prog_run.rst.

#[path = "xdp_run/cases.rs"]
mod cases;
#[path = "xdp_run/packets.rs"]
mod packets;

use std::{
    collections::HashSet,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput};
use rustix::net::{AddressFamily, SocketType, socket};
use sluice_ebpf_common::{
    Config, EndpointKey, MODE_ALL, MODE_PASS, MODE_SHARED, NatKey, NatTake, Verdict, mapped, names,
};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const ETH_HLEN: usize = 14;
const PROGRAMS: [&str; 2] = [names::STEER, names::STEER_FRAGS];

struct Rig {
    object: Object,
    verdicts: MapHandle,
    /// The map drops a socket that is closed.
    xsk: Option<OwnedFd>,
}

impl Rig {
    /// `None` without root, and says so.
    fn new(mode: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root (BPF_PROG_TEST_RUN)");
            return None;
        }
        let mut builder = ObjectBuilder::default();
        let object = builder.open_memory(sluice_control::attach::OBJECT).unwrap().load().unwrap();
        let verdicts = MapHandle::try_from(&find(&object, names::VERDICTS)).unwrap();
        let rig = Self { object, verdicts, xsk: None };
        rig.put(names::CONFIG, &[0; 4], &Config { mode, zero: 0 }.to_bytes());
        for addr in [cases::US.into(), cases::US6.into()] {
            let addr = bytes(addr);
            let keys = [EndpointKey::udp(addr, 6081), EndpointKey::gre(addr)];
            for key in keys.into_iter().chain([EndpointKey::address(addr)]) {
                rig.put(names::ENDPOINTS, &key.to_bytes(), &1u32.to_ne_bytes());
            }
            let take = NatTake::ranges((40000, 49999), (1000, 1999));
            rig.put(names::NAT, &NatKey { addr }.addr, &take.to_bytes());
        }
        for addr in [cases::WHOLE.into(), cases::WHOLE6.into()] {
            rig.put(names::NAT, &bytes(addr), &NatTake::WHOLE.to_bytes());
        }
        Some(rig)
    }

    /// With a socket for queue 0, where test-run's packets arrive. It need not be bound.
    fn with_socket(mode: u32) -> Option<Self> {
        let mut rig = Self::new(mode)?;
        let xsk = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        rig.put(names::XSKS, &[0; 4], &(xsk.as_raw_fd() as u32).to_ne_bytes());
        rig.xsk = Some(xsk);
        Some(rig)
    }

    fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        find(&self.object, map).update(key, value, MapFlags::ANY).unwrap();
    }

    fn counts(&self) -> Vec<u64> {
        let count = |index: usize| {
            let key = (index as u32).to_ne_bytes();
            let cpus = self.verdicts.lookup_percpu(&key, MapFlags::ANY).unwrap().unwrap();
            cpus.iter().map(|cpu| u64::from_ne_bytes(cpu[..8].try_into().unwrap())).sum()
        };
        (0..Verdict::COUNT).map(count).collect()
    }

    /// Runs the packet and returns the one verdict that moved, the action checked.
    fn run(
        &mut self,
        program: &str,
        frame: &[u8],
        linear: Option<usize>,
    ) -> Result<Verdict, String> {
        let before = self.counts();
        let program = self.object.progs_mut().find(|each| each.name() == program).unwrap();
        let mut context = [0u32; 6];
        context[1] = linear.unwrap_or(frame.len()) as u32;
        let mut context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let input = ProgramInput {
            data_in: Some(frame),
            context_in: linear.map(|_| &mut context[..]),
            ..ProgramInput::default()
        };
        let output = program.test_run(input).map_err(|err| err.to_string())?;
        let after = self.counts();
        let moved = |index: &usize| after[*index] != before[*index];
        let moved: Vec<usize> = (0..Verdict::COUNT).filter(moved).collect();
        let [index] = moved[..] else { return Err(format!("counters {moved:?} moved")) };
        let verdict = Verdict::ALL[index];
        let action = if verdict.is_redirect() { XDP_REDIRECT } else { XDP_PASS };
        if after[index] != before[index] + 1 || output.return_value != action {
            return Err(format!("{verdict:?} with action {}", output.return_value));
        }
        Ok(verdict)
    }
}

fn find<'a>(object: &'a Object, name: &str) -> libbpf_rs::Map<'a> {
    object.maps().find(|map| map.name() == name).unwrap()
}

fn bytes(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The documented verdict of a case cut to `len`.
fn documented(case: &cases::Case, len: usize) -> Verdict {
    case.cuts.iter().rev().find(|(from, _)| *from <= len).unwrap().1
}

#[test]
fn every_packet_at_every_length() {
    let Some(mut rig) = Rig::with_socket(MODE_SHARED) else { return };
    let mut seen = HashSet::new();
    for case in cases::all() {
        for len in ETH_HLEN..=case.frame.len() {
            for program in PROGRAMS {
                let verdict = rig.run(program, &case.frame[..len], None);
                assert_eq!(verdict, Ok(documented(&case, len)), "{}: {len} {program}", case.name);
            }
            seen.insert(documented(&case, len));
        }
    }
    let elsewhere = [Verdict::PassNotConfigured, Verdict::PassNoSocket, Verdict::RedirectAll];
    for verdict in Verdict::ALL {
        assert!(seen.contains(verdict) || elsewhere.contains(verdict), "no case for {verdict:?}");
    }
}

/// A driver may leave any part of the headers in a later buffer.
#[test]
fn buffers_change_no_verdict() {
    let Some(mut rig) = Rig::with_socket(MODE_SHARED) else { return };
    let all = cases::all();
    let probe = &all[0];
    if let Err(why) = rig.run(names::STEER_FRAGS, &probe.frame, Some(ETH_HLEN)) {
        println!("skipped: needs Linux 6.18 (test-run with a short first buffer): {why}");
        return;
    }
    for case in all {
        for linear in ETH_HLEN..case.frame.len().min(200) {
            let verdict = rig.run(names::STEER_FRAGS, &case.frame, Some(linear));
            let full = documented(&case, case.frame.len());
            assert_eq!(verdict, Ok(full), "{}: first buffer of {linear}", case.name);
        }
    }
}

#[test]
fn a_jumbo_frame_in_several_buffers() {
    let Some(mut rig) = Rig::with_socket(MODE_SHARED) else { return };
    for case in cases::all() {
        let full = documented(&case, case.frame.len());
        let mut frame = case.frame;
        frame.resize(9014, 0);
        assert_eq!(rig.run(names::STEER_FRAGS, &frame, None), Ok(full), "{}", case.name);
    }
}

#[test]
fn without_a_socket_the_kernel_has_it() {
    let Some(mut rig) = Rig::new(MODE_SHARED) else { return };
    for case in cases::all() {
        let mut verdict = documented(&case, case.frame.len());
        if verdict.is_redirect() {
            verdict = Verdict::PassNoSocket;
        }
        for program in PROGRAMS {
            assert_eq!(rig.run(program, &case.frame, None), Ok(verdict), "{}", case.name);
        }
    }
}

#[test]
fn modes_that_read_nothing() {
    let Some(mut rig) = Rig::with_socket(MODE_ALL) else { return };
    let expect = |rig: &mut Rig, verdict| {
        for case in cases::all() {
            for (program, len) in PROGRAMS.into_iter().zip([ETH_HLEN, case.frame.len()]) {
                let got = rig.run(program, &case.frame[..len], None);
                assert_eq!(got, Ok(verdict), "{}", case.name);
            }
        }
    };
    expect(&mut rig, Verdict::RedirectAll);
    for mode in [MODE_PASS, 3, u32::MAX] {
        rig.put(names::CONFIG, &[0; 4], &Config { mode, zero: 0 }.to_bytes());
        expect(&mut rig, Verdict::PassNotConfigured);
    }
}

/// One byte wrong anywhere, or nothing right at all: a verdict, never an error.
#[test]
fn corruption_gives_some_verdict() {
    let Some(mut rig) = Rig::with_socket(MODE_SHARED) else { return };
    // xorshift64 with a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for case in cases::all() {
        for offset in 12..case.frame.len().min(130) {
            let mut frame = case.frame.clone();
            frame[offset] ^= (random() as u8).max(1);
            let verdict = rig.run(PROGRAMS[offset % 2], &frame, None);
            assert!(verdict.is_ok(), "{}: byte {offset}: {verdict:?}", case.name);
        }
    }
    for round in 0..2000 {
        let len = ETH_HLEN + random() as usize % 200;
        let mut frame: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        let ethertype = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]][round % 4];
        frame[12..14].copy_from_slice(&ethertype);
        let verdict = rig.run(PROGRAMS[round % 2], &frame, None);
        assert!(verdict.is_ok(), "{verdict:?} for {frame:02x?}");
    }
}
