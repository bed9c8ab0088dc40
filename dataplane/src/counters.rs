//! Drop reasons and per-worker counters, from one list each.
//!
//! A packet leaves through a port or with exactly one `Drop` reason. A counter belongs to
//! one worker, which alone writes it; readers on other threads add the workers up. That is
//! why the cells are relaxed atomics written by load and store: no locked instruction.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

macro_rules! named_list {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $text:literal, $help:literal;)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* #[doc = $help] $variant,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name, as printed and as in JSON.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// One sentence for the operator.
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)+ }
            }
        }
    };
}

// tidy: wide table
named_list! {
    /// Why a packet ended without leaving through a port.
    Drop {
        NoActions = "no_actions", "The matched flow has no actions, or says drop.";
        NoMatch = "no_match", "No flow of the table matched: table miss.";
        NoOutput = "no_output", "Flows matched, yet nothing sent the packet anywhere.";
        SameInPort = "same_in_port", "The only output was the port the packet came in by.";
        NoSuchPort = "no_such_port", "Output to a port number that the bridge does not have.";
        PortDown = "port_down", "The output port is down.";
        PortBlocked = "port_blocked", "The input port takes no traffic.";
        TxRingFull = "tx_ring_full", "The output port's transmit ring was full.";
        TxTooLong = "tx_too_long", "The frame is longer than the output port can send.";
        TxFailed = "tx_failed", "The device refused the frame.";
        FramePoolEmpty = "frame_pool_empty", "No free frame for a copy or a received packet.";
        ParseTruncated = "parse_truncated", "The frame ends inside its Ethernet header.";
        ParseOversize = "parse_oversize", "The frame is longer than a frame of the UMEM.";
        ResubmitDepth = "resubmit_depth", "More than 64 nested resubmits: all actions discarded.";
        ResubmitCount = "resubmit_count", "More than 4096 resubmits: all actions discarded.";
        OutputCount = "output_count", "Too many outputs of one packet: the rest is discarded.";
        TtlExpired = "ttl_expired", "dec_ttl met a TTL of 0 or 1.";
        CtInvalidPacket = "ct_invalid_packet", "ct() on a packet that is not IPv4 or IPv6.";
        TunnelNoPort = "tunnel_no_port", "A tunnel packet for us that no tunnel port takes.";
        TunnelMalformed = "tunnel_malformed", "A tunnel header that is short, of unknown version or inconsistent.";
        TunnelChecksum = "tunnel_checksum", "The outer UDP checksum of a tunnel packet is wrong.";
        TunnelCriticalOption = "tunnel_critical_option", "A Geneve option that is marked critical and that we do not know.";
        TunnelOptionLength = "tunnel_option_length", "A Geneve option whose length is not the one that the bridge maps.";
        TunnelEcn = "tunnel_ecn", "Outer congestion mark over an inner packet that does not take it.";
        TunnelNoRoute = "tunnel_no_route", "The node has no route to the tunnel's remote address.";
        TunnelNoNeighbour = "tunnel_no_neighbour", "The tunnel's next hop has no known MAC address yet; it is being resolved.";
        TunnelNoUnderlay = "tunnel_no_underlay", "The route to the tunnel's remote address leaves by a device that is no port of ours.";
        TunnelNoRemote = "tunnel_no_remote", "A remote_ip=flow tunnel port and a packet without tun_dst.";
        TunnelLoop = "tunnel_loop", "Output to the very tunnel peer that sent the packet.";
        TunnelNoHeadroom = "tunnel_no_headroom", "No room in front of the frame for the tunnel header.";
        ReservedMac = "reserved_mac", "NORMAL does not forward 01:80:c2:00:00:0x and its like.";
        VlanPartial = "vlan_partial", "NORMAL met an Ethernet type that announces a tag, and no tag.";
        NormalNoPorts = "normal_no_ports", "NORMAL or FLOOD found no port to send to.";
        EditFailed = "edit_failed", "A header edit did not fit the packet's layers.";
        VlanTooMany = "vlan_too_many", "push_vlan on a frame without room for the tag.";
        MplsTooMany = "mpls_too_many", "push_mpls or pop_mpls on a packet with more than 3 labels, or without room for one.";
        StackFull = "stack_full", "The packet's stack would exceed 64 KiB: all actions discarded.";
        ActionSetFull = "action_set_full", "More write_actions than one packet may hold: all actions discarded.";
        NoSuchGroup = "no_such_group", "A group number that the bridge does not have: the rest of the list is not run.";
        NoLiveBucket = "no_live_bucket", "The group has no bucket that is live and of weight above zero.";
        Meter = "meter", "A meter's rate was exceeded.";
        TruncateUnsupported = "truncate_unsupported", "output(max_len) to a patch port or to a reserved port.";
        NotTracked = "not_tracked", "resubmit(ct) on a packet that is not IP or has not been through ct().";
        PauseLost = "pause_lost", "controller(pause) found no free buffer for the packet: it cannot be resumed.";
        PauseTooLarge = "pause_too_large", "controller(pause) in more than 256 lists, or with more than 4 KiB on the stack: all actions discarded.";
        FragmentOverlap = "fragment_overlap", "Fragments of a datagram overlap or disagree on its length: all of it is dropped.";
        FragmentDuplicate = "fragment_duplicate", "A fragment that waits at ct() came again.";
        FragmentLimit = "fragment_limit", "More fragments than may wait at ct(): the oldest datagram is dropped.";
        FragmentTimeout = "fragment_timeout", "A fragment of the datagram did not come in time.";
        HandOverFull = "hand_over_full", "The ring to the worker that has the packet's connection, or its output port, was full.";
        FragmentLost = "fragment_lost", "A fragment could not go on: no frame was free, or its bridge is gone or maps other tunnel options.";
        TooBig = "too_big", "The frame after encapsulation exceeds the underlay's MTU.";
    }
}

named_list! {
    /// What a worker counts besides drops.
    Stat {
        RxPackets = "rx_packets", "Packets taken from ports.";
        RxBytes = "rx_bytes", "Bytes of those packets.";
        TxPackets = "tx_packets", "Packets handed to ports; copies count each.";
        TxBytes = "tx_bytes", "Bytes of those packets.";
        Tier1Hits = "tier1_hits", "Packets that a microflow entry served whole.";
        Tier1Stale = "tier1_stale", "Hits on an entry whose epochs had passed; run again in tier 3.";
        Tier2Hits = "tier2_hits", "Packets that a megaflow served whole.";
        Tier2Stale = "tier2_stale", "Megaflows found that no longer held.";
        Tier2Inserts = "tier2_inserts", "Megaflows written.";
        Tier2MasksFull = "tier2_masks_full", "Megaflows not written: too many masks in use.";
        Tier3Walks = "tier3_walks", "Packets that walked the tables.";
        Tier3Uncacheable = "tier3_uncacheable", "Walks whose result may not be kept.";
        Tier1Inserts = "tier1_inserts", "Microflow entries written.";
        Tier1Evictions = "tier1_evictions", "Live microflow entries overwritten by others.";
        ChecksumsCompleted = "checksums_completed", "Partial checksums of veth senders completed.";
        TunnelPop = "tunnel_pop", "Tunnel packets decapsulated.";
        TunnelPush = "tunnel_push", "Tunnel packets sent.";
        HandedOver = "handed_over", "Packets handed over to the worker that has their connection.";
        TakenOver = "taken_over", "Packets that other workers handed over to this one.";
        SentOver = "sent_over", "Packets given to the worker that has their output port.";
        FramesGiven = "frames_given", "Free frames given to a worker with fewer.";
        CtFragments = "ct_fragments", "Fragments that waited at ct().";
        CtDatagrams = "ct_datagrams", "Datagrams that ct() had put together from them.";
        CtExpected = "ct_expected", "Connections that alg=ftp or tftp expects.";
        CtUnexpected = "ct_unexpected", "Announced connections that are not expected: another's address, no translation, or too many.";
        CtTupleTaken = "ct_tuple_taken", "Commits refused: another connection's replies have this tuple.";
        CtUntold = "ct_untold", "Commits refused: the worker that replies come to had no room to be told.";
        CtRedirectsLate = "ct_redirects_late", "Replies that two workers wait for: the one that asked later does not get them.";
        CtRedirectsLost = "ct_redirects_lost", "Replies that are not sent on to the worker that waits for them: its list of those is full.";
        CtCreated = "ct_created", "Connections committed.";
        CtExpired = "ct_expired", "Connections that timed out or closed.";
        CtEvicted = "ct_evicted", "Half-open or closed connections that gave way to new ones in a full table.";
        CtTableFull = "ct_table_full", "Commits refused: the table is full of established connections.";
        CtZoneFull = "ct_zone_full", "Commits refused: the zone has as many connections as its limit allows.";
        CtInvalid = "ct_invalid", "Packets that conntrack judged invalid.";
        CtNatExhausted = "ct_nat_exhausted", "Commits refused: no free port or id in the NAT range.";
        FdbLearned = "fdb_learned", "MAC addresses learned.";
        FdbMoved = "fdb_moved", "MAC addresses that changed port.";
        FdbFull = "fdb_full", "MAC addresses not learned: table full.";
        SelfChecks = "self_checks", "Hits that were walked too, to compare.";
        SelfCheckFailures = "self_check_failures", "Of these, cached steps that were not the walk's: a flaw, please report it.";
        EventsLost = "events_lost", "Hints to control that found their queue full.";
        LearnsTold = "learns_told", "Flows that learn() asked control for.";
        LearnsLost = "learns_lost", "Flows that learn() could not ask for: the queue to control was full.";
        PacketIns = "packet_ins", "Packets handed to controllers.";
        PacketInsLost = "packet_ins_lost", "Packets for controllers that found no free buffer.";
        PacketOuts = "packet_outs", "Packets that controllers sent.";
        Resumes = "resumes", "Paused packets that controllers let go on.";
        Samples = "samples", "Packets that sample() chose.";
        Batches = "batches", "Batches run.";
        BusyNs = "busy_ns", "Time spent in rounds that found packets, nanoseconds.";
        Polls = "polls", "Times a worker slept in poll.";
    }
}

// tidy: end of table

/// One worker's counters. Cache-line aligned so that no two workers share a line.
#[repr(align(128))]
pub struct Counters {
    drops: [AtomicU64; Drop::COUNT],
    stats: [AtomicU64; Stat::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            stats: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Only the owning worker may call this: load and store are not one step.
#[inline]
fn bump(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    #[inline]
    pub fn count_drop(&self, reason: Drop) {
        bump(&self.drops[reason as usize], 1);
    }

    #[inline]
    pub fn count_drops(&self, reason: Drop, n: u64) {
        bump(&self.drops[reason as usize], n);
    }

    #[inline]
    pub fn add(&self, stat: Stat, n: u64) {
        bump(&self.stats[stat as usize], n);
    }

    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    pub fn stat(&self, stat: Stat) -> u64 {
        self.stats[stat as usize].load(Ordering::Relaxed)
    }

    /// All drops that happened, by name.
    pub fn drops_by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Drop::ALL.iter().map(|d| (d.name(), self.dropped(*d))).filter(|(_, n)| *n > 0)
    }

    pub fn drops_total(&self) -> u64 {
        Drop::ALL.iter().map(|d| self.dropped(*d)).sum()
    }
}

/// What a rule, a bucket, a group or a meter met. Workers add to it in portions (a meter per
/// packet), so plain atomic adds do.
#[derive(Debug, Default)]
pub struct RuleStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    used_ns: AtomicU64,
    learned_ns: AtomicU64,
    idle_max_s: AtomicU16,
    hard_max_s: AtomicU16,
    learn_full: AtomicBool,
}

const _: () = assert!(size_of::<RuleStats>() == 40, "there is one for each of a million rules");

impl RuleStats {
    pub fn add(&self, packets: u64, bytes: u64, now_ns: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes of the frames from the Ethernet header on, without FCS.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time of the last packet; 0 if none yet.
    pub fn used_ns(&self) -> u64 {
        self.used_ns.load(Ordering::Relaxed)
    }

    pub fn reset(&self) {
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// A packet came that would have learned this flow again.
    pub fn learn_again(&self, now_ns: u64) {
        self.learned_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// Time of the last packet that would have learned this flow again; 0 if none yet. The hard
    /// timeout counts from then, as from a modification.
    pub fn learned_ns(&self) -> u64 {
        self.learned_ns.load(Ordering::Relaxed)
    }

    /// Control says whether the flow's `learn(limit=)` has no room for another flow.
    pub fn set_learn_full(&self, full: bool) {
        self.learn_full.store(full, Ordering::Relaxed);
    }

    pub fn is_learn_full(&self) -> bool {
        self.learn_full.load(Ordering::Relaxed)
    }

    /// From now on the timeouts are these at most; 0 leaves one as it is (`fin_timeout`).
    pub fn reduce_timeouts(&self, idle_s: u16, hard_s: u16) {
        for (cell, new) in [(&self.idle_max_s, idle_s), (&self.hard_max_s, hard_s)] {
            let reduce = |old| (new != 0 && (old == 0 || new < old)).then_some(new);
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reduce);
        }
    }

    /// A flow's timeouts, seconds, 0 for none, after what `fin_timeout` made of them.
    pub fn timeouts_s(&self, idle_s: u16, hard_s: u16) -> (u16, u16) {
        let least = |cell: &AtomicU16, own: u16| match cell.load(Ordering::Relaxed) {
            0 => own,
            max if own == 0 => max,
            max => own.min(max),
        };
        (least(&self.idle_max_s, idle_s), least(&self.hard_max_s, hard_s))
    }
}
