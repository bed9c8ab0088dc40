//! A bundle is taken whole or leaves no trace.

use sluice_control::config::Config;
use sluice_control::flow::{Flow, parse_bundle_text, print_flow};
use sluice_control::model::Model;
use sluice_control::store::Changed;
use std::sync::atomic::{AtomicU32, Ordering};

fn model() -> Model {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (pid, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let file = std::env::temp_dir().join(format!("sluice-bundle-{pid}-{n}.toml"));
    let port =
        |n: u8| format!("[[bridge.port]]\nname = \"p{n}\"\nnumber = {n}\ntype = \"memory\"\n");
    std::fs::write(&file, format!("[[bridge]]\nname = \"br0\"\n{}{}", port(1), port(2))).unwrap();
    let mut model = Model::new(&Config::load(&file).unwrap(), 7).unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = "group add group_id=1,type=all,bucket=output:p1\n\
                meter add meter=1 kbps bands=type=drop rate=5\n\
                priority=1,ip actions=group:1\npriority=2,tcp actions=meter:1,p2\n";
    model.load_flows("flows".into(), text, "br0", 0).unwrap();
    model.program();
    model
}

/// All of the bridge, as text, and the version of the next program.
fn state(model: &Model) -> (Vec<String>, String, String) {
    let b = &model.bridges[0];
    let flows: Vec<Flow> = b.flows.sorted().iter().map(|s| s.flow()).collect();
    let groups: Vec<_> = b.groups.iter().map(|g| g.group.clone()).collect();
    let meters: Vec<_> = b.meters.iter().map(|m| m.meter.clone()).collect();
    let texts = flows.iter().map(|f| print_flow(f, b)).collect();
    (texts, format!("{groups:?}"), format!("{meters:?}"))
}

fn bundle(model: &mut Model, text: &str) -> Result<Changed, String> {
    let read = parse_bundle_text(text, &model.bridges[0]).map_err(|e| format!("{e:?}"))?;
    model.change_bundle(0, &read, 10).map_err(|e| e.to_string())
}

#[test]
fn groups_meters_and_flows_change_in_one_program() {
    let mut model = model();
    let version = model.version();
    let text = "flow add priority=3,udp actions=group:2\n\
                group add group_id=2,type=indirect,bucket=output:p2\n\
                meter modify meter=1 kbps bands=type=drop rate=9\n\
                group delete group_id=1\n\
                flow modify_strict priority=2,tcp actions=meter:1,group:2\n";
    let changed = bundle(&mut model, text).unwrap();
    assert_eq!((changed.added, changed.modified, changed.deleted), (1, 1, 1));
    let (flows, groups, meters) = state(&model);
    assert_eq!(flows, ["priority=3,udp actions=group:2", "priority=2,tcp actions=meter:1,group:2"]);
    assert!(groups.contains("id: 2") && !groups.contains("id: 1,"), "{groups}");
    assert!(meters.contains("rate: 9"), "{meters}");
    let program = model.program();
    assert_eq!(program.version, version + 1);
    let b = &program.bridges[0];
    assert_eq!(b.groups.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(b.meters.len(), 1);
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let mut model = model();
    let before = state(&model);
    for (last, said) in [
        ("flow add udp actions=group:7", "group 7"),
        ("flow add udp actions=meter:7,p1", "meter 7"),
        ("flow add check_overlap,priority=9,tcp actions=p1", "overlaps"),
        ("group modify group_id=9,type=all", "9"),
        ("group add group_id=2,type=all", "2"),
        ("meter add meter=2 kbps bands=type=drop rate=5", "2"),
        ("flow add udp actions=nonsense", "nonsense"),
        // The group goes with this bundle, so no flow may name it.
        ("flow add udp actions=group:1", "group 1"),
    ] {
        let text = format!(
            "flow delete tcp\nflow add priority=9,ip actions=p2\ngroup add group_id=2,type=all\n\
             meter add meter=2 kbps bands=type=drop rate=5\ngroup delete group_id=1\n\
             meter delete meter=1\n{last}\n"
        );
        let error = bundle(&mut model, &text).unwrap_err();
        assert!(error.contains(said), "{last}: {error}");
        assert_eq!(state(&model), before, "{last}");
        let program = model.program();
        assert_eq!((program.bridges[0].groups.len(), program.rules.iter().count()), (1, 2));
    }
}
