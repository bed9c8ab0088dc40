//! Which bits of a packet's key a program can see, as words: packets that differ in nothing else
//! are the same to it, and share what the caches keep.

use crate::packet::key::{KeyBase, KeyL3, KeyStack, KeyTunnel, PacketKey};

/// Which bits of a packet's key the program can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMask {
    pub base: [u64; 5],
    pub l3: [u64; 8],
    pub tunnel: [u64; 8],
    pub stack: [u64; 8],
}

impl KeyMask {
    /// Everything matters.
    pub const ALL: Self = Self {
        base: [u64::MAX; 5],
        l3: [u64::MAX; 8],
        tunnel: [u64::MAX; 8],
        stack: [u64::MAX; 8],
    };

    /// The bits that one of two masks has.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            base: std::array::from_fn(|i| self.base[i] | other.base[i]),
            l3: std::array::from_fn(|i| self.l3[i] | other.l3[i]),
            tunnel: std::array::from_fn(|i| self.tunnel[i] | other.tunnel[i]),
            stack: std::array::from_fn(|i| self.stack[i] | other.stack[i]),
        }
    }

    /// From a mask in packet form.
    pub fn new(mask: &PacketKey) -> Self {
        Self {
            base: base_words(&mask.base),
            l3: *l3_words(&mask.l3),
            tunnel: *tunnel_words(&mask.tunnel),
            stack: *stack_words(&mask.stack),
        }
    }
}

impl Default for KeyMask {
    fn default() -> Self {
        Self::ALL
    }
}

#[inline]
pub(super) fn base_words(b: &KeyBase) -> [u64; 5] {
    zerocopy::transmute!(*b)
}

#[inline]
pub(super) fn base_ref(b: &KeyBase) -> &[u64; 5] {
    zerocopy::transmute_ref!(b)
}

#[inline]
pub(super) fn l3_words(b: &KeyL3) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}

#[inline]
pub(super) fn tunnel_words(b: &KeyTunnel) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}

#[inline]
pub(super) fn stack_words(b: &KeyStack) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}
