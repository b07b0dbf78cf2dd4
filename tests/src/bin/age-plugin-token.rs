//! A plugin of age, as one for a hardware token is: it says when to touch it, and may ask for a PIN.
//!
//! Without a state machine it makes a key: `age-plugin-token [PIN]` prints the identity. What a token would keep is in the
//! identity, as text: a key of age's, and the PIN.

use std::collections::{HashMap, HashSet};
use std::io;

use age::secrecy::ExposeSecret;
use age::x25519;
use age_core::format::{FileKey, Stanza};
use age_plugin::identity::{self, IdentityPluginV1};
use age_plugin::recipient::{self, RecipientPluginV1};
use age_plugin::{Callbacks, PluginHandler, print_new_identity, run_state_machine};

/// Its name, and the kind of its stanzas.
const NAME: &str = "token";

struct Token;

#[derive(Default)]
struct Recipients(Vec<x25519::Recipient>);

#[derive(Default)]
struct Identities(Vec<(x25519::Identity, String)>);

impl PluginHandler for Token {
    type RecipientV1 = Recipients;
    type IdentityV1 = Identities;

    fn recipient_v1(self) -> io::Result<Recipients> {
        Ok(Recipients::default())
    }

    fn identity_v1(self) -> io::Result<Identities> {
        Ok(Identities::default())
    }
}

impl RecipientPluginV1 for Recipients {
    fn add_recipient(&mut self, index: usize, name: &str, bytes: &[u8]) -> Result<(), recipient::Error> {
        let parsed = std::str::from_utf8(bytes).ok().filter(|_| name == NAME).and_then(|text| text.parse().ok());
        let key = parsed.ok_or_else(|| recipient::Error::Recipient { index, message: "no key of a token".into() })?;
        self.0.push(key);
        Ok(())
    }

    fn add_identity(&mut self, index: usize, _: &str, _: &[u8]) -> Result<(), recipient::Error> {
        Err(recipient::Error::Identity { index, message: "a token seals to recipients only".into() })
    }

    fn labels(&mut self) -> HashSet<String> {
        HashSet::new()
    }

    fn wrap_file_keys(
        &mut self,
        file_keys: Vec<FileKey>,
        _: impl Callbacks<recipient::Error>,
    ) -> io::Result<Result<Vec<Vec<Stanza>>, Vec<recipient::Error>>> {
        let wrap = |file_key: &FileKey, recipient: &x25519::Recipient| {
            let body = age::encrypt(recipient, file_key.expose_secret()).map_err(io::Error::other)?;
            Ok(Stanza { tag: NAME.to_owned(), args: vec!["v1".to_owned()], body })
        };
        let wrapped = file_keys.iter().map(|key| self.0.iter().map(|recipient| wrap(key, recipient)).collect());
        wrapped.collect::<io::Result<_>>().map(Ok)
    }
}

impl IdentityPluginV1 for Identities {
    fn add_identity(&mut self, index: usize, name: &str, bytes: &[u8]) -> Result<(), identity::Error> {
        let parsed = std::str::from_utf8(bytes).ok().filter(|_| name == NAME).and_then(|text| {
            let (key, pin) = text.split_once('\n')?;
            Some((key.parse().ok()?, pin.to_owned()))
        });
        self.0.push(parsed.ok_or_else(|| identity::Error::Identity { index, message: "no token".into() })?);
        Ok(())
    }

    fn unwrap_file_keys(
        &mut self,
        files: Vec<Vec<Stanza>>,
        mut callbacks: impl Callbacks<identity::Error>,
    ) -> io::Result<HashMap<usize, Result<FileKey, Vec<identity::Error>>>> {
        let mut unwrapped = HashMap::new();
        for (file, stanzas) in files.iter().enumerate() {
            for (index, (key, pin)) in self.0.iter().enumerate() {
                let opened = stanzas.iter().filter(|stanza| stanza.tag == NAME);
                let Some(opened) = opened.filter_map(|stanza| age::decrypt(key, &stanza.body).ok()).next() else {
                    continue;
                };
                let refused = |message: &str| Err(vec![identity::Error::Identity { index, message: message.into() }]);
                if !pin.is_empty() {
                    let told = callbacks.request_secret("the PIN of the token")?;
                    if !told.is_ok_and(|told| told.expose_secret() == pin) {
                        unwrapped.insert(file, refused("wrong PIN, 2 tries are left"));
                        continue;
                    }
                }
                let _ = callbacks.message("touch the token")?;
                let file_key = FileKey::try_init_with_mut(|room| match opened.len() == room.len() {
                    true => {
                        room.copy_from_slice(&opened);
                        Ok(())
                    }
                    false => Err(()),
                });
                unwrapped.insert(file, file_key.or_else(|()| refused("not a file key")));
            }
        }
        Ok(unwrapped)
    }
}

fn main() -> io::Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if let Some(state_machine) = argument.strip_prefix("--age-plugin=") {
        return run_state_machine(state_machine, Token);
    }
    let key = x25519::Identity::generate();
    let identity = format!("{}\n{argument}", key.to_string().expose_secret());
    print_new_identity(NAME, identity.as_bytes(), key.to_public().to_string().as_bytes());
    Ok(())
}
