//! What an FTP control connection says of its data connections (RFC 959, RFC 2428).
//!
//! A command counts only if it begins a segment and ends in it: one that is split over segments is
//! not followed (nor is it by Open vSwitch; clients send commands in one go).

use super::super::key::IpKey;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// How address and port are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Six numbers between commas.
    Commas,
    /// Address and port with this between them.
    Bars(u8),
    /// The port alone.
    Port,
}

/// An address that is to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// None: that of who says it. IPv6?
    pub address: Option<(bool, IpKey)>,
    pub port: u16,
    /// Where address and port stand.
    pub place: Range<usize>,
    form: Form,
}

/// The longest line that is looked at.
const LINE_MAX: usize = 256;

/// Reads what a client (`reply` false) or a server says first in this segment.
pub fn read(payload: &[u8], reply: bool) -> Option<Said> {
    let line = payload.get(..payload.len().min(LINE_MAX))?;
    let line = line.get(..line.windows(2).position(|w| w == b"\r\n")?)?;
    let starts =
        |with: &[u8]| line.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    match reply {
        false if starts(b"PORT ") => commas(line, 5).filter(|said| said.place.end == line.len()),
        false if starts(b"EPRT ") => bars(line, 5),
        // RFC 1123 section 4.1.2.6: nobody knows what stands around the numbers.
        true if starts(b"227 ") => (4..line.len())
            .filter(|at| !line[at - 1].is_ascii_digit() && line[*at].is_ascii_digit())
            .find_map(|at| commas(line, at)),
        true if starts(b"229 ") => {
            let at = line.iter().position(|b| *b == b'(')?;
            let said = lone_port(line, at + 1)?;
            (line.get(said.place.end + 1) == Some(&b')')).then_some(said)
        }
        _ => None,
    }
}

/// A number of up to so many digits, and where it ends.
fn number(line: &[u8], at: usize, digits_max: usize) -> Option<(u32, usize)> {
    let rest = line.get(at..)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let text = std::str::from_utf8(rest.get(..digits)?).ok()?;
    let value = text.parse().ok().filter(|_| digits <= digits_max)?;
    Some((value, at + digits))
}

fn commas(line: &[u8], from: usize) -> Option<Said> {
    let (mut at, mut all) = (from, [0u8; 6]);
    for (n, byte) in all.iter_mut().enumerate() {
        if n > 0 {
            (line.get(at) == Some(&b',')).then_some(())?;
            at += 1;
        }
        let (value, end) = number(line, at, 3)?;
        (*byte, at) = (u8::try_from(value).ok()?, end);
    }
    let [a, b, c, d, high, low] = all;
    let address = Some((false, u32::from_be_bytes([a, b, c, d]).into()));
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some(Said { address, port, place: from..at, form: Form::Commas })
}

fn bars(line: &[u8], from: usize) -> Option<Said> {
    let bar = *line.get(from)?;
    let (family, end) = number(line, from + 1, 1)?;
    let is_bar = |at: usize| line.get(at) == Some(&bar);
    let start = end + 1;
    if !is_bar(end) || !(33..127).contains(&bar) || bar.is_ascii_digit() {
        return None;
    }
    let len = line.get(start..)?.iter().position(|b| *b == bar)?;
    let text = std::str::from_utf8(line.get(start..start + len)?).ok()?;
    let address = match family {
        1 => (false, u32::from(text.parse::<Ipv4Addr>().ok()?).into()),
        2 => (true, text.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (port, end) = number(line, start + len + 1, 5)?;
    let port = u16::try_from(port).ok().filter(|p| *p != 0 && is_bar(end))?;
    let is_end = end + 1 == line.len();
    let (address, place, form) = (Some(address), start..end, Form::Bars(bar));
    is_end.then_some(Said { address, port, place, form })
}

fn lone_port(line: &[u8], at: usize) -> Option<Said> {
    let bar = *line.get(at)?;
    let is_bar = |at: usize| line.get(at) == Some(&bar);
    if !(is_bar(at + 1) && is_bar(at + 2)) || bar.is_ascii_digit() {
        return None;
    }
    let (port, end) = number(line, at + 3, 5)?;
    let port = u16::try_from(port).ok().filter(|p| *p != 0 && is_bar(end))?;
    Some(Said { address: None, port, place: at + 3..end, form: Form::Port })
}

/// The longest text: an IPv6 address, a bar and a port.
pub const TEXT_MAX: usize = 48;

/// Text without a heap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; TEXT_MAX],
    len: u8,
}

impl Text {
    pub const EMPTY: Self = Self { bytes: [0; TEXT_MAX], len: 0 };

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let from = usize::from(self.len);
        let room = self.bytes.get_mut(from..from + s.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len += s.len() as u8;
        Ok(())
    }
}

impl Said {
    /// The same with another address and port. `None` if that cannot be written.
    pub fn with(&self, address: IpKey, port: u16) -> Option<Text> {
        let mut text = Text::EMPTY;
        let v6 = self.address.is_some_and(|(v6, _)| v6);
        let ip = Ipv4Addr::from(address as u32);
        match self.form {
            Form::Commas => {
                let [a, b, c, d] = ip.octets();
                let [high, low] = port.to_be_bytes();
                write!(text, "{a},{b},{c},{d},{high},{low}").ok()?;
            }
            Form::Bars(bar) if v6 => {
                write!(text, "{}{}{port}", Ipv6Addr::from(address), char::from(bar)).ok()?;
            }
            Form::Bars(bar) => write!(text, "{ip}{}{port}", char::from(bar)).ok()?,
            Form::Port => write!(text, "{port}").ok()?,
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four(a: [u8; 4]) -> Option<(bool, IpKey)> {
        Some((false, u32::from_be_bytes(a).into()))
    }

    #[test]
    fn commands_and_replies_are_read_and_written() {
        let told = |text: &str, reply| {
            let said = read(text.as_bytes(), reply)?;
            let shown = &text[said.place.clone()];
            Some((said.address, said.port, shown.to_owned()))
        };
        let a = [10, 0, 0, 1];
        assert_eq!(
            told("PORT 10,0,0,1,4,1\r\n", false),
            Some((four(a), 1025, "10,0,0,1,4,1".into()))
        );
        assert_eq!(told("port 10,0,0,1,4,1\r\n", false).unwrap().1, 1025);
        assert_eq!(
            told("227 Entering Passive Mode (10,0,0,1,255,255).\r\n", true),
            Some((four(a), 65535, "10,0,0,1,255,255".into()))
        );
        assert_eq!(told("227 at 7 =10,0,0,1,0,21\r\n", true).unwrap().1, 21);
        assert_eq!(
            told("EPRT |1|10.0.0.1|6275|\r\n", false),
            Some((four(a), 6275, "10.0.0.1|6275".into()))
        );
        let six: Ipv6Addr = "fd00::1".parse().unwrap();
        let eprt = told("EPRT |2|fd00::1|5282|\r\nNOOP\r\n", false);
        assert_eq!(eprt, Some((Some((true, six.into())), 5282, "fd00::1|5282".into())));
        let epsv = told("229 Extended (|||6446|)\r\n", true);
        assert_eq!(epsv, Some((None, 6446, "6446".into())));
        // Whose words are whose.
        assert_eq!(told("PORT 10,0,0,1,4,1\r\n", true), None);
        assert_eq!(told("227 (10,0,0,1,4,1)\r\n", false), None);
        let port = read(b"PORT 10,0,0,1,4,1\r\n", false).unwrap();
        let new = u32::from_be_bytes([192, 0, 2, 200]).into();
        assert_eq!(port.with(new, 65_535).unwrap().as_bytes(), b"192,0,2,200,255,255");
        let eprt = read(b"EPRT |2|fd00::1|5282|\r\n", false).unwrap();
        let long = u128::MAX;
        let text = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|65535";
        assert_eq!(eprt.with(long, 65_535).unwrap().as_bytes(), text.as_bytes());
    }

    #[test]
    fn what_is_cut_or_lies_is_not_followed() {
        for (text, reply) in [
            ("PORT 10,0,0,1,4,1", false),
            ("PORT 10,0,0,1,4\r\n", false),
            ("PORT 10,0,0,256,4,1\r\n", false),
            ("PORT 10,0,0,1,4,1,9\r\n", false),
            ("PORT 10,0,0,1,0,0\r\n", false),
            ("PORT 0010,0,0,1,4,1\r\n", false),
            ("PORT 99999999999999999999,0,0,1,4,1\r\n", false),
            ("PORT ,,,,,\r\n", false),
            (" PORT 10,0,0,1,4,1\r\n", false),
            ("EPRT |1|10.0.0.1|65536|\r\n", false),
            ("EPRT |1|10.0.0.1|0|\r\n", false),
            ("EPRT |1|fd00::1|5|\r\n", false),
            ("EPRT |2|10.0.0.1|5|\r\n", false),
            ("EPRT |3|10.0.0.1|5|\r\n", false),
            ("EPRT |1|10.0.0.1|5\r\n", false),
            ("EPRT |1|10.0.0.1|5|x\r\n", false),
            ("EPRT 111.0.0.111511\r\n", false),
            ("EPRT \r\n", false),
            ("227-Entering (10,0,0,1,4,1)\r\n", true),
            ("227 Entering (10,0,0,1,4)\r\n", true),
            ("229 Extended (|||6446)\r\n", true),
            ("229 Extended (||6446|)\r\n", true),
            ("229 Extended (|||6446|\r\n", true),
            ("229 Extended |||6446|\r\n", true),
            ("", false),
            ("", true),
        ] {
            assert_eq!(read(text.as_bytes(), reply), None, "{text:?}");
            for cut in 0..text.len() {
                assert_eq!(read(&text.as_bytes()[..cut], reply), None);
            }
        }
        let far = format!("227 {}(10,0,0,1,4,1)\r\n", "x".repeat(LINE_MAX));
        assert_eq!(read(far.as_bytes(), true), None);
    }
}
