//! `edit`: change a state in an editor, under its lock.

mod draft;

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::IgnoredAny;
use stated_shared::{
    Bytes, Change, Commit, CommittedState, Content, Expect, Failure, FailureKind, Grant, Lock, LockId, Selector,
    SerialRule, StateName, VersionInfo, Wait,
};

use super::child::{self, Held, OnLost, Signals};
use super::output::Output;
use super::serial::{serial, with_serial};
use super::{Context, args, failure, put};
use crate::Client;
use draft::Draft;

/// Change a state in an editor, under its lock; prints STATE@N
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl edit example/network -m 'drop the old route'
  EDITOR='code --wait' statectl edit example/list

The editor is $VISUAL, else $EDITOR, else vi. While it runs nobody else writes the state. The text is
in a file that only its owner can read, in memory where that can be, and is removed afterwards.

A text that did not change makes no version. Of a Terraform state the serial is raised by one, unless
it was changed by hand. What was JSON must be JSON again. A state that does not exist begins empty.
Where a changed text cannot be written, its file is kept and named, and so is one whose editor was
killed. An editor that ends with a code of its own other than 0 (:cq in vim) says that nothing of it
is wanted.")]
pub(super) struct Edit {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// The lock that this relies on [default: $STATED_LOCK_ID]; without one the state is locked meanwhile
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

/// What is there before the editor runs.
struct Original {
    /// None where the state does not exist, or is removed.
    version: Option<VersionInfo>,
    text: Vec<u8>,
}

impl Edit {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let editor = Editor::of_environment()?;
        let interruptible = child::exit_on_interrupt(&context.output)?;
        let mut client = context.connect()?;
        let grant = client.lock(&self.request()?, None)?;
        // From here on there is something to clean up.
        interruptible.store(false, Ordering::Relaxed);
        let ended = self.change(&editor, &mut client, &grant, &interruptible, context);
        // A lock that was lost has been told of already, or is told of by the commit that it refused.
        let _ = client.unlock(&grant.id);
        ended.map(|()| 0)
    }

    fn request(&self) -> Result<Lock, Failure> {
        Ok(Lock {
            // Who edits wants to begin now, or to know who is in the way.
            wait: Wait::No,
            reason: self.message.clone(),
            under: args::relied_on(self.lock.clone())?.pop(),
            ..Lock::exclusive([self.state.clone()], "edit")
        })
    }

    fn change(
        &self,
        editor: &Editor,
        client: &mut Client,
        grant: &Grant,
        interruptible: &Arc<AtomicBool>,
        context: &Context,
    ) -> Result<(), Failure> {
        let output = &context.output;
        let mut signals = Signals::register(None).map_err(|error| failure::local("handle signals", &error))?;
        let original = Original::read(client, &self.state)?;
        let draft = Draft::create(&self.state, &original.text)
            .map_err(|error| failure::local("write the text for the editor", &error))?;
        if !draft.is_in_memory() {
            output.say("no place in memory is found: while you edit, the text is on a disk");
        }
        let held = Held { id: grant.id.clone(), fence: grant.fence.to_string(), on_lost: OnLost::Warn };
        let mut is_first = true;
        let text = loop {
            let status = match editor.run(draft.path(), client, &held, &mut signals, output) {
                Ok(status) => status,
                Err(failure) => return Err(self.unwritten(draft, &original, failure, context)),
            };
            if let Err(failure) = editor.check(status) {
                // Whatever an earlier round saved was meant to be written.
                let is_unwanted = is_first && !signals.came() && is_chosen(status) && !draft.has_files_beside();
                return Err(if is_unwanted { failure } else { self.unwritten(draft, &original, failure, context) });
            }
            is_first = false;
            let text = match put::read(Some(draft.path().to_owned())) {
                Ok(text) => text,
                Err(failure) => return Err(self.kept(draft, &original, failure, context)),
            };
            if text == original.text {
                output.say(&format!("{} did not change", self.state));
                return original.version.map_or(Ok(()), |version| unchanged(&version, context));
            }
            let Err(error) = check(&original.text, &text) else { break text };
            output.say(&format!("what was JSON is none any more: {error}"));
            interruptible.store(true, Ordering::Relaxed);
            let again = asks_to_edit_again(draft.path());
            interruptible.store(false, Ordering::Relaxed);
            if !again {
                let failure = Failure::new(FailureKind::Conflict, format!("{} is not written", self.state));
                return Err(self.kept(draft, &original, failure, context));
            }
        };
        match self.write(client, grant, &original, text, context) {
            Ok(committed) => {
                drop(draft);
                committed.iter().try_for_each(|state| put::print(state, context))
            }
            Err(failure) => Err(self.kept(draft, &original, failure, context)),
        }
    }

    fn write(
        &self,
        client: &mut Client,
        grant: &Grant,
        original: &Original,
        mut text: Vec<u8>,
        context: &Context,
    ) -> Result<Vec<CommittedState>, Failure> {
        if let Some(old) = original.serial()
            && serial(&text) == Some(old)
        {
            text = with_serial(&text, old + 1)
                .map_err(|why| Failure::new(FailureKind::Conflict, format!("cannot raise the serial: {why}")))?;
            context.output.say(&format!("the serial is {} now, since the content changed", old + 1));
        }
        // The lock that was named must be live, also where it does not cover this state.
        let named = self.lock.iter().filter(|id| grant.under.as_ref() != Some(*id));
        let commit = Commit {
            changes: vec![Change {
                state: self.state.clone(),
                expect: original.version.as_ref().map_or(Expect::Absent, |version| Expect::Version(version.version)),
                content: Content::Inline(Bytes(text)),
            }],
            locks: std::iter::once(&grant.id).chain(named).cloned().collect(),
            message: self.message.clone(),
            labels: Default::default(),
            serials: SerialRule::Refuse,
        };
        Ok(client.commit(commit)?.states)
    }

    /// Keeps the text where somebody's work may be in it, or beside it.
    fn unwritten(&self, draft: Draft, original: &Original, failure: Failure, context: &Context) -> Failure {
        let has_work = draft.differs_from(&original.text) || draft.has_files_beside();
        if has_work { self.kept(draft, original, failure, context) } else { failure }
    }

    /// Keeps the text that could not be written, and says how to write it.
    fn kept(&self, draft: Draft, original: &Original, failure: Failure, context: &Context) -> Failure {
        // First: whoever could be told may be gone.
        let path = draft.keep();
        if let Some(hint) = &failure.hint {
            context.output.hint(hint);
        }
        let condition = match &original.version {
            Some(version) => format!("--if-version {}", version.version),
            None => "--if-absent".to_owned(),
        };
        let state = failure::quoted(self.state.as_str());
        let (file, directory) = (failure::shell_path(&path), path.parent().map(failure::shell_path));
        Failure { message: format!("{}; your text is kept in {}", failure.message, path.display()), ..failure }.hint(
            format!("statectl put {state} {file} {condition} && rm -r {}", directory.unwrap_or_else(|| file.clone())),
        )
    }
}

impl Original {
    fn read(client: &mut Client, state: &StateName) -> Result<Self, Failure> {
        match client.get(state, Selector::Newest) {
            Ok((version, text)) if version.content.is_some() => Ok(Self { version: Some(version), text }),
            Ok(_) => Ok(Self { version: None, text: Vec::new() }),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(Self { version: None, text: Vec::new() }),
            Err(failure) => Err(failure),
        }
    }

    /// The serial, where this is a Terraform state.
    fn serial(&self) -> Option<u64> {
        self.version.as_ref()?.content.as_ref()?.serial
    }
}

/// The editor's command line, as `sh` reads it.
struct Editor {
    line: String,
}

impl Editor {
    fn of_environment() -> Result<Self, Failure> {
        let named = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| std::env::var(name).ok());
        let on_terminal = io::stdin().is_terminal();
        match named.into_iter().find(|line| !line.trim().is_empty()) {
            Some(line) => Ok(Self { line }),
            None if on_terminal => Ok(Self { line: "vi".to_owned() }),
            None => Err(Failure::new(FailureKind::Usage, "there is no terminal to edit on, and no EDITOR is named")
                .hint("EDITOR='sed -i s/old/new/' statectl edit STATE")),
        }
    }

    /// Runs it to its end.
    fn run(
        &self,
        path: &Path,
        client: &mut Client,
        held: &Held,
        signals: &mut Signals,
        output: &Output,
    ) -> Result<ExitStatus, Failure> {
        let cannot = |error: io::Error| failure::local("wait for the editor", &error);
        let mut running = self.start(path)?;
        let pidfd = pidfd_open(Pid::from_child(&running), PidfdFlags::empty()).map_err(|error| cannot(error.into()))?;
        child::watch(&pidfd, client, held, signals, output).map_err(cannot)?;
        running.wait().map_err(cannot)
    }

    fn start(&self, path: &Path) -> Result<std::process::Child, Failure> {
        let script = format!("{} \"$@\"", self.line);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&self.line).arg(path);
        command.spawn().map_err(|error| failure::local(format!("run the editor {}", self.line), &error))
    }

    /// A failed editor says that nothing shall be written.
    fn check(&self, status: ExitStatus) -> Result<(), Failure> {
        let how = match (status.code(), status.signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        Err(Failure::new(FailureKind::Other, format!("nothing is written: the editor {} failed ({how})", self.line))
            .hint("name another one: EDITOR=… statectl edit STATE"))
    }
}

/// Whether a program ended with a code that it chose; from 129 on a shell tells of a signal.
fn is_chosen(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0..=128))
}

/// What was a JSON document must be one again.
fn check(old: &[u8], new: &[u8]) -> Result<(), serde_json::Error> {
    if is_document(old) { serde_json::from_slice::<IgnoredAny>(new).map(drop) } else { Ok(()) }
}

/// Whether this is a JSON object or array; a lone number or word may as well be text.
fn is_document(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Asks whoever sits at the terminal; nobody does where there is none.
fn asks_to_edit_again(path: &Path) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let mut terminal = io::stderr();
    let _ = write!(terminal, "statectl: the text is in {}; edit it again? [Y/n] ", path.display());
    let _ = terminal.flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer).unwrap_or(0);
    read > 0 && matches!(answer.trim(), "" | "y" | "Y" | "yes")
}

/// Prints the version that stays the newest.
fn unchanged(version: &VersionInfo, context: &Context) -> Result<(), Failure> {
    let stays = CommittedState { state: version.state.clone(), version: version.version, changed: false };
    put::print(&stays, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documents_must_stay_json() {
        assert!(check(b"{\"a\":1}", b"{\"a\":").is_err());
        assert!(check(b" [1]\n", b"").is_err());
        assert!(check(b"{\"a\":1}", b"[]").is_ok());
        assert!(check(b"5\n", b"five\n").is_ok());
        assert!(check(b"{ not json", b"either").is_ok());
        assert!(check(b"", b"text").is_ok());
    }
}
