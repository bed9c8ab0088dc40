//! Which XDP program is on a device: one rtnetlink question, asked by hand.
//!
//! RTM_GETLINK (rtnetlink(7)) answers with IFLA_XDP, a nest of IFLA_XDP_ATTACHED and the program's
//! id for each way of attaching (`linux/if_link.h`). The question goes to the network namespace of
//! the calling thread. The name of the program comes from the kernel's list of loaded programs.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
/// The two highest bits of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `nlmsghdr`, then `ifinfomsg`.
const HEADER_LEN: usize = 16;
const IFINFO_LEN: usize = 16;

/// A device as rtnetlink sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub xdp: Option<OnDevice>,
}

/// An XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDevice {
    pub id: u32,
    /// `native`, `generic`, `offloaded` or `several`.
    pub how: &'static str,
}

/// The device with this index in the current network namespace.
pub fn device(ifindex: u32) -> io::Result<Device> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&socket, &question(ifindex), SendFlags::empty())?;
    let mut answer = vec![0; 64 * 1024];
    let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    parse(&answer[..len])
}

/// The name that a loaded program has in the kernel, `?` when it has none or is gone.
pub fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "?".to_owned())
}

fn question(ifindex: u32) -> [u8; HEADER_LEN + IFINFO_LEN] {
    let mut out = [0; HEADER_LEN + IFINFO_LEN];
    out[0..4].copy_from_slice(&((HEADER_LEN + IFINFO_LEN) as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    out[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    out[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&ifindex.to_ne_bytes());
    out
}

fn parse(answer: &[u8]) -> io::Result<Device> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink's answer is cut short");
    let kind = answer.get(4..6).map(u16_at).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let errno = answer.get(HEADER_LEN..HEADER_LEN + 4).map(u32_at).ok_or_else(short)? as i32;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    if kind != RTM_NEWLINK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "rtnetlink answers something else"));
    }
    let len = (answer.get(0..4).map(u32_at).ok_or_else(short)? as usize).min(answer.len());
    let attributes = answer.get(HEADER_LEN + IFINFO_LEN..len).ok_or_else(short)?;
    let mut device = Device { name: String::new(), xdp: None };
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                device.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_XDP => device.xdp = parse_xdp(value),
            _ => {}
        }
    }
    Ok(device)
}

/// With several programs there is no IFLA_XDP_PROG_ID; the native one stands for all then.
fn parse_xdp(nest: &[u8]) -> Option<OnDevice> {
    let mut how = "";
    let mut ids = [None; 4];
    for (kind, value) in Attributes(nest) {
        match kind {
            IFLA_XDP_ATTACHED => {
                how = match value.first() {
                    Some(1) => "native",
                    Some(2) => "generic",
                    Some(3) => "offloaded",
                    Some(4) => "several",
                    _ => return None,
                }
            }
            IFLA_XDP_PROG_ID..=IFLA_XDP_HW_PROG_ID => {
                let slot = match kind {
                    IFLA_XDP_PROG_ID => 0,
                    IFLA_XDP_DRV_PROG_ID => 1,
                    IFLA_XDP_SKB_PROG_ID => 2,
                    _ => 3,
                };
                ids[slot] = value.get(..4).map(u32_at).filter(|id| *id != 0);
            }
            _ => {}
        }
    }
    ids.into_iter().flatten().next().map(|id| OnDevice { id, how })
}

/// Netlink attributes: length (of head and value) and type, 2 bytes each; padded to 4.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = self.0.get(0..2).map(u16_at)? as usize;
        let kind = self.0.get(2..4).map(u16_at)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Of a slice that has the length; anything else reads as 0.
fn u16_at(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |chunk| u16::from_ne_bytes(*chunk))
}

fn u32_at(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn answer(attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let mut out = ((HEADER_LEN + IFINFO_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(RTM_NEWLINK.to_ne_bytes());
        out.resize(HEADER_LEN + IFINFO_LEN, 0);
        out.extend(body);
        out
    }

    #[test]
    fn reads_name_and_program() {
        let nest = [attribute(IFLA_XDP_ATTACHED, &[1]), attribute(4, &77u32.to_ne_bytes())];
        let with = answer(&[
            attribute(IFLA_IFNAME, b"eth0\0"),
            attribute(0x8000 | IFLA_XDP, &nest.concat()),
        ]);
        let on = OnDevice { id: 77, how: "native" };
        assert_eq!(parse(&with).unwrap(), Device { name: "eth0".to_owned(), xdp: Some(on) });
        let none = answer(&[attribute(IFLA_XDP, &attribute(IFLA_XDP_ATTACHED, &[0]))]);
        assert_eq!(parse(&none).unwrap().xdp, None);
        // Cut anywhere, it is an answer with less in it or an error, never a panic.
        for len in 0..with.len() {
            let _ = parse(&with[..len]);
        }
    }

    #[test]
    fn several_programs_show_the_native_one() {
        let nest = [
            attribute(IFLA_XDP_ATTACHED, &[4]),
            attribute(IFLA_XDP_SKB_PROG_ID, &6u32.to_ne_bytes()),
            attribute(IFLA_XDP_DRV_PROG_ID, &5u32.to_ne_bytes()),
        ];
        assert_eq!(parse_xdp(&nest.concat()), Some(OnDevice { id: 5, how: "several" }));
    }

    #[test]
    fn the_kernel_answers() {
        assert_eq!(device(1).unwrap().name, "lo");
        let none = device(0x7fff_fff0).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }
}
