//! Geneve on and off.

#[path = "common/call.rs"]
mod call;

use call::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::tunnel::geneve::{GeneveParams, geneve_pop};
use sluice_dataplane::tunnel::{EncapTemplate, GeneveOptions, Inherit, entropy};
use std::hint::black_box;
use std::net::IpAddr;

fn params(src_ip: IpAddr, dst_ip: IpAddr, csum: bool) -> GeneveParams {
    GeneveParams {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        vlan: None,
        src_ip,
        dst_ip,
        vni: 1,
        tos: Inherit::Fixed(0),
        ttl: Inherit::Fixed(64),
        df: true,
        csum,
        dst_port: 6081,
        options: GeneveOptions::NONE,
    }
}

fn tunnels(c: &mut Criterion) {
    let (v4a, v4b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let forms = [
        ("v4", params(v4a, v4b, false)),
        ("v4_csum", params(v4a, v4b, true)),
        ("v6", params([1; 16].into(), [2; 16].into(), true)),
    ];
    for len in [60usize, 1400] {
        let b = PacketBuilder::eth([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]);
        let inner = b.ipv4([192, 168, 0, 1], [192, 168, 0, 2]).udp(1, 2).frame_len(len).build();
        for (name, params) in &forms {
            let Ok(template) = EncapTemplate::geneve(params) else { continue };
            let mut frame = vec![0; template.len() + inner.len()];
            frame[template.len()..].copy_from_slice(&inner);
            bench(c, &format!("geneve_push/{name}_{len}"), || {
                let (room, inner) = black_box(&mut frame[..]).split_at_mut(template.len());
                template.push(room, inner, black_box(7))
            });
            let (mut key, mut layers) = (PacketKey::default(), Layers::default());
            let _ = parse(&frame, PortIx(1), &mut key, &mut layers);
            bench(c, &format!("geneve_pop/{name}_{len}"), || {
                geneve_pop(black_box(&frame), &layers, &mut key)
            });
            bench(c, &format!("geneve_parse_pop_parse/{name}_{len}"), || {
                let _ = parse(black_box(&frame), PortIx(1), &mut key, &mut layers);
                let popped = geneve_pop(&frame, &layers, &mut key).ok()?;
                let inner = frame.get(usize::from(popped.inner_offset)..)?;
                let _ = parse(inner, PortIx(2), &mut key, &mut layers);
                popped.mark(&mut key);
                black_box((&mut key, &mut layers));
                Some(())
            });
            bench(c, "entropy", || entropy(black_box(&key)));
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(300));
    targets = tunnels
}
criterion_main!(benches);
