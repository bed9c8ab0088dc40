//! Classic pcap files: what replay and pktgen read and write.
//!
//! A file is a 24-byte header and records of 16 bytes plus the captured bytes. The header's magic
//! number tells both the byte order and whether the second half of a time stamp counts micro- or
//! nanoseconds. Source: draft-ietf-opsawg-pcap, sections 4 and 5.
//! We write little-endian files with nanoseconds. Other files (pcapng, other link types) are
//! refused by name.

use std::io::{self, Read, Write};

const MAGIC_US: u32 = 0xa1b2_c3d4;
const MAGIC_NS: u32 = 0xa1b2_3c4d;
/// The first bytes of a pcapng file.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
const LINKTYPE_ETHERNET: u32 = 1;
/// Longest record we accept: tcpdump's own default snap length.
pub const SNAPLEN_MAX_BYTES: u32 = 262_144;
const HEADER_BYTES: usize = 24;
const RECORD_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    #[error("not a pcap file: it starts with {0:#010x}")]
    Magic(u32),
    #[error("this is a pcapng file: convert it with `editcap -F pcap IN OUT`")]
    PcapNg,
    #[error("link type {0} is not Ethernet (1)")]
    LinkType(u32),
    #[error("file header cut short: {0} of 24 bytes")]
    HeaderCut(usize),
    #[error("record {record} cut short: {got} of {wanted} bytes; the {record} before it are whole")]
    RecordCut { record: u64, got: usize, wanted: usize },
    #[error("record {record} claims {len} bytes, more than {SNAPLEN_MAX_BYTES}: file corrupt")]
    RecordTooLong { record: u64, len: u32 },
    #[error("cannot read or write the pcap file: {0}")]
    Io(#[from] io::Error),
}

/// One packet of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcapPacket {
    /// Nanoseconds since 1970.
    pub ts_ns: u64,
    /// The captured bytes.
    pub bytes: Vec<u8>,
    /// Length on the wire: more than `bytes.len()` when the capture cut the packet.
    pub wire_len_bytes: u32,
}

/// Reads a pcap file, packet by packet. Wrap files in `BufReader`.
#[derive(Debug)]
pub struct PcapReader<R> {
    input: R,
    big_endian: bool,
    ns_per_tick: u64,
    record: u64,
    ended: bool,
}

impl<R: Read> PcapReader<R> {
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let mut header = [0; HEADER_BYTES];
        let got = read_up_to(&mut input, &mut header)?;
        if got < 4 {
            return Err(PcapError::HeaderCut(got));
        }
        let le = word(&header, 0, false);
        let (big_endian, ns_per_tick) = match (le, le.swap_bytes()) {
            (MAGIC_US, _) => (false, 1000),
            (MAGIC_NS, _) => (false, 1),
            (_, MAGIC_US) => (true, 1000),
            (_, MAGIC_NS) => (true, 1),
            (MAGIC_PCAPNG, _) => return Err(PcapError::PcapNg),
            _ => return Err(PcapError::Magic(le.swap_bytes())),
        };
        if got < HEADER_BYTES {
            return Err(PcapError::HeaderCut(got));
        }
        // The upper half of the field can carry the length of the frame check sequence.
        let link = word(&header, 20, big_endian) & 0x0fff_ffff;
        if link != LINKTYPE_ETHERNET {
            return Err(PcapError::LinkType(link));
        }
        Ok(Self { input, big_endian, ns_per_tick, record: 0, ended: false })
    }

    /// The next packet; `None` at a clean end of file.
    pub fn next_packet(&mut self) -> Result<Option<PcapPacket>, PcapError> {
        let mut header = [0; RECORD_BYTES];
        let got = read_up_to(&mut self.input, &mut header)?;
        let record = self.record;
        match got {
            0 => return Ok(None),
            RECORD_BYTES => {}
            _ => return Err(PcapError::RecordCut { record, got, wanted: RECORD_BYTES }),
        }
        let field = |at| word(&header, at, self.big_endian);
        let len = field(8);
        if len > SNAPLEN_MAX_BYTES {
            return Err(PcapError::RecordTooLong { record, len });
        }
        let mut bytes = vec![0; len as usize];
        let got = read_up_to(&mut self.input, &mut bytes)?;
        if got < bytes.len() {
            return Err(PcapError::RecordCut { record, got, wanted: bytes.len() });
        }
        self.record += 1;
        let ts_ns = u64::from(field(0)) * 1_000_000_000 + u64::from(field(4)) * self.ns_per_tick;
        Ok(Some(PcapPacket { ts_ns, bytes, wire_len_bytes: field(12) }))
    }
}

/// Ends after the first error, as nothing behind it can be found.
impl<R: Read> Iterator for PcapReader<R> {
    type Item = Result<PcapPacket, PcapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.next_packet().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Writes a pcap file. Wrap files in `BufWriter` and call `finish`.
#[derive(Debug)]
pub struct PcapWriter<W> {
    output: W,
}

impl<W: Write> PcapWriter<W> {
    pub fn new(mut output: W) -> Result<Self, PcapError> {
        let mut header = [0; HEADER_BYTES];
        let fields = [(0, MAGIC_NS), (16, SNAPLEN_MAX_BYTES), (20, LINKTYPE_ETHERNET)];
        for (at, value) in fields {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        output.write_all(&header)?;
        Ok(Self { output })
    }

    /// Appends a packet; bytes beyond `SNAPLEN_MAX_BYTES` are cut, as the record says.
    pub fn write(&mut self, ts_ns: u64, bytes: &[u8]) -> Result<(), PcapError> {
        let kept = &bytes[..bytes.len().min(SNAPLEN_MAX_BYTES as usize)];
        let fields = [
            (ts_ns / 1_000_000_000) as u32,
            (ts_ns % 1_000_000_000) as u32,
            kept.len() as u32,
            bytes.len() as u32,
        ];
        let mut header = [0; RECORD_BYTES];
        for (slot, value) in header.chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        self.output.write_all(&header)?;
        self.output.write_all(kept)?;
        Ok(())
    }

    /// Flushes and gives the output back.
    pub fn finish(mut self) -> Result<W, PcapError> {
        self.output.flush()?;
        Ok(self.output)
    }
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let raw = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) }
}

/// Reads until the buffer is full or the input ends; returns how much came.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn file(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        packets.iter().for_each(|(ts, bytes)| writer.write(*ts, bytes).unwrap());
        writer.finish().unwrap()
    }

    /// A foreign file with one packet of 3 bytes at 5 s and 7 ticks.
    fn foreign(magic: u32, big: bool) -> Vec<u8> {
        let word = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut out = Vec::new();
        for value in [magic, 0, 0, 0, 65535, 1, 5, 7, 3, 90] {
            out.extend(word(value));
        }
        out.extend(b"abc");
        out
    }

    #[test]
    fn all_four_magics_are_read() {
        for (magic, ns) in [(MAGIC_US, 7000), (MAGIC_NS, 7)] {
            for big in [false, true] {
                let data = foreign(magic, big);
                let packets: Vec<_> = PcapReader::new(&data[..]).unwrap().collect();
                assert_eq!(packets.len(), 1);
                let packet = packets[0].as_ref().unwrap();
                assert_eq!((packet.ts_ns, packet.wire_len_bytes), (5_000_000_000 + ns, 90));
                assert_eq!(packet.bytes, b"abc");
            }
        }
    }

    #[test]
    fn wrong_files_are_named() {
        let text = |data: &[u8]| PcapReader::new(data).unwrap_err().to_string();
        assert!(text(&[0x0a, 0x0d, 0x0d, 0x0a]).contains("pcapng"));
        assert!(text(b"\x7fELF and more than four").contains("0x7f454c46"));
        assert!(text(&[]).contains("0 of 24"));
        let mut data = foreign(MAGIC_US, false);
        assert!(text(&data[..23]).contains("23 of 24"));
        data[20] = 113;
        assert!(text(&data).contains("link type 113"));
    }

    #[test]
    fn every_truncation_is_an_error_that_counts_the_whole_records() {
        let data = file(&[(1, vec![1; 60]), (2, vec![2; 60])]);
        for cut in HEADER_BYTES..data.len() {
            let items: Vec<_> = PcapReader::new(&data[..cut]).unwrap().collect();
            let whole = (cut - HEADER_BYTES) / (RECORD_BYTES + 60);
            let clean = (cut - HEADER_BYTES).is_multiple_of(RECORD_BYTES + 60);
            assert_eq!(items.iter().filter(|i| i.is_ok()).count(), whole, "cut at {cut}");
            assert_eq!(items.len(), whole + usize::from(!clean), "cut at {cut}");
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_taken() {
        let mut data = foreign(MAGIC_US, false);
        data[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let item = PcapReader::new(&data[..]).unwrap().next().unwrap();
        assert!(matches!(item, Err(PcapError::RecordTooLong { record: 0, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 64, ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_written_is_read(
            packets in vec(
                (0..u64::from(u32::MAX) * 1_000_000_000, vec(any::<u8>(), 0..300)),
                0..20,
            )
        ) {
            let data = file(&packets);
            let read: Vec<_> = PcapReader::new(&data[..]).unwrap()
                .map(|p| p.map(|p| (p.ts_ns, p.bytes)).unwrap()).collect();
            prop_assert_eq!(read, packets);
        }

        #[test]
        fn random_bytes_never_panic(mut data in vec(any::<u8>(), 0..200)) {
            if data.len() > 4 {
                data[..4].copy_from_slice(&MAGIC_US.to_le_bytes());
            }
            if let Ok(reader) = PcapReader::new(&data[..]) {
                prop_assert!(reader.count() <= 200);
            }
        }
    }
}
