//! Puts the XDP program `steer` on a device and takes it off again.
//!
//! Theory. One instance of program and maps per device, so that a queue number means one thing and
//! nothing of one device can be seen on another. The program hangs on a BPF link that only this
//! process holds by its file descriptor; it is never pinned. When the [`Steer`] is dropped, or the
//! process dies in whatever way, the kernel closes the link and has the NIC back at once.
//!
//! Native mode (in the driver) is tried first, then generic mode (in the stack, on a copy); which
//! one it became is shown. A device that already has an XDP program is refused: taking it over
//! would break whoever put it there, and two cannot run. The maps are filled before the program
//! is attached, so that no packet meets a half-told configuration.
//!
//! Needs Linux 5.18 (`bpf_xdp_load_bytes`) and CAP_BPF with CAP_NET_ADMIN, or root.

mod query;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Ebpf, EbpfError,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp, XdpMode, links::FdLink, xdp::XdpError},
};
use rustix::io::Errno;
use sluice_ebpf_common::{
    Config, ENDPOINTS_MAX, EndpointKey, MODE_ALL, MODE_SHARED, NAT_MAX, NatKey, NatTake, Verdict,
    XSKS_MAX, mapped, names,
};

pub use query::{Device, OnDevice, device, program_name};

/// The program as built by `cargo xtask bpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/steer.bpf.o");

/// What of the device's traffic is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteerMode {
    /// Every frame.
    All,
    /// Tunnel traffic to our endpoints and replies to our NAT addresses.
    Shared,
}

/// Where the program may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Native, else generic.
    #[default]
    Auto,
    Native,
    Generic,
}

/// Where the program does run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    Native,
    Generic,
}

impl AttachedMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelProto {
    /// Destination port.
    Udp(u16),
    Gre,
}

/// Where tunnel packets to us arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: IpAddr,
    pub proto: TunnelProto,
}

/// What of a NAT address is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatPart {
    /// The node's kernel does not own the address: everything, and ARP and ND for it.
    Whole,
    /// It does: only these destination ports (TCP, UDP, SCTP) and echo ids.
    Ranges { ports: RangeInclusive<u16>, icmp_ids: RangeInclusive<u16> },
}

/// An address that we translate to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatAddress {
    pub addr: IpAddr,
    pub part: NatPart,
}

#[derive(Clone, Debug)]
pub struct SteerConfig {
    pub mode: SteerMode,
    /// Take frames in several buffers: right for a veth, whose peer otherwise loses its TSO.
    pub frags: bool,
    pub place: Place,
    pub endpoints: Vec<Endpoint>,
    pub nat: Vec<NatAddress>,
}

impl SteerConfig {
    pub fn all(frags: bool) -> Self {
        let (endpoints, nat) = (Vec::new(), Vec::new());
        Self { mode: SteerMode::All, frags, place: Place::Auto, endpoints, nat }
    }

    pub fn shared(frags: bool, endpoints: Vec<Endpoint>, nat: Vec<NatAddress>) -> Self {
        Self { mode: SteerMode::Shared, frags, place: Place::Auto, endpoints, nat }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("no network device with index {ifindex} in this network namespace: {source}")]
    Device { ifindex: u32, source: io::Error },
    #[error(
        "device {device} already has an XDP program: id {id}, name \"{name}\", {how}; two cannot \
         run. See whose it is with `bpftool prog show id {id}`; detach it with its own tool, or \
         with `ip link set dev {device} xdp off`"
    )]
    Foreign { device: String, id: u32, name: String, how: &'static str },
    #[error(
        "not allowed to load or attach XDP programs on {device}: run as root, or with CAP_BPF and \
         CAP_NET_ADMIN"
    )]
    Permission { device: String },
    #[error("the kernel refuses sluice's XDP program: {source}; it needs Linux 5.18 with BTF")]
    Load { source: ProgramError },
    #[error("sluice's XDP object does not load: {source}; rebuild it with `cargo xtask bpf`")]
    Object { source: EbpfError },
    #[error("sluice's XDP object has no {name}; rebuild it with `cargo xtask bpf`")]
    Missing { name: &'static str },
    #[error(
        "device {device} takes no XDP program: native: {native}; generic: {generic}. Check its \
         MTU and offloads (LRO must be off), or make it a port of type `packet`"
    )]
    Refused { device: String, native: String, generic: String },
    #[error("the kernel attached XDP to {device} without a link; it needs Linux 5.9")]
    NoLink { device: String },
    #[error("{wanted} entries do not fit into the steering map {map}, which holds {max}")]
    Full { map: &'static str, wanted: usize, max: usize },
    #[error("rx queue {queue} has no place in the steering map, which holds queues 0 to {last}")]
    Queue { queue: u32, last: usize },
    #[error("steering map {map}: {source}")]
    Map { map: &'static str, source: MapError },
}

/// The entries of a hash map as bytes: what we want in it, or what we put there.
type Entries<const K: usize, const V: usize> = BTreeMap<[u8; K], [u8; V]>;

/// `steer` on one device. Dropping it detaches.
pub struct Steer {
    // Fields drop in order: first the link, so that no packet sees maps go.
    _link: FdLink,
    mode: AttachedMode,
    xsks: XskMap<MapData>,
    endpoints: Synced<20, 4>,
    nat: Synced<16, 12>,
    verdicts: PerCpuArray<MapData, u64>,
    _object: Ebpf,
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Steer {
    /// Loads, fills the maps, attaches. The device is one of the calling thread's namespace.
    pub fn attach(ifindex: u32, config: &SteerConfig) -> Result<Self, AttachError> {
        let name = refuse_foreign(ifindex)?;
        let mut object = Ebpf::load(OBJECT).map_err(|source| object_error(source, &name))?;
        let program = if config.frags { names::STEER_FRAGS } else { names::STEER };
        let missing = || AttachError::Missing { name: program };
        let xdp = object.program_mut(program).ok_or_else(missing)?;
        let xdp: &mut Xdp = xdp.try_into().map_err(|_| missing())?;
        xdp.load().map_err(|source| load_error(source, &name))?;

        let mut endpoints = Synced::take(&mut object, names::ENDPOINTS, ENDPOINTS_MAX)?;
        endpoints.sync(endpoint_entries(&config.endpoints))?;
        let mut nat = Synced::take(&mut object, names::NAT, NAT_MAX)?;
        nat.sync(nat_entries(&config.nat))?;
        let mut settings: Array<_, [u8; 8]> = take(&mut object, names::CONFIG)?;
        let mode = match config.mode {
            SteerMode::All => MODE_ALL,
            SteerMode::Shared => MODE_SHARED,
        };
        settings
            .set(0, Config { mode, zero: 0 }.to_bytes(), 0)
            .map_err(|source| AttachError::Map { map: names::CONFIG, source })?;
        let xsks = take(&mut object, names::XSKS)?;
        let verdicts = take(&mut object, names::VERDICTS)?;

        let xdp = object.program_mut(program).ok_or_else(missing)?;
        let xdp: &mut Xdp = xdp.try_into().map_err(|_| missing())?;
        let (link, mode) = attach_link(xdp, ifindex, config.place, &name)?;
        Ok(Self { _link: link, mode, xsks, endpoints, nat, verdicts, _object: object })
    }

    pub fn mode(&self) -> AttachedMode {
        self.mode
    }

    /// From now on frames of this rx queue go to this AF_XDP socket, which must be bound to it.
    pub fn set_socket(&mut self, queue: u32, socket: impl AsFd) -> Result<(), AttachError> {
        self.has_queue(queue)?;
        self.xsks
            .set(queue, socket.as_fd().as_raw_fd(), 0)
            .map_err(|source| AttachError::Map { map: names::XSKS, source })
    }

    /// From now on frames of this rx queue go to the kernel. Clearing twice is no error.
    pub fn clear_socket(&mut self, queue: u32) -> Result<(), AttachError> {
        self.has_queue(queue)?;
        match self.xsks.unset(queue) {
            Err(MapError::SyscallError(err)) if is(&err.io_error, Errno::NOENT) => Ok(()),
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(source) => Err(AttachError::Map { map: names::XSKS, source }),
        }
    }

    fn has_queue(&self, queue: u32) -> Result<(), AttachError> {
        if (queue as usize) < XSKS_MAX {
            return Ok(());
        }
        Err(AttachError::Queue { queue, last: XSKS_MAX - 1 })
    }

    /// Makes these the endpoints; what stays the same is not touched.
    pub fn update_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<(), AttachError> {
        self.endpoints.sync(endpoint_entries(endpoints))
    }

    /// Makes these the NAT addresses; what stays the same is not touched.
    pub fn update_nat(&mut self, nat: &[NatAddress]) -> Result<(), AttachError> {
        self.nat.sync(nat_entries(nat))
    }

    /// Frames per verdict since the attach, summed over the CPUs, in the order of the list.
    pub fn verdicts(&self) -> Result<Vec<(&'static str, u64)>, AttachError> {
        let count = |verdict: &Verdict| {
            let cpus = self.verdicts.get(&(*verdict as u32), 0);
            let cpus = cpus.map_err(|source| AttachError::Map { map: names::VERDICTS, source })?;
            Ok((verdict.name(), cpus.iter().sum()))
        };
        Verdict::ALL.iter().map(count).collect()
    }
}

/// The device's name, if it has no XDP program.
fn refuse_foreign(ifindex: u32) -> Result<String, AttachError> {
    let device = device(ifindex).map_err(|source| AttachError::Device { ifindex, source })?;
    match device.xdp {
        None => Ok(device.name),
        Some(OnDevice { id, how }) => {
            let name = program_name(id);
            Err(AttachError::Foreign { device: device.name, id, name, how })
        }
    }
}

fn attach_link(
    xdp: &mut Xdp,
    ifindex: u32,
    place: Place,
    device: &str,
) -> Result<(FdLink, AttachedMode), AttachError> {
    let mut texts = ["not asked for".to_owned(), "not asked for".to_owned()];
    let tries = match place {
        Place::Auto => &[AttachedMode::Native, AttachedMode::Generic][..],
        Place::Native => &[AttachedMode::Native],
        Place::Generic => &[AttachedMode::Generic],
    };
    for mode in tries {
        let (flag, text) = match mode {
            AttachedMode::Native => (XdpMode::Driver, &mut texts[0]),
            AttachedMode::Generic => (XdpMode::Skb, &mut texts[1]),
        };
        let source = match xdp.attach_to_if_index(ifindex, flag) {
            Ok(id) => {
                let link = xdp.take_link(id).map_err(|source| AttachError::Load { source })?;
                let link = FdLink::try_from(link);
                let no_link = |_| AttachError::NoLink { device: device.to_owned() };
                return Ok((link.map_err(no_link)?, *mode));
            }
            Err(source) => source,
        };
        let errno = errno(&source);
        if errno == Some(Errno::PERM) {
            return Err(AttachError::Permission { device: device.to_owned() });
        }
        // Somebody was faster than we after the first look.
        if errno == Some(Errno::BUSY) || errno == Some(Errno::EXIST) {
            refuse_foreign(ifindex)?;
        }
        *text = errno.map_or_else(|| source.to_string(), |errno| errno.to_string());
    }
    let [native, generic] = texts;
    Err(AttachError::Refused { device: device.to_owned(), native, generic })
}

fn errno(error: &ProgramError) -> Option<Errno> {
    let io = match error {
        ProgramError::SyscallError(err) => err.io_error.raw_os_error(),
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(err)) => err.raw_os_error(),
        _ => None,
    };
    io.map(Errno::from_raw_os_error)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn load_error(source: ProgramError, device: &str) -> AttachError {
    match errno(&source) {
        Some(Errno::PERM) => AttachError::Permission { device: device.to_owned() },
        _ => AttachError::Load { source },
    }
}

/// Loading the object creates the maps, which is the first thing that needs rights.
fn object_error(source: EbpfError, device: &str) -> AttachError {
    match &source {
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if is(io_error, Errno::PERM) =>
        {
            AttachError::Permission { device: device.to_owned() }
        }
        _ => AttachError::Object { source },
    }
}

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, AttachError> {
    let map = object.take_map(name).ok_or(AttachError::Missing { name })?;
    T::try_from(map).map_err(|source| AttachError::Map { map: name, source })
}

/// A hash map in the kernel and what we put into it.
struct Synced<const K: usize, const V: usize> {
    name: &'static str,
    max: usize,
    map: HashMap<MapData, [u8; K], [u8; V]>,
    present: Entries<K, V>,
}

impl<const K: usize, const V: usize> Synced<K, V> {
    fn take(object: &mut Ebpf, name: &'static str, max: usize) -> Result<Self, AttachError> {
        Ok(Self { name, max, map: take(object, name)?, present: Entries::new() })
    }

    /// New before old, so that traffic which stays ours is ours all the time; unless the map
    /// cannot hold both.
    fn sync(&mut self, wanted: Entries<K, V>) -> Result<(), AttachError> {
        if wanted.len() > self.max {
            let (map, max) = (self.name, self.max);
            return Err(AttachError::Full { map, wanted: wanted.len(), max });
        }
        let stale = self.present.keys().filter(|key| !wanted.contains_key(*key));
        let stale: Vec<[u8; K]> = stale.copied().collect();
        let is_tight = stale.len() + wanted.len() > self.max;
        if is_tight {
            self.remove(&stale)?;
        }
        for (key, value) in &wanted {
            if self.present.get(key) != Some(value) {
                let done = self.map.insert(key, value, 0);
                done.map_err(|source| AttachError::Map { map: self.name, source })?;
                self.present.insert(*key, *value);
            }
        }
        if is_tight { Ok(()) } else { self.remove(&stale) }
    }

    fn remove(&mut self, keys: &[[u8; K]]) -> Result<(), AttachError> {
        for key in keys {
            let done = self.map.remove(key);
            done.map_err(|source| AttachError::Map { map: self.name, source })?;
            self.present.remove(key);
        }
        Ok(())
    }
}

fn bytes_of(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn endpoint_entries(endpoints: &[Endpoint]) -> Entries<20, 4> {
    let mut entries = Entries::new();
    for Endpoint { addr, proto } in endpoints {
        let addr = bytes_of(*addr);
        let key = match proto {
            TunnelProto::Udp(port) => EndpointKey::udp(addr, *port),
            TunnelProto::Gre => EndpointKey::gre(addr),
        };
        for key in [key, EndpointKey::address(addr)] {
            entries.insert(key.to_bytes(), 1u32.to_ne_bytes());
        }
    }
    entries
}

fn nat_entries(nat: &[NatAddress]) -> Entries<16, 12> {
    let entry = |NatAddress { addr, part }: &NatAddress| {
        let take = match part {
            NatPart::Whole => NatTake::WHOLE,
            NatPart::Ranges { ports, icmp_ids } => NatTake::ranges(
                (*ports.start(), *ports.end()),
                (*icmp_ids.start(), *icmp_ids.end()),
            ),
        };
        (NatKey { addr: bytes_of(*addr) }.addr, take.to_bytes())
    };
    nat.iter().map(entry).collect()
}
