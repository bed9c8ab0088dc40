//! The operator's side of the control socket: one call, its answer. Blocking, with a time limit.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::types::{Answer, ApiError, Call, REPLY_BYTES_MAX, Reply, Request, VERSION};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach sluiced at {}: {source}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the connection to sluiced broke: {0}")]
    Broken(#[from] io::Error),
    #[error("sluiced answered something else: {0}")]
    Protocol(String),
    #[error("{0}")]
    Refused(ApiError),
}

impl ClientError {
    /// One line that says what to do.
    pub fn hint(&self) -> String {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the socket belongs to the user that runs sluiced (root)".into()
            }
            Self::Connect { .. } => {
                "is sluiced running? --socket PATH or SLUICE_SOCKET says where it listens".into()
            }
            Self::Broken(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                "sluiced did not answer in time; its log may say why".into()
            }
            Self::Broken(_) => "sluiced may have stopped; its log may say why".into(),
            Self::Protocol(_) => "use `sluice` and `sluiced` of one release".into(),
            Self::Refused(error) => error.hint.clone(),
        }
    }
}

#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    id: u64,
}

impl Client {
    /// `patience`: how long an answer may take.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream), id: 0 })
    }

    /// One call and its whole answer; the parts of a list are joined.
    pub fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        let mut whole: Option<Reply> = None;
        loop {
            let answer = self.read_answer()?;
            if let Some(error) = answer.error {
                return Err(ClientError::Refused(error));
            }
            let strange = |what: &str| ClientError::Protocol(what.to_owned());
            let part = answer.reply.ok_or_else(|| strange("neither reply nor error"))?;
            match &mut whole {
                None => whole = Some(part),
                Some(reply) => reply.join(part).map_err(|_| strange("parts that do not fit"))?,
            }
            if !answer.more {
                return whole.ok_or_else(|| strange("an empty answer"));
            }
        }
    }

    /// A call whose answer comes in parts for as long as `take` wants more.
    pub fn stream(
        &mut self,
        request: Request,
        mut take: impl FnMut(Reply) -> bool,
    ) -> Result<(), ClientError> {
        self.send(request)?;
        loop {
            let answer = self.read_answer()?;
            if let Some(error) = answer.error {
                return Err(ClientError::Refused(error));
            }
            let wanted = answer.reply.is_some_and(&mut take);
            if !wanted || !answer.more {
                return Ok(());
            }
        }
    }

    fn send(&mut self, request: Request) -> Result<(), ClientError> {
        self.id += 1;
        let mut line = serde_json::to_vec(&Call { version: VERSION, id: self.id, request })
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        line.push(b'\n');
        Ok(self.stream.get_mut().write_all(&line)?)
    }

    fn read_answer(&mut self) -> Result<Answer, ClientError> {
        let mut line = Vec::new();
        let limit = REPLY_BYTES_MAX as u64;
        self.stream.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let answer: Answer = serde_json::from_slice(&line)
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        // Errors about a call that could not be read have id 0.
        if answer.id != self.id && !(answer.id == 0 && answer.error.is_some()) {
            return Err(ClientError::Protocol(format!("an answer to call {}", answer.id)));
        }
        Ok(answer)
    }
}
