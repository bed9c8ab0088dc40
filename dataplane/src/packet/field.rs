//! The single list of fields.
//!
//! A field is a bit range of a `FlowKey` with names, prerequisites and rights. The text parser,
//! the printer, `move`/`load`/`set_field`, the classifier's masks and the reference page all
//! read this list, so a field that is not here does not exist, and one that is here works
//! everywhere. Several fields may lie over the same bits (`reg0`, `xreg0`, `xxreg0`; `vlan_vid`
//! in `vlan_tci`; `icmp_type` over `tcp_src`); `is_primary` marks one that owns its bits.
//!
//! Names and numbers: OpenFlow 1.5.1 section 7.2.3 (OXM class 0x8000), and Open vSwitch's
//! extensions (NXM classes 0 and 1). Rights and prerequisites as in ovs-fields(7).

use super::key::FlowKey;
use std::mem::offset_of;

/// How a value is written in flow text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Decimal,
    Hex,
    Mac,
    Ipv4,
    Ipv6,
    /// Port number or name.
    Port,
    /// `+new-est`.
    CtState,
    /// `no`, `yes`, `first`, `later`, `not_later`.
    Frag,
    /// `+syn-ack`, or a number.
    TcpFlags,
    /// `+df+csum+key`.
    TunFlags,
}

/// Which masks a match may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maskable {
    /// All bits or none.
    No,
    /// Any bit mask.
    Arbitrary,
}

/// What must be true of a packet for the field to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prereq {
    None,
    Arp,
    Ipv4,
    Ipv6,
    /// IPv4 or IPv6.
    Ip,
    Vlan,
    Mpls,
    Tcp,
    Udp,
    Sctp,
    /// TCP, UDP or SCTP.
    Transport,
    Icmp4,
    Icmp6,
    /// ICMPv6 neighbour solicitation or advertisement.
    Nd,
    NdSolicit,
    NdAdvert,
}

// tidy: wide table
macro_rules! fields {
    ($($id:ident = $name:literal, [$($alias:literal),*], $member:ident $(+ $add:literal)?, $shift:literal, $bits:literal,
        $format:ident, $mask:ident, $prereq:ident, $rw:ident, $primary:ident;)+) => {
        /// A field of the language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $($id,)+ }

        /// All fields, in the order of `Field`.
        pub static FIELDS: &[FieldInfo] = &[$(FieldInfo {
            id: Field::$id,
            name: $name,
            aliases: &[$($alias),*],
            offset: (offset_of!(FlowKey, $member) $(+ $add)?) as u16,
            shift: $shift,
            bits: $bits,
            format: Format::$format,
            maskable: Maskable::$mask,
            prereq: Prereq::$prereq,
            writable: writable!($rw),
            is_primary: primary!($primary),
        },)+];
    };
}
macro_rules! writable {
    (rw) => {
        true
    };
    (ro) => {
        false
    };
}
macro_rules! primary {
    (own) => {
        true
    };
    (alias) => {
        false
    };
}

/// What the language knows of a field.
#[derive(Debug)]
pub struct FieldInfo {
    pub id: Field,
    /// The name that `set_field` prints. Matches print some fields by an older alias, as Open
    /// vSwitch does (`dl_dst`, `nw_src`, `tp_dst`).
    pub name: &'static str,
    /// Other names that are read: the NXM/OXM name first (what `move` and `load` print), then
    /// older spellings.
    pub aliases: &'static [&'static str],
    /// Byte offset in `FlowKey`.
    pub offset: u16,
    /// Bits to shift right after reading.
    pub shift: u8,
    /// Width.
    pub bits: u8,
    pub format: Format,
    pub maskable: Maskable,
    pub prereq: Prereq,
    /// Whether `set_field`, `load` and `move` may write it.
    pub writable: bool,
    /// Owns its bits; the others are views of them.
    pub is_primary: bool,
}

fields! {
    // Two views of the port of entry: 16 bits as in OpenFlow 1.0, 32 bits as since 1.1.
    InPort = "in_port", ["NXM_OF_IN_PORT"], in_port, 0, 16, Port, No, None, rw, own;
    InPortOxm = "in_port_oxm", ["OXM_OF_IN_PORT"], in_port, 0, 32, Port, No, None, rw, alias;
    Metadata = "metadata", ["OXM_OF_METADATA"], metadata, 0, 64, Hex, Arbitrary, None, rw, own;
    PktMark = "pkt_mark", ["NXM_NX_PKT_MARK"], pkt_mark, 0, 32, Hex, Arbitrary, None, rw, own;
    ConjId = "conj_id", ["NXM_NX_CONJ_ID"], conj_id, 0, 32, Decimal, No, None, ro, own;

    TunId = "tun_id", ["NXM_NX_TUN_ID", "OXM_OF_TUNNEL_ID", "tunnel_id"], tun_id, 0, 64, Hex, Arbitrary, None, rw, own;
    TunSrc = "tun_src", ["NXM_NX_TUN_IPV4_SRC"], tun_src, 0, 32, Ipv4, Arbitrary, None, rw, own;
    TunDst = "tun_dst", ["NXM_NX_TUN_IPV4_DST"], tun_dst, 0, 32, Ipv4, Arbitrary, None, rw, own;
    TunIpv6Src = "tun_ipv6_src", ["NXM_NX_TUN_IPV6_SRC"], tun_ipv6_src, 0, 128, Ipv6, Arbitrary, None, rw, own;
    TunIpv6Dst = "tun_ipv6_dst", ["NXM_NX_TUN_IPV6_DST"], tun_ipv6_dst, 0, 128, Ipv6, Arbitrary, None, rw, own;
    TunFlags = "tun_flags", ["NXM_NX_TUN_FLAGS"], tun_flags, 0, 16, TunFlags, Arbitrary, None, rw, own;
    TunTos = "tun_tos", [], tun_tos, 0, 8, Decimal, No, None, ro, own;
    TunTtl = "tun_ttl", [], tun_ttl, 0, 8, Decimal, No, None, ro, own;
    // Placeholders: where a field lies and how wide it is, the bridge's map of options says.
    TunMetadata0 = "tun_metadata0", ["NXM_NX_TUN_METADATA0"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata1 = "tun_metadata1", ["NXM_NX_TUN_METADATA1"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata2 = "tun_metadata2", ["NXM_NX_TUN_METADATA2"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata3 = "tun_metadata3", ["NXM_NX_TUN_METADATA3"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata4 = "tun_metadata4", ["NXM_NX_TUN_METADATA4"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata5 = "tun_metadata5", ["NXM_NX_TUN_METADATA5"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata6 = "tun_metadata6", ["NXM_NX_TUN_METADATA6"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata7 = "tun_metadata7", ["NXM_NX_TUN_METADATA7"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata8 = "tun_metadata8", ["NXM_NX_TUN_METADATA8"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata9 = "tun_metadata9", ["NXM_NX_TUN_METADATA9"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata10 = "tun_metadata10", ["NXM_NX_TUN_METADATA10"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata11 = "tun_metadata11", ["NXM_NX_TUN_METADATA11"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata12 = "tun_metadata12", ["NXM_NX_TUN_METADATA12"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata13 = "tun_metadata13", ["NXM_NX_TUN_METADATA13"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata14 = "tun_metadata14", ["NXM_NX_TUN_METADATA14"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata15 = "tun_metadata15", ["NXM_NX_TUN_METADATA15"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata16 = "tun_metadata16", ["NXM_NX_TUN_METADATA16"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata17 = "tun_metadata17", ["NXM_NX_TUN_METADATA17"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata18 = "tun_metadata18", ["NXM_NX_TUN_METADATA18"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata19 = "tun_metadata19", ["NXM_NX_TUN_METADATA19"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata20 = "tun_metadata20", ["NXM_NX_TUN_METADATA20"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata21 = "tun_metadata21", ["NXM_NX_TUN_METADATA21"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata22 = "tun_metadata22", ["NXM_NX_TUN_METADATA22"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata23 = "tun_metadata23", ["NXM_NX_TUN_METADATA23"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata24 = "tun_metadata24", ["NXM_NX_TUN_METADATA24"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata25 = "tun_metadata25", ["NXM_NX_TUN_METADATA25"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata26 = "tun_metadata26", ["NXM_NX_TUN_METADATA26"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata27 = "tun_metadata27", ["NXM_NX_TUN_METADATA27"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata28 = "tun_metadata28", ["NXM_NX_TUN_METADATA28"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata29 = "tun_metadata29", ["NXM_NX_TUN_METADATA29"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata30 = "tun_metadata30", ["NXM_NX_TUN_METADATA30"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata31 = "tun_metadata31", ["NXM_NX_TUN_METADATA31"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata32 = "tun_metadata32", ["NXM_NX_TUN_METADATA32"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata33 = "tun_metadata33", ["NXM_NX_TUN_METADATA33"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata34 = "tun_metadata34", ["NXM_NX_TUN_METADATA34"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata35 = "tun_metadata35", ["NXM_NX_TUN_METADATA35"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata36 = "tun_metadata36", ["NXM_NX_TUN_METADATA36"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata37 = "tun_metadata37", ["NXM_NX_TUN_METADATA37"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata38 = "tun_metadata38", ["NXM_NX_TUN_METADATA38"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata39 = "tun_metadata39", ["NXM_NX_TUN_METADATA39"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata40 = "tun_metadata40", ["NXM_NX_TUN_METADATA40"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata41 = "tun_metadata41", ["NXM_NX_TUN_METADATA41"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata42 = "tun_metadata42", ["NXM_NX_TUN_METADATA42"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata43 = "tun_metadata43", ["NXM_NX_TUN_METADATA43"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata44 = "tun_metadata44", ["NXM_NX_TUN_METADATA44"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata45 = "tun_metadata45", ["NXM_NX_TUN_METADATA45"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata46 = "tun_metadata46", ["NXM_NX_TUN_METADATA46"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata47 = "tun_metadata47", ["NXM_NX_TUN_METADATA47"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata48 = "tun_metadata48", ["NXM_NX_TUN_METADATA48"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata49 = "tun_metadata49", ["NXM_NX_TUN_METADATA49"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata50 = "tun_metadata50", ["NXM_NX_TUN_METADATA50"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata51 = "tun_metadata51", ["NXM_NX_TUN_METADATA51"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata52 = "tun_metadata52", ["NXM_NX_TUN_METADATA52"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata53 = "tun_metadata53", ["NXM_NX_TUN_METADATA53"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata54 = "tun_metadata54", ["NXM_NX_TUN_METADATA54"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata55 = "tun_metadata55", ["NXM_NX_TUN_METADATA55"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata56 = "tun_metadata56", ["NXM_NX_TUN_METADATA56"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata57 = "tun_metadata57", ["NXM_NX_TUN_METADATA57"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata58 = "tun_metadata58", ["NXM_NX_TUN_METADATA58"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata59 = "tun_metadata59", ["NXM_NX_TUN_METADATA59"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata60 = "tun_metadata60", ["NXM_NX_TUN_METADATA60"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata61 = "tun_metadata61", ["NXM_NX_TUN_METADATA61"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata62 = "tun_metadata62", ["NXM_NX_TUN_METADATA62"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;
    TunMetadata63 = "tun_metadata63", ["NXM_NX_TUN_METADATA63"], tun_metadata, 0, 128, Hex, Arbitrary, None, rw, alias;

    CtState = "ct_state", ["NXM_NX_CT_STATE"], ct_state, 0, 8, CtState, Arbitrary, None, ro, own;
    CtZone = "ct_zone", ["NXM_NX_CT_ZONE"], ct_zone, 0, 16, Hex, No, None, ro, own;
    CtMark = "ct_mark", ["NXM_NX_CT_MARK"], ct_mark, 0, 32, Hex, Arbitrary, None, rw, own;
    CtLabel = "ct_label", ["NXM_NX_CT_LABEL"], ct_label, 0, 128, Hex, Arbitrary, None, rw, own;
    CtNwProto = "ct_nw_proto", ["NXM_NX_CT_NW_PROTO"], ct_nw_proto, 0, 8, Decimal, No, None, ro, own;
    CtNwSrc = "ct_nw_src", ["NXM_NX_CT_NW_SRC"], ct_nw_src, 0, 32, Ipv4, Arbitrary, None, ro, own;
    CtNwDst = "ct_nw_dst", ["NXM_NX_CT_NW_DST"], ct_nw_dst, 0, 32, Ipv4, Arbitrary, None, ro, own;
    CtIpv6Src = "ct_ipv6_src", ["NXM_NX_CT_IPV6_SRC"], ct_ipv6_src, 0, 128, Ipv6, Arbitrary, None, ro, own;
    CtIpv6Dst = "ct_ipv6_dst", ["NXM_NX_CT_IPV6_DST"], ct_ipv6_dst, 0, 128, Ipv6, Arbitrary, None, ro, own;
    CtTpSrc = "ct_tp_src", ["NXM_NX_CT_TP_SRC"], ct_tp_src, 0, 16, Decimal, Arbitrary, None, ro, own;
    CtTpDst = "ct_tp_dst", ["NXM_NX_CT_TP_DST"], ct_tp_dst, 0, 16, Decimal, Arbitrary, None, ro, own;

    // reg4k+j is the j-th highest quarter of xxreg k: little-endian memory, so the highest comes last.
    Reg0 = "reg0", ["NXM_NX_REG0"], xxreg + 12, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg1 = "reg1", ["NXM_NX_REG1"], xxreg + 8, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg2 = "reg2", ["NXM_NX_REG2"], xxreg + 4, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg3 = "reg3", ["NXM_NX_REG3"], xxreg + 0, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg4 = "reg4", ["NXM_NX_REG4"], xxreg + 28, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg5 = "reg5", ["NXM_NX_REG5"], xxreg + 24, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg6 = "reg6", ["NXM_NX_REG6"], xxreg + 20, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg7 = "reg7", ["NXM_NX_REG7"], xxreg + 16, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg8 = "reg8", ["NXM_NX_REG8"], xxreg + 44, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg9 = "reg9", ["NXM_NX_REG9"], xxreg + 40, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg10 = "reg10", ["NXM_NX_REG10"], xxreg + 36, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg11 = "reg11", ["NXM_NX_REG11"], xxreg + 32, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg12 = "reg12", ["NXM_NX_REG12"], xxreg + 60, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg13 = "reg13", ["NXM_NX_REG13"], xxreg + 56, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg14 = "reg14", ["NXM_NX_REG14"], xxreg + 52, 0, 32, Hex, Arbitrary, None, rw, own;
    Reg15 = "reg15", ["NXM_NX_REG15"], xxreg + 48, 0, 32, Hex, Arbitrary, None, rw, own;
    Xreg0 = "xreg0", ["OXM_OF_PKT_REG0"], xxreg + 8, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg1 = "xreg1", ["OXM_OF_PKT_REG1"], xxreg + 0, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg2 = "xreg2", ["OXM_OF_PKT_REG2"], xxreg + 24, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg3 = "xreg3", ["OXM_OF_PKT_REG3"], xxreg + 16, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg4 = "xreg4", ["OXM_OF_PKT_REG4"], xxreg + 40, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg5 = "xreg5", ["OXM_OF_PKT_REG5"], xxreg + 32, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg6 = "xreg6", ["OXM_OF_PKT_REG6"], xxreg + 56, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xreg7 = "xreg7", ["OXM_OF_PKT_REG7"], xxreg + 48, 0, 64, Hex, Arbitrary, None, rw, alias;
    Xxreg0 = "xxreg0", ["NXM_NX_XXREG0"], xxreg + 0, 0, 128, Hex, Arbitrary, None, rw, alias;
    Xxreg1 = "xxreg1", ["NXM_NX_XXREG1"], xxreg + 16, 0, 128, Hex, Arbitrary, None, rw, alias;
    Xxreg2 = "xxreg2", ["NXM_NX_XXREG2"], xxreg + 32, 0, 128, Hex, Arbitrary, None, rw, alias;
    Xxreg3 = "xxreg3", ["NXM_NX_XXREG3"], xxreg + 48, 0, 128, Hex, Arbitrary, None, rw, alias;

    EthDst = "eth_dst", ["NXM_OF_ETH_DST", "OXM_OF_ETH_DST", "dl_dst"], eth_dst, 0, 48, Mac, Arbitrary, None, rw, own;
    EthSrc = "eth_src", ["NXM_OF_ETH_SRC", "OXM_OF_ETH_SRC", "dl_src"], eth_src, 0, 48, Mac, Arbitrary, None, rw, own;
    EthType = "eth_type", ["NXM_OF_ETH_TYPE", "OXM_OF_ETH_TYPE", "dl_type"], eth_type, 0, 16, Hex, No, None, ro, own;
    VlanTci = "vlan_tci", ["NXM_OF_VLAN_TCI"], vlan_tci, 0, 16, Hex, Arbitrary, None, rw, own;
    DlVlan = "dl_vlan", [], vlan_tci, 0, 12, Decimal, No, None, rw, alias;
    DlVlanPcp = "dl_vlan_pcp", [], vlan_tci, 13, 3, Decimal, No, None, rw, alias;
    VlanVid = "vlan_vid", ["OXM_OF_VLAN_VID"], vlan_tci, 0, 13, Decimal, Arbitrary, None, rw, alias;
    VlanPcp = "vlan_pcp", ["OXM_OF_VLAN_PCP"], vlan_tci, 13, 3, Decimal, No, Vlan, rw, alias;
    VlanTpid = "vlan_tpid", [], vlan_tpid, 0, 16, Hex, No, None, ro, own;

    MplsLabel = "mpls_label", ["OXM_OF_MPLS_LABEL"], mpls_lse, 12, 20, Decimal, No, Mpls, rw, own;
    MplsTc = "mpls_tc", ["OXM_OF_MPLS_TC"], mpls_lse, 9, 3, Decimal, No, Mpls, rw, own;
    MplsBos = "mpls_bos", ["OXM_OF_MPLS_BOS"], mpls_lse, 8, 1, Decimal, No, Mpls, ro, own;
    MplsTtl = "mpls_ttl", ["NXM_NX_MPLS_TTL"], mpls_lse, 0, 8, Decimal, No, Mpls, rw, own;

    IpSrc = "ip_src", ["NXM_OF_IP_SRC", "OXM_OF_IPV4_SRC", "nw_src", "ipv4_src"], ip_src, 0, 32, Ipv4, Arbitrary, Ipv4, rw, own;
    IpDst = "ip_dst", ["NXM_OF_IP_DST", "OXM_OF_IPV4_DST", "nw_dst", "ipv4_dst"], ip_dst, 0, 32, Ipv4, Arbitrary, Ipv4, rw, own;
    Ipv6Src = "ipv6_src", ["NXM_NX_IPV6_SRC", "OXM_OF_IPV6_SRC"], ipv6_src, 0, 128, Ipv6, Arbitrary, Ipv6, rw, own;
    Ipv6Dst = "ipv6_dst", ["NXM_NX_IPV6_DST", "OXM_OF_IPV6_DST"], ipv6_dst, 0, 128, Ipv6, Arbitrary, Ipv6, rw, own;
    Ipv6Label = "ipv6_label", ["NXM_NX_IPV6_LABEL", "OXM_OF_IPV6_FLABEL"], ipv6_label, 0, 20, Hex, Arbitrary, Ipv6, rw, own;
    IpProto = "nw_proto", ["NXM_OF_IP_PROTO", "OXM_OF_IP_PROTO", "ip_proto"], ip_proto, 0, 8, Decimal, No, Ip, ro, own;
    IpTos = "nw_tos", ["NXM_OF_IP_TOS"], ip_tos, 0, 8, Decimal, No, Ip, rw, own;
    IpDscp = "ip_dscp", ["OXM_OF_IP_DSCP"], ip_tos, 2, 6, Decimal, No, Ip, rw, alias;
    IpEcn = "nw_ecn", ["NXM_NX_IP_ECN", "OXM_OF_IP_ECN", "ip_ecn"], ip_tos, 0, 2, Decimal, No, Ip, rw, alias;
    IpTtl = "nw_ttl", ["NXM_NX_IP_TTL", "OXM_OF_IP_TTL", "ip_ttl"], ip_ttl, 0, 8, Decimal, No, Ip, rw, own;
    IpFrag = "ip_frag", ["NXM_NX_IP_FRAG", "nw_frag"], ip_frag, 0, 2, Frag, Arbitrary, Ip, ro, own;

    ArpOp = "arp_op", ["NXM_OF_ARP_OP", "OXM_OF_ARP_OP"], ip_proto, 0, 8, Decimal, No, Arp, rw, alias;
    ArpSpa = "arp_spa", ["NXM_OF_ARP_SPA", "OXM_OF_ARP_SPA"], ip_src, 0, 32, Ipv4, Arbitrary, Arp, rw, alias;
    ArpTpa = "arp_tpa", ["NXM_OF_ARP_TPA", "OXM_OF_ARP_TPA"], ip_dst, 0, 32, Ipv4, Arbitrary, Arp, rw, alias;
    ArpSha = "arp_sha", ["NXM_NX_ARP_SHA", "OXM_OF_ARP_SHA"], arp_sha, 0, 48, Mac, Arbitrary, Arp, rw, own;
    ArpTha = "arp_tha", ["NXM_NX_ARP_THA", "OXM_OF_ARP_THA"], arp_tha, 0, 48, Mac, Arbitrary, Arp, rw, own;

    TcpSrc = "tcp_src", ["NXM_OF_TCP_SRC", "OXM_OF_TCP_SRC", "tp_src"], tp_src, 0, 16, Decimal, Arbitrary, Tcp, rw, own;
    TcpDst = "tcp_dst", ["NXM_OF_TCP_DST", "OXM_OF_TCP_DST", "tp_dst"], tp_dst, 0, 16, Decimal, Arbitrary, Tcp, rw, own;
    TcpFlags = "tcp_flags", ["NXM_NX_TCP_FLAGS", "OXM_OF_TCP_FLAGS"], tcp_flags, 0, 12, TcpFlags, Arbitrary, Tcp, ro, own;
    UdpSrc = "udp_src", ["NXM_OF_UDP_SRC", "OXM_OF_UDP_SRC"], tp_src, 0, 16, Decimal, Arbitrary, Udp, rw, alias;
    UdpDst = "udp_dst", ["NXM_OF_UDP_DST", "OXM_OF_UDP_DST"], tp_dst, 0, 16, Decimal, Arbitrary, Udp, rw, alias;
    SctpSrc = "sctp_src", ["OXM_OF_SCTP_SRC"], tp_src, 0, 16, Decimal, Arbitrary, Sctp, rw, alias;
    SctpDst = "sctp_dst", ["OXM_OF_SCTP_DST"], tp_dst, 0, 16, Decimal, Arbitrary, Sctp, rw, alias;
    IcmpType = "icmp_type", ["NXM_OF_ICMP_TYPE", "OXM_OF_ICMPV4_TYPE"], tp_src, 0, 8, Decimal, No, Icmp4, rw, alias;
    IcmpCode = "icmp_code", ["NXM_OF_ICMP_CODE", "OXM_OF_ICMPV4_CODE"], tp_dst, 0, 8, Decimal, No, Icmp4, rw, alias;
    Icmpv6Type = "icmpv6_type", ["NXM_NX_ICMPV6_TYPE", "OXM_OF_ICMPV6_TYPE"], tp_src, 0, 8, Decimal, No, Icmp6, rw, alias;
    Icmpv6Code = "icmpv6_code", ["NXM_NX_ICMPV6_CODE", "OXM_OF_ICMPV6_CODE"], tp_dst, 0, 8, Decimal, No, Icmp6, rw, alias;
    NdTarget = "nd_target", ["NXM_NX_ND_TARGET", "OXM_OF_IPV6_ND_TARGET"], nd_target, 0, 128, Ipv6, Arbitrary, Nd, rw, own;
    NdSll = "nd_sll", ["NXM_NX_ND_SLL", "OXM_OF_IPV6_ND_SLL"], arp_sha, 0, 48, Mac, Arbitrary, NdSolicit, rw, alias;
    NdTll = "nd_tll", ["NXM_NX_ND_TLL", "OXM_OF_IPV6_ND_TLL"], arp_tha, 0, 48, Mac, Arbitrary, NdAdvert, rw, alias;
}

// tidy: end of table

/// All ones in the low `bits` bits (0..=128).
#[inline]
pub const fn ones(bits: u8) -> u128 {
    if bits >= 128 { u128::MAX } else { (1u128 << bits) - 1 }
}

impl Field {
    #[inline]
    pub fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }

    /// N of `tun_metadataN`, whose bits the bridge's map of tunnel options gives.
    pub fn tun_metadata_index(self) -> Option<u8> {
        let (n, first) = (self as u8, Field::TunMetadata0 as u8);
        (first..=Field::TunMetadata63 as u8).contains(&n).then(|| n - first)
    }

    /// Looks a field up by any of its names; case matters as in Open vSwitch (it does not there
    /// for NXM names, so neither here).
    pub fn by_name(name: &str) -> Option<Field> {
        FIELDS
            .iter()
            .find(|f| f.name == name || f.aliases.iter().any(|a| a.eq_ignore_ascii_case(name)))
            .map(|f| f.id)
    }
}

impl FieldInfo {
    /// The whole field.
    pub fn whole(&self) -> Subfield {
        Subfield { offset: self.offset, shift: self.shift, bits: self.bits }
    }

    /// Bits `lo..=hi` of the field.
    pub fn range(&self, lo: u8, hi: u8) -> Option<Subfield> {
        (lo <= hi && hi < self.bits).then(|| Subfield {
            offset: self.offset + ((self.shift + lo) / 8) as u16,
            shift: (self.shift + lo) % 8,
            bits: hi - lo + 1,
        })
    }

    pub fn get(&self, key: &FlowKey) -> u128 {
        self.whole().get(key)
    }

    pub fn set(&self, key: &mut FlowKey, value: u128) {
        self.whole().set(key, value);
    }

    /// The name that `move` and `load` print.
    pub fn nxm_name(&self) -> &'static str {
        self.aliases.first().copied().unwrap_or(self.name)
    }
}

/// A bit range of a `FlowKey`: what `move`, `load` and a zone taken from a field work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subfield {
    /// Byte offset in the key.
    pub offset: u16,
    /// Bits to the right of it in those bytes.
    pub shift: u8,
    pub bits: u8,
}

impl Subfield {
    /// No bits at all: reads as zero.
    pub const EMPTY: Self = Self { offset: 0, shift: 0, bits: 0 };

    /// Reads the range. 128-bit ranges start at a byte, so 16 bytes hold any range.
    #[inline]
    pub fn get(self, key: &FlowKey) -> u128 {
        let bytes = zerocopy::IntoBytes::as_bytes(key);
        let n = (self.shift as usize + self.bits as usize).div_ceil(8).min(16);
        let mut buf = [0u8; 16];
        let from = self.offset as usize;
        if let (Some(dst), Some(src)) = (buf.get_mut(..n), bytes.get(from..from + n)) {
            dst.copy_from_slice(src);
        }
        (u128::from_le_bytes(buf) >> self.shift) & ones(self.bits)
    }

    /// Writes the range; bits of `value` beyond it are ignored.
    #[inline]
    pub fn set(self, key: &mut FlowKey, value: u128) {
        self.set_masked(key, value, u128::MAX);
    }

    /// Writes the bits of the range that `mask` names.
    #[inline]
    pub fn set_masked(self, key: &mut FlowKey, value: u128, mask: u128) {
        let mask = mask & ones(self.bits);
        let new = (self.get(key) & !mask) | (value & mask);
        let n = (self.shift as usize + self.bits as usize).div_ceil(8).min(16);
        let from = self.offset as usize;
        let bytes = zerocopy::IntoBytes::as_mut_bytes(key);
        let Some(dst) = bytes.get_mut(from..from + n) else { return };
        let mut buf = [0u8; 16];
        buf[..n].copy_from_slice(dst);
        let keep = !(ones(self.bits) << self.shift);
        let out = (u128::from_le_bytes(buf) & keep) | (new << self.shift);
        dst.copy_from_slice(&out.to_le_bytes()[..n]);
    }

    /// Ones over the range, as a mask.
    pub fn or_into(self, mask: &mut FlowKey) {
        self.set(mask, u128::MAX);
    }
}

/// Whether the packet that `key` describes has what `prereq` asks for.
pub fn prereq_met(prereq: Prereq, key: &FlowKey) -> bool {
    let v4 = key.eth_type == 0x0800;
    let v6 = key.eth_type == 0x86dd;
    let first = key.ip_frag & super::key::FRAG_LATER == 0;
    let proto = |p: u8| (v4 || v6) && key.ip_proto == p && first;
    match prereq {
        Prereq::None => true,
        Prereq::Arp => key.eth_type == 0x0806 || key.eth_type == 0x8035,
        Prereq::Ipv4 => v4,
        Prereq::Ipv6 => v6,
        Prereq::Ip => v4 || v6,
        Prereq::Vlan => key.vlan_tci & super::key::VLAN_PRESENT != 0,
        Prereq::Mpls => super::key::is_mpls(key.eth_type),
        Prereq::Tcp => proto(6),
        Prereq::Udp => proto(17),
        Prereq::Sctp => proto(132),
        Prereq::Transport => proto(6) || proto(17) || proto(132),
        Prereq::Icmp4 => v4 && proto(1),
        Prereq::Icmp6 => v6 && proto(58),
        Prereq::Nd => v6 && proto(58) && matches!(key.tp_src, 135 | 136),
        Prereq::NdSolicit => v6 && proto(58) && key.tp_src == 135,
        Prereq::NdAdvert => v6 && proto(58) && key.tp_src == 136,
    }
}

#[cfg(test)]
mod tests;
