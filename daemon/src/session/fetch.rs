//! Sends a version's content as fast as the peer takes it.

use stated_shared::limits::CHUNK_LEN_MAX;
use stated_shared::wire::{ServerFrame, encode};
use stated_shared::{Bytes, Failure, FailureKind, Fetched, Reply, Selector, SessionId, StateName};
use tokio::task::coop::consume_budget;

use super::outbox::{SocketOutbox, WasCut, reply_frame};
use crate::engine::Outbox;
use crate::engine::Service;

/// Answers one `Get`. A peer that takes nothing is cut by its outbox, which ends this too.
pub(super) async fn answer_get<S: Service>(
    service: S,
    outbox: &SocketOutbox,
    session: SessionId,
    number: u64,
    (state, at): (StateName, Selector),
) -> Result<(), WasCut> {
    let fetched = tokio::select! {
        biased;
        () = outbox.cut_token().cancelled() => return Err(WasCut),
        fetched = service.fetch(session, number, state, at) => fetched,
    };
    let fetched = match fetched {
        Ok(fetched) => fetched,
        Err(failure) => {
            outbox.reply(number, Err(failure));
            return Ok(());
        }
    };
    let announced = fetched.version.content.as_ref().map_or(0, |content| content.size_bytes);
    if announced != fetched.content.len() as u64 {
        tracing::error!(number, announced, found = fetched.content.len(), "a content is not of its size");
        let message = "the content is not of the size that its version says";
        outbox.reply(number, Err(Failure::new(FailureKind::Internal, message)));
        return Ok(());
    }
    outbox.room().await?;
    outbox.send(reply_frame(number, Ok(Reply::Fetched(Fetched { version: fetched.version }))));
    for chunk in fetched.content.chunks(CHUNK_LEN_MAX) {
        outbox.room().await?;
        consume_budget().await;
        match encode(&ServerFrame::Chunk { number, data: Bytes(chunk.to_vec()) }) {
            Ok(frame) => outbox.send(frame),
            Err(error) => {
                tracing::error!(number, %error, "cannot send a chunk");
                let failure = Failure::new(FailureKind::Internal, "the content cannot be sent to its end");
                let cut = ServerFrame::Cut { number, failure: Box::new(failure) };
                outbox.send(encode(&cut).expect("a short failure fits into a frame"));
                break;
            }
        }
    }
    outbox.finish(number);
    Ok(())
}
