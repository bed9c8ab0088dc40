//! A flow as `ovs-ofctl` 3.1 prints it: order and spelling of match fields, statistics, and
//! the words around them.
//!
//! The order is fixed and not that of the field list: metadata first, then tunnel, port of
//! entry, Ethernet, IP, transport. Some names are OpenFlow 1.0's (`dl_dst`, `nw_src`).

use super::action_print::write_actions;
use super::ports::{PortNames, write_port};
use super::value::{CT_STATE, write_address, write_flags, write_hex, write_mac, write_masked};
use super::{DEFAULT_PRIORITY, Flow, FlowAction, FlowFlags, Match};
use sluice_dataplane::packet::field::{Field, ones};
use std::fmt::Write;
use std::time::Duration;

/// All registers, in order.
pub const REGS: [Field; 16] = [
    Field::Reg0,
    Field::Reg1,
    Field::Reg2,
    Field::Reg3,
    Field::Reg4,
    Field::Reg5,
    Field::Reg6,
    Field::Reg7,
    Field::Reg8,
    Field::Reg9,
    Field::Reg10,
    Field::Reg11,
    Field::Reg12,
    Field::Reg13,
    Field::Reg14,
    Field::Reg15,
];

/// Counters of a flow, for the long form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    pub duration: Duration,
    pub packets: u64,
    pub bytes: u64,
    /// Seconds since the last hit and since the last modification; shown if known.
    pub idle_age_s: Option<u32>,
    pub hard_age_s: Option<u32>,
}

/// As `ovs-ofctl --no-stats dump-flows`: what is at its default is left out. It can be read
/// back to an equal flow.
pub fn print_flow(flow: &Flow, names: &dyn PortNames) -> String {
    print(flow, None, names)
}

/// As `ovs-ofctl dump-flows`.
pub fn print_flow_stats(flow: &Flow, stats: &FlowStats, names: &dyn PortNames) -> String {
    print(flow, Some(stats), names)
}

fn print(flow: &Flow, stats: Option<&FlowStats>, names: &dyn PortNames) -> String {
    let mut out = String::with_capacity(160);
    if stats.is_some() || flow.cookie != 0 {
        let _ = write!(out, "cookie={:#x}, ", flow.cookie);
    }
    if let Some(s) = stats {
        out.push_str("duration=");
        write_duration(&mut out, s.duration);
        out.push_str(", ");
    }
    if stats.is_some() || flow.table != 0 {
        let _ = write!(out, "table={}, ", flow.table);
    }
    if let Some(s) = stats {
        let _ = write!(out, "n_packets={}, n_bytes={}, ", s.packets, s.bytes);
    }
    write_nonzero(&mut out, "idle_timeout", flow.idle_timeout_s);
    write_nonzero(&mut out, "hard_timeout", flow.hard_timeout_s);
    write_flow_flags(&mut out, flow.flags);
    write_nonzero(&mut out, "importance", flow.importance);
    if let Some(s) = stats {
        if let Some(age) = s.idle_age_s {
            let _ = write!(out, "idle_age={age}, ");
        }
        if let Some(age) = s.hard_age_s.filter(|&a| a as u64 != s.duration.as_secs()) {
            let _ = write!(out, "hard_age={age}, ");
        }
    }
    let match_ = print_match(&flow.match_, flow.priority, names);
    if !match_.is_empty() {
        let _ = write!(out, "{match_} ");
    }
    out.push_str("actions=");
    write_actions(&mut out, &flow.actions, names);
    out
}

fn write_nonzero(out: &mut String, name: &str, value: u16) {
    if value != 0 {
        let _ = write!(out, "{name}={value}, ");
    }
}

/// As `write_duration`, alone.
pub fn print_duration(d: Duration) -> String {
    let mut out = String::new();
    write_duration(&mut out, d);
    out
}

/// Seconds, with milliseconds if that is exact, else nanoseconds.
pub fn write_duration(out: &mut String, d: Duration) {
    let (s, ns) = (d.as_secs(), d.subsec_nanos());
    let _ = match ns {
        0 => write!(out, "{s}s"),
        _ if ns % 1_000_000 == 0 => write!(out, "{s}.{:03}s", ns / 1_000_000),
        _ => write!(out, "{s}.{ns:09}s"),
    };
}

fn write_flow_flags(out: &mut String, flags: FlowFlags) {
    for (on, word) in [
        (flags.send_flow_rem, "send_flow_rem "),
        (flags.check_overlap, "check_overlap "),
        (flags.reset_counts, "reset_counts "),
        (flags.no_packet_counts, "no_packet_counts "),
        (flags.no_byte_counts, "no_byte_counts "),
    ] {
        out.push_str(if on { word } else { "" });
    }
}

/// The actions alone, without `actions=`.
pub fn print_actions(actions: &[FlowAction], names: &dyn PortNames) -> String {
    let mut out = String::new();
    write_actions(&mut out, actions, names);
    out
}

/// Priority (unless it is the default) and match, separated by commas.
pub fn print_match(m: &Match, priority: u16, names: &dyn PortNames) -> String {
    let mut p = Printer { out: String::new(), m, names };
    if priority != DEFAULT_PRIORITY {
        let _ = write!(p.out, "priority={priority},");
    }
    p.connection();
    let shown = p.protocol();
    for field in REGS {
        p.hex(field.info().name, field);
    }
    p.tunnel();
    p.hex("metadata", Field::Metadata);
    if p.mask(Field::InPortOxm) != 0 {
        p.out.push_str("in_port=");
        write_port(&mut p.out, m.key.in_port, names);
        p.out.push(',');
    }
    p.vlan();
    p.mac("dl_src", Field::EthSrc);
    p.mac("dl_dst", Field::EthDst);
    if !shown.eth_type && m.mask.eth_type != 0 {
        let _ = write!(p.out, "dl_type=0x{:04x},", m.key.eth_type);
    }
    p.network(shown);
    p.transport();
    if p.out.ends_with(',') {
        p.out.pop();
    }
    p.out
}

/// What the protocol word already said.
#[derive(Clone, Copy)]
struct Shown {
    eth_type: bool,
    proto: bool,
}

struct Printer<'a> {
    out: String,
    m: &'a Match,
    names: &'a dyn PortNames,
}

impl Printer<'_> {
    fn mask(&self, field: Field) -> u128 {
        field.info().get(&self.m.mask)
    }

    /// `name=0x1/0xff`.
    fn hex(&mut self, name: &str, field: Field) {
        let (v, mask) = self.m.get(field);
        if mask == 0 {
            return;
        }
        let _ = write!(self.out, "{name}=");
        write_hex(&mut self.out, v);
        if mask != ones(field.info().bits) {
            self.out.push('/');
            write_hex(&mut self.out, mask);
        }
        self.out.push(',');
    }

    /// Decimal if all bits count, else hexadecimal with a mask.
    fn number(&mut self, name: &str, field: Field) {
        let (v, mask) = self.m.get(field);
        if mask == 0 {
            return;
        }
        let _ = if mask == ones(field.info().bits) {
            write!(self.out, "{name}={v},")
        } else {
            write!(self.out, "{name}={v:#x}/{mask:#x},")
        };
    }

    fn mac(&mut self, name: &str, field: Field) {
        let (v, mask) = self.m.get(field);
        if mask == 0 {
            return;
        }
        let _ = write!(self.out, "{name}=");
        write_mac(&mut self.out, v as u64);
        if mask != ones(48) {
            self.out.push('/');
            write_mac(&mut self.out, mask as u64);
        }
        self.out.push(',');
    }

    fn address(&mut self, name: &str, field: Field) {
        let (v, mask) = self.m.get(field);
        if mask != 0 {
            let _ = write!(self.out, "{name}=");
            write_address(&mut self.out, v, mask, field.info().bits);
            self.out.push(',');
        }
    }

    /// `name=` and the value as `set_field` would print it.
    fn own_format(&mut self, name: &str, field: Field) {
        let (v, mask) = self.m.get(field);
        if mask != 0 {
            let _ = write!(self.out, "{name}=");
            write_masked(&mut self.out, field, v, mask, self.names);
            self.out.push(',');
        }
    }

    fn connection(&mut self) {
        self.hex("pkt_mark", Field::PktMark);
        self.number("conj_id", Field::ConjId);
        let (state, mask) = self.m.get(Field::CtState);
        if mask != 0 {
            self.out.push_str("ct_state=");
            write_flags(&mut self.out, CT_STATE, state, mask, 0xff);
            self.out.push(',');
        }
        self.number("ct_zone", Field::CtZone);
        self.hex("ct_mark", Field::CtMark);
        self.hex("ct_label", Field::CtLabel);
        self.address("ct_nw_src", Field::CtNwSrc);
        self.address("ct_ipv6_src", Field::CtIpv6Src);
        self.address("ct_nw_dst", Field::CtNwDst);
        self.address("ct_ipv6_dst", Field::CtIpv6Dst);
        self.number("ct_nw_proto", Field::CtNwProto);
        self.number("ct_tp_src", Field::CtTpSrc);
        self.number("ct_tp_dst", Field::CtTpDst);
    }

    fn protocol(&mut self) -> Shown {
        let (key, mask) = (&self.m.key, &self.m.mask);
        let proto = if mask.ip_proto != 0 { Some(key.ip_proto) } else { None };
        if mask.eth_type == 0 {
            return Shown { eth_type: false, proto: false };
        }
        let (word, with_proto) = match (key.eth_type, proto) {
            (0x0800, Some(1)) => ("icmp", true),
            (0x0800, Some(6)) => ("tcp", true),
            (0x0800, Some(17)) => ("udp", true),
            (0x0800, Some(132)) => ("sctp", true),
            (0x0800, _) => ("ip", false),
            (0x86dd, Some(58)) => ("icmp6", true),
            (0x86dd, Some(6)) => ("tcp6", true),
            (0x86dd, Some(17)) => ("udp6", true),
            (0x86dd, Some(132)) => ("sctp6", true),
            (0x86dd, _) => ("ipv6", false),
            (0x0806, _) => ("arp", false),
            (0x8035, _) => ("rarp", false),
            (0x8847, _) => ("mpls", false),
            (0x8848, _) => ("mplsm", false),
            _ => return Shown { eth_type: false, proto: false },
        };
        let _ = write!(self.out, "{word},");
        Shown { eth_type: true, proto: with_proto }
    }

    fn tunnel(&mut self) {
        self.hex("tun_id", Field::TunId);
        self.address("tun_src", Field::TunSrc);
        self.address("tun_dst", Field::TunDst);
        self.address("tun_ipv6_src", Field::TunIpv6Src);
        self.address("tun_ipv6_dst", Field::TunIpv6Dst);
        if self.m.mask.tun_flags != 0 {
            let sign = if self.m.key.tun_flags & 1 != 0 { '+' } else { '-' };
            let _ = write!(self.out, "tun_flags={sign}oam,");
        }
        let map = self.names.options();
        map.iter().flat_map(|m| m.mappings()).for_each(|m| self.option(m.index));
    }

    /// `NP` says that the option is not there (only traces know that).
    fn option(&mut self, index: u8) {
        let Some(map) = self.names.options() else { return };
        let (Some(data), Some(present)) = (map.field(index), map.present(index)) else { return };
        if present.get(&self.m.mask) == 0 {
            return;
        }
        let _ = write!(self.out, "tun_metadata{index}");
        let mask = data.get(&self.m.mask);
        if present.get(&self.m.key) == 0 {
            self.out.push_str("=NP");
        } else if mask != 0 {
            self.out.push('=');
            write_hex(&mut self.out, data.get(&self.m.key));
            if mask != ones(data.bits) {
                self.out.push('/');
                write_hex(&mut self.out, mask);
            }
        }
        self.out.push(',');
    }

    fn vlan(&mut self) {
        let (tci, mask) = (self.m.key.vlan_tci, self.m.mask.vlan_tci);
        let (vid, pcp) = (mask & 0x0fff, mask & 0xe000);
        let tagged = mask & tci & 0x1000 != 0;
        let whole = (vid == 0 || vid == 0x0fff) && (pcp == 0 || pcp == 0xe000) && vid | pcp != 0;
        if mask == 0 {
        } else if tagged && whole {
            if vid != 0 {
                let _ = write!(self.out, "dl_vlan={},", tci & 0x0fff);
            }
            if pcp != 0 {
                let _ = write!(self.out, "dl_vlan_pcp={},", tci >> 13);
            }
        } else if mask == 0xffff {
            let _ = write!(self.out, "vlan_tci=0x{tci:04x},");
        } else {
            let _ = write!(self.out, "vlan_tci=0x{tci:04x}/0x{mask:04x},");
        }
    }

    fn network(&mut self, shown: Shown) {
        let eth_type = self.m.key.eth_type;
        let is_arp = matches!(eth_type, 0x0806 | 0x8035);
        let (src, dst) = if is_arp { ("arp_spa", "arp_tpa") } else { ("nw_src", "nw_dst") };
        if eth_type == 0x86dd {
            self.address("ipv6_src", Field::Ipv6Src);
            self.address("ipv6_dst", Field::Ipv6Dst);
            self.flow_label();
        } else {
            self.address(src, Field::IpSrc);
            self.address(dst, Field::IpDst);
        }
        if !shown.proto {
            self.number(if is_arp { "arp_op" } else { "nw_proto" }, Field::IpProto);
        }
        if is_arp {
            self.mac("arp_sha", Field::ArpSha);
            self.mac("arp_tha", Field::ArpTha);
        }
        let (tos, mask) = (self.m.key.ip_tos, self.m.mask.ip_tos);
        if mask & 0xfc != 0 {
            let _ = write!(self.out, "nw_tos={},", tos & 0xfc);
        }
        if mask & 3 != 0 {
            let _ = write!(self.out, "nw_ecn={},", tos & 3);
        }
        self.number("nw_ttl", Field::IpTtl);
        for field in [Field::MplsLabel, Field::MplsTc, Field::MplsTtl, Field::MplsBos] {
            self.number(field.info().name, field);
        }
        self.own_format("nw_frag", Field::IpFrag);
    }

    fn flow_label(&mut self) {
        let (label, mask) = (self.m.key.ipv6_label, self.m.mask.ipv6_label);
        if mask != 0 {
            let _ = write!(self.out, "ipv6_label=0x{label:05x}");
            if mask != 0xf_ffff {
                let _ = write!(self.out, "/0x{mask:05x}");
            }
            self.out.push(',');
        }
    }

    fn transport(&mut self) {
        let key = &self.m.key;
        let icmp6 = key.eth_type == 0x86dd && key.ip_proto == 58;
        if icmp6 || (key.eth_type == 0x0800 && key.ip_proto == 1) {
            self.number("icmp_type", Field::TcpSrc);
            self.number("icmp_code", Field::TcpDst);
        } else {
            self.number("tp_src", Field::TcpSrc);
            self.number("tp_dst", Field::TcpDst);
        }
        if icmp6 {
            self.address("nd_target", Field::NdTarget);
            self.mac("nd_sll", Field::NdSll);
            self.mac("nd_tll", Field::NdTll);
        }
        self.own_format("tcp_flags", Field::TcpFlags);
    }
}
