//! What `exec` and its gateway process tell each other, over a socket pair that nobody else has.
//!
//! One JSON value a packet, so that the messages need no framing. The child's pidfd comes with its packet. Secrets go
//! this way, never through arguments or the environment.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stated_shared::{Failure, LockId, StateName};

use super::Credential;
use crate::ConnectOptions;

/// Longest message, in bytes.
const MESSAGE_LEN_MAX: usize = 64 << 10;

/// What `exec` tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Begin to serve; the first message.
    Serve(Box<Settings>),
    /// The child, whose pidfd comes along.
    Child {
        /// Its process ID.
        pid: u32,
    },
}

/// What a gateway needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The daemon's socket.
    pub socket: Option<PathBuf>,
    /// Whether a daemon may be started.
    pub autostart: bool,
    /// The state directory of a daemon that is started.
    pub state_dir: Option<PathBuf>,
    /// The program as it calls itself in the audit log.
    pub exe: Option<String>,
    /// Where is kept what was seen of journals.
    pub pins: Option<PathBuf>,
    /// Lets the child in.
    pub credential: Credential,
    /// Lets its AWS clients in, where there may be any.
    pub keys: Option<Credential>,
    /// What it does as a proxy of plain http, where it is one.
    pub proxy: Option<ProxySettings>,
    /// The state of this run by the http backend.
    pub state: Option<StateName>,
    /// A lock of the user's that covers the run.
    pub under: Option<LockId>,
    /// What each version is labelled with.
    pub labels: BTreeMap<String, String>,
    /// The program that asks, for messages.
    pub program: String,
}

/// What a gateway needs to know as a proxy.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProxySettings {
    /// The URL of the user's own proxy, which may hold a password.
    pub upstream: Option<String>,
}

impl Settings {
    /// How the daemon is found.
    pub fn options(&self) -> ConnectOptions {
        ConnectOptions {
            socket: self.socket.clone(),
            autostart: self.autostart,
            state_dir: self.state_dir.clone(),
            exe: self.exe.clone(),
            pins: self.pins.clone(),
            accept_rollback: false,
            on_ask: None,
        }
    }
}

/// What a gateway tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// It serves.
    Serving {
        /// On this port of 127.0.0.1.
        port: u16,
        /// The daemon's socket that it found.
        socket: PathBuf,
    },
    /// It cannot, and ends.
    Failed(Failure),
    /// The child's process is known; locks may be tied to it.
    ChildKnown,
    /// Something that the user should know.
    Remark(String),
}

/// One end of the pair.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Two connected ends, both closed on exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Takes the end that standard input is, and leaves nothing there.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let control = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self(control))
    }

    /// Another handle of the same end.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one message, with a descriptor where it needs one.
    pub fn send(&self, message: &impl Serialize, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(io::Error::other("the message is too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        loop {
            // Never waited for: a stopped `exec` must not stop its gateway.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for one message; `None` where the other end is closed.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_LEN_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                // The other process ended with messages unread.
                Err(Errno::CONNRESET) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptor)))
    }
}

/// As the standard input of the process that is to have this end.
impl From<Control> for OwnedFd {
    fn from(control: Control) -> Self {
        control.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::owner::Owner;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (exec, gateway) = Control::pair().unwrap();
        let own = Owner::open(std::process::id()).unwrap();
        exec.send(&Order::Child { pid: own.pid }, Some(&own.pidfd)).unwrap();
        gateway.send(&News::Serving { port: 8080, socket: "/s".into() }, None).unwrap();
        gateway.send(&News::Remark("x".into()), None).unwrap();

        let (order, descriptor) = gateway.receive::<Order>().unwrap().unwrap();
        assert!(matches!(order, Order::Child { pid } if pid == own.pid));
        assert!(descriptor.is_some());
        let (news, descriptor) = exec.receive::<News>().unwrap().unwrap();
        assert!(matches!(news, News::Serving { port: 8080, .. }) && descriptor.is_none());
        drop(gateway);
        assert!(matches!(exec.receive::<News>().unwrap(), Some((News::Remark(_), None))), "said before it left");
        assert!(exec.receive::<News>().unwrap().is_none());
    }

    #[test]
    fn what_is_sent_does_not_show_secrets() {
        let credential = Credential { username: "stated".into(), password: "secret".into() };
        let keys = credential.clone();
        let settings = Settings {
            socket: None,
            autostart: false,
            state_dir: None,
            exe: None,
            pins: None,
            credential,
            keys: Some(keys),
            proxy: None,
            state: StateName::parse("prod").ok(),
            under: None,
            labels: BTreeMap::new(),
            program: "terraform".into(),
        };
        assert!(!format!("{:?}", Order::Serve(Box::new(settings))).contains("secret"));
    }
}
