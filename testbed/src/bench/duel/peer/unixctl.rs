//! A daemon's control socket of Open vSwitch, spoken to directly.
//!
//! It is JSON-RPC 1.0 (ovs-appctl(8), "unixctl"): a request names a method and texts, the reply has
//! a text as `result` or as `error`. A program per question would cost some ten milliseconds of the
//! core beside the measured one; the samples of a cold start are as close as that.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Error, Result};

/// How long an answer may take: a switch that is busy with a hundred thousand rules takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer beyond is none of those that we ask for.
const REPLY_MAX_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub struct UnixCtl {
    stream: UnixStream,
}

impl UnixCtl {
    pub fn connect(path: &Path) -> Result<Self> {
        let what = || Error::io(format!("connect to {}", path.display()));
        let stream = UnixStream::connect(path).map_err(what())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(what())?;
        Ok(Self { stream })
    }

    /// Calls `command`: a method and its words, split at spaces.
    pub fn call(&mut self, command: &str) -> Result<String> {
        let mut words = command.split_whitespace();
        let method = words.next().unwrap_or_default();
        let request = json!({ "id": 0, "method": method, "params": words.collect::<Vec<_>>() });
        let what = || Error::io(format!("unixctl {command}"));
        self.stream.write_all(request.to_string().as_bytes()).map_err(what())?;
        let reply = self.read().map_err(what())?;
        match (&reply["error"], &reply["result"]) {
            (Value::Null, Value::String(text)) => Ok(text.clone()),
            (Value::String(error), _) => {
                Err(Error::Unexpected(format!("unixctl {command}: {}", error.trim())))
            }
            _ => Err(Error::Unexpected(format!("unixctl {command}: no reply: {reply}"))),
        }
    }

    /// One JSON value; nothing follows it before the next request.
    fn read(&mut self) -> std::io::Result<Value> {
        let mut got = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let n = self.stream.read(&mut buffer)?;
            if n == 0 || got.len() > REPLY_MAX_BYTES {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            got.extend_from_slice(&buffer[..n]);
            match serde_json::from_slice(&got) {
                Ok(value) => return Ok(value),
                Err(e) if e.is_eof() => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn replies_in_pieces_and_refusals_are_understood() {
        let dir = crate::scratch::Scratch::new("unixctl").unwrap();
        let path = dir.path().join("ctl");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut buffer = [0; 1000];
            let n = peer.read(&mut buffer).unwrap();
            let request: Value = serde_json::from_slice(&buffer[..n]).unwrap();
            assert_eq!(request, json!({ "id": 0, "method": "a/b", "params": ["c", "1"] }));
            peer.write_all(br#"{"id":0,"resu"#).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            peer.write_all(br#"lt":"x\ny","error":null}"#).unwrap();
            let n = peer.read(&mut buffer).unwrap();
            assert!(n > 0);
            peer.write_all(br#"{"id":0,"result":null,"error":"no such thing\n"}"#).unwrap();
        });
        let mut ctl = UnixCtl::connect(&path).unwrap();
        assert_eq!(ctl.call("a/b c 1").unwrap(), "x\ny");
        let error = ctl.call("d").unwrap_err().to_string();
        assert_eq!(error, "unixctl d: no such thing");
        server.join().unwrap();
    }
}
