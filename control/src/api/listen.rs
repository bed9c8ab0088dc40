//! The socket's file: made so that nobody else can ever connect, and so that two daemons cannot
//! share it.
//!
//! A socket gets its mode from the umask when it is bound, and a `chmod` after that leaves a moment
//! in which others can connect. So it is bound inside a fresh directory of mode 0700, made 0600
//! there, and renamed to its place: a rename is atomic, and it also takes the place of a stale
//! socket of a daemon that was killed. A lock on a file beside it says whether that daemon still
//! lives.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// `sun_path` less its final zero.
const PATH_BYTES_MAX: usize = 107;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("control socket {}: {what} ({source}): {hint}", .path.display())]
    System { path: PathBuf, what: &'static str, source: io::Error, hint: &'static str },
    #[error("control socket {}: the path is longer than {PATH_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    #[error(
        "control socket {}: another sluiced is using it: stop it, or use another path",
        .0.display()
    )]
    Busy(PathBuf),
    #[error(
        "control socket {}: what is there is not a socket: remove it, or use another path",
        .0.display()
    )]
    NotASocket(PathBuf),
}

/// A bound socket and its lock; both files go away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as this value lives.
    _lock: File,
}

impl ControlSocket {
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let fail = |what, hint| {
            move |source: io::Error| ListenError::System {
                path: path.to_owned(),
                what,
                source,
                hint,
            }
        };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(fail("cannot make its directory", "use a path that this user may write"))?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!(".sluice-{}-{n}", std::process::id()));
        if path.as_os_str().len().max(temporary.as_os_str().len() + 2) > PATH_BYTES_MAX {
            return Err(ListenError::TooLong(path.to_owned()));
        }
        let (lock_path, lock) = lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ListenError::Busy(path.to_owned()),
            _ => fail("cannot lock it", "use a path that this user may write")(error),
        })?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            _ => {}
        }
        // Left by a process of the same number that was killed in between.
        _ = fs::remove_dir_all(&temporary);
        let listener = bind_in(&temporary, path);
        _ = fs::remove_dir_all(&temporary);
        let listener = listener.map_err(fail("cannot bind it", "is the directory writable?"))?;
        Ok(Self { listener, path: path.to_owned(), lock_path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tokio listener of the same socket. Within a runtime.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        self.listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.path);
        _ = fs::remove_file(&self.lock_path);
    }
}

fn bind_in(temporary: &Path, path: &Path) -> io::Result<UnixListener> {
    DirBuilder::new().mode(0o700).create(temporary)?;
    let inside = temporary.join("s");
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    Ok(listener)
}

/// Opens and locks `PATH.lock`; `WouldBlock` if another process holds it.
fn lock(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let file =
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&lock_path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok((lock_path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_a_path_and_a_stale_socket_is_replaced() {
        let dir = std::env::temp_dir().join(format!("sluice-listen-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("deep/control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(matches!(ControlSocket::bind(&path), Err(ListenError::Busy(_))));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "socket and lock");
        drop(first);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);

        // A killed daemon: the socket's file stays, the lock does not.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let again = ControlSocket::bind(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(again);

        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.join("x".repeat(120));
        assert!(matches!(ControlSocket::bind(&long), Err(ListenError::TooLong(_))));
        fs::remove_dir_all(&dir).unwrap();
    }
}
