//! The direction of imports, and that SQL stays where it belongs: what DESIGN's layout promises, read from the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules, and the ones each may import. What is missing on the right is forbidden, siblings above all.
const MAY_IMPORT: [(&str, &[&str]); 27] = [
    ("ids", &[]),
    // Pure: which addresses are on the public internet.
    ("addresses", &[]),
    ("clock", &[]),
    ("config", &[]),
    // Pure arithmetic: the API refuses and shows with it what the queue fires.
    ("cron", &[]),
    ("lifecycle", &[]),
    // What the API and a terminal check alike.
    ("login_input", &[]),
    ("telemetry", &["config"]),
    ("mtproto", &[]),
    ("tls", &[]),
    // Sealing for somebody else, which needs no secret: what the API may do where opening is the vault's.
    ("letterbox", &[]),
    // Read by whoever is given one, used by whoever connects.
    ("proxy", &[]),
    ("vault", &["config", "letterbox"]),
    // Marks of people, which the API and the workers make alike.
    ("person_key", &["config"]),
    // Its testing half makes the databases' template from the migrations.
    ("cluster", &["store"]),
    (
        "store",
        &["clock", "config", "ids", "letterbox", "person_key", "proxy", "vault"],
    ),
    // Below whoever takes files in and whoever publishes them.
    ("files", &["addresses", "config", "store"]),
    (
        "telegram",
        &[
            "clock",
            "config",
            "ids",
            "mtproto",
            "person_key",
            "proxy",
            "store",
            "vault",
        ],
    ),
    (
        "queue",
        &["clock", "config", "cron", "ids", "lifecycle", "store", "telemetry"],
    ),
    (
        "sessions",
        &[
            "clock",
            "config",
            "ids",
            "letterbox",
            "lifecycle",
            "person_key",
            "proxy",
            "store",
            "telegram",
            "telemetry",
            "vault",
        ],
    ),
    (
        "events",
        &[
            "addresses",
            "clock",
            "config",
            "ids",
            "lifecycle",
            "store",
            "telemetry",
            "vault",
        ],
    ),
    // The API process holds no Telegram connection: nothing on the Telegram side can take it down.
    (
        "api",
        &[
            "addresses",
            "clock",
            "config",
            "cron",
            "files",
            "ids",
            "letterbox",
            "lifecycle",
            "login_input",
            "person_key",
            "proxy",
            "store",
            "telemetry",
        ],
    ),
    (
        "dashboard",
        &["clock", "config", "ids", "lifecycle", "store", "telemetry"],
    ),
    ("sandbox", &["clock", "mtproto"]),
    (
        "cli",
        &[
            "api",
            "clock",
            "cluster",
            "config",
            "dashboard",
            "events",
            "files",
            "ids",
            "letterbox",
            "lifecycle",
            "login_input",
            "person_key",
            "proxy",
            "queue",
            "sandbox",
            "sessions",
            "store",
            "telegram",
            "telemetry",
            "tls",
            "vault",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Where `sqlx::` may appear besides `store`, and why.
const SQL_ELSEWHERE: [(&str, &str); 2] = [
    ("src/ids.rs", "an id is bound and decoded as the column's type"),
    ("src/cluster/", "creates databases before there is a schema"),
];

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

/// Every file below `src`, without its tests: a test may reach for what its module must not.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 20, "the sources were found");
    files
        .into_iter()
        .filter(|path| !is_test(path))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            let text = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default()
                .to_owned();
            let path = path.strip_prefix(root).expect("it is below the root").to_owned();
            let module = path
                .components()
                .nth(1)
                .expect("src has files")
                .as_os_str()
                .to_string_lossy();
            Source {
                module: module.trim_end_matches(".rs").to_owned(),
                path,
                text,
            }
        })
        .collect()
}

/// Tests, and what only tests are built with.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.ends_with("testing.rs") || path.iter().any(|part| part == "tests")
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory is readable") {
        let path = entry.expect("an entry of it too").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The code of a file, without comments: prose may name what it likes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The crate's modules that a file imports: `crate::x` and the members of `crate::{x, y::z}`.
fn imports(text: &str) -> Vec<String> {
    let joined = code(text).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in joined.match_indices("crate::") {
        let rest = &joined[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(group) => found.extend(members(group)),
        }
    }
    found.retain(|module| MAY_IMPORT.iter().any(|(known, _)| known == module));
    found
}

fn name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

/// The first names of a group's members, however deep the members' own groups go.
fn members(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![name(group.trim_start())];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names
}

#[test]
fn a_grouped_import_is_read_to_its_end() {
    assert_eq!(
        imports("use crate::{\n    config::{Config, Secret},\n    store,\n    vault::Vault,\n};"),
        ["config", "store", "vault"]
    );
    assert_eq!(
        imports("    crate::queue::run();\n// crate::api is not used"),
        ["queue"]
    );
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let allowed = MAY_IMPORT.iter().find(|(module, _)| *module == source.module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{} has no row in MAY_IMPORT", source.path.display()));
        for import in imports(&source.text) {
            if import != source.module && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports crate::{import}", source.path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction of DESIGN §2:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn sql_is_in_store_alone() {
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| source.module != "store") {
        let path = source.path.to_string_lossy().into_owned();
        let excepted = SQL_ELSEWHERE.iter().any(|(prefix, _)| path.starts_with(prefix));
        // A pool or a connection may be passed on; a statement may not be made.
        let statements = ["sqlx::query", "sqlx::raw_sql", "QueryBuilder"];
        let makes = code(&source.text).any(|line| statements.iter().any(|statement| line.contains(statement)));
        if makes && !path.starts_with("src/cluster/") {
            wrong.push(format!("{path} makes a statement"));
        } else if !excepted && code(&source.text).any(|line| line.contains("sqlx::") && !hands_on(line)) {
            wrong.push(format!("{path} uses sqlx"));
        }
    }
    assert!(wrong.is_empty(), "sqlx outside store:\n{}", wrong.join("\n"));
}

/// The line names no more of sqlx than the pool or connection that a caller hands to `store`.
fn hands_on(line: &str) -> bool {
    let names = [
        "PgPool",
        "PgConnection",
        "pool::PoolConnection",
        "Postgres",
        "Transaction",
        "Acquire",
        "Connection",
    ];
    line.split("sqlx::").skip(1).all(|rest| {
        let rest = rest.trim_start_matches('{');
        names.iter().any(|name| rest.starts_with(name))
    })
}

#[test]
fn the_functions_know_no_database_no_http_and_no_telegram_library() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/Cargo.toml")).expect("readable");
    for forbidden in ["sqlx", "poem", "grammers", "reqwest", "hyper"] {
        assert!(!manifest.contains(forbidden), "jobs depends on {forbidden}");
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.text.lines().count() > 700)
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(long.is_empty(), "over 700 lines: {long:?}");
}
