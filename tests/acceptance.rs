//! docs/ACCEPTANCE.md names the tests behind each promise of the queue; a name that no test has is a promise nobody keeps.

use std::{fs, path::Path};

const TABLE: &str = "docs/ACCEPTANCE.md";
/// What must hold before a change is merged.
const STEPS: &str = ".ci/run";

/// A row of a table: the case, and its tests as `file::name`.
struct Row {
    case: String,
    tests: Vec<String>,
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| case") && !line.starts_with("| ---"));
    lines
        .map(|line| {
            let mut cells = line.trim_matches('|').splitn(2, '|');
            let case = cells.next().unwrap_or_default().trim().to_owned();
            let tests = cells.next().unwrap_or_default().split('`').skip(1).step_by(2);
            Row {
                case,
                tests: tests.map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// Why `reference` names no test that runs; `None` when it does.
pub fn wrong(root: &Path, reference: &str) -> Option<String> {
    let Some((file, name)) = reference.rsplit_once("::") else {
        return Some(format!("{reference} is not file::name"));
    };
    let Ok(text) = fs::read_to_string(root.join(file)) else {
        return Some(format!("there is no file {file}"));
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.contains(&format!("fn {name}("))) else {
        return Some(format!("{file} has no function {name}"));
    };
    let attributes: Vec<&&str> = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("///"))
        .collect();
    let is_test = |line: &str| line == "#[test]" || line.starts_with("#[tokio::test");
    if !attributes.iter().any(|line| is_test(line)) {
        return Some(format!("{reference} is not a test"));
    }
    let ignored = attributes.iter().find(|line| line.starts_with("#[ignore"))?;
    // `#[ignore = "run by <script>"]`, where the script is a step of what must hold.
    let script = ignored
        .split("\"run by ")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let steps = fs::read_to_string(root.join(STEPS)).unwrap_or_default();
    let is_run =
        script.is_some_and(|script| steps.contains(&format!("bash {script}\n")) && root.join(script).is_file());
    (!is_run).then(|| format!("{reference} is ignored, and {STEPS} has no step that runs it"))
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(TABLE)).expect("the table is there");
    let rows = rows(&text);
    assert!(rows.len() >= 51, "the table was read: {} rows", rows.len());
    let mut faults = Vec::new();
    for row in rows {
        if row.tests.is_empty() {
            faults.push(format!("`{}` has no test", row.case));
        }
        let found = row.tests.iter().filter_map(|test| wrong(root, test));
        faults.extend(found.map(|fault| format!("`{}`: {fault}", row.case)));
    }
    assert!(faults.is_empty(), "{TABLE}:\n{}", faults.join("\n"));
}

#[test]
fn a_name_that_no_test_has_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = "tests/acceptance.rs";
    assert_eq!(wrong(root, &format!("{own}::a_name_that_no_test_has_is_found")), None);
    for reference in [
        "tests/nowhere.rs::x",
        &format!("{own}::no_such_test"),
        &format!("{own}::rows"),
        "nothing",
    ] {
        assert!(wrong(root, reference).is_some(), "{reference}");
    }
    let read = rows("| case | test |\n| --- | --- |\n| a | `x::y`, `z::w` |\n| b | |\nprose");
    let read: Vec<(&str, usize)> = read.iter().map(|row| (row.case.as_str(), row.tests.len())).collect();
    assert_eq!(read, [("a", 2), ("b", 0)]);
}
