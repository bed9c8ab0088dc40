//! A packet to be sent, as `ovs-ofctl packet-out` takes it: `in_port=1,packet=HEX,actions=...`.

use super::FlowAction;
use super::action_parse::parse_actions;
use super::check::{Checker, Place};
use super::error::{FlowError, Problem};
use super::ports::{self, PortNames, parse_port};
use super::span::{Pairs, Span, split_actions};
use super::{LINE_MAX_BYTES, Match};
use sluice_dataplane::packet::key::{FlowKey, PacketKey, PortIx};
use sluice_dataplane::packet::parse::{Layers, VLAN_LIMIT_DEFAULT, parse_limited};

/// A packet, where it is to have come from, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketOutText {
    /// OpenFlow number; `CONTROLLER` if the text names none.
    pub in_port: u32,
    pub bytes: Vec<u8>,
    pub actions: Vec<FlowAction>,
}

/// Reads a packet to be sent.
pub fn parse_packet_out(text: &str, names: &dyn PortNames) -> Result<PacketOutText, FlowError> {
    let line = Span::new(text);
    if text.len() > LINE_MAX_BYTES {
        return Err(line.err(Problem::TooLong(LINE_MAX_BYTES)));
    }
    let usage = Problem::Expected("in_port=PORT,packet=HEX,actions=...");
    let (head, actions) = split_actions(line)?;
    let actions = actions.ok_or_else(|| line.trim().err(usage.clone()))?;
    let (mut in_port, mut bytes) = (ports::CONTROLLER, None);
    let mut pairs = Pairs::new(head);
    while let Some(pair) = pairs.next()? {
        let v = pair.value;
        match pair.key.text {
            "in_port" => in_port = parse_port(v, names).map_err(|p| v.err(p))?,
            "packet" => bytes = Some(parse_bytes(v)?),
            _ => {
                let takes = "in_port, packet and actions";
                return Err(pair.key.err(Problem::UnknownArgument { of: "packet-out", takes }));
            }
        }
    }
    let bytes = bytes.ok_or_else(|| line.trim().err(usage))?;
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    let parsed = parse_limited(&bytes, PortIx::NONE, VLAN_LIMIT_DEFAULT, &mut key, &mut layers);
    if let Err(reason) = parsed {
        return Err(head.trim().err(Problem::Rule(reason.help())));
    }
    // What the actions may touch is what the packet has.
    let known = Match { key: FlowKey::from_packet(&key, in_port), ..Match::default() };
    let mut checker = Checker::new(&known, 0).nested(Place::Clone);
    Ok(PacketOutText { in_port, bytes, actions: parse_actions(actions, names, &mut checker)? })
}

/// A packet in hexadecimal.
pub fn parse_bytes(v: Span<'_>) -> Result<Vec<u8>, FlowError> {
    let bytes = v.text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2);
        pair.and_then(|p| u8::from_str_radix(p, 16).ok())
    });
    let want = "two hexadecimal digits a byte, from the Ethernet header on";
    let bad = || v.err(Problem::BadValue { of: "packet".to_owned(), want });
    bytes.collect::<Option<Vec<u8>>>().filter(|b| !b.is_empty()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::super::NoNames;
    use super::*;

    const ETH: &str = "0200000000020200000000010800";

    #[test]
    fn packets_read_and_wrong_ones_are_told() {
        let text = format!("in_port=3 packet={ETH} actions=dec_ttl,output:2");
        let out = parse_packet_out(&text, &NoNames).unwrap();
        assert_eq!((out.in_port, out.bytes.len(), out.actions.len()), (3, 14, 2));
        let bare = parse_packet_out(&format!("packet={ETH},actions=drop"), &NoNames).unwrap();
        assert_eq!((bare.in_port, bare.actions.len()), (ports::CONTROLLER, 0));
        for (text, said) in [
            (format!("in_port=1,packet={ETH}"), "expected in_port=PORT,packet=HEX,actions="),
            ("in_port=1,actions=drop".into(), "expected in_port=PORT,packet=HEX,actions="),
            ("packet=0200,actions=drop".into(), "ends inside its Ethernet header"),
            ("packet=020,actions=drop".into(), "two hexadecimal digits"),
            (format!("packet={ETH},tcp,actions=drop"), "it takes in_port, packet and actions"),
            (format!("packet={ETH},actions=set_field:1->tcp_dst"), "tcp"),
            (format!("packet={ETH},actions=goto_table:3"), "goto_table"),
        ] {
            let error = parse_packet_out(&text, &NoNames).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
