//! Starting and stopping around a fake switch, in a namespace of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::api::Client;
use crate::api::fake::Fake;
use crate::api::types::{Reply, Request};
use crate::netlink::netns;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn words(file: &Path, more: &[&str]) -> Vec<OsString> {
    let file = file.as_os_str().to_owned();
    let mut words = vec!["sluiced".into(), "--config".into(), file];
    words.extend(more.iter().map(Into::into));
    words
}

fn directory(name: &str, config: &str) -> (PathBuf, PathBuf) {
    let dir = std::env::temp_dir().join(format!("sluice-daemon-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("s.toml");
    let text = config.replace("SOCKET", dir.join("s.sock").to_str().unwrap());
    std::fs::write(&file, text).unwrap();
    (dir, file)
}

fn connect(path: &Path) -> Client {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Client::connect(path, Duration::from_secs(10)) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_wrong_configuration_ends_it_before_anything_starts() {
    let (dir, file) = directory("wrong", "[[bridge]]\nname = \"br1\"\nflow_file = \"none\"\n");
    let code = run(words(&file, &[]), |_| panic!("started"));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    let code = run(words(&file, &["--frob"]), |_| panic!("started"));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
    std::fs::write(&file, "[[bridge]]\nname = \"br1\"\n").unwrap();
    let code = run(words(&file, &["--check"]), |_| panic!("started"));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn it_starts_serves_stops_and_takes_back_what_it_set() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root (start and stop of the daemon)");
        return;
    }
    let config = "[daemon]\ncontrol_socket = \"SOCKET\"\nlog = \"error\"\n\
                  [[bridge]]\nname = \"br1\"\n[[bridge.port]]\nname = \"m\"\ntype = \"memory\"\n\
                  [[bridge.port]]\nname = \"up0\"\ntype = \"afxdp\"\nmode = \"shared\"\n\
                  nat = [{ address = \"192.0.2.1\", ports = [40000, 40099] }]\n";
    let (dir, file) = directory("run", config);
    let socket = dir.join("s.sock");
    netns::run_in_new(|| {
        let reserved = || std::fs::read_to_string(RESERVED).unwrap();
        std::thread::scope(|scope| {
            let daemon = scope.spawn(|| {
                run(words(&file, &[]), |ground| {
                    assert_eq!(ground.config.bridges.len(), 1);
                    Ok(Arc::new(Fake::default()))
                })
            });
            let mut client = connect(&socket);
            assert!(matches!(client.call(Request::Show), Ok(Reply::Show(_))));
            assert_eq!(reserved(), "40000-40099\n");
            // A second daemon on the same socket is refused, and the first goes on.
            let code = run(words(&file, &[]), |_| panic!("started"));
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
            assert_eq!(client.call(Request::Shutdown).unwrap(), Reply::Done);
            let code = daemon.join().unwrap();
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        });
        assert_eq!(reserved(), "\n");
        assert!(!socket.exists());
        // A switch that cannot start: everything is taken back too.
        let code = run(words(&file, &[]), |_| Err("no such device".into()));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        assert_eq!(reserved(), "\n");
        assert!(!socket.exists());
    })
    .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}
