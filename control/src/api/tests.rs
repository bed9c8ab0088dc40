//! The protocol over a real socket: right calls, wrong ones, garbage, half calls, vanishing
//! clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::watch;

use super::fake::Fake;
use super::types::*;
use super::{Client, ClientError, ControlSocket, serve};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server around a fake on a thread; stops with the value.
pub(crate) struct TestServer {
    pub path: PathBuf,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    pub fn start(fake: Fake) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sluice-api-{}-{n}.sock", std::process::id()));
        let socket = ControlSocket::bind(&path).unwrap();
        let (stop, _) = watch::channel(false);
        let stopper = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve(&socket, Arc::new(fake), stopper)).unwrap();
        });
        Self { path, stop, thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.path, PATIENCE).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn works(&self) -> bool {
        matches!(self.client().call(Request::Show), Ok(Reply::Show(_)))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let joined = self.thread.take().map(|t| t.join());
        assert!(std::thread::panicking() || matches!(joined, Some(Ok(()))));
    }
}

fn one_line(mut stream: UnixStream, bytes: &[u8]) -> Answer {
    stream.write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn calls_are_answered_in_order_on_one_connection() {
    let server = TestServer::start(Fake::default());
    let mut client = server.client();
    assert!(matches!(client.call(Request::Show).unwrap(), Reply::Show(s) if s.pid == 42));
    let text = "priority=1 actions=drop\npriority=2 actions=drop".to_owned();
    let change = FlowChange { op: FlowOp::Add, bridge: "br1".into(), text, strict: false };
    let Reply::FlowChanged(summary) = client.call(Request::Flow(change)).unwrap() else { panic!() };
    assert_eq!(summary.added, 2);
    let dump = Request::FlowDump { bridge: "br1".into(), filter: String::new() };
    assert!(matches!(client.call(dump).unwrap(), Reply::Flows(flows) if flows.len() == 2));
    let unknown = client.call(Request::FdbShow { bridge: "br9".into() }).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no bridge \"br9\"");
    assert!(unknown.hint().contains("sluice bridge"));
    assert!(matches!(
        client.call(Request::ConntrackFlush { filter: String::new() }),
        Ok(Reply::Removed(5))
    ));
}

#[test]
fn long_lists_come_in_parts_and_are_whole() {
    for count in [0, 1, 999, 1000, 1001, 25_000] {
        let server = TestServer::start(Fake::with_flows(count));
        let dump = Request::FlowDump { bridge: "br1".into(), filter: String::new() };
        let Reply::Flows(flows) = server.client().call(dump).unwrap() else { panic!() };
        assert_eq!(flows.len(), count);
        assert!(
            flows.last().is_none_or(|f| f.text == format!("priority={} actions=drop", count - 1))
        );
    }
    let parts = Reply::Flows(vec![FlowInfo::default(); 2500]).parts();
    assert_eq!(parts.len(), 3);
    assert_eq!(Reply::Flows(Vec::new()).parts().len(), 1);
}

#[test]
fn ports_are_added_in_the_words_of_the_configuration() {
    let server = TestServer::start(Fake::default());
    let mut client = server.client();
    let mut add =
        |port: &str| client.call(Request::PortAdd { bridge: "br1".into(), port: port.to_owned() });
    let Reply::Ports(ports) = add("name = \"veth1\"\ntype = \"afxdp\"").unwrap() else { panic!() };
    assert_eq!((ports[0].number, ports[0].device.as_deref()), (1, Some("veth1")));
    let Reply::Ports(ports) = add("name = \"m\"\ntype = \"memory\"").unwrap() else { panic!() };
    assert_eq!(ports[0].number, 2);
    let error = add("name = \"x\"\ntype = \"warp\"").unwrap_err();
    assert!(error.to_string().contains("unknown variant `warp`"), "{error}");
    assert!(error.hint().contains("`afxdp`"), "{}", error.hint());
    let error = add("name = \"m\"\ntype = \"tap\"").unwrap_err();
    assert!(matches!(&error, ClientError::Refused(e) if e.code == ErrorCode::Exists), "{error}");
}

#[test]
fn what_is_not_a_call_gets_an_error_and_the_next_call_an_answer() {
    let server = TestServer::start(Fake::default());
    let right = b"{\"version\":1,\"id\":3,\"request\":\"show\"}\n";
    for (bad, id) in [
        (&b"hello\n"[..], 0),
        (b"{}\n", 0),
        (b"[1,2]\n", 0),
        (b"\xff\xfe\x00\n", 0),
        (b"{\"version\":1,\"id\":8,\"request\":\"shwo\"}\n", 8),
        (b"{\"version\":1,\"id\":9,\"request\":\"show\",\"x\":1}\n", 9),
        (b"{\"version\":2,\"id\":4,\"request\":\"show\"}\n", 4),
        (b"{\"version\":2,\"id\":5,\"request\":\"unheard\"}\n", 5),
        (b"{\"version\":1,\"id\":6,\"request\":{\"fdb_show\":{}}}\n", 6),
    ] {
        let mut stream = server.raw();
        stream.write_all(bad).unwrap();
        stream.write_all(right).unwrap();
        let mut lines = BufReader::new(stream).lines();
        let answer: Answer = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let error = answer.error.expect("an error");
        let shown = String::from_utf8_lossy(bad);
        assert_eq!((answer.id, error.code), (id, ErrorCode::BadRequest), "{shown}");
        assert!(!error.message.is_empty() && !error.hint.is_empty());
        let answer: Answer = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(answer.id == 3 && answer.reply.is_some(), "{shown}");
    }
    let answer = one_line(server.raw(), b"{\"version\":2,\"id\":4,\"request\":\"show\"}\n");
    assert!(answer.error.unwrap().message.contains("version 2"));
}

#[test]
fn half_calls_and_vanishing_clients_hurt_nobody() {
    let server = TestServer::start(Fake::with_flows(50_000));
    for _ in 0..50 {
        server.raw().write_all(b"{\"version\":1,\"id\":3,\"requ").unwrap();
    }
    for _ in 0..5 {
        // Asks for much, reads nothing, goes.
        let dump = Request::FlowDump { bridge: "br1".into(), filter: String::new() };
        let call = serde_json::to_vec(&Call { version: VERSION, id: 1, request: dump }).unwrap();
        server.raw().write_all(&[&call[..], b"\n"].concat()).unwrap();
    }
    assert!(server.works());
    // Deep nesting must not exhaust a stack.
    let deep = [b"[".repeat(500_000), b"\n".to_vec()].concat();
    assert!(one_line(server.raw(), &deep).error.is_some());
    assert!(server.works());
}

#[test]
fn a_call_without_end_is_refused_at_the_limit() {
    let server = TestServer::start(Fake::default());
    let mut stream = server.raw();
    let chunk = vec![b'a'; 1 << 20];
    let mut sent = 0;
    while sent <= REQUEST_BYTES_MAX + (4 << 20) && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent <= REQUEST_BYTES_MAX + (3 << 20), "the server took {sent} bytes");
    let mut answer = String::new();
    // The rest of what was sent makes the kernel reset the connection; the answer comes first.
    _ = BufReader::new(&stream).take(4096).read_line(&mut answer);
    assert!(answer.contains("longer than"), "{answer}");
    assert!(server.works());
}

#[test]
fn a_call_that_panics_inside_is_an_error_and_no_more() {
    let server = TestServer::start(Fake::default());
    let text = "panic".to_owned();
    let change = FlowChange { op: FlowOp::Add, bridge: "br1".into(), text, strict: false };
    let error = server.client().call(Request::Flow(change)).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(e) if e.code == ErrorCode::System), "{error}");
    assert!(server.works());
}

#[test]
fn shutdown_answers_and_then_stops() {
    let server = TestServer::start(Fake::default());
    assert_eq!(server.client().call(Request::Shutdown).unwrap(), Reply::Done);
    let end = std::time::Instant::now() + PATIENCE;
    while server.path.exists() {
        assert!(std::time::Instant::now() < end, "the socket's file stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = Client::connect(&server.path, PATIENCE).unwrap_err();
    assert!(error.hint().contains("SLUICE_SOCKET"), "{}", error.hint());
}

#[test]
fn random_bytes_are_survived() {
    let server = TestServer::start(Fake::default());
    let config = ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() };
    proptest!(config, |(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000))| {
        let mut stream = server.raw();
        bytes.push(b'\n');
        // A random line is no call; what is answered is answered by errors, one a line.
        if stream.write_all(&bytes).is_ok() {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let answer: Answer = serde_json::from_str(&line).unwrap();
                prop_assert!(answer.error.is_some());
            }
        }
    });
    assert!(server.works());
}
