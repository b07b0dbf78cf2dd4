//! Whose process is at the other end of a connection.
//!
//! A lock is tied to the process that asked for it, so that the lock ends when that process does. The kernel says
//! which user a TCP connection belongs to and which socket it is (`/proc/net/tcp`, see proc_pid_net(5)); the
//! processes that hold that socket are found in `/proc/*/fd`.
//!
//! Where a socket was inherited, several processes own it. The oldest of them counts: it is the one that the others
//! got it from. A program's short-lived helper must not free its lock by ending, and one that it leaves behind must
//! not keep it. (An older process that only handed the connection on and stays would keep a lock too long; nobody
//! hands on an HTTP connection in the middle.)

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How far ancestors are followed: processes that end meanwhile could make a circle of the way.
const ANCESTORS_MAX: usize = 1024;

/// A process, held so that its ID cannot come to mean another one.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its process ID.
    pub pid: u32,
    /// Its pidfd; readable once the process is gone.
    pub pidfd: Arc<OwnedFd>,
}

impl Owner {
    /// Takes hold of a running process; `None` where it is gone already.
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = Arc::new(pidfd_open(raw, PidfdFlags::empty()).ok()?);
        Some(Self { pid, pidfd })
    }

    /// Whether it is that process, or that is its parent, its parent's parent or so on.
    pub fn is_or_descends_from(&self, ancestor: u32) -> bool {
        let mut pid = self.pid;
        for _ in 0..ANCESTORS_MAX {
            if pid == ancestor {
                return true;
            }
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            match stat.ok().as_deref().and_then(parse_stat) {
                Some((parent, _)) if parent > 0 => pid = parent,
                _ => return false,
            }
        }
        false
    }
}

/// The client's socket of a TCP connection within this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSocket {
    /// Whose it is.
    pub uid: u32,
    /// Which one; 0 once no process holds it any more.
    pub inode: u64,
}

impl ClientSocket {
    /// Looks up the socket whose own address is `client` and which is connected to `server`.
    pub fn find(client: SocketAddr, server: SocketAddr) -> Option<Self> {
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| Self::in_table(&table, client, server))
    }

    fn in_table(table: &str, client: SocketAddr, server: SocketAddr) -> Option<Self> {
        table.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = parse_address(fields.next()?)?;
            let remote = parse_address(fields.next()?)?;
            if local != plain(client) || remote != plain(server) {
                return None;
            }
            let uid = fields.nth(4)?.parse().ok()?;
            let inode = fields.nth(1)?.parse().ok()?;
            Some(Self { uid, inode })
        })
    }

    /// Finds the process that owns the socket and takes hold of it.
    pub fn owner(self) -> Option<Owner> {
        let proc = Path::new("/proc");
        let pid = choose(&holders(proc, self))?;
        let owner = Owner::open(pid)?;
        // The ID may have been given to another process since; that one would not hold the socket.
        holds(&proc.join(pid.to_string()), self.inode).then_some(owner)
    }
}

/// An IPv4 connection of a dual-stack socket is listed with mapped addresses.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads `0100007F:1F90`: groups of four bytes, each printed as a number of this machine's byte order.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let group = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => group(address)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&group(address.get(index * 8..index * 8 + 8)?)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// One of the processes that hold a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    pid: u32,
    parent: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

fn holders(proc: &Path, socket: ClientSocket) -> Vec<Holder> {
    // Inode 0 is a socket that nobody holds; no descriptor would show it, but a mistake here would be costly.
    if socket.inode == 0 {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Cheaper than listing the descriptors of processes that are not ours to list.
            let ours = entry.metadata().is_ok_and(|metadata| metadata.uid() == socket.uid);
            if !ours || !holds(&entry.path(), socket.inode) {
                return None;
            }
            let (parent, started) = parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
            Some(Holder { pid, parent, started })
        })
        .collect()
}

fn holds(process: &Path, inode: u64) -> bool {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return false };
    entries.filter_map(Result::ok).any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == wanted))
}

/// The oldest; of those that started within one tick, the one whose parent is not among them.
fn choose(holders: &[Holder]) -> Option<u32> {
    let inherited = |holder: &Holder| holders.iter().any(|other| other.pid == holder.parent);
    holders.iter().min_by_key(|holder| (holder.started, inherited(holder), holder.pid)).map(|holder| holder.pid)
}

/// Parent and start time from `/proc/PID/stat`, whose second field may hold anything, `)` too.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((parent, started))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::symlink;

    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:D431 0100007F:1F90 01 00000000:00000000 02:000006D6 00000000  1000        0 4242 2 0000000000000000 20 4 30 10 -1
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:D432 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 77 1 0000000000000000 20 4 30 10 -1
   1: 00000000000000000000000001000000:D433 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 78 1 0000000000000000 20 4 30 10 -1
";

    fn find(table: &str, client: &str, server: &str) -> Option<(u32, u64)> {
        ClientSocket::in_table(table, client.parse().unwrap(), server.parse().unwrap()).map(|s| (s.uid, s.inode))
    }

    // The tables above were printed on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_table_tells_user_and_socket_of_the_clients_end() {
        assert_eq!(find(TCP, "127.0.0.1:54321", "127.0.0.1:8080"), Some((1000, 4242)));
        assert_eq!(find(TCP, "127.0.0.1:54321", "127.0.0.1:8081"), None);
        assert_eq!(find(TCP6, "127.0.0.1:54322", "127.0.0.1:8080"), Some((1001, 77)), "a mapped address");
        assert_eq!(find(TCP6, "[::1]:54323", "[::1]:8080"), Some((1002, 78)));
        assert_eq!(find("", "127.0.0.1:1", "127.0.0.1:2"), None);
    }

    #[test]
    fn a_command_name_cannot_forge_the_rest_of_the_line() {
        let stat = "7 (a) R 1 (b) S 6 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(stat), Some((6, 987_654)));
        assert_eq!(parse_stat("7 (a) S 6"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn of_several_owners_the_oldest_counts() {
        let holder = |pid, parent, started| Holder { pid, parent, started };
        assert_eq!(choose(&[holder(30, 20, 500), holder(20, 1, 400)]), Some(20));
        assert_eq!(choose(&[holder(10, 20, 400), holder(20, 1, 400)]), Some(20), "IDs may have wrapped");
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn owners_are_found_in_a_process_table() {
        let proc = tempfile::tempdir().unwrap();
        let uid = proc.path().metadata().unwrap().uid();
        let process = |pid: u32, parent: u32, target: &str| {
            let room = proc.path().join(pid.to_string());
            fs::create_dir_all(room.join("fd")).unwrap();
            fs::write(room.join("stat"), format!("{pid} (x) S {parent}{} {}", " 0".repeat(17), pid * 10)).unwrap();
            symlink(target, room.join("fd/3")).unwrap();
        };
        process(20, 1, "socket:[4242]");
        process(30, 20, "socket:[4242]");
        process(40, 1, "socket:[424]");
        fs::create_dir(proc.path().join("self")).unwrap();

        let socket = ClientSocket { uid, inode: 4242 };
        let mut found = holders(proc.path(), socket);
        found.sort_by_key(|holder| holder.pid);
        assert_eq!(found, [Holder { pid: 20, parent: 1, started: 200 }, Holder { pid: 30, parent: 20, started: 300 }]);
        assert_eq!(holders(proc.path(), ClientSocket { uid: uid + 1, inode: 4242 }), []);
        assert_eq!(holders(proc.path(), ClientSocket { uid, inode: 0 }), []);
    }

    #[test]
    fn a_process_descends_from_itself_and_its_parents() {
        let own = Owner::open(std::process::id()).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get().unsigned_abs();
        assert!(own.is_or_descends_from(own.pid) && own.is_or_descends_from(parent));
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(Owner::open(child.id()).unwrap().is_or_descends_from(own.pid));
        assert!(!own.is_or_descends_from(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_real_connection_leads_to_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let (_accepted, address) = listener.accept().unwrap();
        let socket = ClientSocket::find(address, server).unwrap();
        assert_eq!(socket.uid, rustix::process::geteuid().as_raw());
        assert_eq!(socket.owner().unwrap().pid, std::process::id());
        drop(client);
        assert!(socket.owner().is_none(), "nobody holds it any more");
    }
}
