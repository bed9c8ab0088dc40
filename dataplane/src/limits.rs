//! Every bound of the dataplane, with its arithmetic.
//!
//! Nothing in a worker grows: what is full refuses or drops by a named reason
//! (`counters.rs`). A bound that another one relies on is asserted here.

/// Packets that walk the stages together. A bigger batch hides more memory
/// latency; 32 is also the kernel's default budget of one TX kick on veth.
pub const BATCH_MAX: usize = 32;

/// Workers of one switch: a set of them is one u64.
pub const WORKERS_MAX: usize = 64;

/// Places of each ring from one worker to another, 32 bytes each: 64 KiB a pair of two workers,
/// 16 MiB for all pairs of 64. A round of one worker puts few bursts into it.
pub const fn hand_over_entries(workers: usize) -> usize {
    match workers {
        0..=8 => 1024,
        9..=32 => 256,
        _ => 128,
    }
}

/// Parcels of one other worker that a round takes, so that ports are not kept waiting.
pub const PARCELS_A_ROUND: usize = 4 * BATCH_MAX;

/// Frames that a rich worker gives to a poor one in a round: as many as one can receive in it by a
/// port or two.
pub const SPARES_A_ROUND: usize = 4 * BATCH_MAX;

/// Ports of one switch (all bridges together). `PortIx` counts below this.
pub const PORTS_MAX: usize = 1024;

/// Bridges of one switch.
pub const BRIDGES_MAX: usize = 64;

/// Visible OpenFlow tables of a bridge: 0..=253, and 254 that Open vSwitch keeps for itself.
pub const TABLES_MAX: usize = 255;

/// Rules of one bridge's table. Refused beyond ("table full").
pub const RULES_PER_TABLE_MAX: usize = 1 << 20;

/// Rule changes that a worker remembers: cached walks are held against them one by one, 88 bytes
/// and a few cycles each. What is older makes a walk run again.
pub const CHANGES_MAX: usize = 256;

/// Resubmits to the same or an earlier table, patch crossings included, that may be
/// nested in one walk (Open vSwitch: `MAX_DEPTH`).
pub const DEPTH_MAX: u32 = 64;

/// Resubmits of one packet in total (Open vSwitch: `MAX_RESUBMITS`).
pub const RESUBMITS_MAX: u32 = 4096;

/// Recorded steps of one traversal. A longer one still runs, uncached.
pub const TRAVERSAL_STEPS_MAX: usize = 128;

/// Guards of one cached traversal.
pub const TRAVERSAL_GUARDS_MAX: usize = 32;

/// Rules that one cached traversal can credit. A longer one still runs, uncached.
pub const TRAVERSAL_RULES_MAX: usize = 128;

/// Connections that one cached traversal can refresh (an OVN router path uses four).
pub const TRAVERSAL_CONNS_MAX: usize = 8;

/// Outputs of one packet, copies of a flood included: one walk can cost no more.
pub const OUTPUTS_MAX: usize = 2048;

/// Steps that one walk records: two to an output on average, more than any sane flow needs.
/// Beyond, the rest of the packet's outputs are discarded.
pub const RECORDED_STEPS_MAX: usize = 2 * OUTPUTS_MAX + RECORDED_DROPS_MAX;

/// Copies that end inside one walk and are recorded with it; more are counted on the spot.
pub const RECORDED_DROPS_MAX: usize = 64;

/// Different `ct(commit)` of cached walks.
pub const COMMITS_MAX: usize = 4096;

/// Translations of one walk.
pub const RECORDED_TRANSLATIONS_MAX: usize = 64;

/// Entries of one worker's microflow cache (tier 1); a power of two. 128 bytes each (two slots of
/// a line), as much more for each of IPv6, a tunnel and a label stack, and 192 for traversals, of
/// which flows of one walk share one: 128, 384 and 192 MiB reserved at start, touched by use.
pub const MICROFLOWS: usize = 1 << 20;

/// Megaflows of one worker (tier 2): 264 bytes each, 17 MiB in all; a power of two.
pub const MEGAFLOWS: usize = 1 << 16;

/// Masks that megaflows may have: a lookup tries each at most once, about 15 cycles a mask.
pub const MEGAFLOW_MASKS: usize = 32;

/// MAC addresses that one bridge learns (Open vSwitch: `mac-table-size`); a power of two.
pub const FDB_ENTRIES: usize = 8192;

/// Age after which a learned MAC is forgotten, seconds (Open vSwitch: `mac-aging-time`).
pub const FDB_AGE_S: u32 = 300;

/// Bytes a tunnel may put before a frame: Ethernet 14 + VLAN 4 + IPv6 40 + UDP 8 + Geneve 8, and
/// options: 64 bytes of data in as many words, each with a header of four.
pub const ENCAP_MAX_BYTES: usize = 208;

/// Headroom that every received frame leaves in front of its first byte.
pub const HEADROOM_BYTES: usize = 224;

/// Bytes of a frame unless configured: headroom, MTU 1500 and encapsulation fit.
pub const FRAME_SIZE_BYTES: u32 = 2048;

/// Frames of one process: 32 GiB of 2048-byte frames, and their numbers stay far inside u32.
pub const FRAMES_MAX: u32 = 1 << 24;

/// Entries of each ring of an AF_XDP queue unless configured.
pub const RING_ENTRIES: u32 = 1024;

/// Fill ring entries given to the kernel at once, at least.
pub const REFILL_FRAMES: u32 = 32;

/// Frames of a worker's pool that fill rings leave alone: batches in hands, TAP reads, copies.
pub const POOL_RESERVE_FRAMES: usize = 8 * BATCH_MAX;

/// Descriptors that one TX wake-up may send, where the kernel lets us say (6.17+).
pub const TX_BUDGET_FRAMES: u32 = 256;

/// Frames that `queues` AF_XDP queues need so that none starves: each can have its fill ring (which
/// feeds the rx ring) and its tx ring (which feeds the completion ring) full at once.
pub const fn frames_wanted(queues: u32, rx_entries: u32, tx_entries: u32) -> u32 {
    queues * (rx_entries + tx_entries) + 2 * POOL_RESERVE_FRAMES as u32
}

/// Connections of one worker: 128 bytes each for IPv4 (64 hot, 32 cold, two index slots of 8 at
/// a load of one half), 128 MiB in all; 192 bytes for IPv6. Reserved at start, touched by use. The
/// configuration may say up to 16 times as many.
pub const CONNS_MAX: usize = 1 << 20;

/// Redirects that a worker keeps for others, and asks of others, are as many as its connections may
/// be: 128 bytes each here (a line at a load of one half), 64 there, reserved and touched by use.
///
/// Redirects that one packet's commits may ask other workers for; more are refused.
pub const REDIRECTS_DUE_MAX: usize = 64;

/// Withdrawals of redirects that a worker tells in one go.
pub const WITHDRAWALS_AT_ONCE: usize = 64;

/// Fragments that wait at `ct` for the others of their datagram (Open vSwitch:
/// `ipf-set-max-nfrags`): a frame's bytes each and what is left of a walk, seldom above 3 KiB, made
/// by use.
pub const FRAGMENTS_MAX: usize = 1000;

/// Datagrams in fragments of which a worker remembers for the others where they go, some 100 bytes
/// each: those of the last moments, and of `FRAGMENT_TIMEOUT_S` at most.
pub const DATAGRAM_HOMES_MAX: usize = 4096;

/// Fragments that a configuration may let wait (Open vSwitch's bound).
pub const FRAGMENTS_MOST: usize = 5000;

/// Seconds that a datagram may lack a fragment (Open vSwitch: 15).
pub const FRAGMENT_TIMEOUT_S: u32 = 15;

/// Bytes of an IPv4 fragment that is not the last, from the IP header on (Open vSwitch: 1200).
pub const IPV4_FRAGMENT_MIN: u16 = 1200;

/// The same of an IPv6 one: no link has a smaller MTU (RFC 8200 section 5).
pub const IPV6_FRAGMENT_MIN: u16 = 1280;

/// What a configuration may lower both to: the first fragment has to hold the transport header, and
/// a datagram is to have no more than 173 (Open vSwitch's bound).
pub const FRAGMENT_LEAST: u16 = 400;

/// Answers of connection tracking that the fragments of one datagram share.
pub const DATAGRAM_VERDICTS_MAX: usize = 64;

/// Sets of timeouts that zones may have besides the general one: a byte of each connection tells
/// which, and each is a cache line.
pub const CT_POLICIES_MAX: usize = 255;

/// Connections that a helper listens to (`alg=ftp`), some 200 bytes each, made by use. What comes
/// beyond is not helped.
pub const HELPED_MAX: usize = 1 << 14;

/// Connections that helpers expect, some 150 bytes each, made by use; and of one connection, of
/// which the oldest gives way. FTP announces one at a time.
pub const EXPECTATIONS_MAX: usize = 1 << 12;
pub const EXPECTATIONS_EACH: usize = 4;

/// Seconds that an expected connection may take to come (Linux: 300).
pub const EXPECTATION_TIMEOUT_S: u64 = 300;

/// Connections that were expected and remember their parent's addresses, 80 bytes each, made by
/// use. Others show their own.
pub const HELPED_CHILDREN_MAX: usize = 1 << 14;

/// Packets of helped connections that one walk may rewrite.
pub const RECORDED_ALG_EDITS_MAX: usize = 4;

/// NAT pools of one worker (one per zone, protocol and address): two bits a port, 16 KiB each, and
/// 2 bytes more for ports that several connections share, 128 KiB each; 36 MiB reserved.
pub const NAT_POOLS_MAX: usize = 256;

/// Bytes of one packet's stack, a byte of length with each value (Open vSwitch). Copies that forks
/// and clones take of it count.
pub const STACK_MAX_BYTES: usize = 1 << 16;

/// Lists of `write_actions` that one walk holds, copies for forks and clones included: every
/// table of a long pipeline may write once.
pub const ACTION_SETS_MAX: usize = 64;

/// Looks at buckets that one question of liveness may take: watched groups may watch groups.
pub const LIVENESS_LOOKS_MAX: u32 = 4096;

/// Buckets, groups and learned flows that one cached traversal can credit.
pub const TRAVERSAL_CREDITS_MAX: usize = 64;

/// Copies of one packet for controllers.
pub const RECORDED_PUNTS_MAX: usize = 64;

/// Packets for controllers that a worker holds until control has taken them: 128 of 9.5 KiB, and
/// 12 KiB for what is left of a paused one, touched as far as they are used.
pub const PACKET_INS_MAX: usize = 128;

/// Lists of actions that the pauses of one packet may leave unfinished, 24 bytes each: four times
/// as many as may be nested backwards.
pub const FROZEN_LISTS_MAX: usize = 256;

/// Bytes of stack that the pauses of one packet keep: over 200 of the longest values.
pub const FROZEN_STACK_MAX_BYTES: usize = 4096;

/// Bytes that go to a controller at most: a jumbo frame. What is longer is cut.
pub const PACKET_IN_MAX_BYTES: usize = 9600;

/// Events (missing neighbour, learned MAC ...) that a worker can owe to control. More are
/// counted and lost; each is only a hint that the next packet gives again.
pub const EVENTS_MAX: usize = 1024;

const _: () = assert!(BATCH_MAX <= 64, "a batch's live mask is one u64");
const _: () = assert!(ENCAP_MAX_BYTES <= HEADROOM_BYTES, "encapsulation happens in the headroom");
const _: () = assert!(PORTS_MAX < u16::MAX as usize, "PortIx is a u16, its last value means none");
const _: () = assert!(MICROFLOWS.is_power_of_two() && FDB_ENTRIES.is_power_of_two());
const _: () = assert!(HEADROOM_BYTES + 1514 + 4 <= FRAME_SIZE_BYTES as usize);
const _: () = assert!(POOL_RESERVE_FRAMES >= 2 * BATCH_MAX && RING_ENTRIES >= 2 * REFILL_FRAMES);
const _: () = assert!(RING_ENTRIES.is_power_of_two() && TX_BUDGET_FRAMES >= 32);
