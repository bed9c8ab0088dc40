//! What a paused packet may be given before it goes on: metadata as in a match, bytes in
//! hexadecimal.

use super::error::{FlowError, Problem};
use super::match_parse::MatchBuilder;
use super::packet_out::parse_bytes;
use super::ports::PortNames;
use super::span::{Pairs, Span};
use super::{LINE_MAX_BYTES, Match};
use sluice_dataplane::pipeline::METADATA;

/// Reads `reg0=5,metadata=0x3/0xf,...`: bits to be written, and their values.
pub fn parse_metadata(text: &str, names: &dyn PortNames) -> Result<Match, FlowError> {
    let line = Span::new(text);
    if text.len() > LINE_MAX_BYTES {
        return Err(line.err(Problem::TooLong(LINE_MAX_BYTES)));
    }
    let wrong = Problem::Rule(
        "is not metadata; write registers, metadata, pkt_mark, in_port or tunnel fields, and \
         change what the packet itself says by giving its bytes",
    );
    let mut all = Match::default();
    let mut pairs = Pairs::new(line);
    while let Some(pair) = pairs.next()? {
        let mut builder = MatchBuilder::new(names);
        let is_field = builder.take(&pair)?;
        // What needs another field beside it is not metadata either.
        let one = builder.finish().ok().filter(|m| is_field && METADATA.and(&m.mask) == m.mask);
        let one = one.ok_or_else(|| pair.key.err(wrong.clone()))?;
        for (all, one) in [(&mut all.key, &one.key), (&mut all.mask, &one.mask)] {
            all.words_mut().iter_mut().zip(one.words()).for_each(|(a, b)| *a |= b);
        }
    }
    Ok(all)
}

/// Reads a packet's bytes.
pub fn parse_packet(text: &str) -> Result<Vec<u8>, FlowError> {
    parse_bytes(Span::new(text))
}

#[cfg(test)]
mod tests {
    use super::super::NoNames;
    use super::*;
    use sluice_dataplane::packet::field::Field;

    #[test]
    fn metadata_is_read_and_all_else_refused() {
        let m = parse_metadata("reg0=5,metadata=0x3/0xf, in_port=4 tun_id=9", &NoNames).unwrap();
        assert_eq!(m.get(Field::Reg0), (5, 0xffff_ffff));
        assert_eq!(m.get(Field::Metadata), (3, 15));
        assert_eq!((m.get(Field::InPort).0, m.get(Field::TunId).0), (4, 9));
        assert_eq!(parse_metadata("", &NoNames).unwrap(), Match::default());
        for (text, said) in [
            ("reg0=1,nw_src=10.0.0.1", "nw_src"),
            ("ct_mark=1", "is not metadata"),
            ("tcp", "is not metadata"),
            ("reg77=1", "is not metadata"),
            ("eth_dst=02:00:00:00:00:01", "by giving its bytes"),
            ("reg0=0x100000000", "too large"),
        ] {
            let error = parse_metadata(text, &NoNames).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!(parse_packet("0102").unwrap(), [1, 2]);
        assert!(parse_packet("010").unwrap_err().to_string().contains("two hexadecimal digits"));
    }
}
