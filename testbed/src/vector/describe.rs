//! Bytes back to the text of `packet_text`, if that text builds the same bytes; else hexadecimal.
//!
//! The description need not understand everything: whatever it leaves out shows when the text is
//! built again, and then the packet is written as `hex:`. So a description is never a lie.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::packet_text::{TCP_FLAGS, parse_packet};

/// The packet as text that `parse_packet` turns into exactly these bytes.
pub fn describe(bytes: &[u8]) -> String {
    let exact = |text: &String| parse_packet(text, &[]).is_ok_and(|built| built == bytes);
    if let Some(text) = frame(bytes).filter(exact) {
        return text;
    }
    // Short packets are padded by whoever sends them; the IP length tells what is content.
    if let Some(len) = content_len(bytes)
        && let Some(text) = bytes.get(..len).and_then(frame)
        && let pad = format!("pad={}", bytes.len())
        && parse_packet(&text, &[&pad]).is_ok_and(|built| built == bytes)
    {
        return format!("{text} {pad}");
    }
    format!("hex:{}", hex(bytes))
}

/// Bytes up to the end of an untagged IPv4 or ARP packet, when there are more.
fn content_len(bytes: &[u8]) -> Option<usize> {
    let len = match u16_at(bytes, 12)? {
        0x0800 => 14 + usize::from(u16_at(bytes, 16)?),
        0x0806 => 42,
        _ => return None,
    };
    (len < bytes.len()).then_some(len)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn mac(bytes: &[u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn frame(bytes: &[u8]) -> Option<String> {
    let (dst, rest) = bytes.split_first_chunk::<6>()?;
    let (src, mut rest) = rest.split_first_chunk::<6>()?;
    let mut tags = String::new();
    let eth_type = loop {
        let (kind, after) = rest.split_first_chunk::<2>()?;
        let kind = u16::from_be_bytes(*kind);
        if kind != 0x8100 && kind != 0x88a8 {
            rest = after;
            break kind;
        }
        let (tci, after) = after.split_first_chunk::<2>()?;
        let tci = u16::from_be_bytes(*tci);
        let tpid = if kind == 0x8100 { String::new() } else { ",tpid=0x88a8".to_owned() };
        let pcp = if tci >> 13 == 0 { String::new() } else { format!(",pcp={}", tci >> 13) };
        tags += &format!("/vlan(vid={}{pcp}{tpid})", tci & 0x1fff);
        rest = after;
    };
    let (content, own_type) = match eth_type {
        0x0800 => (ipv4(rest, bytes.len())?, true),
        0x86dd => (ipv6(rest, bytes.len())?, true),
        0x0806 => (arp(rest)?, true),
        _ => (payload(rest, bytes.len()), false),
    };
    let shown_type = if own_type { String::new() } else { format!(",type={eth_type:#06x}") };
    Some(format!("eth(src={},dst={}{shown_type}){tags}{content}", mac(src), mac(dst)))
}

fn arp(bytes: &[u8]) -> Option<String> {
    let (_, rest) = bytes.split_first_chunk::<6>()?;
    let (op, rest) = rest.split_first_chunk::<2>()?;
    let (sha, rest) = rest.split_first_chunk::<6>()?;
    let (spa, rest) = rest.split_first_chunk::<4>()?;
    let (tha, rest) = rest.split_first_chunk::<6>()?;
    let (tpa, _) = rest.split_first_chunk::<4>()?;
    let (op, spa, tpa) = (u16::from_be_bytes(*op), Ipv4Addr::from(*spa), Ipv4Addr::from(*tpa));
    Some(format!("/arp(op={op},sha={},spa={spa},tha={},tpa={tpa})", mac(sha), mac(tha)))
}

fn ipv4(bytes: &[u8], frame_len: usize) -> Option<String> {
    let (header, _) = bytes.split_first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 15) * 4;
    let options = bytes.get(20..header_len)?;
    let rest = bytes.get(header_len..)?;
    let id = u16::from_be_bytes([header[4], header[5]]);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let (offset, more) = ((fragment & 0x1fff) * 8, fragment >> 13 & 1);
    let is_fragment = offset > 0 || more > 0;
    let mut args = String::new();
    let mut add = |name: &str, value: u16, default: u16| {
        if value != default {
            args += &format!(",{name}={value}");
        }
    };
    add("ttl", header[8].into(), 64);
    add("tos", header[1].into(), 0);
    add("id", id, if is_fragment { id } else { 0 });
    add("df", fragment >> 14 & 1, 0);
    if !options.is_empty() {
        args += &format!(",opt={}", hex(options));
    }
    let [_, _, _, _, _, _, _, _, _, proto, _, _, src @ .., _, _, _, _] = *header;
    let dst = Ipv4Addr::from(*header.last_chunk::<4>()?);
    let mut text = format!("/ipv4(src={},dst={dst}{args})", Ipv4Addr::from(src));
    if is_fragment {
        text += &format!("/frag(id={id},offset={offset},more={more})");
    }
    Some(text + &transport(proto, rest, frame_len, offset > 0))
}

fn ipv6(bytes: &[u8], frame_len: usize) -> Option<String> {
    let (header, rest) = bytes.split_first_chunk::<40>()?;
    let word = u32::from_be_bytes(*header.first_chunk()?);
    let (class, label) = (word >> 20 & 0xff, word & 0xf_ffff);
    let mut args = String::new();
    for (name, value, default) in
        [("ttl", header[7].into(), 64), ("tos", class, 0), ("label", label, 0)]
    {
        if value != default {
            args += &format!(",{name}={value}");
        }
    }
    let src = Ipv6Addr::from(*header.get(8..24)?.first_chunk::<16>()?);
    let dst = Ipv6Addr::from(*header.last_chunk::<16>()?);
    let above = transport(header[6], rest, frame_len, false);
    Some(format!("/ipv6(src={src},dst={dst}{args}){above}"))
}

fn transport(proto: u8, bytes: &[u8], frame_len: usize, later_fragment: bool) -> String {
    let known = match proto {
        _ if later_fragment => None,
        6 => tcp(bytes, frame_len),
        17 => udp(bytes, frame_len),
        1 | 58 => icmp(proto, bytes, frame_len),
        132 => sctp(bytes, frame_len),
        _ => None,
    };
    known.unwrap_or_else(|| format!("/proto({proto}){}", payload(bytes, frame_len)))
}

fn ports(bytes: &[u8]) -> Option<String> {
    Some(format!("src={},dst={}", u16_at(bytes, 0)?, u16_at(bytes, 2)?))
}

fn tcp(bytes: &[u8], frame_len: usize) -> Option<String> {
    let (header, _) = bytes.split_first_chunk::<20>()?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let options = bytes.get(20..header_len)?;
    let word = |at: usize| header.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b));
    let set = TCP_FLAGS.chars().enumerate().filter(|(bit, _)| header[13] >> bit & 1 == 1);
    let flags: String = set.map(|(_, letter)| letter).collect();
    let flags = if flags.is_empty() { "-" } else { &flags };
    let mut args = format!("{},flags={flags}", ports(bytes)?);
    let window = u16_at(header, 14)?.into();
    for (name, value, default) in
        [("seq", word(4)?, 0), ("ack", word(8)?, 0), ("win", window, 0xffff)]
    {
        if value != default {
            args += &format!(",{name}={value}");
        }
    }
    if !options.is_empty() {
        args += &format!(",opt={}", hex(options));
    }
    Some(format!("/tcp({args}){}", payload(bytes.get(header_len..)?, frame_len)))
}

fn udp(bytes: &[u8], frame_len: usize) -> Option<String> {
    let (header, rest) = bytes.split_first_chunk::<8>()?;
    let none = if header.get(6..8) == Some(&[0, 0]) { ",csum=none" } else { "" };
    let text = format!("/udp({}{none})", ports(bytes)?);
    if u16_at(bytes, 2) == Some(6081)
        && let Some(([words @ ..0x40, 0, 0x65, 0x58, a, b, c, 0], rest)) =
            rest.split_first_chunk::<8>()
        && let Some((options, inner)) = rest.split_at_checked(usize::from(*words) * 4)
        && let Some(inner) = frame(inner)
    {
        let vni = u32::from_be_bytes([0, *a, *b, *c]);
        let options =
            if options.is_empty() { String::new() } else { format!(",opt={}", hex(options)) };
        return Some(format!("{text}/geneve(vni={vni}{options})/{inner}"));
    }
    Some(text + &payload(rest, frame_len))
}

fn sctp(bytes: &[u8], frame_len: usize) -> Option<String> {
    let tag = u32::from_be_bytes(*bytes.get(4..8)?.first_chunk()?);
    Some(format!("/sctp({},tag={tag}){}", ports(bytes)?, payload(bytes.get(12..)?, frame_len)))
}

fn icmp(proto: u8, bytes: &[u8], frame_len: usize) -> Option<String> {
    let (header, rest) = bytes.split_first_chunk::<8>()?;
    let (id, seq) = (u16_at(header, 4)?, u16_at(header, 6)?);
    let payload = payload(rest, frame_len);
    Some(match (proto, header[0], header[1]) {
        (1, 8, 0) | (58, 128, 0) => format!("/echo(id={id},seq={seq}){payload}"),
        (1, 0, 0) | (58, 129, 0) => format!("/echo_reply(id={id},seq={seq}){payload}"),
        (_, kind, code) => {
            let rest = hex(header.get(4..)?);
            format!("/icmp(type={kind},code={code},rest={rest}){payload}")
        }
    })
}

fn payload(bytes: &[u8], frame_len: usize) -> String {
    let counts = bytes.iter().enumerate().all(|(i, b)| *b == i as u8);
    let printable = |b: &u8| (b' '..=b'~').contains(b) && *b != b'"' && *b != b'\\';
    if bytes.is_empty() {
        String::new()
    } else if counts && bytes.len() > 4 {
        format!("/frame({frame_len})")
    } else if bytes.iter().all(printable) {
        format!("/\"{}\"", String::from_utf8_lossy(bytes))
    } else if bytes.len() > 8 && bytes.iter().all(|b| *b == 0) {
        format!("/zeros({})", bytes.len())
    } else {
        format!("/bytes:{}", hex(bytes))
    }
}
