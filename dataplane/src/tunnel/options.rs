//! Geneve options as fields: the map of a bridge, reading options and writing them.
//!
//! A bridge maps options (class, type, length) to the fields `tun_metadata0..63`; the map is for
//! the packets of all its tunnel ports, and other bridges have their own. The data of mapped
//! options lies in one area of the flow key, each as a number of its own length, and stays where it
//! is when other options are mapped or unmapped: so a field is an ordinary bit range, known when
//! flows are compiled, and matching, `move` and `set_field` need nothing of their own. A second
//! range of one bit says that the option is there at all.
//!
//! **Flows.** A match on `tun_metadataN` also wants the bit (an option that is absent matches
//! nothing, not even zero), and whoever writes the field sets it: both are in the flow that
//! control compiles. `delete_field` clears it (Open vSwitch: `tun_metadata_delete`).
//!
//! **Arriving** (Open vSwitch: `tun_metadata_from_geneve_udpif`): a mapped option of another
//! length ends the packet; one that is not mapped is passed over, unless it is critical, which
//! ends the packet (RFC 8926 section 3.5). The same option twice: the later one holds.
//!
//! **Leaving**: options that are there, in the order of their fields; a critical one marks the
//! header.
//!
//! **Bounds.** 64 bytes of data on one bridge, and 16 in one option, which is the widest field that
//! flows can write at a time. Open vSwitch has 256 and 124.

use crate::counters::Drop;
use crate::packet::field::Subfield;
use crate::packet::key::{FlowKey, PacketKey, TUN_METADATA_BYTES};
use crate::wire::geneve::GeneveOption;
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

/// Fields that options can be mapped to.
pub const TLV_FIELDS_MAX: u8 = 64;
/// Data bytes of one mapped option.
pub const TLV_OPTION_BYTES_MAX: u8 = 16;
const WORD_BYTES: usize = 4;
/// Data and headers of as many options as can be mapped.
pub const OPTIONS_BYTES_MAX: usize = 2 * TUN_METADATA_BYTES;

/// One line of a map: `{class=0x102,type=0x80,len=4}->tun_metadata0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlvMapping {
    /// Number of the field.
    pub index: u8,
    pub class: u16,
    pub option_type: u8,
    /// Data bytes.
    pub len: u8,
}

impl std::fmt::Display for TlvMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, class, option_type, len } = self;
        write!(f, "{{class={class:#x},type={option_type:#x},len={len}}}->tun_metadata{index}")
    }
}

fn listed(mappings: &[TlvMapping]) -> String {
    let all: Vec<String> = mappings.iter().map(TlvMapping::to_string).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(",") }
}

/// Why a map cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlvError {
    #[error("tun_metadata{0} does not exist; the last is tun_metadata63")]
    NoSuchField(u8),
    #[error(
        "option of {0} bytes; data comes in words of 4 bytes, \
         at most {TLV_OPTION_BYTES_MAX} bytes"
    )]
    BadLength(u8),
    #[error("tun_metadata{0} is mapped already; delete that mapping first")]
    AlreadyMapped(u8),
    #[error("class {class:#x}, type {option_type:#x} is mapped already, to another field")]
    Duplicate { class: u16, option_type: u8 },
    #[error(
        "mapped options hold {0} bytes together, at most {TUN_METADATA_BYTES}; \
         delete a mapping that is not needed"
    )]
    Full(usize),
    #[error(
        "there is room for an option of {0} bytes, but not in one piece; \
         delete mappings and add them again"
    )]
    Fragmented(u8),
    #[error("{mapping} is not mapped; what is: {there}", there = listed(.there))]
    NotMapped { mapping: TlvMapping, there: Vec<TlvMapping> },
}

/// The options that a bridge knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlvMap {
    /// By field number; with the first of its words in the area.
    entries: Vec<(TlvMapping, u8)>,
}

impl TlvMap {
    /// Checks the mappings, and gives each its place.
    pub fn new(mappings: &[TlvMapping]) -> Result<Self, TlvError> {
        Self::default().with(mappings)
    }

    /// The map with more mappings. What is there stays where it is.
    pub fn with(&self, mappings: &[TlvMapping]) -> Result<Self, TlvError> {
        let mut sorted = mappings.to_vec();
        sorted.sort_unstable();
        let mut map = self.clone();
        let have: usize = self.mappings().map(|m| usize::from(m.len)).sum();
        let mut used = have;
        for m in sorted {
            if m.index >= TLV_FIELDS_MAX {
                return Err(TlvError::NoSuchField(m.index));
            }
            if m.len == 0 || m.len % 4 != 0 || m.len > TLV_OPTION_BYTES_MAX {
                return Err(TlvError::BadLength(m.len));
            }
            if map.entry(m.index).is_some() {
                return Err(TlvError::AlreadyMapped(m.index));
            }
            let (class, option_type) = (m.class, m.option_type);
            if map.find(class, option_type).is_some() {
                return Err(TlvError::Duplicate { class, option_type });
            }
            used += usize::from(m.len);
            if let Some(word) = map.room(m.len) {
                map.entries.push((m, word));
                map.entries.sort_unstable();
            } else if used <= TUN_METADATA_BYTES {
                return Err(TlvError::Fragmented(m.len));
            }
        }
        if used > TUN_METADATA_BYTES {
            return Err(TlvError::Full(used));
        }
        Ok(map)
    }

    /// The map without these mappings, each of which must be there just so.
    pub fn without(&self, mappings: &[TlvMapping]) -> Result<Self, TlvError> {
        let mut map = self.clone();
        for gone in mappings {
            let Some(at) = map.entries.iter().position(|(m, _)| m == gone) else {
                let there = self.mappings().collect();
                return Err(TlvError::NotMapped { mapping: *gone, there });
            };
            map.entries.remove(at);
        }
        Ok(map)
    }

    /// The first words that are free, as many as an option needs.
    fn room(&self, len: u8) -> Option<u8> {
        let words_of = |len: u8| len / WORD_BYTES as u8;
        let bits = |word: u8, len: u8| ((1_u32 << words_of(len)) - 1) << word;
        let used = self.entries.iter().fold(0, |all, (m, word)| all | bits(*word, m.len));
        let last = (TUN_METADATA_BYTES / WORD_BYTES) as u8 - words_of(len);
        (0..=last).find(|word| used & bits(*word, len) == 0)
    }

    pub fn mappings(&self) -> impl Iterator<Item = TlvMapping> + '_ {
        self.entries.iter().map(|(m, _)| *m)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&self, index: u8) -> Option<(TlvMapping, u8)> {
        self.entries.iter().find(|(m, _)| m.index == index).copied()
    }

    fn find(&self, class: u16, option_type: u8) -> Option<(TlvMapping, u8)> {
        let is = |m: &TlvMapping| (m.class, m.option_type) == (class, option_type);
        self.entries.iter().find(|(m, _)| is(m)).copied()
    }

    /// Where `tun_metadataN` lies; `None`: not mapped.
    pub fn field(&self, index: u8) -> Option<Subfield> {
        let (m, word) = self.entry(index)?;
        let offset = offset_of!(FlowKey, tun_metadata) + usize::from(word) * WORD_BYTES;
        Some(Subfield { offset: offset as u16, shift: 0, bits: m.len * 8 })
    }

    /// The bit that says whether the option of `tun_metadataN` is there.
    pub fn present(&self, index: u8) -> Option<Subfield> {
        let (_, word) = self.entry(index)?;
        let offset = offset_of!(FlowKey, tun_present) + usize::from(word / 8);
        Some(Subfield { offset: offset as u16, shift: word % 8, bits: 1 })
    }

    /// The options that a packet with this key leaves with.
    pub fn encode(&self, key: &FlowKey) -> GeneveOptions {
        let mut out = GeneveOptions::NONE;
        if key.tun_present == 0 {
            return out;
        }
        for (m, word) in self.entries.iter().filter(|(_, w)| key.tun_present >> w & 1 != 0) {
            let at = usize::from(*word) * WORD_BYTES;
            let data = key.tun_metadata.get(at..at + usize::from(m.len)).unwrap_or(&[]);
            out.push(m, data);
        }
        out
    }
}

/// Options as they go behind the Geneve header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GeneveOptions {
    bytes: [u8; OPTIONS_BYTES_MAX],
    len: u8,
    critical: bool,
}

impl GeneveOptions {
    pub const NONE: Self = Self { bytes: [0; OPTIONS_BYTES_MAX], len: 0, critical: false };

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Whether one of them is critical.
    pub fn is_critical(&self) -> bool {
        self.critical
    }

    /// `data` is in host order: the last byte first.
    fn push(&mut self, m: &TlvMapping, data: &[u8]) {
        let header = GeneveOption {
            class: m.class.into(),
            option_type: m.option_type,
            reserved_len: m.len / 4,
        };
        let from = usize::from(self.len);
        let to = from + size_of::<GeneveOption>() + data.len();
        let Some(room) = self.bytes.get_mut(from..to) else { return };
        let all = header.as_bytes().iter().chain(data.iter().rev());
        room.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        self.len = to as u8;
        self.critical |= header.is_critical();
    }
}

impl Default for GeneveOptions {
    fn default() -> Self {
        Self::NONE
    }
}

/// Mapped options of a packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    area: [u8; TUN_METADATA_BYTES],
    present: u16,
}

impl Metadata {
    /// Reads options. Their lengths were checked against each other before ([`super::geneve_pop`]).
    pub fn read(mut options: &[u8], map: &TlvMap) -> Result<Self, Drop> {
        let mut found = Self { area: [0; TUN_METADATA_BYTES], present: 0 };
        while !options.is_empty() {
            let (option, rest) =
                GeneveOption::ref_from_prefix(options).map_err(|_| Drop::TunnelMalformed)?;
            let (data, behind) =
                rest.split_at_checked(option.data_len()).ok_or(Drop::TunnelMalformed)?;
            match map.find(option.class.get(), option.option_type) {
                Some((m, _)) if usize::from(m.len) != data.len() => {
                    return Err(Drop::TunnelOptionLength);
                }
                Some((_, word)) => {
                    let at = usize::from(word) * WORD_BYTES;
                    let to = found.area.iter_mut().skip(at);
                    to.zip(data.iter().rev()).for_each(|(to, from)| *to = *from);
                    found.present |= 1 << word;
                }
                None if option.is_critical() => return Err(Drop::TunnelCriticalOption),
                None => {}
            }
            options = behind;
        }
        Ok(found)
    }

    /// Makes them part of the inner packet's key, after parsing and [`super::Popped::mark`].
    pub fn mark(&self, key: &mut PacketKey) {
        key.set_options(&self.area, self.present);
    }
}

#[cfg(test)]
mod tests;
