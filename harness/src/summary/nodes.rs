//! Every node at the place where a run was stopped.

use serde_json::Value;
use sim_runtime::engine::record::{Look, NodeState};

use super::page::Page;
use super::table;

pub fn render(look: &Look) -> String {
    let mut page = Page::default();
    let (seconds, nanos) = (look.at_ns / 1_000_000_000, look.at_ns % 1_000_000_000);
    let end = if look.early { "" } else { ", where the run ends" };
    page.heading(&format!("The nodes at {seconds}.{nanos:09} s, after {} events{end}", look.events));
    for node in &look.nodes {
        page.gap();
        one(&mut page, node);
    }
    page.gap();
    page.finish()
}

fn one(page: &mut Page, node: &NodeState) {
    page.verbatim(&format!("{} {}", node.server, if node.up { "up" } else { "down" }));
    for (name, value) in &node.state {
        page.entry(name, &plain(value));
    }
    let mut rows = vec![["file", "role", "bytes", "synced", "pending"].map(str::to_owned).to_vec()];
    rows.extend(node.files.iter().map(|file| {
        let synced = file.synced_len_bytes.map_or("no name".to_owned(), |len| len.to_string());
        vec![file.path.clone(), file.role.clone(), file.len_bytes.to_string(), synced, file.pending_bytes.to_string()]
    }));
    table::columns(&rows).lines().for_each(|line| page.verbatim(&format!("  {line}")));
}

/// JSON without its quotes and braces.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{} {}", name.replace('_', " "), plain(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sim_runtime::disk::FileState;

    use super::*;

    #[test]
    fn a_node_is_told_with_its_files() {
        let state = [("log".to_owned(), json!({ "first": 3, "last": null })), ("role".to_owned(), json!("Leader"))];
        let file = FileState {
            path: "/data/log".to_owned(),
            role: "log".to_owned(),
            len_bytes: 4096,
            synced_len_bytes: None,
            pending_bytes: 512,
        };
        let node = NodeState { server: "server-0".to_owned(), up: true, state: state.into(), files: vec![file] };
        let text = render(&Look { at_ns: 1_500_000_000, events: 77, early: true, nodes: vec![node] });
        for part in ["1.500000000 s, after 77 events", "server-0 up", "first 3, last none", "Leader", "no name"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
