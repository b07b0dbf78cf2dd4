//! The history of a large Terraform state, made up.

use std::fmt::Write as _;

use crate::Random;

/// Resources of the state.
const RESOURCES: usize = 4000;
/// Resources that an apply changes.
const CHANGED: usize = 12;
/// Bytes of a hash.
const HASH_LEN: usize = 20;

/// A state of 4,000 resources and some 2.2 MB, of which each version changes twelve; its values look random, as IDs,
/// addresses and hashes do.
#[derive(Debug, Clone)]
pub struct TerraformState {
    random: Random,
    serial: u64,
    lineage: String,
    resources: Vec<String>,
}

impl TerraformState {
    /// The state before its first version; equal seeds give equal histories.
    pub fn seeded(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let lineage = hex(&random.bytes(16));
        let resources = (0..RESOURCES).map(|index| resource(&mut random, index)).collect();
        Self { random, serial: 0, lineage, resources }
    }

    /// One version after the other, without end.
    pub fn versions(mut self) -> impl Iterator<Item = Vec<u8>> {
        std::iter::repeat_with(move || self.next_version())
    }

    /// The next version: its serial counts up, and after the first one twelve resources differ.
    pub fn next_version(&mut self) -> Vec<u8> {
        self.serial += 1;
        if self.serial > 1 {
            for _ in 0..CHANGED {
                let index = self.random.below(RESOURCES as u64) as usize;
                self.resources[index] = changed(&mut self.random, &self.resources[index]);
            }
        }
        let mut text = format!(
            "{{\n  \"version\": 4,\n  \"terraform_version\": \"1.11.4\",\n  \"serial\": {},\n  \"lineage\": \"{}\",\n  \
             \"outputs\": {{}},\n  \"resources\": [\n",
            self.serial, self.lineage
        );
        text.push_str(&self.resources.join(",\n"));
        text.push_str("\n  ],\n  \"check_results\": null\n}\n");
        text.into_bytes()
    }
}

/// What an apply leaves of a resource: another hash, the rest as it was.
fn changed(random: &mut Random, resource: &str) -> String {
    const FIELD: &str = "\"source_code_hash\": \"";
    let at = resource.find(FIELD).expect("each resource has a hash") + FIELD.len();
    let hash = hex(&random.bytes(HASH_LEN));
    [&resource[..at], &hash, &resource[at + hash.len()..]].concat()
}

fn resource(random: &mut Random, index: usize) -> String {
    let account = 100_000_000_000 + random.below(8);
    let (id, token, hash) = (hex(&random.bytes(9)), hex(&random.bytes(32)), hex(&random.bytes(HASH_LEN)));
    let address = random.bits().to_le_bytes();
    let mut text = String::new();
    write!(
        text,
        r#"    {{
      "mode": "managed",
      "type": "aws_instance",
      "name": "worker_{index}",
      "provider": "provider[\"registry.terraform.io/hashicorp/aws\"]",
      "instances": [
        {{
          "schema_version": 1,
          "attributes": {{
            "arn": "arn:aws:ec2:eu-central-1:{account}:instance/i-{id}",
            "id": "i-{id}",
            "private_ip": "10.{}.{}.{}",
            "token": "{token}",
            "source_code_hash": "{hash}"
          }}
        }}
      ]
    }}"#,
        address[0], address[1], address[2]
    )
    .expect("a string takes everything");
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
