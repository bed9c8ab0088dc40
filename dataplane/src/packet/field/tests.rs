//! Fields against the key that they lie in.

use super::*;
use proptest::prelude::*;

#[test]
fn names_are_unique_and_found() {
    for f in FIELDS {
        assert_eq!(Field::by_name(f.name), Some(f.id), "{}", f.name);
        for a in f.aliases {
            assert_eq!(Field::by_name(a), Some(f.id), "{a}");
        }
        assert!(
            (f.offset as usize) * 8 + f.shift as usize + f.bits as usize
                <= size_of::<FlowKey>() * 8
        );
    }
}

#[test]
fn primary_fields_do_not_overlap() {
    let mut seen = FlowKey::ZERO;
    for f in FIELDS.iter().filter(|f| f.is_primary) {
        assert_eq!(f.get(&seen), 0, "{} lies over an earlier field", f.name);
        f.whole().or_into(&mut seen);
    }
    for f in FIELDS.iter().filter(|f| !f.is_primary && f.id.tun_metadata_index().is_none()) {
        assert_ne!(f.get(&seen), 0, "{} views bits that nobody owns", f.name);
    }
}

#[test]
fn wide_registers_are_big_endian_pairs() {
    let mut k = FlowKey::ZERO;
    Field::Reg0.info().set(&mut k, 0x11111111);
    Field::Reg1.info().set(&mut k, 0x22222222);
    Field::Reg3.info().set(&mut k, 0x44444444);
    assert_eq!(Field::Xreg0.info().get(&k), 0x1111_1111_2222_2222);
    assert_eq!(Field::Xxreg0.info().get(&k), 0x1111_1111_2222_2222_0000_0000_4444_4444);
    Field::Xreg7.info().set(&mut k, 0xaaaa_aaaa_bbbb_bbbb);
    assert_eq!(Field::Reg14.info().get(&k), 0xaaaa_aaaa);
    assert_eq!(Field::Reg15.info().get(&k), 0xbbbb_bbbb);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]
    #[test]
    fn a_range_reads_back_and_leaves_the_rest(
        ix in 0..FIELDS.len(), lo in 0u8..128, hi in 0u8..128, v: u128, fill: u8,
    ) {
        let f = &FIELDS[ix];
        let (lo, hi) = (lo % f.bits, hi % f.bits);
        let Some(r) = f.range(lo.min(hi), lo.max(hi)) else { return Ok(()); };
        prop_assume!(r.shift as u16 + r.bits as u16 <= 128);
        let filled = [fill; size_of::<FlowKey>()];
        let mut k: FlowKey = zerocopy::transmute!(filled);
        let before = k;
        r.set(&mut k, v);
        prop_assert_eq!(r.get(&k), v & ones(r.bits));
        r.set(&mut k, r.get(&before));
        prop_assert_eq!(k, before);
    }
}
