//! The control socket's server: bounded lines in, answers out, nothing a client does can hurt.
//!
//! Each connection is a task. A line is read up to its limit and within its time; what is not JSON,
//! or not a call, gets an error and the connection goes on, for the line's end is where the next
//! call begins. A line without end is answered and ends the connection. Memory is bounded: so many
//! connections, and few of them at a time may hold a long line.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listen::ControlSocket;
use super::switch::{ApiResult, Switch};
use super::types::{Answer, ApiError, Call, ErrorCode, REQUEST_BYTES_MAX, Reply, Request, VERSION};
use crate::config;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Above this a line counts as long.
const SHORT_LINE_BYTES: usize = 1 << 20;
/// Long lines at a time.
const LONG_LINES_MAX: usize = 2;
/// How long a connection may be silent between two calls.
const IDLE: Duration = Duration::from_secs(600);
/// How long a call may take to come in whole, and a part of an answer to go out.
const TRANSFER: Duration = Duration::from_secs(30);
/// Between two parts of a monitor's answer, at most.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Events in one of them.
const EVENTS_A_PART: usize = 64;
/// How long calls may go on after the server was stopped.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until `stop` becomes true; a `shutdown` request makes it so.
pub async fn serve(
    socket: &ControlSocket,
    switch: Arc<dyn Switch>,
    stop: watch::Sender<bool>,
) -> io::Result<()> {
    let listener = socket.listener()?;
    let shared = Arc::new(Shared {
        switch,
        stop: stop.clone(),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        long_lines: Arc::new(Semaphore::new(LONG_LINES_MAX)),
    });
    let mut stopped = stop.subscribe();
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&shared.connections).acquire_owned().await;
            let permit = permit.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            () = is_stopped(&mut stopped) => break,
            accepted = next => accepted,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, permit)) => {
                tasks.spawn(connection(stream, Arc::clone(&shared), permit));
            }
            Err(error) => {
                // Out of descriptors, most likely: others end, then it goes on.
                tracing::warn!(%error, "control socket: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    _ = timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    Ok(())
}

/// Ready when the stop was asked for, or nobody can ask any more.
async fn is_stopped(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

struct Shared {
    switch: Arc<dyn Switch>,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    long_lines: Arc<Semaphore>,
}

async fn connection(stream: UnixStream, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(16 * 1024, read);
    let mut stopped = shared.stop.subscribe();
    loop {
        let line = tokio::select! {
            () = is_stopped(&mut stopped) => return,
            line = read_line(&mut read, &shared) => line,
        };
        let outcome = match line {
            Ok(Some(line)) => handle(&line, &shared, &mut write).await,
            Ok(None) => return,
            Err(error) => {
                _ = send(&mut write, 0, false, Err(error)).await;
                return;
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "control socket: a client went away");
            return;
        }
    }
}

/// One line without its end; none at the end of the connection, also in the middle of a line.
async fn read_line(
    read: &mut BufReader<OwnedReadHalf>,
    shared: &Shared,
) -> Result<Option<Vec<u8>>, ApiError> {
    match timeout(IDLE, read.fill_buf()).await {
        Ok(Ok(first)) if !first.is_empty() => {}
        _ => return Ok(None),
    }
    let bad = |message: String| {
        Err(ApiError::new(ErrorCode::BadRequest, message, "a call is one line of JSON"))
    };
    match timeout(TRANSFER, collect_line(read, shared)).await {
        Ok(Ok(Some(line))) if line.len() > REQUEST_BYTES_MAX => {
            bad(format!("the call is longer than {REQUEST_BYTES_MAX} bytes"))
        }
        Ok(Ok(line)) => Ok(line),
        Ok(Err(_)) => Ok(None),
        Err(_) => bad(format!("the call did not come in whole within {} s", TRANSFER.as_secs())),
    }
}

/// Reads up to the end of the line, or one byte more than the limit.
async fn collect_line(
    read: &mut BufReader<OwnedReadHalf>,
    shared: &Shared,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut long = None;
    loop {
        let chunk = read.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let (part, ended) = match chunk.iter().position(|&b| b == b'\n') {
            Some(at) => (&chunk[..at], true),
            None => (chunk, false),
        };
        line.extend_from_slice(part);
        let used = part.len() + usize::from(ended);
        read.consume(used);
        if ended || line.len() > REQUEST_BYTES_MAX {
            return Ok(Some(line));
        }
        if line.len() > SHORT_LINE_BYTES && long.is_none() {
            long = Some(shared.long_lines.acquire().await.map_err(io::Error::other)?);
        }
    }
}

async fn handle(line: &[u8], shared: &Arc<Shared>, write: &mut OwnedWriteHalf) -> io::Result<()> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let call = match decode(line) {
        Ok(call) => call,
        Err((id, error)) => return send(write, id, false, Err(error)).await,
    };
    let id = call.id;
    if call.request == Request::Shutdown {
        tracing::info!("asked over the control socket to stop");
        let sent = send(write, id, false, Ok(Reply::Done)).await;
        shared.stop.send_replace(true);
        return sent;
    }
    if let Request::Monitor { bridge } = call.request {
        return monitor(bridge, id, shared, write).await;
    }
    let switch = Arc::clone(&shared.switch);
    let result = tokio::task::spawn_blocking(move || answer(&*switch, call.request)).await;
    let result = result.unwrap_or_else(|panic| {
        tracing::error!(%panic, "control socket: a call failed inside");
        let hint = "this is a mistake in sluiced: its log says more";
        Err(ApiError::new(ErrorCode::System, "the call failed inside the switch", hint))
    });
    match result {
        Err(error) => send(write, id, false, Err(error)).await,
        Ok(reply) => {
            let mut parts = reply.parts().into_iter();
            while let Some(part) = parts.next() {
                send(write, id, parts.len() > 0, Ok(part)).await?;
            }
            Ok(())
        }
    }
}

/// Events as they come, until the client goes, the switch has no more, or the server stops. An
/// empty part now and then finds out whether somebody is there.
async fn monitor(
    bridge: String,
    id: u64,
    shared: &Arc<Shared>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let switch = Arc::clone(&shared.switch);
    let opened = tokio::task::spawn_blocking(move || switch.monitor(&bridge)).await;
    let mut events = match opened.map_err(io::Error::other)? {
        Ok(events) => events,
        Err(error) => return send(write, id, false, Err(error)).await,
    };
    let mut stopped = shared.stop.subscribe();
    send(write, id, true, Ok(Reply::Events(Vec::new()))).await?;
    loop {
        let mut list = Vec::new();
        tokio::select! {
            () = is_stopped(&mut stopped) => break,
            n = events.recv_many(&mut list, EVENTS_A_PART) => if n == 0 { break },
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        send(write, id, true, Ok(Reply::Events(list))).await?;
    }
    send(write, id, false, Ok(Reply::Events(Vec::new()))).await
}

/// A call, or an error with the id if there is one.
fn decode(line: &[u8]) -> Result<Call, (u64, ApiError)> {
    serde_json::from_slice::<Call>(line)
        .map_err(|error| {
            let loose = serde_json::from_slice::<serde_json::Value>(line).ok();
            let number = |key: &str| loose.as_ref().and_then(|v| v.get(key)?.as_u64());
            let (message, hint) = match number("version") {
                Some(v) if v != u64::from(VERSION) => (
                    format!("version {v} of the protocol is not spoken here"),
                    format!("use version {VERSION}: `sluice` and `sluiced` of one release fit"),
                ),
                _ => (format!("not a call: {error}"), "a call is one line of JSON".to_owned()),
            };
            (number("id").unwrap_or(0), ApiError::new(ErrorCode::BadRequest, message, hint))
        })
        .and_then(|call| {
            if call.version == VERSION {
                return Ok(call);
            }
            let message = format!("version {} of the protocol is not spoken here", call.version);
            let hint = format!("use version {VERSION}: `sluice` and `sluiced` of one release fit");
            Err((call.id, ApiError::new(ErrorCode::BadRequest, message, hint)))
        })
}

fn answer(switch: &dyn Switch, request: Request) -> ApiResult<Reply> {
    Ok(match request {
        Request::Show => Reply::Show(Box::new(switch.show()?)),
        Request::BridgeList => Reply::Bridges(switch.bridges()?),
        Request::PortList { bridge } => Reply::Ports(switch.ports(bridge.as_deref())?),
        Request::PortAdd { bridge, port } => Reply::Ports(vec![port_add(switch, &bridge, &port)?]),
        Request::PortDel { bridge, port } => {
            switch.port_del(&bridge, &port)?;
            Reply::Removed(1)
        }
        Request::Flow(change) => Reply::FlowChanged(switch.flow_change(&change)?),
        Request::FlowDump { bridge, filter } => Reply::Flows(switch.flow_dump(&bridge, &filter)?),
        Request::Ref(change) => Reply::RefChanged(switch.ref_change(&change)?),
        Request::GroupDump { bridge, id } => Reply::Groups(switch.groups(&bridge, id)?),
        Request::MeterDump { bridge, id } => Reply::Meters(switch.meters(&bridge, id)?),
        Request::Tlv(change) => Reply::TlvMap(switch.tlv_change(&change)?),
        Request::TlvDump { bridge } => Reply::TlvMap(switch.tlv_map(&bridge)?),
        Request::FdbShow { bridge } => Reply::Fdb(switch.fdb(&bridge)?),
        Request::FdbFlush { bridge } => Reply::Removed(switch.fdb_flush(&bridge)?),
        Request::ConntrackList(query) => Reply::Conns(switch.conntrack(&query)?),
        Request::ConntrackFlush { filter } => Reply::Removed(switch.conntrack_flush(&filter)?),
        Request::ConntrackStatus { filter } => {
            Reply::CtStatus(Box::new(switch.conntrack_status(&filter)?))
        }
        Request::ConntrackLimits => Reply::CtLimits(switch.conntrack_limits()?),
        Request::ConntrackSet(change) => {
            switch.conntrack_set(&change)?;
            Reply::Done
        }
        Request::Trace(request) => Reply::Trace(Box::new(switch.trace(&request)?)),
        Request::TunnelShow => Reply::Tunnels(switch.tunnels()?),
        Request::Counters => Reply::Counters(switch.counters()?),
        Request::PacketOut { bridge, text } => {
            switch.packet_out(&bridge, &text)?;
            Reply::Done
        }
        Request::Resume(request) => {
            switch.resume(&request)?;
            Reply::Done
        }
        Request::Doctor => Reply::Doctor(switch.doctor()?),
        // Both are answered elsewhere.
        Request::Monitor { .. } | Request::Shutdown => Reply::Done,
    })
}

fn port_add(switch: &dyn Switch, bridge: &str, text: &str) -> ApiResult<super::types::PortInfo> {
    let taken: Vec<u16> = switch.ports(Some(bridge))?.iter().map(|p| p.number).collect();
    let port = config::parse_port(text, bridge, &taken).map_err(|errors| {
        let first = errors.0.into_iter().next();
        let (what, hint) = first.map(|e| (e.what, e.hint)).unwrap_or_default();
        ApiError::new(ErrorCode::Invalid, what, hint)
    })?;
    if switch.ports(None)?.iter().any(|p| p.name == port.name) {
        let message = format!("there is a port \"{}\" already", port.name);
        let hint = "port names are unique in the whole switch";
        return Err(ApiError::new(ErrorCode::Exists, message, hint));
    }
    switch.port_add(bridge, port)
}

async fn send(
    write: &mut OwnedWriteHalf,
    id: u64,
    more: bool,
    result: ApiResult<Reply>,
) -> io::Result<()> {
    let (reply, error) = match result {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(error)),
    };
    let mut line = serde_json::to_vec(&Answer { version: VERSION, id, more, reply, error })?;
    line.push(b'\n');
    timeout(TRANSFER, write.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
