//! Parsing: one packet, hot in the nearest cache.

#[path = "common/call.rs"]
mod call;

use call::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::l4sum::{complete_partial_checksum, verify_l4};
use sluice_dataplane::packet::parse::{Layers, parse};
use std::hint::black_box;

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let eth = || PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let v4 = || eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let inner = v4().udp(1, 2).padded();
    vec![
        ("udp4_64", v4().udp(1, 2).padded()),
        ("tcp4_64", v4().tcp(1, 2).padded()),
        ("tcp4_timestamps", v4().tcp(1, 2).tcp_options(&[1; 12]).payload(&[0; 40]).build()),
        ("udp4_vlan", v4().vlan(1, 0).udp(1, 2).padded()),
        ("icmp4", v4().echo_request(1, 2).padded()),
        ("udp6", eth().ipv6([1; 16], [2; 16]).udp(1, 2).padded()),
        ("nd6", eth().ipv6([1; 16], [2; 16]).nd_solicit([3; 16], Some([2; 6])).build()),
        ("arp", eth().arp(1, ([2; 6], [1; 4]), ([0; 6], [2; 4])).padded()),
        ("geneve_outer", v4().udp(50_000, 6081).geneve(1, &inner).build()),
    ]
}

fn parsing(c: &mut Criterion) {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    for (name, frame) in frames() {
        bench(c, &format!("parse/{name}"), || {
            let result = parse(black_box(&frame), PortIx(1), &mut key, &mut layers);
            black_box((&mut key, &mut layers));
            result
        });
    }
    // A batch of different flows, as a worker meets them.
    let batch: Vec<Vec<u8>> = (0..32u16)
        .map(|n| {
            let b = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(n, 2).padded()
        })
        .collect();
    let mut keys = vec![(PacketKey::default(), Layers::default()); 32];
    bench(c, "parse/batch_of_32_udp4_64", || {
        for (frame, (key, layers)) in black_box(&batch).iter().zip(&mut keys) {
            let _ = black_box(parse(frame, PortIx(1), key, layers));
        }
        black_box(&mut keys);
    });
}

fn partial(c: &mut Criterion) {
    let b = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let full = b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tcp(1, 2).payload(&[7; 1400]);
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    let mut bytes = full.clone().build();
    let _ = parse(&bytes, PortIx(1), &mut key, &mut layers);
    bench(c, "checksum/partial_no", || complete_partial_checksum(&mut bytes, &layers, &key));
    bench(c, "checksum/verify_tcp_1400", || verify_l4(black_box(&bytes), &layers, &key));
    let mut bytes = full.partial_checksum().build();
    let field: [u8; 2] = [bytes[50], bytes[51]];
    bench(c, "checksum/partial_tcp_1400", || {
        bytes[50..52].copy_from_slice(&field);
        complete_partial_checksum(black_box(&mut bytes), &layers, &key)
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = parsing, partial
}
criterion_main!(benches);
