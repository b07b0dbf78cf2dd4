//! The socket that the daemon listens on: bound by itself, or handed over by the service manager.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket::tokio::Listener as UnixDomainListener;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getsockname, socket_with, sockopt};
use stated_shared::{Failure, FailureKind};
use tokio::net::UnixStream;

use super::directory_lock::DirectoryLock;
use super::system_call;

/// Whom the file system lets in: only its user, or everybody, for whom the daemon's policy then decides.
struct Modes {
    socket: u32,
    /// Of a socket directory that the daemon makes.
    directory: u32,
}

const FOR_ITS_USER: Modes = Modes { socket: 0o600, directory: 0o700 };
const FOR_EVERYBODY: Modes = Modes { socket: 0o666, directory: 0o755 };

/// The daemon's listening socket.
///
/// Dropping it unlinks the file it bound, if that still is its own. Drop it before the directory lock.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    path: PathBuf,
    /// Device and inode of the file that we made; none of a socket that the service manager made.
    made: Option<(u64, u64)>,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else could put another socket in its place.
    #[error("socket directory {} {problem}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is in its place that no daemon left there.
    #[error("{} is not a socket; it is left alone", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// A daemon listens there already, with another state directory.
    #[error("a daemon listens on {} already", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The service manager's descriptors are not what the daemon needs.
    #[error("the service manager handed over {what}; expected one listening Unix stream socket")]
    Activation {
        /// What instead.
        what: String,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SocketError {
    /// The error as it is told to a user.
    pub fn failure(&self) -> Failure {
        match self {
            Self::InUse { .. } => Failure::new(FailureKind::Busy, self.to_string())
                .hint("give this daemon a socket of its own (`--socket`), or stop the other"),
            Self::Io { source, .. } => Failure::new(FailureKind::Config, format!("{self}: {source}")),
            Self::NotASocket { path } => Failure::new(FailureKind::Config, self.to_string())
                .hint(format!("look at it, then remove it: rm {}", path.display())),
            Self::Directory { .. } | Self::Activation { .. } => Failure::new(FailureKind::Config, self.to_string()),
        }
    }
}

impl Socket {
    /// Binds the path, making its directory where it is missing. To be called in a runtime.
    ///
    /// A file that a killed daemon left is replaced. The proof of the directory lock says that no daemon of our state
    /// directory is alive; one of another directory is found by connecting, under a lock on the socket's directory.
    pub fn bind(path: &Path, _held: &DirectoryLock, for_everybody: bool) -> Result<Self, SocketError> {
        let modes = if for_everybody { FOR_EVERYBODY } else { FOR_ITS_USER };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        prepare_directory(dir, modes.directory)?;
        let _binding = lock_directory(dir)?;
        remove_stale(path)?;
        let failed = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
        let name = path.to_fs_name::<GenericFilePath>().map_err(failed("name the socket"))?;
        let listener = ListenerOptions::new()
            .name(name)
            .mode(modes.socket as _)
            // The library would unlink whatever has the name when we stop; Drop below looks first.
            .reclaim_name(false)
            .create_tokio()
            .map_err(failed("listen on"))?;
        // The umask may have taken bits from the mode, never added any.
        fs::set_permissions(path, PermissionsExt::from_mode(modes.socket)).map_err(failed("set the mode of"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(Self { listener, path: path.to_owned(), made: Some(identity(&metadata)) })
    }

    /// Takes the socket that the service manager bound, where there is one. To be called once, in a runtime.
    ///
    /// Its file and mode are the service manager's, and stay as they are. Its directory must be ours as that of any other
    /// socket: what the daemon keeps beside it is nobody else's to replace.
    pub fn activated() -> Result<Option<Self>, SocketError> {
        let wrong = |what: String| SocketError::Activation { what };
        let mut handed: Vec<_> =
            sd_notify::listen_fds_with_names().map_err(|error| wrong(error.to_string()))?.collect();
        if handed.len() > 1 {
            return Err(wrong(format!("{} descriptors", handed.len())));
        }
        let Some((number, name)) = handed.pop() else { return Ok(None) };
        let unusable = |error: io::Error| wrong(format!("the descriptor {name:?}, which is unusable ({error})"));
        let fd = system_call::adopt(number, |fd| Ok(is_unix_listener(fd)?)).map_err(unusable)?;
        let fd = fd.ok_or_else(|| wrong(format!("the descriptor {name:?}, which is something else")))?;
        let path = file_of(fd.as_fd()).map_err(unusable)?;
        let path = path.ok_or_else(|| wrong(format!("the descriptor {name:?}, whose socket has no file")))?;
        prepare_directory(path.parent().unwrap_or(Path::new("/")), FOR_ITS_USER.directory)?;
        let listener = UnixDomainListener::try_from(fd).map_err(unusable)?;
        Ok(Some(Self { listener: Listener::from(listener), path, made: None }))
    }

    /// Where clients connect.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next connection. Cancelling it loses none.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        let Stream::UdSocket(stream) = self.listener.accept().await?;
        Ok(stream.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(made) = self.made else { return };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        // Under the same lock as binding, so that a successor cannot bind between the look and the unlink.
        let Ok(_binding) = lock_directory(dir) else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == made)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Makes the directory where it is missing, and refuses one in which others could replace the socket.
fn prepare_directory(dir: &Path, mode: u32) -> Result<(), SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: dir.to_owned(), source };
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(failed("create"))?;
        // The umask may have taken bits from the mode, never added any.
        fs::set_permissions(dir, PermissionsExt::from_mode(mode)).map_err(failed("set the mode of"))?;
    }
    let metadata = fs::symlink_metadata(dir).map_err(failed("look at"))?;
    match directory_problem(&metadata, rustix::process::geteuid().as_raw()) {
        Some(problem) => Err(SocketError::Directory { dir: dir.to_owned(), problem }),
        None => Ok(()),
    }
}

fn directory_problem(metadata: &Metadata, uid: u32) -> Option<String> {
    if metadata.is_symlink() {
        Some("is a symbolic link".to_owned())
    } else if !metadata.is_dir() {
        Some("is not a directory".to_owned())
    } else if metadata.uid() != uid {
        Some(format!("belongs to uid {}, not to the daemon's {uid}", metadata.uid()))
    } else if metadata.mode() & 0o022 != 0 {
        Some(format!("may be written by others (mode {:o})", metadata.mode() & 0o7777))
    } else {
        None
    }
}

/// Serialises binding and unlinking among the daemons that use this directory. Held for microseconds.
fn lock_directory(dir: &Path) -> Result<File, SocketError> {
    let failed = |source| SocketError::Io { action: "lock", path: dir.to_owned(), source };
    let handle = File::open(dir).map_err(failed)?;
    fs4::FileExt::lock(&handle).map_err(failed)?;
    Ok(handle)
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match probe(path) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed("remove")),
        Err(Errno::NOENT) => Ok(()),
        // AGAIN: the queue of a listener that does not accept is full.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(errno) => Err(failed("probe")(errno.into())),
    }
}

/// Connects without waiting, and hangs up.
fn probe(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

fn is_unix_listener(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(sockopt::socket_domain(fd)? == AddressFamily::UNIX
        && sockopt::socket_type(fd)? == SocketType::STREAM
        && sockopt::socket_acceptconn(fd)?)
}

/// The file that a socket was bound to; none of an abstract name, which anybody may take, or of a relative one.
fn file_of(fd: BorrowedFd<'_>) -> io::Result<Option<PathBuf>> {
    let address = SocketAddrUnix::try_from(getsockname(fd)?)?;
    let path = address.path_bytes().map(|path| PathBuf::from(OsStr::from_bytes(path)));
    Ok(path.filter(|path| path.is_absolute()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream as BlockingUnixStream};

    use super::*;

    fn place() -> (tempfile::TempDir, DirectoryLock, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let path = dir.path().join("run/stated/stated.sock");
        (dir, lock, path)
    }

    #[tokio::test]
    async fn it_lets_in_its_user_and_leaves_nothing_behind() {
        let (_dir, lock, path) = place();
        let socket = Socket::bind(&path, &lock, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let client = UnixStream::connect(&path).await.unwrap();
        let server = socket.accept().await.unwrap();
        drop((client, server, socket));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_systems_lets_everybody_knock() {
        let (_dir, lock, path) = place();
        let _socket = Socket::bind(&path, &lock, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let (_dir, lock, path) = place();
        DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, &lock, false).unwrap();
        assert!(matches!(Socket::bind(&path, &lock, false), Err(SocketError::InUse { .. })));
        drop(socket);
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_unlinked() {
        let (_dir, lock, path) = place();
        let socket = Socket::bind(&path, &lock, false).unwrap();
        let aside = path.with_extension("old");
        fs::rename(&path, &aside).unwrap();
        let successor = Socket::bind(&path, &lock, false).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let (_dir, lock, path) = place();
        DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path, &lock, false).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }));
        assert_eq!(error.failure().kind, FailureKind::Config);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_is_refused() {
        let (dir, lock, path) = place();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, PermissionsExt::from_mode(0o770)).unwrap();
        let error = Socket::bind(&open.join("s"), &lock, false).unwrap_err();
        assert!(error.to_string().ends_with("may be written by others (mode 770)"), "{error}");
        prepare_directory(path.parent().unwrap(), 0o700).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(path.parent().unwrap(), &link).unwrap();
        let error = Socket::bind(&link.join("s"), &lock, false).unwrap_err();
        assert!(error.to_string().ends_with("is a symbolic link"), "{error}");
        let metadata = fs::metadata(path.parent().unwrap()).unwrap();
        assert!(directory_problem(&metadata, metadata.uid() + 1).unwrap().starts_with("belongs to uid"));
    }

    #[test]
    fn only_a_listening_stream_socket_is_taken_over() {
        let (dir, _lock, _path) = place();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(is_unix_listener(listener.as_fd()).unwrap());
        let (a, _b) = BlockingUnixStream::pair().unwrap();
        assert!(!is_unix_listener(a.as_fd()).unwrap());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_unix_listener(tcp.as_fd()).unwrap());
        assert!(is_unix_listener(File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn the_file_of_a_socket_is_told_and_an_abstract_name_is_none() {
        let (dir, _lock, _path) = place();
        let path = dir.path().join("s");
        assert_eq!(file_of(UnixListener::bind(&path).unwrap().as_fd()).unwrap(), Some(path));
        let nowhere = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let name = format!("stated test {}", std::process::id());
        rustix::net::bind(&nowhere, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        assert_eq!(file_of(nowhere.as_fd()).unwrap(), None);
    }
}
