//! Tier 1, fused: one lookup per packet, whatever the depth of the tables. Tier 2, which serves
//! what misses it, is `megaflow`; both keep their walks in `traversal`, made from what a walk has
//! left in a `recording`.
//!
//! **What is kept.** A *microflow* entry maps a packet's key to a *traversal*: the whole walk
//! flattened into steps, through resubmits, patch ports, connection tracking, NAT and
//! encapsulation, with the rules to credit.
//!
//! **How wide the key is.** A program looks at some fields only. Bits that no rule and no
//! action of the program can see are masked out of the key before it is hashed (`KeyMask`), so
//! packets that differ in nothing the program can tell apart share an entry. The mask is one
//! for the whole program; it is computed when the program is (`pipeline::program`).
//!
//! **When an entry may be used.** Its *guards* must hold, all checked before any byte changes:
//! - no change of the program since concerns it: ports, routes, neighbours and groups are as they
//!   were, and no rule changed that its walk could have met (`pipeline::delta`);
//! - the frame length lies in the range in which the walk would decide the same;
//! - each MAC table entry that NORMAL relied on is as it was (`FdbGuard`);
//! - connection tracking says of the packet what it said of the walk's (`Track`); what a lookup
//!   leaves behind it leaves then.
//!
//! A guard that fails sends the packet through tier 3 again, whose result replaces the entry.
//!
//! **What it costs.** The slot is one 64-byte line: 40 bytes of key, the traversal's number, the
//! packet and byte counts owed to the rules. IPv6 and tunnelled packets compare a line or two more,
//! kept beside in arrays that cost no memory until touched.
//!
//! **Bounds.** The table's groups come as entries do, up to a number fixed at start, in memory
//! reserved at start; a flow whose two groups are full takes the slot longest unused. Records come
//! from a fixed pool.

pub mod entry;
pub mod mask;
pub mod megaflow;
mod memo;
pub mod microflow;
pub mod recording;
pub mod traversal;

pub use entry::Entry;
pub use mask::KeyMask;
pub use megaflow::Megaflows;
pub use microflow::Microflows;
pub use traversal::{FdbGuard, Traversal, Traversals};
