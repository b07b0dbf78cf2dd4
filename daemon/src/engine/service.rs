//! The engine, as connections see it.

use std::sync::Arc;
use std::time::Duration;

use stated_shared::wire::Welcome;
use stated_shared::{Actor, ChangePage, Failure, Request, Selector, Seq, SessionId, StateName, VersionInfo};

use super::budget::{ContentBudget, ContentPermit, HeldContent};
use super::outbox::Outbox;
use crate::host::Process;
use crate::machine::Access;

/// One connection of a session; a session that is resumed has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A session that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether it held locks that it has again.
    pub resumed: bool,
    /// The connection, to be named at its end.
    pub connection: ConnectionId,
}

/// A request that has its form and its content.
#[derive(Debug)]
pub struct Submission {
    /// The session that asks.
    pub session: SessionId,
    /// Its connection.
    pub connection: ConnectionId,
    /// The request's number; a retry has the same.
    pub number: u64,
    /// Anything but `Get`, `Changes` and `Access`; contents are `Removed` or `Inline`, whatever their length.
    pub request: Request,
    /// The process that the request refers to.
    pub process: Option<Process>,
    /// Room for the contents, to be kept as long as they are.
    pub room: Option<ContentPermit>,
    /// What the asker may, whenever it is asked.
    pub access: Arc<dyn Access>,
}

/// Something that the policy refused, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Who.
    pub actor: Actor,
    /// What the audit log calls it.
    pub verb: &'static str,
    /// To what; empty where it is about no name.
    pub names: Vec<StateName>,
}

/// A version with its content.
#[derive(Debug)]
pub struct FetchedContent {
    /// The version's facts.
    pub version: VersionInfo,
    /// As many bytes as the facts say; none for a removal.
    pub content: Arc<HeldContent>,
}

/// The engine, as connections see it.
///
/// Every future may be dropped at any await: then what it asked for was either done or never begun.
pub trait Service: Clone + Send + Sync + 'static {
    /// What the daemon says of itself to a session that was opened, and of the record that the client pinned.
    fn welcome(&self, resumed: bool, pin: Option<Seq>) -> Welcome;

    /// Where contents take their room.
    fn budget(&self) -> &ContentBudget;

    /// Registers a connection of a session. `Err` is told to the peer, which is then cut.
    ///
    /// The outbox may be used at once: what it is given is sent after the welcome.
    fn open(
        &self,
        session: SessionId,
        actor: Actor,
        outbox: Arc<dyn Outbox>,
    ) -> impl Future<Output = Result<Opened, Failure>> + Send;

    /// The connection is gone, and with it the session unless it has a newer one. Comes once after each `open` that
    /// was `Ok`, but not when the daemon itself stops: the session then resumes at its successor.
    fn close(&self, session: SessionId, connection: ConnectionId) -> impl Future<Output = ()> + Send;

    /// Takes a request over; the answer comes by the outbox, exactly one for each number.
    fn submit(&self, submission: Submission) -> impl Future<Output = ()> + Send;

    /// Reads a version with its content, once it has room for it.
    fn fetch(
        &self,
        session: SessionId,
        number: u64,
        state: StateName,
        at: Selector,
    ) -> impl Future<Output = Result<FetchedContent, Failure>> + Send;

    /// Refuses a request that the policy does not allow, once that is noted for the audit log. Where it is a retry of
    /// what was done before, that answer is given again.
    fn refuse(
        &self,
        of: (SessionId, ConnectionId, u64),
        failure: Failure,
        denied: Denied,
    ) -> impl Future<Output = ()> + Send;

    /// Reads what changed after a place, once something did that the asker may read; an empty page where nothing does in
    /// this time.
    fn changes(
        &self,
        access: Arc<dyn Access>,
        glob: Option<String>,
        after: (Seq, u32),
        wait: Duration,
    ) -> impl Future<Output = Result<ChangePage, Failure>> + Send;

    /// Somebody was refused at the door. For the audit; must not wait.
    fn denied(&self, denied: Denied);
}
