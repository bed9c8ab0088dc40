//! What comes in by which port, what comes first, and what is never the same: both sides play it.
//!
//! A stream is one kind of packet of a row of flows. Connections need an order: those that open
//! them come once before anything is measured, all first segments, then all second ones, since a
//! switch may look up a whole batch before it keeps the first connection of it.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::packets::{
    self, Flow, Frame, exploding_flows, flow, routed_flow, routes, tcp_frame, udp_frame,
};

/// Where sources of translated connections seem to be: one address, or the first of several.
pub const NAT_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The server whose ports of the translation run out, and another one.
const SERVERS: [u32; 2] = [198 << 24 | 18 << 16 | 1, 198 << 24 | 18 << 16 | 2];
/// Flows from here on are the flood's.
const FLOOD: u64 = 1 << 23;
/// Of a hundred ports, those that are used when the last ones are measured.
pub const FILLED_MOST: u64 = 95;
/// Connections whose set-up is measured then.
pub const FILLED_MORE: u64 = 10_000;

/// A row of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// Flows 0, 1, 2, ...
    Plain,
    /// The same to destinations that the routes know
    Routed,
    /// Flows that explode the masks of an access list
    Exploding,
    /// Those of the plain ones that are distinct without their source addresses
    Distinct,
    /// To one server, so many of each 95 flows; the others to another one
    Served(u64),
}

impl Flows {
    fn name(self) -> String {
        match self {
            Self::Plain => "plain".to_owned(),
            Self::Routed => "routed".to_owned(),
            Self::Exploding => "exploding".to_owned(),
            Self::Distinct => "distinct".to_owned(),
            Self::Served(n) => format!("served{n}"),
        }
    }

    pub fn list(self, from: u64, n: u64) -> Vec<Flow> {
        let row = from..from + n;
        match self {
            Self::Plain => row.map(flow).collect(),
            Self::Routed => {
                let routes = routes();
                row.map(|i| routed_flow(i, &routes)).collect()
            }
            Self::Exploding => exploding_flows(n),
            Self::Distinct => {
                let mut seen = HashSet::with_capacity(n as usize);
                let is_new = |f: &Flow| seen.insert((f.dst, f.src_port, f.dst_port));
                (from..).map(flow).filter(is_new).take(n as usize).collect()
            }
            Self::Served(some) => {
                let server = |i: u64| SERVERS[usize::from(i % FILLED_MOST >= some)];
                row.map(|i| Flow { dst: server(i), dst_port: 80, ..flow(i) }).collect()
            }
        }
    }
}

/// Which packet of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Udp,
    UdpBack,
    /// To the address that the source was translated to
    UdpBackNat,
    Syn,
    SynAck,
    /// With data that may come again and again
    Ack,
    AckBack,
}

impl Segment {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::UdpBack => "udp-back",
            Self::UdpBackNat => "udp-back-nat",
            Self::Syn => "syn",
            Self::SynAck => "syn-ack",
            Self::Ack => "ack",
            Self::AckBack => "ack-back",
        }
    }

    pub fn frame(self, f: &Flow) -> Frame {
        match self {
            Self::Udp => udp_frame(f),
            Self::UdpBack => udp_frame(&f.back()),
            Self::UdpBackNat => {
                let nat = u32::from(NAT_ADDRESS);
                udp_frame(&Flow { dst: nat, ..f.back() })
            }
            Self::Syn => tcp_frame(f, packets::SYN, 1000, 0),
            Self::SynAck => tcp_frame(&f.back(), packets::SYN | packets::ACK, 5000, 1001),
            Self::Ack => tcp_frame(f, packets::ACK, 1001, 5001),
            Self::AckBack => tcp_frame(&f.back(), packets::ACK, 5001, 1001),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Once, before the others
    Warm,
    Measured,
    /// Measured, and in each pass of other connections
    Fresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub port: u32,
    pub role: Role,
    pub segment: Segment,
    pub of: Flows,
    /// The first of its flows, and how many.
    pub from: u64,
    pub flows: u64,
    /// The most packets that it gives at once, of those that a port's burst has room for.
    pub burst: Option<u64>,
}

impl Stream {
    fn new(port: u32, role: Role, segment: Segment, of: Flows, flows: u64) -> Self {
        Self { port, role, segment, of, from: 0, flows, burst: None }
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        let (of, segment) = (self.of.name(), self.segment.name());
        format!("{of}-{segment}-{}-{}", self.from, self.flows)
    }

    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        let segment = self.segment;
        self.of.list(self.from, self.flows).into_iter().map(move |f| segment.frame(&f))
    }

    /// Where its packets leave.
    pub fn leaves_by(&self) -> u32 {
        if self.port.is_multiple_of(2) { self.port - 1 } else { self.port + 1 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Udp,
    Tcp,
}

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One way, without connections
    OneWay(Flows),
    /// Established connections, both directions
    Connections(Proto),
    /// The same with their sources translated to one address
    Translated,
    /// The first packets of connections, all the time
    New(Proto),
    /// UDP connections, both directions, and for so many of their packets one of a new connection
    Flooded(u64),
    /// Each of the last connections to a server for which so many of a hundred ports are used
    Filling(u64),
}

impl Traffic {
    pub fn name(self) -> String {
        match self {
            Self::OneWay(flows) => flows.name(),
            Self::Connections(Proto::Udp) => "UDP".to_owned(),
            Self::Connections(Proto::Tcp) => "TCP".to_owned(),
            Self::Translated => "translated".to_owned(),
            Self::New(Proto::Udp) => "new UDP".to_owned(),
            Self::New(Proto::Tcp) => "new TCP".to_owned(),
            Self::Flooded(n) => format!("flooded (1 of {})", n + 1),
            Self::Filling(percent) => format!("UDP (of the ports {percent} % used)"),
        }
    }

    /// In the order in which they begin.
    pub fn streams(self, n: u64) -> Vec<Stream> {
        use Role::{Fresh, Measured, Warm};
        use Segment::{Ack, AckBack, Syn, SynAck, Udp, UdpBack, UdpBackNat};
        let plain = |port, role, segment| Stream::new(port, role, segment, Flows::Plain, n);
        match self {
            Self::OneWay(flows) => vec![Stream::new(1, Measured, Udp, flows, n)],
            Self::Connections(Proto::Udp) => {
                vec![plain(1, Warm, Udp), plain(1, Measured, Udp), plain(2, Measured, UdpBack)]
            }
            Self::Connections(Proto::Tcp) => vec![
                plain(1, Warm, Syn),
                plain(2, Warm, SynAck),
                plain(1, Warm, Ack),
                plain(1, Measured, Ack),
                plain(2, Measured, AckBack),
            ],
            Self::Translated => [(1, Warm, Udp), (1, Measured, Udp), (2, Measured, UdpBackNat)]
                .map(|(port, role, segment)| Stream::new(port, role, segment, Flows::Distinct, n))
                .to_vec(),
            Self::New(Proto::Udp) => vec![plain(1, Fresh, Udp)],
            Self::New(Proto::Tcp) => vec![plain(1, Fresh, Syn)],
            Self::Flooded(of) => {
                let mut all = Self::Connections(Proto::Udp).streams(n);
                // Both directions give 64 packets at once.
                let (flows, burst) = ((2 * n / of).max(1), Some((64 / of).max(1)));
                all.push(Stream { from: FLOOD, flows, burst, ..plain(3, Fresh, Udp) });
                all
            }
            Self::Filling(percent) => {
                let first = Stream::new(1, Warm, Udp, Flows::Served(percent), n);
                let more = Stream::new(1, Measured, Udp, Flows::Served(FILLED_MOST), FILLED_MORE);
                vec![first, Stream { from: n, ..more }]
            }
        }
    }

    /// Whether each packet is to begin a connection.
    pub fn is_new(self) -> bool {
        matches!(self, Self::New(_))
    }

    /// Of the packets that the peer takes, the share of those that are not the flood's.
    pub fn steady_share(self) -> f64 {
        let flood = self.streams(1).iter().find_map(|s| s.burst).unwrap_or(0) as f64;
        64.0 / (64.0 + flood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn digest(segment: Segment) -> String {
        let stream = Stream::new(1, Role::Measured, segment, Flows::Plain, 5000);
        let mut sha = Sha256::new();
        stream.frames().for_each(|f| sha.update(f));
        sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Digests of 5000 packets each as another implementation made them.
    #[test]
    fn packets_are_those_of_the_other_generator() {
        let known = [
            (Segment::Udp, UDP_5000),
            (Segment::UdpBack, UDP_BACK_5000),
            (Segment::Syn, SYN_5000),
            (Segment::SynAck, SYN_ACK_5000),
            (Segment::Ack, ACK_5000),
        ];
        for (segment, want) in known {
            assert_eq!(digest(segment), want, "{segment:?}");
        }
    }

    #[test]
    fn translated_connections_are_distinct_for_their_server() {
        let list = Flows::Distinct.list(0, 200_000);
        let seen: HashSet<_> = list.iter().map(|f| (f.dst, f.src_port, f.dst_port)).collect();
        assert_eq!(seen.len(), 200_000);
    }

    #[test]
    fn so_many_ports_are_used_as_the_traffic_says() {
        for percent in [10, 95] {
            let streams = Traffic::Filling(percent).streams(95_000);
            let to = |s: &Stream, server: u32| {
                s.of.list(s.from, s.flows).iter().filter(|f| f.dst == server).count() as u64
            };
            assert_eq!(to(&streams[0], SERVERS[0]), percent * 1000);
            assert_eq!(to(&streams[1], SERVERS[0]), FILLED_MORE);
        }
    }

    #[test]
    fn a_flood_has_its_share_of_the_packets() {
        for of in [2, 10] {
            let streams = Traffic::Flooded(of).streams(10_000);
            let count =
                |role| -> u64 { streams.iter().filter(|s| s.role == role).map(|s| s.flows).sum() };
            assert_eq!(count(Role::Fresh) * of, count(Role::Measured));
            let share = Traffic::Flooded(of).steady_share();
            assert!((share - of as f64 / (of as f64 + 1.0)).abs() < 0.01, "{share}");
        }
        assert_eq!(Traffic::Connections(Proto::Tcp).steady_share(), 1.0);
    }

    const UDP_5000: &str = "4aa19fc75deba18a415d7b06038ad9a1652d265baa5b4c9047d002afc9a944d9";
    const UDP_BACK_5000: &str = "e642c3d14d58e69afa75cbdb9553a8e489d33693bb482dc6f3375fc75354ee0d";
    const SYN_5000: &str = "91c9f075dd81b667aebe0c5eb2072ae6831eb3d6abf78deabbb3603ccacdf3da";
    const SYN_ACK_5000: &str = "9701066b6dbd77373af9d731f7ca59833a727183587ee020287c28a90e2efe4c";
    const ACK_5000: &str = "2367f37dcf3a55ebe9edc762d1bbdf7199616adb83e62b5c75c6d7134876d947";
}
