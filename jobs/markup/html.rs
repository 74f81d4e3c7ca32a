//! HTML with the tags that Telegram has entities for. Line breaks count as they are.

use super::{Builder, EntityKind, LINK_EXPECTED, MarkupError, Rich, Source, link};

const TAGS: &str = "b, strong, i, em, u, ins, s, strike, del, tg-spoiler, code, pre, a, blockquote, br";

pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(super) fn read(text: &str) -> Result<Rich, MarkupError> {
    let source = Source::new(text);
    let mut reader = Reader {
        source: &source,
        out: Builder::default(),
        open: Vec::new(),
        at: 0,
    };
    while let Some(c) = source.get(reader.at) {
        match c {
            '<' => reader.tag()?,
            '&' => {
                let (c, next) = reference(&source, reader.at)?;
                reader.out.push(c);
                reader.at = next;
            }
            c => {
                reader.out.push(c);
                reader.at += 1;
            }
        }
    }
    if let Some(open) = reader.open.last() {
        let problem = format!("<{0}> is opened here and never closed; end it with </{0}>", open.name);
        return Err(source.error(open.at, problem));
    }
    Ok(reader.out.finish())
}

struct Open {
    name: &'static str,
    kind: EntityKind,
    at: usize,
    offset: usize,
}

struct Reader<'a> {
    source: &'a Source,
    out: Builder,
    open: Vec<Open>,
    at: usize,
}

/// A tag's name as it is known here.
fn known(name: &str) -> Option<&'static str> {
    [
        "b",
        "strong",
        "i",
        "em",
        "u",
        "ins",
        "s",
        "strike",
        "del",
        "tg-spoiler",
        "span",
        "code",
        "pre",
        "a",
        "blockquote",
        "br",
    ]
    .into_iter()
    .find(|known| known.eq_ignore_ascii_case(name))
}

impl Reader<'_> {
    fn tag(&mut self) -> Result<(), MarkupError> {
        let opened = self.at;
        let is_end = self.source.get(opened + 1) == Some('/');
        let name_at = opened + 1 + usize::from(is_end);
        let mut name_end = name_at;
        while self
            .source
            .get(name_end)
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            name_end += 1;
        }
        if name_end == name_at {
            let problem = "a tag was expected after <; for the character itself write &lt;";
            return Err(self.source.error(opened, problem));
        }
        let Some(name) = known(&self.source.slice(name_at, name_end)) else {
            let problem = format!("Telegram shows no such tag; there are {TAGS}. For the character < write &lt;");
            return Err(self.source.error(opened, problem));
        };
        let attributes = self.attributes(opened, name_end)?;
        if is_end {
            self.end(opened, name)
        } else {
            self.begin(opened, name, &attributes)
        }
    }

    /// The attributes of a tag; the reader stands behind it then.
    fn attributes(&mut self, opened: usize, from: usize) -> Result<Vec<(String, String, usize)>, MarkupError> {
        let mut found = Vec::new();
        let mut at = from;
        loop {
            while self.source.get(at).is_some_and(|c| c.is_whitespace() || c == '/') {
                at += 1;
            }
            match self.source.get(at) {
                None => {
                    return Err(self
                        .source
                        .error(opened, "a tag begins here and does not end; end it with >"));
                }
                Some('>') => {
                    self.at = at + 1;
                    return Ok(found);
                }
                Some(_) => {}
            }
            let name_at = at;
            while self
                .source
                .get(at)
                .is_some_and(|c| !c.is_whitespace() && !matches!(c, '=' | '>' | '/' | '"' | '\''))
            {
                at += 1;
            }
            if at == name_at {
                return Err(self.source.error(at, "the name of an attribute or > was expected here"));
            }
            let name = self.source.slice(name_at, at).to_ascii_lowercase();
            if self.source.get(at) == Some('=') {
                let (value, next) = self.value(at + 1)?;
                found.push((name, value, at + 1));
                at = next;
            } else {
                found.push((name, String::new(), name_at));
            }
        }
    }

    fn value(&self, from: usize) -> Result<(String, usize), MarkupError> {
        let Some(quote @ ('"' | '\'')) = self.source.get(from) else {
            return Err(self.source.error(from, "the value of an attribute stands in quotes"));
        };
        let mut value = String::new();
        let mut at = from + 1;
        while let Some(c) = self.source.get(at) {
            if c == quote {
                return Ok((value, at + 1));
            }
            if c == '&' {
                let (c, next) = reference(self.source, at)?;
                value.push(c);
                at = next;
            } else {
                value.push(c);
                at += 1;
            }
        }
        Err(self.source.error(from, "a quote is opened here and never closed"))
    }

    fn begin(
        &mut self,
        opened: usize,
        name: &'static str,
        attributes: &[(String, String, usize)],
    ) -> Result<(), MarkupError> {
        let get = |wanted: &str| attributes.iter().find(|(name, ..)| name == wanted);
        let kind = match name {
            "br" => {
                self.out.push('\n');
                return Ok(());
            }
            "b" | "strong" => EntityKind::Bold,
            "i" | "em" => EntityKind::Italic,
            "u" | "ins" => EntityKind::Underline,
            "s" | "strike" | "del" => EntityKind::Strike,
            "tg-spoiler" => EntityKind::Spoiler,
            "span" if get("class").is_some_and(|(_, class, _)| class == "tg-spoiler") => EntityKind::Spoiler,
            "span" => {
                let problem = "Telegram shows <span> with class=\"tg-spoiler\" only";
                return Err(self.source.error(opened, problem));
            }
            "blockquote" => EntityKind::Quote {
                collapsed: get("expandable").is_some(),
            },
            "pre" => EntityKind::Pre {
                language: String::new(),
            },
            "code" => {
                let language = get("class").and_then(|(_, class, _)| class.strip_prefix("language-"));
                // In a <pre> it says the language of that.
                if let (
                    Some(language),
                    Some(Open {
                        kind: EntityKind::Pre { language: outer },
                        ..
                    }),
                ) = (language, self.open.last_mut())
                {
                    language.clone_into(outer);
                }
                EntityKind::Code
            }
            _ => {
                let Some((_, url, at)) = get("href") else {
                    return Err(self
                        .source
                        .error(opened, "<a> needs href=\"…\", the address it leads to"));
                };
                link(url.trim()).ok_or_else(|| self.source.error(*at, LINK_EXPECTED))?
            }
        };
        self.open.push(Open {
            name,
            kind,
            at: opened,
            offset: self.out.units,
        });
        Ok(())
    }

    fn end(&mut self, at: usize, name: &'static str) -> Result<(), MarkupError> {
        let Some(open) = self.open.pop() else {
            return Err(self.source.error(at, format!("</{name}> closes what was never opened")));
        };
        if open.name != name {
            let (line, column) = self.source.place(open.at);
            let problem = format!(
                "</{0}> was expected here, since <{0}> was opened last, at line {line}, column {column}",
                open.name
            );
            return Err(self.source.error(at, problem));
        }
        let in_pre = name == "code" && self.open.last().is_some_and(|outer| outer.name == "pre");
        if !in_pre {
            self.out.close(open.kind, open.offset);
        }
        Ok(())
    }
}

/// The character that `&…;` at `at` stands for, and what follows it. A lone `&` is itself.
fn reference(source: &Source, at: usize) -> Result<(char, usize), MarkupError> {
    let end = (at + 1..at + 12).find(|&end| !source.get(end).is_some_and(|c| c.is_ascii_alphanumeric() || c == '#'));
    let Some(end) = end.filter(|&end| source.get(end) == Some(';') && end > at + 1) else {
        return Ok(('&', at + 1));
    };
    let name = source.slice(at + 1, end);
    let c = match name.as_str() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => number(&name),
    };
    match c {
        Some(c) => Ok((c, end + 1)),
        None => Err(source.error(
            at,
            "no such character reference; there are &amp; &lt; &gt; &quot; &apos; &nbsp; and &#…; with a number. For \
             the character & write &amp;",
        )),
    }
}

fn number(name: &str) -> Option<char> {
    let digits = name.strip_prefix('#')?;
    let code = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    char::from_u32(code).filter(|c| *c != '\0')
}
