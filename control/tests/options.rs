//! Tunnel options as fields: text there and back, and the map of a bridge.

use sluice_control::config::Config;
use sluice_control::flow::{
    NoNames, WithOptions, parse_flow, parse_tlv_maps, print_flow, with_options,
};
use sluice_control::model::{Model, ModelError};
use sluice_dataplane::tunnel::TlvMap;

const MAP: &str =
    "{class=0x102,type=0x80,len=4}->tun_metadata0,{class=1,type=1,len=16}->tun_metadata7";

fn map() -> TlvMap {
    TlvMap::new(&parse_tlv_maps(MAP).unwrap()).unwrap()
}

#[test]
fn flows_with_options_read_and_print_as_with_ovs_ofctl() {
    let map = map();
    let names = WithOptions { ports: &NoNames, map: &map };
    for text in [
        "tun_metadata0=0x2a actions=output:1",
        "tun_metadata0=0x2a/0xff,in_port=3 actions=drop",
        "tun_id=0x7,tun_metadata0,tun_metadata7=0 actions=drop",
        "actions=set_field:0x2a->tun_metadata0,set_field:0x1/0x3->tun_metadata7",
        "actions=load:0x5->NXM_NX_TUN_METADATA0[0..31]",
        "actions=move:NXM_NX_REG14[0..14]->NXM_NX_TUN_METADATA0[16..30]",
        "actions=move:NXM_NX_TUN_METADATA0[0..15]->NXM_NX_REG15[0..15],delete_field:tun_metadata7",
        "actions=push:NXM_NX_TUN_METADATA7[64..127],pop:NXM_NX_TUN_METADATA0[3]",
    ] {
        let flow = parse_flow(text, &names).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(print_flow(&flow, &names), text);
    }
    let same = |a: &str, b: &str| {
        let read = |t: &str| parse_flow(&format!("{t} actions=drop"), &names).unwrap();
        assert_eq!(read(a), read(b));
    };
    same("tun_metadata0[0..7]=0x2a", "tun_metadata0=0x2a/0xff");
    same("NXM_NX_TUN_METADATA0[]=5", "tun_metadata0=5");
    same("tun_metadata0=*", "tun_metadata0");
}

#[test]
fn wrong_words_about_options_are_told() {
    let map = map();
    let names = WithOptions { ports: &NoNames, map: &map };
    for (text, said) in [
        ("tun_metadata1=5 actions=drop", "tun_metadata1 is no option of this bridge"),
        ("tun_metadata0=0x100000000 actions=drop", "32 bits"),
        ("tun_metadata0= actions=drop", "missing its value"),
        ("tun_metadata0=1,tun_metadata0=2 actions=drop", "contradict"),
        ("actions=load:1->tun_metadata0[32]", "31"),
        ("actions=move:reg0->tun_metadata7", "bits"),
        ("actions=set_field:1->tun_metadata63", "tun_metadata63 is no option"),
        ("actions=delete_field:tun_metadata2", "tun_metadata2 is no option"),
        ("actions=learn(tun_metadata0)", "cannot match or write tunnel options"),
    ] {
        let error = parse_flow(text, &names).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let unmapped = parse_flow("tun_metadata0=1 actions=drop", &NoNames).unwrap_err();
    assert!(unmapped.to_string().contains("tlv-map"), "{unmapped}");
}

#[test]
fn adding_what_is_there_changes_nothing() {
    let again = parse_tlv_maps(MAP).unwrap();
    assert_eq!(with_options(&map(), &again), Ok(map()));
}

fn model(tlv_map: &str) -> Model {
    let dir = std::env::temp_dir().join(format!("sluice-options-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{}.toml", tlv_map.len()));
    let text = format!(
        "[[bridge]]\nname = \"br0\"\ntlv_map = [{tlv_map}]\n\
         [[bridge.port]]\nname = \"p1\"\ntype = \"memory\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file);
    std::fs::remove_file(&file).unwrap();
    Model::new(&config.unwrap_or_else(|e| panic!("{e}")), 7).unwrap()
}

#[test]
fn a_mapping_in_use_stays_and_the_rest_can_change_under_flows() {
    let mut model = model("\"{class=0x102,type=0x80,len=4}->tun_metadata0\"");
    let text = "tlv-map add {class=1,type=1,len=4}->tun_metadata1\n\
                tlv-map add {class=1,type=2,len=4}->tun_metadata2\n\
                tlv-map add {class=1,type=3,len=4}->tun_metadata3\n\
                group add group_id=1,type=all,bucket=set_field:1->tun_metadata2,output:p1\n\
                priority=1,tun_metadata1 actions=clone(load:1->tun_metadata0[0..7])\n";
    model.load_flows("flows".into(), text, "br0", 0).unwrap();
    let used = |model: &mut Model, line: &str| {
        let gone = parse_tlv_maps(line).unwrap();
        match model.unmap_options(0, Some(&gone)) {
            Err(ModelError::OptionUsed { mapping, users }) => (mapping.index, users),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(used(&mut model, "{class=0x102,type=0x80,len=4}->tun_metadata0"), (0, 1));
    assert_eq!(used(&mut model, "{class=1,type=1,len=4}->tun_metadata1"), (1, 1));
    assert_eq!(used(&mut model, "{class=1,type=2,len=4}->tun_metadata2"), (2, 1));
    assert!(matches!(model.unmap_options(0, None), Err(ModelError::OptionUsed { .. })));
    let third = parse_tlv_maps("{class=1,type=3,len=4}->tun_metadata3").unwrap();
    assert_eq!(model.unmap_options(0, Some(&third)).unwrap(), 1);
    model
        .map_options(0, &parse_tlv_maps("{class=9,type=3,len=8}->tun_metadata3").unwrap())
        .unwrap();
    let program = model.program();
    assert_eq!(program.bridges[0].tlv, model.bridges[0].tlv);
    assert_eq!(program.bridges[0].tlv.mappings().count(), 4);
    let again = model.map_options(0, &third).unwrap_err().to_string();
    assert!(again.contains("tun_metadata3 is mapped already"), "{again}");
}

#[test]
fn a_file_whose_map_cannot_be_is_refused_at_its_line() {
    let mut model = model("");
    let text = "# too long together\n\
                tlv-map add {class=1,type=1,len=16}->tun_metadata0,\
                {class=1,type=1,len=4}->tun_metadata1\n";
    let error = model.load_flows("flows".into(), text, "br0", 0).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("is mapped already"), "{error}");
    assert!(model.bridges[0].tlv.is_empty());
}
