//! Plugins of age: programs that keep keys which no file holds, those of hardware tokens for one.
//!
//! What is said to them is <https://c2sp.org/age-plugin>, by a client of our own: that of the `age` crate takes whatever
//! `PATH` has of that name, hands it the whole environment, and waits for ever.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use age::secrecy::ExposeSecret;
use age::{DecryptError, EncryptError};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza, read};
use age_core::primitives::bech32_decode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use stated_shared::FailureKind;
use zeroize::Zeroizing;

use super::identity::Passphrase;
use crate::host::{ASKED_MAX, AskedProgram, Clock, Supervisor, guarded_program};

/// What it is started for: to seal to a recipient of its own …
const WRAP: &str = "recipient-v1";
/// … or to open what is sealed to one.
const UNWRAP: &str = "identity-v1";
/// What a plugin may say in all, in bytes.
const SAID_LEN_MAX: usize = 64 << 10;
/// What is read at once, in bytes.
const READ_LEN: usize = 4096;
/// What is passed on of a text that a plugin says, in characters.
const TEXT_LEN_MAX: usize = 300;
/// Where a line of a stanza's body ends.
const COLUMNS: usize = 64;

/// The plugins that may be asked, and what they may be told; by default there are none.
#[derive(Default)]
pub struct Plugins {
    listed: Option<Listed>,
    /// One at a time: two of them would ask for the same token.
    turn: Mutex<()>,
}

struct Listed {
    programs: BTreeMap<String, PathBuf>,
    secret: Box<dyn Secret>,
    clock: Clock,
}

/// What a plugin is told that asks for a secret to open a key with, its token's PIN for one.
pub trait Secret: Send + Sync {
    /// The secret, or why there is none to be told.
    fn tell(&self) -> Result<Passphrase, String>;

    /// The one that was told opened a key, or was taken at least.
    fn was_right(&self);
}

/// Why a plugin did not do what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The configuration names none.
    #[error("it takes a plugin of age, and the configuration names no program for {0}")]
    NotListed(String),
    /// Its program could not be started, or may not be.
    #[error("the plugin of age {name} cannot be run: {why}")]
    NotRun {
        /// The plugin.
        name: String,
        /// What the system said, or what is wrong with the file.
        why: String,
    },
    /// It took too long.
    #[error("{program} did not answer within {} s{}", ASKED_MAX.as_secs(), last_words(.said))]
    TooSlow {
        /// The plugin's program.
        program: String,
        /// What it said last, to whoever may have had to do something.
        said: Option<String>,
    },
    /// It ended, or said what no plugin says.
    #[error("{program} did not do as a plugin of age does: {how}")]
    Broken {
        /// The plugin's program.
        program: String,
        /// What it did.
        how: String,
    },
    /// It says that it failed.
    #[error("{program}: {message}")]
    Failed {
        /// The plugin's program.
        program: String,
        /// Its own words.
        message: String,
    },
}

impl PluginError {
    /// Whether it is for an administrator, or only for whoever has the token.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::TooSlow { .. } => FailureKind::Unavailable,
            _ => FailureKind::Config,
        }
    }

    /// What helps.
    pub fn hint(&self) -> String {
        match self {
            Self::NotListed(name) => format!(
                "name its program in config.toml, and start the daemon again: plugins.\"{name}\" = \"/usr/bin/age-plugin-{name}\""
            ),
            Self::NotRun { .. } => {
                "what plugins in config.toml name must be programs that nobody but root and the daemon's user may write"
                    .to_owned()
            }
            Self::TooSlow { .. } => "do what the token waits for, in time, and try again".to_owned(),
            Self::Broken { .. } | Self::Failed { .. } => {
                "the daemon's log has what it printed; where it asks for a secret, that is the first line of passphrase_file"
                    .to_owned()
            }
        }
    }
}

fn last_words(said: &Option<String>) -> String {
    said.as_ref().map(|said| format!("; it said: {said}")).unwrap_or_default()
}

/// The plugin that a recipient or an identity takes: `name` finds it in what such a text begins with.
pub(super) fn plugin_of(text: &str, name: impl Fn(&str) -> Option<String>) -> Option<String> {
    let name = bech32_decode(text, |_| (), |_| Ok(()), |begins, _| Ok(name(begins.as_str()))).ok().flatten();
    // It is to be a part of a program's name.
    let is_one = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
    };
    name.filter(is_one)
}

/// A recipient of a plugin's, with the plugins that may be asked.
pub(super) struct Wrapping<'a> {
    pub plugins: &'a Plugins,
    pub name: &'a str,
    pub recipient: &'a str,
}

/// Identities of one plugin, with the plugins that may be asked.
pub(super) struct Unwrapping<'a> {
    pub plugins: &'a Plugins,
    pub name: &'a str,
    pub identities: &'a [Zeroizing<String>],
    /// Why it did not open anything, where that is not that nothing is sealed to it.
    pub failed: &'a Mutex<Option<PluginError>>,
}

/// A plugin that is being asked.
struct Talk<'a> {
    program: String,
    asked: AskedProgram,
    /// What it said and nobody has read.
    buffer: Zeroizing<Vec<u8>>,
    said_len: usize,
    /// Its last words for people.
    said: Option<String>,
    /// The first failure that it told of.
    failed: Option<String>,
    /// Where secrets are for it, if it may have any.
    secret: Option<&'a dyn Secret>,
    is_secret_told: bool,
    /// Why it was not told one.
    untold: Option<String>,
}

impl Plugins {
    /// The programs of these plugins, and what answers one that asks for a secret.
    pub fn new(programs: BTreeMap<String, PathBuf>, secret: impl Secret + 'static, clock: Clock) -> Self {
        Self { listed: Some(Listed { programs, secret: Box::new(secret), clock }), turn: Mutex::default() }
    }

    fn ask(&self, name: &str, state_machine: &str) -> Result<Talk<'_>, PluginError> {
        let listed = self.listed.as_ref().and_then(|listed| Some((listed.programs.get(name)?, listed)));
        let (path, Listed { secret, clock, .. }) = listed.ok_or_else(|| PluginError::NotListed(name.to_owned()))?;
        let not_run = |why: String| PluginError::NotRun { name: name.to_owned(), why };
        let program = guarded_program(path).map_err(|error| not_run(error.to_string()))?;
        let asked = AskedProgram::plain(&program, path, &[&format!("--age-plugin={state_machine}")], ASKED_MAX, clock);
        let asked = asked.map_err(|error| not_run(format!("{}: {error}", path.display())))?;
        // To wrap a key takes nobody's secret.
        Ok(Talk::new(file_name(path), asked, (state_machine == UNWRAP).then_some(&**secret)))
    }

    fn wrap(
        &self,
        name: &str,
        recipient: &str,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), PluginError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut talk = self.ask(name, WRAP)?;
        talk.say("add-recipient", &[recipient], b"")?;
        talk.say("wrap-file-key", &[], file_key.expose_secret())?;
        talk.say("extension-labels", &[], b"")?;
        talk.say("done", &[], b"")?;
        let (mut stanzas, mut labels) = (Vec::new(), HashSet::new());
        while let Some(Stanza { tag, mut args, body }) = talk.hear()? {
            match tag.as_str() {
                "recipient-stanza" if args.len() >= 2 && args[0] == "0" && stanzas.is_empty() => {
                    stanzas.push(Stanza { tag: args.remove(1), args: args.split_off(1), body });
                    talk.say("ok", &[], b"")?;
                }
                "labels" => {
                    labels.extend(args);
                    talk.say("ok", &[], b"")?;
                }
                _ => talk.answer(&tag, &body)?,
            }
        }
        if stanzas.is_empty() && talk.failed.is_none() {
            return Err(talk.broken("it wrapped no key"));
        }
        talk.end().map(|()| (stanzas, labels))
    }

    /// `None` where it says that none of these stanzas is for any of its identities.
    fn unwrap(
        &self,
        name: &str,
        identities: &[Zeroizing<String>],
        stanzas: &[Stanza],
    ) -> Result<Option<FileKey>, PluginError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.ask(name, UNWRAP)?.open(identities, stanzas)
    }
}

impl<'a> Talk<'a> {
    fn new(program: String, asked: AskedProgram, secret: Option<&'a dyn Secret>) -> Self {
        Self {
            program,
            asked,
            // Reserved in full, so that no outgrown copy of a key is left behind.
            buffer: Zeroizing::new(Vec::with_capacity(SAID_LEN_MAX + READ_LEN)),
            said_len: 0,
            said: None,
            failed: None,
            secret,
            is_secret_told: false,
            untold: None,
        }
    }

    fn open(mut self, identities: &[Zeroizing<String>], stanzas: &[Stanza]) -> Result<Option<FileKey>, PluginError> {
        let opened = self.unwrap(identities, stanzas);
        // Who waits for a touch has taken the PIN.
        if let (Ok(Some(_)) | Err(PluginError::TooSlow { .. }), Some(secret), true) =
            (&opened, self.secret, self.is_secret_told)
        {
            secret.was_right();
        }
        match (opened?, self.end()) {
            (Some(file_key), _) => Ok(Some(file_key)),
            (None, ended) => ended.map(|()| None),
        }
    }

    fn unwrap(&mut self, identities: &[Zeroizing<String>], stanzas: &[Stanza]) -> Result<Option<FileKey>, PluginError> {
        for identity in identities {
            self.say("add-identity", &[identity], b"")?;
        }
        for Stanza { tag, args, body } in stanzas {
            let args: Vec<&str> = ["0", tag].into_iter().chain(args.iter().map(String::as_str)).collect();
            self.say("recipient-stanza", &args, body)?;
        }
        self.say("done", &[], b"")?;
        let mut file_key = None;
        while let Some(Stanza { tag, args, body }) = self.hear()? {
            let body = Zeroizing::new(body);
            match tag.as_str() {
                "file-key" if file_key.is_none() && args == ["0"] && body.len() == FILE_KEY_BYTES => {
                    file_key = Some(FileKey::init_with_mut(|key| key.copy_from_slice(&body)));
                    self.say("ok", &[], b"")?;
                }
                _ => self.answer(&tag, &body)?,
            }
        }
        Ok(file_key)
    }

    /// Says one stanza.
    fn say(&mut self, tag: &str, args: &[&str], body: &[u8]) -> Result<(), PluginError> {
        let encoded = Zeroizing::new(BASE64_STANDARD_NO_PAD.encode(body));
        // Reserved in full, so that no outgrown copy of a key is left behind.
        let len = 8 + tag.len() + args.iter().map(|arg| arg.len() + 1).sum::<usize>() + encoded.len() * 2;
        let mut text = Zeroizing::new(String::with_capacity(len));
        text.push_str("-> ");
        text.push_str(tag);
        for arg in args {
            text.push(' ');
            text.push_str(arg);
        }
        // The last line is shorter than the others, and may be empty.
        let mut rest = encoded.as_str();
        while rest.len() >= COLUMNS {
            let (line, others) = rest.split_at(COLUMNS);
            text.push('\n');
            text.push_str(line);
            rest = others;
        }
        text.push('\n');
        text.push_str(rest);
        text.push('\n');
        self.asked.write_all(text.as_bytes()).map_err(|error| self.ended(&error))
    }

    /// Hears one stanza; `None` where the plugin is through.
    fn hear(&mut self) -> Result<Option<Stanza>, PluginError> {
        loop {
            match read::age_stanza(&self.buffer) {
                Ok((rest, stanza)) => {
                    let stanza = Stanza::from(stanza);
                    let len = self.buffer.len() - rest.len();
                    self.buffer.drain(..len);
                    return Ok((stanza.tag != "done").then_some(stanza));
                }
                Err(error) if !error.is_incomplete() => return Err(self.broken("what it said is no stanza")),
                Err(_) if self.said_len >= SAID_LEN_MAX => return Err(self.broken("it says too much")),
                Err(_) => {}
            }
            let mut read = Zeroizing::new([0; READ_LEN]);
            match self.asked.read(&mut *read) {
                Ok(0) => return Err(self.broken("it ended before it was through")),
                Ok(len) => {
                    self.said_len += len;
                    self.buffer.extend_from_slice(&read[..len]);
                }
                Err(error) => return Err(self.ended(&error)),
            }
        }
    }

    /// Answers what a plugin may say whatever it was asked.
    fn answer(&mut self, tag: &str, body: &[u8]) -> Result<(), PluginError> {
        match tag {
            "msg" => {
                let text = passed_on(body);
                tracing::warn!(plugin = self.program, "{text}");
                Supervisor.asks(&format!("{}: {text}", self.program));
                self.said = Some(text);
                self.say("ok", &[], b"")
            }
            "error" => {
                self.failed.get_or_insert_with(|| passed_on(body));
                self.say("ok", &[], b"")
            }
            "request-secret" => {
                self.said = Some(passed_on(body));
                match self.secret() {
                    Ok(secret) => self.say("ok", &[], secret.expose().as_bytes()),
                    Err(why) => {
                        self.untold = Some(why);
                        self.say("fail", &[], b"")
                    }
                }
            }
            // Nobody is there to be asked.
            "confirm" | "request-public" => {
                self.said = Some(passed_on(body));
                self.say("fail", &[], b"")
            }
            _ => self.say("unsupported", &[], b""),
        }
    }

    /// Once: a token that is told a wrong PIN again and again locks itself.
    fn secret(&mut self) -> Result<Passphrase, String> {
        let Some(secret) = self.secret else {
            return Err("no key is to be opened".to_owned());
        };
        if self.is_secret_told {
            return Err("it was told one already".to_owned());
        }
        let told = self.asked.aside(|| secret.tell());
        self.is_secret_told = told.is_ok();
        told
    }

    /// Ends the conversation with a plugin that is through; `Err` where it told of a failure.
    fn end(self) -> Result<(), PluginError> {
        let Self { asked, program, failed, untold, .. } = self;
        asked.end();
        let untold = untold.map(|why| format!("; it asked for a secret and got none: {why}")).unwrap_or_default();
        match failed {
            Some(message) => Err(PluginError::Failed { program, message: message + &untold }),
            None => Ok(()),
        }
    }

    fn broken(&self, how: &str) -> PluginError {
        let how = match &self.failed {
            Some(message) => format!("{how}; it said: {message}"),
            None => how.to_owned(),
        };
        PluginError::Broken { program: self.program.clone(), how }
    }

    fn ended(&self, error: &io::Error) -> PluginError {
        match error.kind() {
            ErrorKind::TimedOut => PluginError::TooSlow { program: self.program.clone(), said: self.said.clone() },
            ErrorKind::BrokenPipe => self.broken("it ended before it was through"),
            _ => self.broken(&error.to_string()),
        }
    }
}

impl age::Recipient for Wrapping<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let wrapped = self.plugins.wrap(self.name, self.recipient, file_key);
        wrapped.map_err(|error| EncryptError::Io(io::Error::other(error)))
    }
}

impl age::Identity for Unwrapping<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        match self.plugins.unwrap(self.name, self.identities, stanzas) {
            Ok(file_key) => file_key.map(Ok),
            // Another key may open it all the same.
            Err(error) => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }
}

/// What a plugin failed with when it should have wrapped a key.
pub(super) fn wrapping_failed(error: &EncryptError) -> Option<&PluginError> {
    match error {
        EncryptError::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// A plugin's words as they may be shown and logged.
fn passed_on(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    text.trim().chars().take(TEXT_LEN_MAX).map(printable).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plugins").field(&self.listed.as_ref().map(|listed| &listed.programs)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts how often it was right.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Secret for Counted {
        fn tell(&self) -> Result<Passphrase, String> {
            Passphrase::first_line(b"123456").ok_or_else(String::new)
        }

        fn was_right(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a plugin of a few lines for a shell opens, which says these once it heard all; and how often a secret was right.
    fn opened_within(limit: Duration, says: &str) -> (Result<Option<FileKey>, PluginError>, usize) {
        let line = format!(
            "heard() {{ until read -r line && [ \"$line\" = \"-> $1\" ]; do :; done; read -r line; }}\nheard done\n{says}"
        );
        let secret = Counted::default();
        let asked = AskedProgram::shell(&line, limit, &Clock::of_host().unwrap()).unwrap();
        let opened = Talk::new("x".to_owned(), asked, Some(&secret)).open(&[], &[]);
        (opened, secret.0.into_inner())
    }

    fn opened(says: &str) -> (Result<Option<FileKey>, PluginError>, usize) {
        opened_within(Duration::from_secs(60), says)
    }

    const ASKS: &str = "printf -- '-> request-secret\\nUElO\\n'; heard ok";
    const DONE: &str = "printf -- '-> done\\n\\n'";

    #[test]
    fn a_secret_is_right_where_a_key_is_opened_or_a_touch_awaited() {
        let key = "printf -- '-> file-key 0\\nMDEyMzQ1Njc4OWFiY2RlZg\\n'; heard ok";
        let (opened_key, count) = opened(&format!("{ASKS}; {key}; {DONE}"));
        assert_eq!((opened_key.unwrap().unwrap().expose_secret(), count), (b"0123456789abcdef", 1));
        let (opened_key, count) = opened(&format!("{key}; {DONE}"));
        assert!(opened_key.unwrap().is_some() && count == 0, "it was not told");
        let (too_slow, count) = opened_within(Duration::from_secs(5), &format!("{ASKS}; exec sleep 1000"));
        assert!(matches!(too_slow, Err(PluginError::TooSlow { said: Some(said), .. }) if said == "PIN") && count == 1);
        let wrong = "printf -- '-> error identity 0\\nd3Jvbmc\\n'; heard ok";
        let (refused, count) = opened(&format!("{ASKS}; {wrong}; {DONE}"));
        assert!(matches!(refused, Err(PluginError::Failed { message, .. }) if message == "wrong") && count == 0);
        let (broken, count) = opened(ASKS);
        assert!(matches!(broken, Err(PluginError::Broken { .. })) && count == 0);
        let (nothing, count) = opened(&format!("{ASKS}; {DONE}"));
        assert!(nothing.unwrap().is_none() && count == 0);
    }
}
