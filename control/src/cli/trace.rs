//! `sluice trace`: which packet, and by which port it comes.

use super::Failure;
use super::args::Trace;
use crate::api::types::{Request, TracePacket, TraceRequest};
use sluice_dataplane::port::pcap::{PcapError, PcapReader};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

pub(super) fn request(words: &Trace) -> Result<Request, Failure> {
    let (bridge, mut in_port) = (words.bridge.clone(), words.in_port.clone());
    let packet = match (&words.hex, &words.pcap, &words.flow) {
        (Some(hex), _, _) => TracePacket::Hex(digits(hex)?),
        (_, Some(file), _) => TracePacket::Hex(from_pcap(file, words.packet)?),
        (None, None, flow) => TracePacket::Text(flow.clone().unwrap_or_default()),
    };
    if let (TracePacket::Hex(_), Some(text)) = (&packet, &words.flow) {
        let port = text.strip_prefix("in_port=").filter(|p| !p.is_empty() && !p.contains(','));
        let Some(port) = port.filter(|_| in_port.is_none()) else {
            return Err(Failure {
                message: format!("\"{text}\": the packet's bytes are given already"),
                hint: "beside --pcap or --hex say the port alone, once: in_port=NAME".into(),
            });
        };
        in_port = Some(port.to_owned());
    }
    Ok(Request::Trace(TraceRequest { bridge, packet, in_port }))
}

fn digits(hex: &str) -> Result<String, Failure> {
    let digits: String = hex.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    if digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err(Failure {
        message: "the packet is not hexadecimal".into(),
        hint: "give an even number of hex digits, from the Ethernet header on".into(),
    })
}

/// The packet of this number, from 1, in hexadecimal.
fn from_pcap(file: &Path, number: u64) -> Result<String, Failure> {
    let failed = |error: PcapError| Failure {
        message: format!("{}: {error}", file.display()),
        hint: "give a pcap file of Ethernet frames, as tcpdump -w writes it".into(),
    };
    let open = File::open(file).map_err(PcapError::Io).map_err(failed)?;
    let mut reader = PcapReader::new(BufReader::new(open)).map_err(failed)?;
    let mut count = 0;
    while let Some(packet) = reader.next_packet().map_err(failed)? {
        count += 1;
        if count == number {
            return Ok(packet.bytes.iter().map(|b| format!("{b:02x}")).collect());
        }
    }
    Err(Failure {
        message: format!("{}: there is no packet {number}: it holds {count}", file.display()),
        hint: "packets count from 1".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_dataplane::port::pcap::PcapWriter;

    fn words(flow: Option<&str>, file: &Path, packet: u64) -> Trace {
        Trace {
            bridge: "br1".into(),
            flow: flow.map(str::to_owned),
            hex: None,
            pcap: Some(file.to_owned()),
            packet,
            in_port: None,
        }
    }

    #[test]
    fn a_packet_of_a_file_by_its_number() {
        let file = std::env::temp_dir().join(format!("sluice-trace-{}.pcap", std::process::id()));
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        (1..=3_u8).for_each(|n| pcap.write(0, &[n; 14]).unwrap());
        let bytes = pcap.finish().unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let second = request(&words(Some("in_port=p1"), &file, 2));
        let expected = TraceRequest {
            bridge: "br1".into(),
            packet: TracePacket::Hex("02".repeat(14)),
            in_port: Some("p1".into()),
        };
        assert_eq!(second, Ok(Request::Trace(expected)));
        let said = |flow, n| request(&words(flow, &file, n)).unwrap_err().message;
        assert!(said(None, 4).ends_with("there is no packet 4: it holds 3"));
        assert!(said(Some("in_port=p1,tcp"), 1).contains("given already"));
        assert!(said(Some("tcp"), 1).contains("given already"));
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(request(&words(None, &file, 2)).is_ok(), "what is whole can be traced");
        assert!(said(None, 3).contains("record 2 cut short"), "{}", said(None, 3));
        std::fs::write(&file, "hello, this is no pcap file").unwrap();
        assert!(said(None, 1).contains("not a pcap file"));
        std::fs::remove_file(&file).unwrap();
        assert!(said(None, 1).contains("cannot read or write the pcap file"));
    }
}
