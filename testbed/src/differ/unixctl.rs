//! The control socket of ovs-vswitchd: JSON-RPC 1.0 over a stream, one object after the other,
//! without framing (Open vSwitch `lib/unixctl.c`).

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{StreamDeserializer, Value, de::IoRead, json};

use crate::{Error, Result};

/// How long an answer may take; a daemon that hangs is a failure, not a wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Unixctl {
    out: UnixStream,
    answers: StreamDeserializer<'static, IoRead<BufReader<UnixStream>>, Value>,
    next_id: u64,
}

impl Unixctl {
    pub fn connect(socket: &Path) -> Result<Self> {
        let what = || format!("connect to {}", socket.display());
        let out = UnixStream::connect(socket).map_err(Error::io(what()))?;
        out.set_read_timeout(Some(PATIENCE)).map_err(Error::io(what()))?;
        let back = out.try_clone().map_err(Error::io(what()))?;
        let answers = serde_json::Deserializer::from_reader(BufReader::new(back)).into_iter();
        Ok(Self { out, answers, next_id: 0 })
    }

    /// Calls a command and gives its text.
    pub fn call(&mut self, method: &str, words: &[&str]) -> Result<String> {
        self.next_id += 1;
        let request = json!({ "id": self.next_id, "method": method, "params": words });
        let sent = self.out.write_all(request.to_string().as_bytes());
        sent.map_err(Error::io(format!("ask ovs-vswitchd for {method}")))?;
        let wrong = |what: String| Error::Unexpected(format!("ovs-vswitchd: {method}: {what}"));
        let answer = match self.answers.next() {
            Some(Ok(answer)) => answer,
            Some(Err(e)) => return Err(wrong(format!("no answer: {e}"))),
            None => return Err(wrong("it has closed the connection".into())),
        };
        match (&answer["error"], &answer["result"]) {
            (Value::Null, Value::String(text)) => Ok(text.clone()),
            (Value::String(text), _) => Err(wrong(text.trim().to_owned())),
            _ => Err(wrong(format!("not an answer: {answer}"))),
        }
    }
}
