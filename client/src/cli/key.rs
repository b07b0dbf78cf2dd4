//! `key`: whose keys open the keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use stated_shared::{Failure, FailureKind, Keys, Recipient, Rekey, Reply, Request, Resealing};

use super::{Context, failure, progress, table};
use crate::Client;

/// How often a rotation is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// List, add and remove the keys that open all states, or make new ones
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl key ls
  statectl key add age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  statectl key add --file ~/.ssh/id_ed25519.pub
  statectl key rm 'SHA256:…'
  statectl key rotate

Whoever was removed still has what they copied, and knows the repository's own keys: with those they can read
and forge records of a copy until the keys are rotated.")]
pub(super) struct KeyVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List whose keys open the keyring
    Ls,
    /// Let other keys open it too
    Add(Which),
    /// Let keys open it no more
    Rm(Which),
    /// Make new keys for everything, and seal history to them
    Rotate(Rotate),
}

#[derive(Debug, Args)]
struct Which {
    /// Public keys: age1…, 'ssh-ed25519 …', 'ssh-rsa …'; to remove one its fingerprint will do
    #[arg(value_name = "RECIPIENT", required_unless_present = "file")]
    recipients: Vec<String>,
    /// A file of public keys, one a line; lines that begin with # are left out
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Rotate {
    /// Do not wait until history is sealed to the new keys
    #[arg(long)]
    no_wait: bool,
}

/// One recipient.
#[derive(Serialize)]
struct RecipientView<'a> {
    key: &'a str,
    fingerprint: &'a str,
    own: bool,
}

/// The keyring that counts.
#[derive(Serialize)]
struct KeyringView {
    keyring: u64,
}

impl KeyVerb {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        match self.verb {
            Verb::Ls => list(&mut client, context),
            Verb::Add(which) => rekey(&mut client, context, Rekey::Add(which.read()?)),
            Verb::Rm(which) => {
                let wanted = which.read()?;
                let keys = keys(&mut client)?;
                let spelled = wanted.into_iter().map(|text| spelled(&keys.recipients, text)).collect();
                rekey(&mut client, context, Rekey::Remove(spelled))?;
                tell!("statectl: what they copied stays readable to them; make new keys with: statectl key rotate");
                Ok(0)
            }
            Verb::Rotate(rotate) => {
                rekey(&mut client, context, Rekey::Rotate)?;
                if rotate.no_wait { Ok(0) } else { wait(&mut client, context) }
            }
        }
    }
}

impl Which {
    fn read(self) -> Result<Vec<String>, Failure> {
        let mut recipients = self.recipients;
        if let Some(path) = &self.file {
            recipients.extend(read(path)?);
        }
        Ok(recipients)
    }
}

fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| failure::file("read", path, &error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let recipients: Vec<String> = lines.map(str::to_owned).collect();
    if recipients.is_empty() {
        let message = format!("{} holds no public key", path.display());
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("one a line, as age-keygen -y or the .pub file of ssh-keygen says it"));
    }
    Ok(recipients)
}

/// The recipient of this fingerprint or key, as the keyring spells it.
fn spelled(recipients: &[Recipient], text: String) -> String {
    let is_meant = |recipient: &&Recipient| {
        let end = recipient.fingerprint.split(' ').next_back();
        recipient.fingerprint == text || end == Some(&text)
    };
    recipients.iter().find(is_meant).map_or(text, |recipient| recipient.key.clone())
}

fn keys(client: &mut Client) -> Result<Keys, Failure> {
    match client.call(&Request::Keys)? {
        Reply::Keys(keys) => Ok(keys),
        _ => Err(failure::unexpected()),
    }
}

fn list(client: &mut Client, context: &Context) -> Result<u8, Failure> {
    let keys = keys(client)?;
    if context.output.json {
        for Recipient { key, fingerprint, is_own } in &keys.recipients {
            context.output.print_object(&RecipientView { key, fingerprint, own: *is_own })?;
        }
        return Ok(0);
    }
    let row = |recipient: Recipient| {
        vec![recipient.fingerprint, if recipient.is_own { "opens it at each start" } else { "" }.to_owned()]
    };
    table::print(&context.output, &["RECIPIENT", "NOTE"], &[], keys.recipients.into_iter().map(row).collect())?;
    if let Some(resealing) = keys.resealing {
        tell!("statectl: {}", told(resealing));
    }
    Ok(0)
}

fn rekey(client: &mut Client, context: &Context, rekey: Rekey) -> Result<u8, Failure> {
    let Reply::Rekeyed(generation) = client.call(&Request::Rekey(rekey))? else { return Err(failure::unexpected()) };
    if context.output.json {
        context.output.print_object(&KeyringView { keyring: generation.0 })?;
    } else {
        context.output.print(&format!("keyring {generation}"))?;
    }
    Ok(0)
}

/// Until all of history is sealed to the new keys. Whoever does not wait changes nothing.
fn wait(client: &mut Client, context: &Context) -> Result<u8, Failure> {
    let bar = progress::count(&context.output, "sealing history");
    loop {
        let Some(resealing) = keys(client)?.resealing else { return Ok(0) };
        if let Some(bar) = &bar {
            bar.set_length(resealing.total);
            bar.set_position(resealing.done);
        }
        if resealing.left > 0 && resealing.done + resealing.left == resealing.total {
            return Err(Failure::new(FailureKind::Storage, told(resealing)).hint(
                "the new keys count all the same, and it is tried again; see why with: statectl verify --read-data",
            ));
        }
        thread::sleep(POLL);
    }
}

fn told(resealing: Resealing) -> String {
    let Resealing { done, total, left } = resealing;
    let left = if left > 0 { format!(", {left} could not be read or written") } else { String::new() };
    format!("history is being sealed to the new keys: {done} of {total} parts and blobs{left}")
}
