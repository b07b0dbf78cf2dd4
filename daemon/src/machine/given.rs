//! Answers in a snapshot: what is remembered of them, in its stored form.

use serde::{Deserialize, Serialize};
use stated_shared::{CommittedState, Fence, Generation, LockId, LockInfo, Reply, Seq, StateName, Timestamp, Version};

use super::Divergence;
use super::answers::Answer;
use super::event::{Actor, Kind};

/// The stored form of an answer. It refers to nothing outside of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Given {
    Committed(Option<Seq>, Vec<(StateName, Version, bool)>),
    Lease(LockId),
    Broken(Vec<BrokenName>),
    Tagged(StateName, Version),
    Rekeyed(Generation),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BrokenName {
    name: StateName,
    kind: Kind,
    id: LockId,
    fence: Fence,
    holder: Actor,
    since: Timestamp,
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Given {
    /// The stored form of an answer.
    pub fn of(answer: &Answer) -> Result<Self, Divergence> {
        match answer {
            Answer::Lease(id) => Ok(Self::Lease(id.clone())),
            Answer::Tagged(state, version) => Ok(Self::Tagged(state.clone(), *version)),
            Answer::Rekeyed(generation) => Ok(Self::Rekeyed(*generation)),
            Answer::Reply(Reply::Committed(committed)) => {
                let states = committed.states.iter().map(|s| (s.state.clone(), s.version, s.changed)).collect();
                Ok(Self::Committed(committed.seq, states))
            }
            Answer::Reply(Reply::Broken(rows)) => {
                let row = |row: &LockInfo| BrokenName {
                    name: row.name.clone(),
                    kind: row.kind.into(),
                    id: row.id.clone(),
                    fence: row.fence,
                    holder: row.holder.clone().into(),
                    since: row.since,
                    operation: row.operation.clone(),
                    reason: row.reason.clone(),
                };
                Ok(Self::Broken(rows.iter().map(row).collect()))
            }
            // Each kind by its name: whoever adds an answer that is remembered finds that it needs a stored form.
            Answer::Reply(
                Reply::Fetched(_)
                | Reply::Version(_)
                | Reply::Versions(_)
                | Reply::Granted(_)
                | Reply::Done
                | Reply::Locks(_)
                | Reply::Audit(_)
                | Reply::Verified(_)
                | Reply::Status(_)
                | Reply::Changes(_)
                | Reply::Pruned(_)
                | Reply::Access(_)
                | Reply::Keys(_)
                | Reply::Rekeyed(_)
                | Reply::Backup(_),
            ) => Err(Divergence("an answer without a stored form is remembered".to_owned())),
        }
    }

    pub fn answer(self) -> Answer {
        match self {
            Self::Lease(id) => Answer::Lease(id),
            Self::Tagged(state, version) => Answer::Tagged(state, version),
            Self::Rekeyed(generation) => Answer::Rekeyed(generation),
            Self::Committed(seq, states) => {
                let state = |(state, version, changed)| CommittedState { state, version, changed };
                let states = states.into_iter().map(state).collect();
                Answer::Reply(Reply::Committed(stated_shared::Committed { seq, head: None, states }))
            }
            Self::Broken(rows) => {
                let row = |row: BrokenName| LockInfo {
                    name: row.name,
                    kind: row.kind.into(),
                    id: row.id,
                    fence: row.fence,
                    holder: (&row.holder).into(),
                    since: row.since,
                    operation: row.operation,
                    reason: row.reason,
                    info: None,
                    under: None,
                    process: None,
                    expires: None,
                    waiters: 0,
                };
                Answer::Reply(Reply::Broken(rows.into_iter().map(row).collect()))
            }
        }
    }
}
