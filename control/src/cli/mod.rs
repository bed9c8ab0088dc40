//! `sluice`, the operator's command: words to a call, the answer to text or JSON.
//!
//! Results go to the standard output, errors with one line of hint to the standard error. Exit
//! codes: 0 done, 1 refused or failed, 2 wrong usage.

mod args;
mod conns;
mod monitor;
mod print;
mod refs;
mod table;
#[cfg(test)]
mod tests;
mod trace;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use serde_json::json;

use self::args::{Cli, Command, Doctor, Fdb, Flow, FlowText, Global, Group, Meter, Port, TlvMap};
use crate::api::types::{FlowChange, FlowOp, Reply, Request, ResumeRequest};
use crate::api::{Client, ClientError};
use crate::config::{Config, ConfigErrors};
use crate::doctor::{self, Level, Wish};
use crate::{pktgen, replay};

/// What goes to the standard error.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    message: String,
    hint: String,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        // Each has its own hint.
        Self { message: errors.to_string(), hint: String::new() }
    }
}

/// The whole command, from the words to the exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let mut out = String::new();
    let result = execute(&cli, &mut out);
    // A reader that went away, as in `sluice flow dump br1 | head`, is no failure.
    _ = io::stdout().write_all(out.as_bytes()).and_then(|()| io::stdout().flush());
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("sluice: {}", failure.message);
            if !failure.hint.is_empty() {
                eprintln!("hint: {}", failure.hint);
            }
            ExitCode::from(1)
        }
    }
}

/// False: done, and what was found is bad.
fn execute(cli: &Cli, out: &mut String) -> Result<bool, Failure> {
    let global = &cli.global;
    let request = match &cli.command {
        Command::Doctor(doctor) if !doctor.running => return run_doctor(doctor, global, out),
        Command::Check { config } => return check(config, global, out),
        Command::Replay(args) => return run_replay(args, global, out),
        Command::Pktgen(args) => return run_pktgen(args, global, out),
        Command::Show => Request::Show,
        Command::Bridge => Request::BridgeList,
        Command::Port(port) => port_request(port)?,
        Command::Flow(flow) => flow_request(flow)?,
        Command::Group(group) => refs::group(group)?,
        Command::Meter(meter) => refs::meter(meter)?,
        Command::TlvMap(map) => refs::tlv_map(map),
        Command::Fdb(Fdb::Show { bridge }) => Request::FdbShow { bridge: bridge.clone() },
        Command::Fdb(Fdb::Flush { bridge }) => Request::FdbFlush { bridge: bridge.clone() },
        Command::Conntrack(command) => {
            let timeout = Duration::from_secs(global.timeout);
            let mut client = Client::connect(&global.socket, timeout)?;
            return conns::run(command, &mut client, global, out).map(|()| true);
        }
        Command::Tunnel => Request::TunnelShow,
        Command::Trace(words) => trace::request(words)?,
        Command::PacketOut { bridge, words } => {
            Request::PacketOut { bridge: bridge.clone(), text: words.join(" ") }
        }
        Command::Monitor { bridge, count, resume } => {
            let wish = monitor::Wish { bridge, count: *count, resume: *resume };
            return monitor::run(&wish, global, out, &mut io::stdout());
        }
        Command::Resume { handle, packet, set } => Request::Resume(ResumeRequest {
            continuation: handle.clone(),
            packet: packet.clone(),
            metadata: set.clone(),
        }),
        Command::Counters => Request::Counters,
        Command::Doctor(_) => Request::Doctor,
        Command::Stop => Request::Shutdown,
    };
    let mut client = Client::connect(&global.socket, Duration::from_secs(global.timeout))?;
    let reply = client.call(request)?;
    let stats = !matches!(
        cli.command,
        Command::Flow(Flow::Dump { no_stats: true, .. })
            | Command::Group(Group::Dump(_))
            | Command::Meter(Meter::Dump(_))
            | Command::TlvMap(TlvMap::Dump { .. })
    );
    Ok(print_reply(&reply, stats, global, out))
}

fn run_replay(
    args: &replay::cli::Args,
    global: &Global,
    out: &mut String,
) -> Result<bool, Failure> {
    let report = replay::run(&args.options())
        .map_err(|e| Failure { message: e.to_string(), hint: String::new() })?;
    if global.json || global.pretty {
        write_json(&report, global, out);
    } else {
        out.push_str(&report.to_string());
    }
    Ok(true)
}

fn run_pktgen(args: &pktgen::Args, global: &Global, out: &mut String) -> Result<bool, Failure> {
    let failed = |error: Box<dyn std::error::Error>| Failure {
        message: error.to_string(),
        hint: "sluice pktgen --help tells the words; devices need root".into(),
    };
    let outcome = pktgen::run_command(args).map_err(failed)?;
    if global.json || global.pretty {
        write_json(&outcome, global, out);
    } else {
        out.push_str(&outcome.text());
        out.push('\n');
    }
    Ok(true)
}

fn print_reply(reply: &Reply, stats: bool, global: &Global, out: &mut String) -> bool {
    let json = global.json || global.pretty;
    macro_rules! show {
        ($data:expr, $print:expr) => {
            if json { write_json($data, global, out) } else { $print }
        };
    }
    match reply {
        Reply::Show(info) => show!(info, print::show(info, out)),
        Reply::Bridges(list) => show!(list, print::bridges(list, out)),
        Reply::Ports(list) => show!(list, print::ports(list, out)),
        Reply::FlowChanged(summary) => show!(summary, print::flow_summary(summary, out)),
        Reply::Flows(list) => show!(list, print::flows(list, stats, out)),
        Reply::RefChanged(summary) => show!(summary, refs::summary(summary, out)),
        Reply::Groups(list) => show!(list, refs::groups(list, stats, out)),
        Reply::Meters(list) => show!(list, refs::meters(list, stats, out)),
        Reply::TlvMap(map) => show!(map, refs::tlv_info(map, stats, out)),
        Reply::Fdb(list) => show!(list, print::fdb(list, out)),
        Reply::Removed(count) => {
            show!(&json!({ "removed": count }), out.push_str(&format!("{count} removed\n")));
        }
        // Their commands print themselves.
        Reply::Conns(_) | Reply::CtStatus(_) | Reply::CtLimits(_) => {}
        Reply::Trace(report) => show!(report, print::trace(report, out)),
        Reply::Tunnels(list) => show!(list, print::tunnels(list, out)),
        Reply::Events(list) => show!(list, monitor::print(list, out)),
        Reply::Counters(list) => show!(list, print::counters(list, out)),
        Reply::Doctor(report) => {
            show!(report, print::doctor(report, out));
            return report.worst() < Level::Fail;
        }
        Reply::Done => show!(&json!({ "done": true }), ()),
    }
    true
}

fn write_json(data: &impl Serialize, global: &Global, out: &mut String) {
    let text = if global.pretty {
        serde_json::to_string_pretty(data)
    } else {
        serde_json::to_string(data)
    };
    // Plain data with text keys: there is nothing that JSON could not say.
    out.push_str(&text.unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string()));
    out.push('\n');
}

fn port_request(port: &Port) -> Result<Request, Failure> {
    Ok(match port {
        Port::List { bridge } => Request::PortList { bridge: bridge.clone() },
        Port::Del { bridge, name } => {
            Request::PortDel { bridge: bridge.clone(), port: name.clone() }
        }
        Port::Add { bridge, name, settings } => {
            let mut text = format!("name = {}\n", toml::Value::String(name.clone()));
            for setting in settings {
                let Some((key, value)) = setting.split_once('=') else {
                    return Err(Failure {
                        message: format!("\"{setting}\" is not a setting"),
                        hint: "write KEY=VALUE, as in type=afxdp or queues=2".into(),
                    });
                };
                text.push_str(&format!("{key} = {}\n", toml_value(value)));
            }
            Request::PortAdd { bridge: bridge.clone(), port: text }
        }
    })
}

/// A value as TOML if it is TOML (a number, a list, a quoted text), else as a text.
fn toml_value(value: &str) -> String {
    let as_is = toml::from_str::<toml::Table>(&format!("v = {value}"));
    match as_is {
        Ok(table) if table.len() == 1 && !value.contains('\n') => value.to_owned(),
        _ => toml::Value::String(value.to_owned()).to_string(),
    }
}

fn flow_request(flow: &Flow) -> Result<Request, Failure> {
    let change = |op, text: &FlowText, strict| -> Result<Request, Failure> {
        let required = matches!(op, FlowOp::Add | FlowOp::Modify);
        if required && text.flows.is_empty() && text.file.is_none() {
            return Err(Failure {
                message: "no flow was given".into(),
                hint: "give flows as words, or --file FILE (- is the standard input)".into(),
            });
        }
        if op == FlowOp::Replace && text.file.is_none() && text.flows.is_empty() {
            return Err(Failure {
                message: "no flows to replace by were given".into(),
                hint: "give --file FILE; to delete all flows use `sluice flow del BRIDGE`".into(),
            });
        }
        let content = text_of(&text.flows, text.file.as_deref())?;
        Ok(Request::Flow(FlowChange { op, bridge: text.bridge.clone(), text: content, strict }))
    };
    match flow {
        Flow::Add(text) => change(FlowOp::Add, text, false),
        Flow::Mod { text, strict } => change(FlowOp::Modify, text, *strict),
        Flow::Del { text, strict } => change(FlowOp::Delete, text, *strict),
        Flow::Replace(text) => change(FlowOp::Replace, text, false),
        Flow::Bundle { bridge, file } => {
            let text = text_of(&[], Some(file))?;
            let (op, bridge) = (FlowOp::Bundle, bridge.clone());
            Ok(Request::Flow(FlowChange { op, bridge, text, strict: false }))
        }
        Flow::Dump { bridge, filter, .. } => {
            Ok(Request::FlowDump { bridge: bridge.clone(), filter: filter.clone() })
        }
    }
}

/// The lines given as words, or those of a file.
fn text_of(lines: &[String], file: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = file else { return Ok(lines.join("\n")) };
    let mut content = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut content).map(|_| content)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Failure {
        message: format!("cannot read {}: {error}", file.display()),
        hint: "give a text file, one a line, or - for the standard input".into(),
    })
}

fn run_doctor(args: &Doctor, global: &Global, out: &mut String) -> Result<bool, Failure> {
    let wish = match &args.config {
        Some(file) => Wish::of_config(&Config::load(file)?),
        None => Wish::of_devices(&args.devices),
    };
    let report = doctor::examine(&wish);
    Ok(print_reply(&Reply::Doctor(report), false, global, out))
}

fn check(file: &Path, global: &Global, out: &mut String) -> Result<bool, Failure> {
    let checked = Config::load(file).and_then(|config| Ok((config.read_flows()?, config)));
    if global.json || global.pretty {
        let errors: Vec<serde_json::Value> = checked
            .as_ref()
            .err()
            .iter()
            .flat_map(|errors| &errors.0)
            .map(|e| {
                let (line, column) = (e.line, e.column);
                let file = &e.file;
                let (what, hint) = (&e.what, &e.hint);
                json!({ "file": file, "line": line, "column": column, "what": what, "hint": hint })
            })
            .collect();
        let ok = errors.is_empty();
        write_json(&json!({ "ok": ok, "errors": errors }), global, out);
        return Ok(ok);
    }
    let (flows, config) = checked?;
    for bridge in &config.bridges {
        let (name, ports) = (&bridge.name, bridge.ports.len());
        let flows = flows.flows_of(name);
        let file = file.display();
        out.push_str(&format!("{file}: bridge {name}, {ports} ports, {flows} flows: good\n"));
    }
    Ok(true)
}
