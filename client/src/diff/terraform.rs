//! Terraform states (format 4): by resource instance, output and header field.
//!
//! Source of the format: `internal/states/statefile/version4.go` in hashicorp/terraform.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::json::{Leaves, Step};
use super::mask::is_telling;
use super::{Change, Masking, Operation};

/// Whether a document is a state of format 4.
pub(super) fn is_state(value: &Value) -> bool {
    value.get("version").and_then(Value::as_u64) == Some(4)
        && value.get("lineage").is_some_and(Value::is_string)
        && value.get("serial").is_some_and(Value::is_u64)
}

/// Compares two states; a state that does not exist is `null`.
pub(super) fn compare(old: &Value, new: &Value, masking: Masking) -> Vec<Change> {
    let mut changes = header(old, new, masking);
    changes.extend(outputs(old, new, masking));
    changes.extend(instances(old, new, masking));
    changes
}

fn header(old: &Value, new: &Value, masking: Masking) -> Vec<Change> {
    let rest = |value: &Value| {
        let mut map = value.as_object().cloned().unwrap_or_default();
        map.remove("resources");
        map.remove("outputs");
        Value::Object(map)
    };
    walk(None, masking, &[], false, &[], Some(&rest(old)), Some(&rest(new)))
}

fn outputs(old: &Value, new: &Value, masking: Masking) -> Vec<Change> {
    let mut changes = Vec::new();
    let at = |value: &Value, name: &str| value.get("outputs").and_then(|outputs| outputs.get(name)).cloned();
    let names: BTreeSet<&String> = [old, new]
        .into_iter()
        .filter_map(|value| value.get("outputs")?.as_object())
        .flat_map(|outputs| outputs.keys())
        .collect();
    for name in names {
        let (old, new) = (at(old, name), at(new, name));
        let marked = |output: &Option<Value>| {
            output.as_ref().and_then(|output| output.get("sensitive")).and_then(Value::as_bool) == Some(true)
        };
        let secret = marked(&old) || marked(&new) || is_telling(name);
        let address = format!("output.{name}");
        let value = |output: &Option<Value>| output.as_ref().and_then(|output| output.get("value")).cloned();
        let (old_value, new_value) = (value(&old), value(&new));
        changes.extend(walk(Some(&address), masking, &[], secret, &[], old_value.as_ref(), new_value.as_ref()));
        changes.extend(fields(&address, &old, &new, &["value"], masking));
    }
    // A value that is no container has no path of its own.
    for change in &mut changes {
        if change.path == "(document)" {
            change.path.clear();
        }
    }
    changes
}

/// The fields beside the values, told in round brackets where both sides have the thing.
fn fields(address: &str, old: &Option<Value>, new: &Option<Value>, but: &[&str], masking: Masking) -> Vec<Change> {
    let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
    let rest = |value: &Value| -> Map<String, Value> {
        let map = value.as_object().cloned().unwrap_or_default();
        map.into_iter().filter(|(key, _)| !but.contains(&key.as_str())).collect()
    };
    let (old, new) = (rest(old), rest(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    differing
        .map(|key| {
            // A provider's private data is opaque, and what it holds is anybody's guess.
            let hidden = masking == Masking::Sensitive && (key == "private" || is_telling(key) && key != "sensitive");
            Change::of_values(Some(address), format!("({key})"), old.get(key), new.get(key), hidden)
        })
        .collect()
}

/// An instance with what its resource says of it.
struct Instance {
    fields: Value,
    provider: Value,
}

/// Every instance by its address.
fn by_address(state: &Value) -> BTreeMap<String, Instance> {
    let mut instances = BTreeMap::new();
    for resource in state.get("resources").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| resource.get(key).and_then(Value::as_str).unwrap_or_default();
        let module = if text("module").is_empty() { String::new() } else { format!("{}.", text("module")) };
        let data = if text("mode") == "data" { "data." } else { "" };
        let base = format!("{module}{data}{}.{}", text("type"), text("name"));
        for fields in resource.get("instances").and_then(Value::as_array).into_iter().flatten() {
            let index = match fields.get("index_key") {
                None | Some(Value::Null) => String::new(),
                Some(key) => format!("[{key}]"),
            };
            let deposed = match fields.get("deposed").and_then(Value::as_str) {
                None => String::new(),
                Some(key) => format!(" (deposed {key})"),
            };
            let provider = resource.get("provider").cloned().unwrap_or_default();
            instances.insert(format!("{base}{index}{deposed}"), Instance { fields: fields.clone(), provider });
        }
    }
    instances
}

fn instances(old: &Value, new: &Value, masking: Masking) -> Vec<Change> {
    let (old, new) = (by_address(old), by_address(new));
    let addresses: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for address in addresses {
        match (old.get(address), new.get(address)) {
            (Some(_), None) => changes.push(Change::new(Operation::Removed, Some(address), "")),
            (None, Some(_)) => changes.push(Change::new(Operation::Added, Some(address), "")),
            (Some(old), Some(new)) => changes.extend(instance(address, old, new, masking)),
            (None, None) => {}
        }
    }
    changes
}

fn instance(address: &str, old: &Instance, new: &Instance, masking: Masking) -> Vec<Change> {
    // What was a secret before is not shown because it is none any more, nor the other way round.
    let secret_paths = [secret_paths(&old.fields), secret_paths(&new.fields)].concat();
    let flat = old.fields.get("attributes_flat").is_some() || new.fields.get("attributes_flat").is_some();
    let attributes = if flat { "attributes_flat" } else { "attributes" };
    let mut changes =
        walk(Some(address), masking, &secret_paths, false, &[], old.fields.get(attributes), new.fields.get(attributes));
    let (old_fields, new_fields) = (Some(old.fields.clone()), Some(new.fields.clone()));
    changes.extend(fields(address, &old_fields, &new_fields, &[attributes, "sensitive_attributes"], masking));
    changes.extend(
        (old.fields.get("sensitive_attributes") != new.fields.get("sensitive_attributes"))
            .then(|| Change::new(Operation::Changed, Some(address), "(sensitive_attributes)")),
    );
    if old.provider != new.provider {
        let (old, new) = (Some(&old.provider), Some(&new.provider));
        changes.push(Change::of_values(Some(address), "(provider)", old, new, false));
    }
    changes
}

/// The paths in `sensitive_attributes`: steps of `get_attr` and `index`.
fn secret_paths(instance: &Value) -> Vec<Vec<Step>> {
    let paths = instance.get("sensitive_attributes").and_then(Value::as_array);
    paths.into_iter().flatten().map(steps).collect()
}

/// The steps as far as they are understood: a path that is cut short hides more, never less.
fn steps(path: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    for step in path.as_array().into_iter().flatten() {
        let value = step.get("value");
        let value = value.and_then(|value| value.get("value")).or(value);
        let index = value.and_then(|value| match value {
            Value::Number(number) => number.as_u64(),
            _ => None,
        });
        match (value.and_then(Value::as_str), index) {
            (Some(key), _) => steps.push(Step::Key(key.to_owned())),
            (None, Some(index)) => steps.push(Step::Index(index as usize)),
            (None, None) => break,
        }
    }
    steps
}

fn walk(
    address: Option<&str>,
    masking: Masking,
    secret_paths: &[Vec<Step>],
    secret: bool,
    path: &[Step],
    old: Option<&Value>,
    new: Option<&Value>,
) -> Vec<Change> {
    let mut leaves = Leaves { address, masking, all_secret: false, secret_paths, changes: Vec::new() };
    leaves.compare(&mut path.to_vec(), old, new, secret);
    leaves.changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(serial: u64, resources: Value, outputs: Value) -> Value {
        json!({
            "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": "l",
            "outputs": outputs, "resources": resources, "check_results": null
        })
    }

    fn resource(instances: Value) -> Value {
        json!([{"module": "module.x", "mode": "managed", "type": "aws_instance", "name": "web",
            "provider": "p", "instances": instances}])
    }

    fn lines(old: &Value, new: &Value, masking: Masking) -> Vec<String> {
        compare(old, new, masking).iter().flat_map(Change::lines).collect()
    }

    #[test]
    fn instances_are_told_by_address() {
        let old = state(
            1,
            resource(json!([
                {"index_key": 0, "attributes": {"ami": "a", "tags": {"Name": "x"}}},
                {"index_key": "k", "attributes": {}}
            ])),
            json!({}),
        );
        let new = state(
            2,
            resource(json!([
                {"index_key": 0, "attributes": {"ami": "b", "tags": {"Name": "y"}}, "status": "tainted"},
                {"attributes": {}}
            ])),
            json!({}),
        );
        assert_eq!(
            lines(&old, &new, Masking::Sensitive),
            [
                "~ serial: 1 → 2",
                "+ module.x.aws_instance.web",
                r#"- module.x.aws_instance.web["k"]"#,
                r#"~ module.x.aws_instance.web[0]  ami: "a" → "b""#,
                r#"~ module.x.aws_instance.web[0]  tags.Name: "x" → "y""#,
                r#"+ module.x.aws_instance.web[0]  (status): "tainted""#,
            ]
        );
    }

    #[test]
    fn marked_attributes_are_hidden_on_either_side() {
        let mark = json!([[{"type": "get_attr", "value": "conf"}, {"type": "index", "value": {"value": 0, "type": "number"}}]]);
        let with = |conf: Value, marks: Value| {
            state(1, resource(json!([{"attributes": {"conf": conf}, "sensitive_attributes": marks}])), json!({}))
        };
        let cases = [
            (with(json!([{"a": "s3"}]), mark.clone()), with(json!([{"a": "s4"}]), mark.clone())),
            (with(json!([{"a": "s3"}]), json!([])), with(json!([{"a": "s4"}]), mark.clone())),
            (with(json!(["s3"]), mark.clone()), with(json!("s4"), mark.clone())),
            (with(Value::Null, json!([])), with(json!([{"a": "s3"}]), mark)),
        ];
        for (old, new) in cases {
            let changes = lines(&old, &new, Masking::Sensitive);
            assert!(!changes.is_empty());
            assert!(!changes.concat().contains("\"s"), "{changes:?}");
        }
    }

    #[test]
    fn telling_names_are_hidden_and_the_rest_is_not() {
        let with = |n: u32| {
            let attributes = json!({
                "size": n, "db_password": n.to_string(),
                "env": [{"name": "API_TOKEN", "value": n}, {"name": "MODE", "value": n}],
                "private_key": {"pem": n}
            });
            state(1, resource(json!([{"attributes": attributes, "private": n}])), json!({}))
        };
        let at = "~ module.x.aws_instance.web";
        assert_eq!(
            lines(&with(1), &with(2), Masking::Sensitive),
            [
                format!("{at}  db_password: (sensitive) → changed"),
                format!("{at}  env[0].value: (sensitive) → changed"),
                format!("{at}  env[1].value: 1 → 2"),
                format!("{at}  private_key.pem: (sensitive) → changed"),
                format!("{at}  size: 1 → 2"),
                format!("{at}  (private): (sensitive) → changed"),
            ]
        );
        assert!(lines(&with(1), &with(2), Masking::None).contains(&format!(r#"{at}  db_password: "1" → "2""#)));
    }

    #[test]
    fn sensitive_outputs_are_hidden() {
        let output = |value: &str, sensitive: bool| json!({"value": value, "type": "string", "sensitive": sensitive});
        let old =
            state(1, json!([]), json!({"ip": output("1", false), "x": output("s1", true), "gone": output("g", false)}));
        let new = state(1, json!([]), json!({"ip": output("2", false), "x": output("s2", false)}));
        assert_eq!(
            lines(&old, &new, Masking::Sensitive),
            [
                r#"- output.gone: "g""#,
                r#"~ output.ip: "1" → "2""#,
                "~ output.x: (sensitive) → changed",
                "~ output.x  (sensitive): true → false"
            ]
        );
    }

    #[test]
    fn a_new_state_lists_its_instances_without_their_values() {
        let new = state(1, resource(json!([{"attributes": {"ami": "a"}}])), json!({}));
        let changes = lines(&Value::Null, &new, Masking::Sensitive);
        assert!(changes.contains(&"+ module.x.aws_instance.web".to_owned()), "{changes:?}");
        assert!(changes.contains(&"+ lineage: \"l\"".to_owned()), "{changes:?}");
    }

    #[test]
    fn data_sources_and_deposed_instances_have_their_addresses() {
        let mut old = resource(json!([{"deposed": "abc", "attributes": {}}]));
        old[0]["mode"] = json!("data");
        old[0].as_object_mut().unwrap().remove("module");
        let new = state(1, json!([]), json!({}));
        let old = state(1, old, json!({}));
        assert_eq!(lines(&old, &new, Masking::Sensitive), ["- data.aws_instance.web (deposed abc)"]);
    }

    #[test]
    fn other_formats_are_no_states() {
        assert!(is_state(&state(1, json!([]), json!({}))));
        assert!(!is_state(&json!({"version": 3, "serial": 1, "lineage": "l", "modules": []})));
        assert!(!is_state(&json!([])));
    }
}
