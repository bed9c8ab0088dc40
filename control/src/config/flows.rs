//! The flow files of a configuration, read and checked.

use std::path::{Path, PathBuf};

use super::{Bridge, Config, ConfigError, ConfigErrors, PORT_LOCAL};
use crate::flow::{
    FlowError, PortMap, PortNames, WithOptions, mapped_options, ports::LOCAL, read_file,
    with_options,
};
use crate::store::Batch;
use sluice_dataplane::tunnel::{TlvMap, TlvMapping};

impl Bridge {
    /// The bridge's ports, for flow text.
    pub fn port_names(&self) -> PortMap {
        let number = |n: u16| if n == PORT_LOCAL { LOCAL } else { u32::from(n) };
        self.ports.iter().map(|p| (number(p.number), p.name.clone())).collect()
    }
}

impl Config {
    /// Reads the flow files of all bridges. A file may hold flows of several bridges, below
    /// `[bridge NAME]` lines; they come in the order in which they stand.
    pub fn read_flows(&self) -> Result<Batch, ConfigErrors> {
        let (mut texts, mut errors) = (Vec::new(), Vec::new());
        for bridge in &self.bridges {
            let Some(file) = &bridge.flow_file else { continue };
            match std::fs::read_to_string(file) {
                Ok(text) => texts.push((bridge.name.as_str(), file, text)),
                Err(error) => {
                    let what = format!("cannot read the flows of {}: {error}", bridge.name);
                    errors.push(ConfigError::whole(file, what, "give a text file of flows"));
                }
            }
        }
        let places = self.bridges.iter().map(|b| (b, b.port_names(), self.options(b, &texts)));
        let places: Vec<(&Bridge, PortMap, TlvMap)> = places.collect();
        let names: Vec<(&str, WithOptions<'_>)> = places
            .iter()
            .map(|(b, ports, map)| (b.name.as_str(), WithOptions { ports, map }))
            .collect();
        let find = |name: &str| {
            names.iter().find(|(n, _)| *n == name).map(|(_, names)| names as &dyn PortNames)
        };
        let mut flows = Batch::default();
        for (bridge, file, text) in &texts {
            let take = &mut |line| flows.take(line);
            if let Err(wrong) = read_file(text, bridge, &find, take) {
                errors.extend(wrong.list.iter().map(|e| flow_error(file, text, e)));
            }
        }
        if errors.is_empty() { Ok(flows) } else { Err(ConfigErrors(errors)) }
    }

    /// The map of a bridge with what lines of any file add. One that cannot be is told when the
    /// file is read.
    fn options(&self, bridge: &Bridge, texts: &[(&str, &PathBuf, String)]) -> TlvMap {
        let added = texts.iter().flat_map(|(first, _, text)| {
            mapped_options(text, first).remove(&bridge.name).unwrap_or_default()
        });
        let added: Vec<TlvMapping> = added.collect();
        with_options(&bridge.tlv_map, &added).unwrap_or_else(|_| bridge.tlv_map.clone())
    }
}

/// Its message says both what is wrong and what would be right.
fn flow_error(file: &Path, text: &str, error: &FlowError) -> ConfigError {
    let start: usize =
        text.split_inclusive('\n').take(error.line.saturating_sub(1)).map(str::len).sum();
    let at = start + error.column.saturating_sub(1);
    let marked = error.part.trim_end_matches("...").len();
    ConfigError::at(file, text, at..at + marked, error.problem.to_string(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_files_are_read_with_the_names_of_the_ports() {
        let dir = std::env::temp_dir().join(format!("sluice-flows-of-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, flows) = (dir.join("s.toml"), dir.join("br1.flows"));
        let text = "[[bridge]]\nname = \"br1\"\nflow_file = \"br1.flows\"\nlocal = true\n\
                    [[bridge.port]]\nname = \"p1\"\nnumber = 7\ntype = \"memory\"\n";
        std::fs::write(&file, text).unwrap();
        std::fs::write(&flows, "# two\nin_port=p1 actions=LOCAL\nin_port=br1,actions=p1\n")
            .unwrap();
        let config = Config::load(&file).unwrap();
        let read = config.read_flows().unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read.bridges[0].0.as_str(), read.bridges[0].1.flows.len()), ("br1", 2));
        std::fs::write(&flows, "in_port=p1 actions=LOCAL\ntcp,nw_scr=1.2.3.4 actions=drop\n")
            .unwrap();
        let errors = config.read_flows().unwrap_err();
        std::fs::remove_dir_all(&dir).unwrap();
        let error = &errors.0[0];
        assert_eq!((error.line, error.column, &error.file), (2, 5, &flows), "{errors}");
        assert!(error.what.contains("nw_src"), "{errors}");
        assert!(errors.to_string().contains("2 | tcp,nw_scr=1.2.3.4"), "{errors}");
    }
}
