//! What a check found, and the command that mends it.

use serde::Serialize;
use stated_shared::Failure;

use crate::cli::output::Output;
use crate::printable::printable;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// It works, but not as somebody probably wants it, or not for long.
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    verdict: Verdict,
    what: String,
    /// A command, or a step.
    mend: Option<String>,
}

/// All lines, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Ok, what: what.into(), mend: None });
    }

    pub(super) fn warn(&mut self, check: &'static str, what: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Warn, what: what.into(), mend: Some(mend.into()) });
    }

    pub(super) fn fail(&mut self, check: &'static str, what: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Fail, what: what.into(), mend: Some(mend.into()) });
    }

    /// How many are of this kind.
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        for finding in &self.0 {
            if output.json {
                output.print_object(finding)?;
                continue;
            }
            let (word, colour) = match finding.verdict {
                Verdict::Ok => ("ok  ", "32"),
                Verdict::Warn => ("warn", "33"),
                Verdict::Fail => ("FAIL", "1;31"),
            };
            let word = output.paint(colour, word);
            // A line a finding, whatever it quotes.
            let what = printable(&finding.what).replace('\n', "; ");
            output.print(&format!("{word}  {:<17} {what}", finding.check))?;
            if let Some(mend) = &finding.mend {
                output.print(&format!("      {:<17} {} {}", "", output.paint("36", "mend:"), printable(mend)))?;
            }
        }
        Ok(())
    }
}
