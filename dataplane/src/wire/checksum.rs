//! The internet checksum: sums, incremental updates, pseudo-headers.
//!
//! # Theory
//! The checksum is the complement of the ones' complement sum of 16-bit words (RFC 1071). Ones'
//! complement addition is addition modulo 65535: 2^16 is 1, so a sum may be taken over words of
//! any multiple of 16 bits and folded at the end, and it does not depend on the byte order as long
//! as all words and the result use the same one (section 2(B)). We therefore load words in the
//! machine's order, never swap, and store the result as it is. [`Sum`] is such a number.
//!
//! Zero has two forms, 0x0000 and 0xffff. Adding with the carry brought around gives 0x0000 only
//! when all addends are zero, which is what makes comparing folded sums sound: two sums over bytes
//! that are not all zero are congruent exactly when they fold to the same 16 bits.
//!
//! An edit changes a checksum by a difference (RFC 1624 equation 3): `HC' = ~(~HC + ~m + m')`.
//! [`Delta`] collects `~m + m'` over all words that change, which does not need the packet, so that
//! a cached flow carries one `Delta` per checksum and applies it in one step. A wrong checksum
//! stays wrong by the same difference: an edit never hides damage.
//!
//! UDP's zero means "none" (RFC 768): it stays zero, and a sum that comes out as zero is sent as
//! ffff.

/// Ones' complement sum of 16-bit words in the machine's byte order, not folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// Adds and brings the carry around: modulo 2^64 - 1, a multiple of 65535.
#[inline]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

#[inline]
fn word(bytes: &[u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(*bytes))
}

#[inline]
fn dword(bytes: &[u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(*bytes))
}

#[inline]
fn halves(bytes: &[u8; 8]) -> u64 {
    let w = u64::from_ne_bytes(*bytes);
    (w & 0xffff_ffff) + (w >> 32)
}

impl Sum {
    pub const ZERO: Sum = Sum(0);

    /// The sum of a slice; an odd last byte counts as followed by a zero.
    ///
    /// Words of 64 bits are split in halves, whose sums cannot overflow: no carry is ever lost and
    /// none has to be handled, so the loop has no chain through a flag and vectorises.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut lanes = [0u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, w) in lanes.iter_mut().zip(words) {
                *lane += halves(w);
            }
        }
        let mut total: u64 = lanes.iter().sum();
        let (words, rest) = rest.as_chunks::<8>();
        for w in words {
            total += halves(w);
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        for w in pairs {
            total += word(w);
        }
        if let [last] = odd {
            total += word(&[*last, 0]);
        }
        Sum(total)
    }

    /// The same, for slices that mostly are short: in line, a word at a time.
    #[inline(always)]
    pub fn of_short(bytes: &[u8]) -> Sum {
        if bytes.len() > 128 {
            return Sum::of(bytes);
        }
        let (words, rest) = bytes.as_chunks::<8>();
        let mut total = 0;
        for w in words {
            total = add(total, u64::from_ne_bytes(*w));
        }
        match bytes.last_chunk::<8>() {
            // The last eight bytes, without those that were added already.
            Some(last) if !rest.is_empty() => {
                let known = 8 * (8 - rest.len());
                let rest = (u64::from_le_bytes(*last) >> known).to_le_bytes();
                Sum(add(total, u64::from_ne_bytes(rest)))
            }
            Some(_) => Sum(total),
            None => Sum::of(rest),
        }
    }

    /// The sum of an IPv4 header without options: a length known beforehand unrolls.
    #[inline]
    pub fn of_20(header: &[u8; 20]) -> Sum {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, last @ ..] = *header;
        let first = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let second = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
        Sum(add(add(first, second), dword(&last)))
    }

    #[inline]
    pub fn plus(self, other: Sum) -> Sum {
        Sum(add(self.0, other.0))
    }

    /// Adds a 16-bit number as it stands on the wire.
    #[inline]
    pub fn plus_u16(self, number: u16) -> Sum {
        Sum(add(self.0, word(&number.to_be_bytes())))
    }

    /// The sum in 16 bits, machine order; 0 only if all words were 0.
    #[inline]
    pub fn fold(self) -> u16 {
        // The upper half of a number plus itself turned: both halves, and the carry brought around.
        let s = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
    }

    /// The folded sum as bytes: what a sender that leaves the checksum to the device stores.
    #[inline]
    pub fn folded_bytes(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum, ready to be stored.
    #[inline]
    pub fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The checksum as UDP sends it: never zero.
    #[inline]
    pub fn udp_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        }
    }

    /// Whether a sum that covers its own checksum field says "undamaged".
    #[inline]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The pseudo-header of a transport protocol over IPv4 (RFC 9293 section 3.1).
#[inline]
pub fn pseudo_v4(src: &[u8; 4], dst: &[u8; 4], proto: u8, len: u16) -> Sum {
    Sum(dword(src) + dword(dst)).plus_u16(u16::from(proto)).plus_u16(len)
}

/// The pseudo-header of a transport protocol over IPv6 (RFC 8200 section 8.1).
#[inline]
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u16) -> Sum {
    sum_16(src).plus(sum_16(dst)).plus_u16(u16::from(proto)).plus_u16(len)
}

#[inline]
fn sum_16(bytes: &[u8; 16]) -> Sum {
    let (words, _) = bytes.as_chunks::<8>();
    Sum(words.iter().map(halves).sum())
}

/// How a checksum changes with the words it covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(Sum);

impl Delta {
    pub const NONE: Delta = Delta(Sum::ZERO);

    /// One word changes.
    #[inline]
    pub fn change_2(self, old: [u8; 2], new: [u8; 2]) -> Delta {
        // The complement of a word as 16 bits, not as 64.
        Delta(Sum(add(self.0.0, (word(&old) ^ 0xffff) + word(&new))))
    }

    /// An IPv4 address or another pair of words changes.
    #[inline]
    pub fn change_4(self, old: [u8; 4], new: [u8; 4]) -> Delta {
        Delta(Sum(add(self.0.0, (dword(&old) ^ 0xffff_ffff) + dword(&new))))
    }

    /// An IPv6 address changes.
    #[inline]
    pub fn change_16(self, old: &[u8; 16], new: &[u8; 16]) -> Delta {
        // ~a + ~b is ~(a + b) modulo 65535, so one complement of the folded sum will do.
        let gone = Sum(u64::from(!sum_16(old).fold()));
        Delta(self.0.plus(gone).plus(sum_16(new)))
    }

    /// A number changes that stands on an even offset.
    #[inline]
    pub fn change_u16(self, old: u16, new: u16) -> Delta {
        self.change_2(old.to_be_bytes(), new.to_be_bytes())
    }

    /// Both changes, in any order.
    #[inline]
    pub fn and(self, other: Delta) -> Delta {
        Delta(self.0.plus(other.0))
    }

    /// In 16 bits, for storing.
    #[inline]
    pub fn to_u16(self) -> u16 {
        self.0.fold()
    }

    #[inline]
    pub fn from_u16(folded: u16) -> Delta {
        Delta(Sum(u64::from(folded)))
    }

    /// Updates a checksum field.
    #[inline]
    pub fn apply(self, field: &mut [u8; 2]) {
        let sum = Sum(word(field) ^ 0xffff).plus(self.0);
        *field = sum.checksum();
    }

    /// Updates UDP's field: none stays none, and a sum of zero becomes ffff.
    #[inline]
    pub fn apply_udp(self, field: &mut [u8; 2]) {
        if *field != [0, 0] {
            *field = Sum(word(field) ^ 0xffff).plus(self.0).udp_checksum();
        }
    }

    /// Updates a field that holds the folded pseudo-header sum, not complemented: what a sender
    /// stores that leaves the rest to the device. Only for changes of the pseudo-header.
    #[inline]
    pub fn apply_partial(self, field: &mut [u8; 2]) {
        *field = Sum(word(field)).plus(self.0).folded_bytes();
    }
}

/// RFC 1071 as it is written, word by word in network order: the oracle of the tests.
pub fn reference_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(pair[0]) << 8 | u32::from(low);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn cases(n: u32) -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(n) }
    }

    fn be(sum: Sum) -> u16 {
        u16::from_be_bytes(sum.folded_bytes())
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(be(Sum::of(&bytes)), 0xddf2);
        assert_eq!(Sum::of(&bytes).checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn a_known_ipv4_header() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        assert!(Sum::of(&header).is_valid() && Sum::of_20(&header).is_valid());
        let mut bad = header;
        bad[8] ^= 1;
        assert!(!Sum::of(&bad).is_valid() && !Sum::of_20(&bad).is_valid());
    }

    #[test]
    fn the_correction_of_rfc_1624() {
        // Section 4: header sum dd2f, one word from 5555 to 3285, and the answer is 0000.
        let mut field = [0xdd, 0x2f];
        Delta::NONE.change_2([0x55, 0x55], [0x32, 0x85]).apply(&mut field);
        assert_eq!(field, [0x00, 0x00]);
    }

    #[test]
    fn zero_is_none_for_udp() {
        let delta = Delta::NONE.change_4([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut none = [0, 0];
        delta.apply_udp(&mut none);
        assert_eq!(none, [0, 0]);
        let mut field = [0xdd, 0x2f];
        Delta::NONE.change_2([0x55, 0x55], [0x32, 0x85]).apply_udp(&mut field);
        assert_eq!(field, [0xff, 0xff]);
        assert_eq!(Sum::of(&[0xff, 0xff]).udp_checksum(), [0xff, 0xff]);
    }

    proptest! {
        #![proptest_config(cases(512))]

        #[test]
        fn agrees_with_the_reference(bytes in vec(any::<u8>(), 0..2000), ones in 0usize..300) {
            prop_assert_eq!(be(Sum::of(&bytes)), reference_sum(&bytes));
            let full = vec![0xff; ones];
            prop_assert_eq!(be(Sum::of(&full)), reference_sum(&full));
            for slice in [&bytes[..], &full[..]] {
                let short = &slice[..slice.len() % 160];
                prop_assert_eq!(be(Sum::of_short(short)), reference_sum(short));
                if let Some(header) = slice.first_chunk::<20>() {
                    prop_assert_eq!(be(Sum::of_20(header)), reference_sum(header));
                }
            }
        }

        #[test]
        fn sums_add_up_at_even_offsets(bytes in vec(any::<u8>(), 2..600), cut in 0usize..300) {
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(be(Sum::of(a).plus(Sum::of(b))), reference_sum(&bytes));
        }

        #[test]
        fn any_edits_agree_with_summing_again(
            mut bytes in vec(any::<u8>(), 64..200), new: [u8; 16], at in 1usize..12, v: u16,
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[0] = 1; // a covered word that is not zero, as every real header has
            let field = Sum::of(&bytes[2..]).plus(Sum::of(&bytes[..2])).checksum();
            let at = at * 2;
            let take = |b: &[u8], n: usize| b[at..at + n].to_vec();
            for n in [2usize, 4, 16] {
                let old = take(&bytes, n);
                let mut edited = bytes.clone();
                edited[at..at + n].copy_from_slice(&new[..n]);
                let delta = match n {
                    2 => Delta::NONE.change_2([old[0], old[1]], [new[0], new[1]]),
                    4 => {
                        let to = [new[0], new[1], new[2], new[3]];
                        Delta::NONE.change_4(old.try_into().unwrap(), to)
                    }
                    _ => Delta::NONE.change_16(&old.try_into().unwrap(), &new),
                };
                // And a number far behind, in the same delta.
                let last = edited.len() - 2;
                let before = u16::from_be_bytes([edited[last], edited[last + 1]]);
                edited[last..].copy_from_slice(&v.to_be_bytes());
                let delta = Delta::from_u16(delta.and(Delta::NONE.change_u16(before, v)).to_u16());
                let mut got = field;
                delta.apply(&mut got);
                prop_assert_eq!(got, Sum::of(&edited).checksum());
                // A damaged checksum stays damaged.
                let mut wrong = [field[0] ^ 0x10, field[1]];
                delta.apply(&mut wrong);
                prop_assert_ne!(wrong, Sum::of(&edited).checksum());
            }
        }

        #[test]
        fn pseudo_headers(
            src: [u8; 4], dst: [u8; 4], src6: [u8; 16], dst6: [u8; 16], proto: u8, len: u16,
        ) {
            let [hi, lo] = len.to_be_bytes();
            let v4 = [&src[..], &dst, &[0, proto, hi, lo]].concat();
            prop_assert_eq!(be(pseudo_v4(&src, &dst, proto, len)), reference_sum(&v4));
            let v6 = [&src6[..], &dst6, &[0, 0, hi, lo, 0, 0, 0, proto]].concat();
            prop_assert_eq!(be(pseudo_v6(&src6, &dst6, proto, len)), reference_sum(&v6));
        }

        #[test]
        fn partial_fields_follow_their_addresses(
            src: [u8; 4], dst: [u8; 4], to: [u8; 4], len in 8u16..,
        ) {
            let mut field = pseudo_v4(&src, &dst, 6, len).folded_bytes();
            Delta::NONE.change_4(dst, to).apply_partial(&mut field);
            prop_assert_eq!(field, pseudo_v4(&src, &to, 6, len).folded_bytes());
        }
    }
}
