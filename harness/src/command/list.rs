//! `list`: specs, sites and planted bugs, one a line, name first.

use buggify::{Kind, Site};
use serde_json::{Value, json};
use sim_runtime::engine::listing::{BugInfo, SpecInfo};
use sim_runtime::engine::report::SCHEMA;

use crate::arguments::{ListArguments, Listing};
use crate::{Exit, Subject, UsageError, summary};

pub(super) fn execute(subject: &Subject, arguments: &ListArguments) -> Result<Exit, UsageError> {
    let (name, rows, values): (_, Vec<Vec<String>>, Vec<Value>) = match arguments.what {
        Listing::Specs => {
            let specs = (subject.specs)();
            ("specs", specs.iter().map(spec_row).collect(), specs.iter().map(|spec| json!(spec)).collect())
        }
        Listing::Bugs => {
            let bugs = (subject.bugs)();
            ("bugs", bugs.iter().map(bug_row).collect(), bugs.iter().map(|bug| json!(bug)).collect())
        }
        Listing::Assertions => {
            let sites: Vec<&Site> = sites(|kind| kind != Kind::Buggify);
            let row = |site: &&Site| {
                let owed = match site.kind {
                    Kind::Sometimes | Kind::Reachable => format!("owed by {}", site.owed_by),
                    _ => String::new(),
                };
                vec![site.id(), site.kind.name().to_owned(), place(site), owed]
            };
            ("assertions", sites.iter().map(row).collect(), sites.iter().map(|site| site_value(site)).collect())
        }
        Listing::Buggify => {
            let sites = sites(|kind| kind == Kind::Buggify);
            let row = |site: &&Site| vec![site.id(), place(site)];
            ("buggify", sites.iter().map(row).collect(), sites.iter().map(|site| site_value(site)).collect())
        }
    };
    if arguments.json {
        super::print_json(&json!({ "schema": SCHEMA, name: values }))?;
    } else {
        summary::print(&summary::table::columns(&rows))?;
    }
    Ok(Exit::Pass)
}

fn spec_row(spec: &SpecInfo) -> Vec<String> {
    let expected = spec.calibration.as_ref();
    let calibration = expected.map(|expected| format!(" (calibration: expects {})", expected.join(", ")));
    vec![spec.name.clone(), format!("{}{}", spec.about, calibration.unwrap_or_default())]
}

fn bug_row(bug: &BugInfo) -> Vec<String> {
    vec![bug.name.clone(), bug.family.clone(), bug.spec.clone(), bug.about.clone()]
}

fn sites(wanted: impl Fn(Kind) -> bool) -> Vec<&'static Site> {
    buggify::catalogue().iter().copied().filter(|site| wanted(site.kind)).collect()
}

fn place(site: &Site) -> String {
    format!("{}:{}", site.file, site.line)
}

fn site_value(site: &Site) -> Value {
    json!({
        "id": site.id(),
        "kind": site.kind.name(),
        "file": site.file,
        "line": site.line,
        "owed_by": site.owed_by.split(',').map(str::trim).collect::<Vec<_>>(),
    })
}
