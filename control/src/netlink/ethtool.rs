//! Which offloads of a device are on and how many queues it uses, by the ethtool family of generic
//! netlink.
//!
//! Theory: generic netlink families get their message type at run time; the controller (family 16)
//! is asked for it by name. ETHTOOL_MSG_FEATURES_GET answers with bit sets; we take the one of the
//! features that are active, in its verbose form: a list of names. Source: the kernel's
//! Documentation/networking/ethtool-netlink.rst and `linux/ethtool_netlink.h`.

use rustix::net::netlink::GENERIC;

use super::socket::{NetlinkError, Socket};
use super::wire::{Attrs, Message, Request, get_text, get_u16, get_u32, push_attr};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const FEATURES_GET: u8 = 11;
const CHANNELS_GET: u8 = 17;
const A_CHANNELS_RX_COUNT: u16 = 6;
const A_CHANNELS_TX_COUNT: u16 = 7;
const A_CHANNELS_COMBINED_COUNT: u16 = 9;
const A_HEADER: u16 = 1;
const A_HEADER_DEV_NAME: u16 = 2;
const A_FEATURES_ACTIVE: u16 = 4;
const A_BITSET_BITS: u16 = 3;
const A_BIT_NAME: u16 = 2;
/// Bit of an attribute's type: it holds attributes.
const NESTED: u16 = 0x8000;

/// Asks the ethtool family about a device.
fn ask(device: &str, command: u8, what: &str) -> Result<Vec<Message>, NetlinkError> {
    let mut socket = Socket::with_protocol(Some(GENERIC), 0)?;
    let genl = |command: u8| [command, 1, 0, 0];
    let ask = Request::new(GENL_ID_CTRL, 0, &genl(CTRL_CMD_GETFAMILY));
    let found =
        socket.talk("find the ethtool family", ask.attr_text(CTRL_ATTR_FAMILY_NAME, "ethtool"))?;
    let family = found
        .iter()
        .flat_map(|m| m.attrs(4))
        .find(|(attr, _)| *attr == CTRL_ATTR_FAMILY_ID)
        .and_then(|(_, id)| get_u16(id, 0));
    let what = format!("{what} of {device}");
    let family = family.ok_or_else(|| NetlinkError::NoAnswer { what: what.clone() })?;
    let mut header = Vec::new();
    push_attr(&mut header, A_HEADER_DEV_NAME, &[device.as_bytes(), &[0]].concat());
    let ask = Request::new(family, 0, &genl(command)).attr(A_HEADER | NESTED, &header);
    socket.talk(&what, ask)
}

/// Receive queues in use; the kernel allocates more for a veth than it uses.
pub fn rx_queues(device: &str) -> Result<u32, NetlinkError> {
    queues(device, A_CHANNELS_RX_COUNT)
}

/// Transmit queues in use.
pub fn tx_queues(device: &str) -> Result<u32, NetlinkError> {
    queues(device, A_CHANNELS_TX_COUNT)
}

/// Queues of one direction, and those of both.
fn queues(device: &str, direction: u16) -> Result<u32, NetlinkError> {
    let found = ask(device, CHANNELS_GET, "channels")?;
    let counts = found.iter().flat_map(|m| m.attrs(4));
    let counts = counts.filter(|a| a.0 == direction || a.0 == A_CHANNELS_COMBINED_COUNT);
    Ok(counts.filter_map(|(_, n)| get_u32(n, 0)).sum())
}

/// Names of the active features: `rx-lro`, `tx-checksum-ip-generic`, ...
pub fn active_features(device: &str) -> Result<Vec<String>, NetlinkError> {
    let found = ask(device, FEATURES_GET, "features")?;
    let mut names = Vec::new();
    for (_, bitset) in found.iter().flat_map(|m| m.attrs(4)).filter(|a| a.0 == A_FEATURES_ACTIVE) {
        for (_, bits) in (Attrs { bytes: bitset }).filter(|a| a.0 == A_BITSET_BITS) {
            for (_, bit) in (Attrs { bytes: bits }) {
                let name = Attrs { bytes: bit }.find(|a| a.0 == A_BIT_NAME);
                names.extend(name.map(|(_, name)| get_text(name)));
            }
        }
    }
    Ok(names)
}
