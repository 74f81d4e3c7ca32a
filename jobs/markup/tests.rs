//! What is taken, where it stands, and what is told of what is not.

use super::*;

fn markdown(text: &str) -> Rich {
    read(text, TextFormat::Markdown).expect("good markup")
}

fn html(text: &str) -> Rich {
    read(text, TextFormat::Html).expect("good markup")
}

fn parts(rich: &Rich) -> Vec<(EntityKind, usize, usize)> {
    let entities = rich.entities.iter();
    entities.map(|e| (e.kind.clone(), e.offset, e.length)).collect()
}

#[test]
fn markdown_marks_become_entities() {
    for (text, visible, kind) in [
        ("**bold**", "bold", EntityKind::Bold),
        ("__bold__", "bold", EntityKind::Bold),
        ("*sloped*", "sloped", EntityKind::Italic),
        ("_sloped_", "sloped", EntityKind::Italic),
        ("~~gone~~", "gone", EntityKind::Strike),
        ("||hidden||", "hidden", EntityKind::Spoiler),
        ("`a * b`", "a * b", EntityKind::Code),
        ("``a ` b``", "a ` b", EntityKind::Code),
    ] {
        let rich = markdown(text);
        assert_eq!(rich.text, visible, "{text}");
        assert_eq!(parts(&rich), [(kind, 0, units(visible))], "{text}");
    }
}

#[test]
fn parts_nest_and_are_counted_in_utf_16() {
    let rich = markdown("\u{1f600} **a *b* c** [d](https://example.com/x_(y))");
    assert_eq!(rich.text, "\u{1f600} a b c d");
    let url = "https://example.com/x_(y)".to_owned();
    assert_eq!(
        parts(&rich),
        [
            (EntityKind::Bold, 3, 5),
            (EntityKind::Italic, 5, 1),
            (EntityKind::Link { url }, 9, 1),
        ]
    );
    let both = markdown("***a***");
    assert_eq!(both.text, "a");
    assert_eq!(both.entities.len(), 2);
}

#[test]
fn what_marks_nothing_is_text() {
    for text in [
        "2 * 3 * 4",
        "snake_case_name",
        "a || b",
        "[brackets] and [more",
        "c:\\dir",
        "1 ~~ 2",
    ] {
        let rich = markdown(text);
        assert_eq!((rich.text.as_str(), rich.entities.len()), (text, 0));
    }
    assert_eq!(markdown(r"\*\*no\*\* \[x\] \_").text, "**no** [x] _");
    let inside = markdown("[a **b** c]");
    assert_eq!(inside.text, "[a b c]");
    assert_eq!(parts(&inside), [(EntityKind::Bold, 3, 1)]);
}

#[test]
fn blocks_keep_their_lines() {
    let rich = markdown("Before\n```rust\nlet a = 1;\nlet b;\n```\nAfter");
    assert_eq!(rich.text, "Before\nlet a = 1;\nlet b;\nAfter");
    let language = "rust".to_owned();
    assert_eq!(parts(&rich), [(EntityKind::Pre { language }, 7, 17)]);
    let quoted = markdown("> one\n> **two**\nthree");
    assert_eq!(quoted.text, "one\ntwo\nthree");
    assert_eq!(
        parts(&quoted),
        [(EntityKind::Quote { collapsed: false }, 0, 7), (EntityKind::Bold, 4, 3)]
    );
}

#[test]
fn a_person_is_mentioned_by_id() {
    for rich in [
        markdown("[Ada](tg://user?id=7100000001)"),
        html("<a href=\"tg://user?id=7100000001\">Ada</a>"),
    ] {
        let user_id = 7_100_000_001;
        assert_eq!(parts(&rich), [(EntityKind::Mention { user_id }, 0, 3)]);
    }
}

#[test]
fn html_tags_become_entities() {
    for (tags, kind) in [
        (&["b", "strong"][..], EntityKind::Bold),
        (&["i", "em"], EntityKind::Italic),
        (&["u", "ins"], EntityKind::Underline),
        (&["s", "strike", "del"], EntityKind::Strike),
        (&["tg-spoiler"], EntityKind::Spoiler),
        (&["code"], EntityKind::Code),
        (
            &["pre"],
            EntityKind::Pre {
                language: String::new(),
            },
        ),
        (&["blockquote"], EntityKind::Quote { collapsed: false }),
    ] {
        for tag in tags {
            let rich = html(&format!("a <{tag}>b</{tag}>"));
            assert_eq!(rich.text, "a b");
            assert_eq!(parts(&rich), [(kind.clone(), 2, 1)], "{tag}");
        }
    }
    let rich = html("<pre><code class=\"language-rust\">a &lt; b</code></pre>");
    let language = "rust".to_owned();
    assert_eq!(rich.text, "a < b");
    assert_eq!(parts(&rich), [(EntityKind::Pre { language }, 0, 5)]);
    let rich = html("<blockquote expandable>a</blockquote><br/>Fish &amp; chips & &#x2764;");
    assert_eq!(rich.text, "a\nFish & chips & \u{2764}");
    assert_eq!(parts(&rich), [(EntityKind::Quote { collapsed: true }, 0, 1)]);
}

#[test]
fn an_error_names_the_place_and_what_was_expected() {
    for (format, text, line, column, expected) in [
        (
            TextFormat::Markdown,
            "a\nb **c",
            2,
            3,
            "** is opened here and never closed",
        ),
        (TextFormat::Markdown, "a *b", 1, 3, "* is opened here"),
        (TextFormat::Markdown, "`a", 1, 1, "never closed"),
        (TextFormat::Markdown, "x\n```\ncode", 2, 1, "```"),
        (TextFormat::Markdown, "[a](nowhere)", 1, 5, "https://example.com"),
        (TextFormat::Markdown, "[a](https://example.com", 1, 4, "end it with )"),
        (
            TextFormat::Markdown,
            "**a *b** c*",
            1,
            7,
            "line 1, column 5 is not closed",
        ),
        (TextFormat::Html, "a\n<b>b", 2, 1, "</b>"),
        (TextFormat::Html, "<b><i>x</b></i>", 1, 8, "</i> was expected"),
        (TextFormat::Html, "x</b>", 1, 2, "never opened"),
        (TextFormat::Html, "<blink>x</blink>", 1, 1, "no such tag"),
        (TextFormat::Html, "1 < 2", 1, 3, "&lt;"),
        (TextFormat::Html, "<a>x</a>", 1, 1, "href"),
        (TextFormat::Html, "<a href=\"x y\">x</a>", 1, 9, "address"),
        (TextFormat::Html, "<a href=x>x</a>", 1, 9, "quotes"),
        (TextFormat::Html, "a &copy; b", 1, 3, "&amp;"),
        (TextFormat::Html, "a <b", 1, 3, "does not end"),
        (TextFormat::Html, "<span>x</span>", 1, 1, "tg-spoiler"),
    ] {
        let error = read(text, format).expect_err(text);
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}

#[test]
fn an_error_does_not_repeat_the_text() {
    for (format, text) in [
        (TextFormat::Markdown, "secret **harbour"),
        (TextFormat::Html, "secret <harbour>"),
        (TextFormat::Markdown, "[secret](harbour)"),
    ] {
        let error = read(text, format).expect_err(text).to_string();
        assert!(!error.contains("harbour") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn more_parts_than_telegram_keeps_are_refused() {
    let error = read(&"**a** ".repeat(101), TextFormat::Markdown).expect_err("too many");
    assert!(error.problem.contains("101"), "{error}");
    assert!(read(&"**a** ".repeat(100), TextFormat::Markdown).is_ok());
}

#[test]
fn an_escaped_value_is_text_in_each_format() {
    let hostile = r#"**a** <b>x</b> [l](https://example.com) `c` _d_ ~~e~~ ||f|| > & &lt; \ "q" ```"#;
    for format in [TextFormat::Plain, TextFormat::Markdown, TextFormat::Html] {
        let rich = read(&escape(hostile, format), format).expect("an escaped value is good markup");
        assert_eq!(rich.text, hostile, "{format:?}");
        assert_eq!(rich.entities.len(), 0, "{format:?}");
    }
}

#[test]
fn an_escaped_value_is_an_address_too() {
    let url = "https://example.com/a_(b)?c=d&e=f#g";
    for (text, format) in [
        (
            format!("[x]({})", escape(url, TextFormat::Markdown)),
            TextFormat::Markdown,
        ),
        (
            format!("<a href=\"{}\">x</a>", escape(url, TextFormat::Html)),
            TextFormat::Html,
        ),
    ] {
        let rich = read(&text, format).expect("good markup");
        assert_eq!(parts(&rich), [(EntityKind::Link { url: url.to_owned() }, 0, 1)]);
    }
}

#[test]
fn no_text_makes_it_panic() {
    let pieces = [
        "**",
        "_",
        "[",
        "](",
        ")",
        "`",
        "```",
        "\n",
        "> ",
        "\\",
        "<",
        "b>",
        "&",
        ";",
        "é",
        "\u{1f600}",
        " ",
        "||",
        "a",
    ];
    let mut state: u64 = 7;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[usize::try_from(state >> 33).unwrap_or(0) % pieces.len()]);
        }
        for format in [TextFormat::Markdown, TextFormat::Html] {
            if let Ok(rich) = read(&text, format) {
                let whole = units(&rich.text);
                for entity in &rich.entities {
                    assert!(entity.offset + entity.length <= whole, "{text:?} {rich:?}");
                }
            }
        }
    }
}
