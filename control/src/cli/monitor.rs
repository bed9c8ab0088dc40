//! `sluice monitor`: events as they come, until there were enough or the reader went away.

use super::args::Global;
use super::{Failure, write_json};
use crate::api::Client;
use crate::api::types::{MonitorEvent, Reply, Request};
use std::io::Write;
use std::time::Duration;

/// Prints to `sink` at once, for an event may be long in coming.
pub(super) fn run(
    bridge: &str,
    count: Option<u64>,
    global: &Global,
    out: &mut String,
    sink: &mut dyn Write,
) -> Result<bool, Failure> {
    // A sign of life comes twice a second, whatever happens on the bridge.
    let patience = Duration::from_secs(global.timeout.max(2));
    let mut client = Client::connect(&global.socket, patience)?;
    let mut left = count.unwrap_or(u64::MAX);
    let request = Request::Monitor { bridge: bridge.to_owned() };
    client.stream(request, |part| {
        let Reply::Events(events) = part else { return false };
        for event in events.into_iter().take(left.try_into().unwrap_or(usize::MAX)) {
            left -= 1;
            if global.json || global.pretty {
                write_json(&event, global, out);
            } else {
                print(&[event], out);
            }
        }
        let written = sink.write_all(out.as_bytes()).and_then(|()| sink.flush());
        out.clear();
        written.is_ok() && left > 0
    })?;
    Ok(true)
}

pub(super) fn print(events: &[MonitorEvent], out: &mut String) {
    for event in events {
        let line = match event {
            MonitorEvent::PacketIn(p) => p.text.clone(),
            MonitorEvent::FlowRemoved(f) => f.text.clone(),
            MonitorEvent::Lost { events } => format!("({events} events lost: read faster)"),
        };
        out.push_str(&line);
        out.push('\n');
    }
}
