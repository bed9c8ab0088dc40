//! `sluice monitor`: events as they come, until there were enough or the reader went away.

use super::args::Global;
use super::{Failure, write_json};
use crate::api::types::{MonitorEvent, Reply, Request, ResumeRequest};
use crate::api::{Client, ClientError};
use std::io::Write;
use std::time::Duration;

pub(super) struct Wish<'a> {
    pub bridge: &'a str,
    /// End after so many events.
    pub count: Option<u64>,
    /// Paused packets go on at once.
    pub resume: bool,
}

/// Prints to `sink` at once, for an event may be long in coming.
pub(super) fn run(
    wish: &Wish<'_>,
    global: &Global,
    out: &mut String,
    sink: &mut dyn Write,
) -> Result<bool, Failure> {
    // A sign of life comes twice a second, whatever happens on the bridge.
    let patience = Duration::from_secs(global.timeout.max(2));
    let mut client = Client::connect(&global.socket, patience)?;
    // Its own, for the other is never done answering.
    let connect = || Client::connect(&global.socket, patience);
    let mut resumer = wish.resume.then(connect).transpose()?;
    let mut failed = None;
    let mut left = wish.count.unwrap_or(u64::MAX);
    let request = Request::Monitor { bridge: wish.bridge.to_owned() };
    client.stream(request, |part| {
        let Reply::Events(events) = part else { return false };
        for event in events.into_iter().take(left.try_into().unwrap_or(usize::MAX)) {
            left -= 1;
            if let Some(Err(error)) = resumer.as_mut().map(|c| resume(c, &event)) {
                failed = Some(error);
            }
            if global.json || global.pretty {
                write_json(&event, global, out);
            } else {
                print(&[event], out);
            }
        }
        let written = sink.write_all(out.as_bytes()).and_then(|()| sink.flush());
        out.clear();
        written.is_ok() && left > 0 && failed.is_none()
    })?;
    failed.map_or(Ok(true), |error| Err(error.into()))
}

/// Lets a packet go on if it is paused. One that is too old, or that somebody else was faster
/// with, is told and no reason to end.
fn resume(client: &mut Client, event: &MonitorEvent) -> Result<(), ClientError> {
    let MonitorEvent::PacketIn(packet) = event else { return Ok(()) };
    let Some(continuation) = packet.continuation.clone() else { return Ok(()) };
    match client.call(Request::Resume(ResumeRequest { continuation, ..Default::default() })) {
        Err(ClientError::Refused(error)) => {
            eprintln!("sluice: not resumed: {}", error.message);
            Ok(())
        }
        done => done.map(|_| ()),
    }
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
