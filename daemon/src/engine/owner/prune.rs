//! Prunes that are decided: with what they have stored anew, or without where there is no room for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, PrunePage, Reply, StateName, Version};
use tokio::sync::oneshot;

use super::batch::{Prepared, Told};
use super::{Halt, Owner, no_room};
use crate::engine::commit::StagedBytes;
use crate::journal::{AppendError, Fate};
use crate::machine::event::{Event, What};
use crate::machine::{Access, Ask, Context, Decision, Itself, PruneAsk, Step, Verdict};

/// A prune in the daemon's own name.
pub(in crate::engine) struct OwnPrune {
    pub ask: PruneAsk,
    pub bytes: StagedBytes,
    pub done: oneshot::Sender<Result<PrunePage, Failure>>,
}

impl Owner {
    /// Prunes as the configuration wants it.
    pub(super) fn prune_itself(&mut self, own: OwnPrune) -> Result<(), Halt> {
        let OwnPrune { ask, bytes, done } = own;
        let actor = self.parts.daemon.clone();
        let access: Arc<dyn Access> = Arc::new(Itself);
        // No answer of it is remembered, and no lock drawn.
        let cx = Context { time: self.time, actor: &actor, number: 0, drawn: [0; 16], access: &access };
        let mut ask = Ask::Prune(ask);
        let decision = self.parts.machine.decide(&cx, &ask);
        let (prepared, verdict, made) = self.place(&cx, &mut ask, decision, BTreeMap::new(), bytes.moved);
        let told = match made {
            Ok(()) => {
                self.fold(prepared)?;
                match verdict {
                    Verdict::Reply(Reply::Pruned(page)) => Ok(page),
                    Verdict::Refuse(failure) => Err(failure),
                    other => Err(Failure::new(FailureKind::Internal, format!("a prune is answered by {other:?}"))),
                }
            }
            Err(error) if error.fate() == Fate::Refuse => Err(no_room(&error)),
            Err(error) => return Err(error.into()),
        };
        // Whoever asked may be gone.
        self.batch.told.push(Told::Run(Box::new(move || drop(done.send(told)))));
        Ok(())
    }

    /// Tells what it did by itself. On a full disk it does not.
    pub(super) fn tell_itself(&mut self, what: What, done: Box<dyn FnOnce(bool) + Send>) -> Result<(), Halt> {
        let event = Event { at: self.time.wall, actor: self.parts.daemon.clone(), what };
        let prepared = self.prepare(vec![Step::Record(Box::new(event))], BTreeMap::new());
        let is_done = match self.make_room(&prepared) {
            Ok(()) => {
                self.fold(prepared)?;
                true
            }
            Err(error) if error.fate() == Fate::Refuse => false,
            Err(error) => return Err(error.into()),
        };
        self.batch.told.push(Told::Run(Box::new(move || done(is_done))));
        Ok(())
    }

    /// Gives a decision its lines and its room. A prune that finds none for what it has stored anew gives that up, and is
    /// decided once more.
    pub(super) fn place(
        &mut self,
        cx: &Context<'_>,
        ask: &mut Ask,
        decision: Decision,
        payloads: BTreeMap<StateName, Vec<u8>>,
        moved: BTreeMap<(StateName, Version), Vec<u8>>,
    ) -> (Prepared, Verdict, Result<(), AppendError>) {
        let mut verdict = decision.verdict;
        let mut prepared = self.prepare_moved(decision.steps, payloads, moved);
        let mut made = self.make_room(&prepared);
        if let (Err(error), Ask::Prune(prune)) = (&made, &mut *ask)
            && error.fate() == Fate::Refuse
        {
            // Less is dropped then.
            let unused = prune.blobs();
            prune.spare();
            self.batch.freed.blobs.extend(unused);
            let decision = self.parts.machine.decide(cx, ask);
            prepared = self.prepare(decision.steps, BTreeMap::new());
            verdict = decision.verdict;
            made = self.make_room(&prepared);
        }
        self.batch.freed.blobs.extend(if made.is_ok() { unused_blobs(ask, &prepared) } else { ask.blobs() });
        (prepared, verdict, made)
    }
}

/// What was stored as blobs ahead of the decision, and no event tells of: it was refused, or done before, or changes nothing.
fn unused_blobs(ask: &Ask, prepared: &Prepared) -> Vec<String> {
    let mut unused = ask.blobs();
    if !unused.is_empty() {
        let events = prepared.steps.iter().filter_map(|step| match step {
            Step::Record(event) => Some(event),
            Step::Move(_) => None,
        });
        let told: BTreeSet<&str> = events.flat_map(|event| event.what.blobs()).collect();
        unused.retain(|id| !told.contains(id.as_str()));
    }
    unused
}
