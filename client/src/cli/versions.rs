//! Lists of versions, which come page by page.

use stated_shared::{Failure, Reply, Request, VersionInfo};

use super::views::VersionView;
use super::{Context, failure};

/// Asks for all pages: under `--json` each version is printed as its page comes, else their rows are returned.
///
/// `ask` gets the last version of the page before.
pub(super) fn print_json_or_rows(
    context: &Context,
    ask: impl Fn(Option<&VersionInfo>) -> Request,
    row: impl Fn(&VersionInfo) -> Vec<String>,
) -> Result<Vec<Vec<String>>, Failure> {
    let mut client = context.connect()?;
    let mut rows = Vec::new();
    let mut last = None;
    loop {
        let Reply::Versions(page) = client.call(&ask(last.as_ref()))? else { return Err(failure::unexpected()) };
        for info in &page.versions {
            if context.output.json {
                context.output.print_object(&VersionView::from(info))?;
            } else {
                rows.push(row(info));
            }
        }
        last = page.versions.into_iter().next_back();
        if !page.more || last.is_none() {
            return Ok(rows);
        }
    }
}
