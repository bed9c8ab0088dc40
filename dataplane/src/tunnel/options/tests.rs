//! Maps that can and cannot be, and options there and back.

use super::*;
use crate::packet::key::shape;
use proptest::prelude::*;

fn map(lines: &[(u8, u16, u8, u8)]) -> Result<TlvMap, TlvError> {
    let line =
        |l: &(u8, u16, u8, u8)| TlvMapping { index: l.0, class: l.1, option_type: l.2, len: l.3 };
    TlvMap::new(&lines.iter().map(line).collect::<Vec<_>>())
}

/// Long enough to need the key's fourth line.
fn three() -> TlvMap {
    map(&[(63, 0x102, 1, 16), (0, 0x102, 0x80, 4), (7, 0xffff, 1, 8)]).unwrap()
}

#[test]
fn what_cannot_be_mapped_is_named() {
    use TlvError::*;
    assert_eq!(map(&[(64, 1, 1, 4)]), Err(NoSuchField(64)));
    for len in [0, 3, 6, 20, 124] {
        assert_eq!(map(&[(0, 1, 1, len)]), Err(BadLength(len)));
    }
    assert_eq!(map(&[(0, 1, 1, 4), (0, 1, 2, 4)]), Err(AlreadyMapped(0)));
    let twice = map(&[(0, 1, 1, 4), (1, 1, 1, 8)]);
    assert_eq!(twice, Err(Duplicate { class: 1, option_type: 1 }));
    let many: Vec<_> = (0..5).map(|n| (n, 1, n, 16)).collect();
    assert_eq!(map(&many), Err(Full(80)));
    assert!(map(&many[..4]).is_ok());
    let words: Vec<_> = (0..16).map(|n| (n, 1, n, 4)).collect();
    let full = map(&words).unwrap();
    assert_eq!(full.present(15).map(|s| (s.shift, s.bits)), Some((7, 1)));
}

#[test]
fn what_is_mapped_stays_where_it_is() {
    let line = |index, len| TlvMapping { index, class: 1, option_type: index, len };
    let first = TlvMap::new(&[line(5, 16), line(7, 4), line(9, 16)]).unwrap();
    let more = first.with(&[line(0, 8)]).unwrap();
    for n in [5, 7, 9] {
        assert_eq!((more.field(n), more.present(n)), (first.field(n), first.present(n)));
    }
    assert_eq!(more.mappings().map(|m| m.index).collect::<Vec<_>>(), [0, 5, 7, 9]);
    let less = more.without(&[line(7, 4)]).unwrap();
    assert_eq!((less.field(7), less.field(9)), (None, first.field(9)));
    // 24 bytes are free now: 4 of them behind 16 others.
    assert_eq!(less.with(&[line(1, 16), line(2, 4)]).map(|m| m.mappings().count()), Ok(5));
    assert_eq!(less.with(&[line(1, 4), line(2, 16)]).map(|m| m.mappings().count()), Ok(5));
    let apart = TlvMap::new(&[line(1, 16), line(2, 16), line(3, 16), line(4, 16)]).unwrap();
    let halves = apart.without(&[line(1, 16), line(3, 16)]).unwrap();
    let torn = halves.with(&[line(6, 4), line(7, 4), line(9, 12)]).unwrap();
    assert_eq!(torn.with(&[line(10, 12)]), Err(TlvError::Fragmented(12)), "{torn:?}");
    assert_eq!(torn.with(&[line(10, 16)]), Err(TlvError::Full(68)));
    let other = TlvMapping { class: 2, ..line(5, 16) };
    let said = more.without(&[other]).unwrap_err().to_string();
    assert!(said.starts_with("{class=0x2,type=0x5,len=16}->tun_metadata5 is not mapped"), "{said}");
    assert!(said.contains("{class=0x1,type=0x9,len=16}->tun_metadata9"), "{said}");
}

#[test]
fn fields_lie_side_by_side() {
    let m = three();
    let mut key = FlowKey::ZERO;
    for n in [0, 7, 63] {
        let (field, there) = (m.field(n).unwrap(), m.present(n).unwrap());
        assert_eq!((field.get(&key), there.get(&key)), (0, 0), "nothing lies over {n}");
        field.set(&mut key, u128::MAX);
        there.set(&mut key, 1);
    }
    assert_eq!((m.field(1), m.present(1)), (None, None));
    assert_eq!(key.tun_metadata, std::array::from_fn(|at| if at < 28 { 0xff } else { 0 }));
    assert_eq!(m.mappings().map(|l| l.index).collect::<Vec<_>>(), [0, 7, 63]);
}

#[test]
fn options_are_in_the_order_of_their_fields() {
    let (m, mut key) = (three(), FlowKey::ZERO);
    assert_eq!(m.encode(&key), GeneveOptions::NONE);
    m.field(7).unwrap().set(&mut key, 0x0102_0304_0506_0708);
    assert_eq!(m.encode(&key).bytes(), [], "not there");
    m.present(7).unwrap().set(&mut key, 1);
    let seven = [0xff, 0xff, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!((m.encode(&key).bytes(), m.encode(&key).is_critical()), (&seven[..], false));
    m.present(0).unwrap().set(&mut key, 1);
    let zero = [1, 2, 0x80, 1, 0, 0, 0, 0];
    assert_eq!(m.encode(&key).bytes(), [&zero[..], &seven].concat());
    assert!(m.encode(&key).is_critical());
}

#[test]
fn what_arrives_is_held_against_the_map() {
    let m = three();
    let read = |bytes: &[u8]| Metadata::read(bytes, &m);
    assert_eq!(read(&[1, 2, 0x80, 2, 0, 0, 0, 1, 0, 0, 0, 2]), Err(Drop::TunnelOptionLength));
    assert_eq!(read(&[1, 2, 0x81, 1, 0, 0, 0, 1]), Err(Drop::TunnelCriticalOption));
    assert_eq!(read(&[1, 2, 0x80, 1, 0, 0, 0]), Err(Drop::TunnelMalformed));
    let unknown = read(&[1, 2, 5, 1, 0, 0, 0, 1]).unwrap();
    assert_eq!((unknown.present, unknown.area), (0, [0; TUN_METADATA_BYTES]));
    let twice = read(&[1, 2, 0x80, 1, 0, 0, 0, 1, 1, 2, 0x80, 1, 0, 0, 0, 2]).unwrap();
    assert_eq!((twice.present, twice.area[0]), (1, 2));
    assert_eq!(
        Metadata::read(&[1, 2, 0x80, 0], &TlvMap::default()).err(),
        Some(Drop::TunnelCriticalOption)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn there_and_back(values: [u128; 3], there: [bool; 3]) {
        let m = three();
        let mut key = FlowKey::ZERO;
        for ((n, v), is) in [0, 7, 63].into_iter().zip(values).zip(there) {
            if is {
                m.field(n).unwrap().set(&mut key, v);
                m.present(n).unwrap().set(&mut key, 1);
            }
        }
        let found = Metadata::read(m.encode(&key).bytes(), &m).unwrap();
        let mut packet = PacketKey::default();
        packet.base.shape = shape::TUNNEL;
        found.mark(&mut packet);
        prop_assert_eq!(FlowKey::from_packet(&packet, 0), key);
    }
}
