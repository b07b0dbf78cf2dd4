//! The daemon's figures in the text format of Prometheus.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4. Names are stable: dashboards
//! hold on to them.

use std::fmt::Write as _;

use stated_shared::StatusInfo;

/// What a status says in figures; ends with the end of a line.
pub(super) fn exposition(info: &StatusInfo) -> String {
    let labels = [("version", &info.version), ("repository", &info.repository.to_string()), ("host", &info.host)];
    let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).join(",");
    let started_s = format!("{}.{:03}", info.started.0 / 1000, info.started.0 % 1000);
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: &str| {
        let labels = if name == "info" { format!("{{{labels}}}") } else { String::new() };
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "# HELP stated_{name} {help}\n# TYPE stated_{name} {kind}\nstated_{name}{labels} {value}");
    };
    metric("info", "gauge", "The daemon that answers.", "1");
    metric("start_time_seconds", "gauge", "When it started, in seconds since 1970.", &started_s);
    metric("records_total", "counter", "Records in the log since the repository was made.", &info.seq.to_string());
    metric("log_bytes", "gauge", "Bytes of the log files.", &info.log_bytes.to_string());
    metric("states", "gauge", "States that exist.", &info.states.to_string());
    metric("versions", "gauge", "Versions of states that are known.", &info.versions.to_string());
    metric("locks_held", "gauge", "Grants of locks, leases among them.", &info.grants.to_string());
    metric("locks_waiting", "gauge", "Requests that wait for a lock.", &info.waiters.to_string());
    metric("sessions", "gauge", "Sessions that are connected, this one among them.", &info.sessions.to_string());
    let broken = u8::from(info.policy.error.is_some());
    metric(
        "policy_broken",
        "gauge",
        "Whether the policy's file is broken, so that older rules are in force.",
        &broken.to_string(),
    );
    let help = "Things that an administrator should know; statectl status names them.";
    metric("notes", "gauge", help, &info.notes.len().to_string());
    text
}

/// A label's value as it is written between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
