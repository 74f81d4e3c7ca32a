//! The tables of outcomes in docs: each row names tests that exist, and each stable code that the kinds, the queue and the
//! port to Telegram can produce has a row. So a code that is added without its row, and a test that is renamed, are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use schemars::{JsonSchema, schema_for};
use serde_json::Value;
use wireroom::store::event_types::EventType;
use wireroom_jobs::{invite::InviteEnd, join::JoinStatus, publish::PublishStatus, scan::Incomplete};

use crate::acceptance::wrong;

/// The column that names tests.
const SHOWN_BY: &str = "shown by";
/// What every kind can meet.
const SHARED: &str = "docs/OUTCOMES.md";
/// The documents with such tables, and how many rows each has at least.
const DOCS: [(&str, usize); 8] = [
    ("docs/JOIN.md", 26),
    ("docs/SCAN.md", 24),
    ("docs/PUBLISH.md", 25),
    ("docs/OUTREACH.md", 35),
    ("docs/WATCHES.md", 13),
    ("docs/EVENTS.md", 20),
    ("docs/SCHEDULES.md", 13),
    (SHARED, 30),
];
/// Whose codes are in which document, or in the shared one.
const OWN: [(&str, &str); 9] = [
    ("jobs/join", "docs/JOIN.md"),
    ("jobs/scan", "docs/SCAN.md"),
    ("jobs/publish", "docs/PUBLISH.md"),
    ("jobs/invite", "docs/OUTREACH.md"),
    ("src/store/job_outreach", "docs/OUTREACH.md"),
    ("src/store/ledger", "docs/OUTREACH.md"),
    ("src/store/campaign", "docs/OUTREACH.md"),
    ("jobs/monitor", "docs/WATCHES.md"),
    ("src/store/watch_moves", "docs/WATCHES.md"),
];
/// Where codes are made.
const SOURCES: [&str; 4] = ["jobs", "src/telegram/port", "src/queue", "src/store"];
/// Where pairs of a code and its meaning are tables of their own.
const PAIRS: [&str; 4] = [
    "jobs/failure.rs",
    "jobs/join/refusal.rs",
    "jobs/invite/verdict.rs",
    "jobs/publish/operate.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of a table's line.
fn cells(line: &str) -> Vec<String> {
    let escaped = line.trim().trim_matches('|').replace("\\|", "\u{0}");
    escaped
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "\\|"))
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A row of a table that names tests.
struct Row {
    first: String,
    line: String,
    shown_by: String,
}

fn rows(text: &str) -> Vec<Row> {
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::new();
    let mut column = None;
    for (at, line) in lines.iter().enumerate() {
        if !line.starts_with('|') {
            column = None;
        } else if lines.get(at + 1).is_some_and(|next| next.starts_with("| ---")) {
            column = cells(line).iter().position(|cell| cell == SHOWN_BY);
        } else if let Some(column) = column.filter(|_| !line.starts_with("| ---")) {
            let cells = cells(line);
            rows.push(Row {
                first: cells[0].clone(),
                line: (*line).to_owned(),
                shown_by: cells.get(column).cloned().unwrap_or_default(),
            });
        }
    }
    rows
}

/// The file of a test's path by modules: `scans::history::name` is in `tests/scans/history.rs`; one with a slash in it names
/// the file itself.
fn file_of(modules: &str) -> Option<PathBuf> {
    if modules.contains('/') {
        return Some(PathBuf::from(modules));
    }
    let path = format!("tests/{}", modules.replace("::", "/"));
    [format!("{path}.rs"), format!("{path}/mod.rs")]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| root().join(path).is_file())
}

/// Why a reference names no test; `None` when it does.
fn fault(reference: &str) -> Option<String> {
    let Some((modules, name)) = reference.rsplit_once("::") else {
        return Some(format!("{reference} names no test"));
    };
    match file_of(modules) {
        None => Some(format!("there is no module {modules} in tests")),
        Some(file) => wrong(root(), &format!("{}::{name}", file.display())),
    }
}

#[test]
fn every_row_names_tests_that_exist() {
    let mut faults = Vec::new();
    for (doc, least) in DOCS {
        let rows = rows(&read(doc));
        assert!(rows.len() >= least, "{doc} was read: {} rows of {least}", rows.len());
        for row in rows {
            if row.shown_by.starts_with("none: ") {
                continue;
            }
            let mut tests = quoted(&row.shown_by).peekable();
            if tests.peek().is_none() {
                faults.push(format!("{doc}: {} is shown by nothing", row.first));
            }
            faults.extend(
                tests
                    .filter_map(fault)
                    .map(|fault| format!("{doc}: {}: {fault}", row.first)),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_no_test_is_found() {
    assert_eq!(fault("outcomes::what_is_no_test_is_found"), None);
    assert_eq!(fault("tests/outcomes.rs::what_is_no_test_is_found"), None);
    for reference in [
        "outcomes::rows",
        "outcomes::nobody",
        "nowhere::x",
        "outcomes",
        "jobs/nowhere.rs::x",
    ] {
        assert!(fault(reference).is_some(), "{reference}");
    }
    let table = "| a | shown by |\n| --- | --- |\n| `x` \\| y | `b::c` |\n\n| a | b |\n| --- | --- |\n| c | d |";
    let rows: Vec<(String, String)> = rows(table).into_iter().map(|row| (row.first, row.shown_by)).collect();
    assert_eq!(rows, [("`x` \\| y".to_owned(), "`b::c`".to_owned())]);
}

/// The words in backticks of a document's rows.
fn words(doc: &str) -> BTreeSet<String> {
    let rows = rows(&read(doc));
    let lines = rows.iter().flat_map(|row| quoted(&row.line));
    lines.map(str::to_owned).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The sources without their tests, by their path in the repository.
fn production() -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    for dir in SOURCES {
        sources(&root().join(dir), &mut paths);
    }
    let mut texts = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(root()).expect("ours").display().to_string();
        // What is wrong with args is refused at the door, and names fields.
        if name.contains("test") || name.ends_with("/args.rs") {
            continue;
        }
        let text = read(&name);
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        texts.insert(name, text[..end].to_owned());
    }
    texts
}

/// The stable codes that a source can produce.
fn codes(name: &str, text: &str, constants: &BTreeMap<String, String>) -> BTreeSet<String> {
    let makers = "permanent|transient|WaitReason::new|Refusal::new|own_error|gated|wrong|invited|skipped|verdict";
    let calls = Regex::new(&format!(
        r#"(?:{makers})\(\s*(?:"([a-z][a-z0-9_]*)"|([A-Z][A-Z_]+)\b)|leave_out\([^")]*"([a-z_]+)""#
    ));
    let pairs = Regex::new(r#"\(\s*"([a-z][a-z0-9_]*)",\s*(?:"|VerdictClass)|Some\("([a-z_]+)"\)"#);
    let mut found = BTreeSet::new();
    for call in calls.expect("a pattern").captures_iter(text) {
        if let Some(code) = call.get(1).or(call.get(3)) {
            found.insert(code.as_str().to_owned());
        } else if let Some(code) = call.get(2).and_then(|name| constants.get(name.as_str())) {
            found.insert(code.clone());
        }
    }
    if PAIRS.contains(&name) {
        for pair in pairs.expect("a pattern").captures_iter(text) {
            let code = pair.get(1).or(pair.get(2)).expect("one of both");
            found.insert(code.as_str().to_owned());
        }
    }
    found
}

/// The names of an enum's variants, as JSON has them.
fn variants<T: JsonSchema>() -> BTreeSet<String> {
    fn collect(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                found.extend(fields.get("const").and_then(Value::as_str).map(str::to_owned));
                let listed = fields.get("enum").and_then(Value::as_array).into_iter().flatten();
                found.extend(listed.filter_map(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(schema_for!(T).as_value(), &mut found);
    assert!(!found.is_empty(), "no enum");
    found
}

#[test]
fn every_code_has_its_row() {
    let texts = production();
    let constant = Regex::new(r#"const ([A-Z_]+): &str = "([a-z0-9_]+)""#).expect("a pattern");
    let constants: BTreeMap<String, String> = texts
        .values()
        .flat_map(|text| constant.captures_iter(text))
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect();
    let rows: BTreeMap<&str, BTreeSet<String>> = DOCS.iter().map(|(doc, _)| (*doc, words(doc))).collect();
    let (mut faults, mut count) = (Vec::new(), 0);
    let mut look = |whose: &str, doc: Option<&str>, codes: BTreeSet<String>| {
        count += codes.len();
        for code in codes {
            let known = |doc: &str| rows[doc].contains(&code);
            let is_known = known(SHARED) || doc.map_or_else(|| rows.keys().any(|doc| known(doc)), known);
            if !is_known {
                faults.push(format!("{code} of {whose} has no row in {}", doc.unwrap_or(SHARED)));
            }
        }
    };
    for (name, text) in &texts {
        let doc = OWN
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map(|(_, doc)| *doc);
        look(name, doc, codes(name, text, &constants));
    }
    look("JoinStatus", Some("docs/JOIN.md"), variants::<JoinStatus>());
    look("Incomplete", Some("docs/SCAN.md"), variants::<Incomplete>());
    look("PublishStatus", Some("docs/PUBLISH.md"), variants::<PublishStatus>());
    look("InviteEnd", Some("docs/OUTREACH.md"), variants::<InviteEnd>());
    let events = EventType::ALL.iter().map(|event| event.name().to_owned());
    look("EventType", Some("docs/EVENTS.md"), events.collect());
    assert!(count > 150, "the sources were read: {count} codes");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_code_is_found_wherever_it_is_made() {
    let constants = BTreeMap::from([("GONE".to_owned(), "gone_away".to_owned())]);
    let text = r#"
        JobError::permanent("one_code", "…"); WaitReason::new(
            "two_codes", "…"); JobError::transient(GONE, "…"); self.leave_out(conn, listed, "four_codes").await;
        log(LogLine::new("no_code", "…"));"#;
    let found: Vec<String> = codes("jobs/x.rs", text, &constants).into_iter().collect();
    assert_eq!(found, ["four_codes", "gone_away", "one_code", "two_codes"]);
    assert!(codes("jobs/failure.rs", r#"Some(("five_codes", "…"))"#, &constants).contains("five_codes"));
}
