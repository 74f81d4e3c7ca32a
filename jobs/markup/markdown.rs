//! Markdown: `**bold**`, `*italic*`, `~~struck~~`, `||spoiler||`, `` `code` ``, fenced code, `[links](…)` and `> quotes`.
//! `__` and `_` mean what `**` and `*` do, except within a word. A backslash takes a character as it is.

use super::{Builder, EntityKind, LINK_EXPECTED, MarkupError, Rich, Source, link};

/// What marks a part at both ends; longer ones first.
const MARKS: [&str; 6] = ["**", "__", "~~", "||", "*", "_"];

/// Characters that may be markup.
const SPECIAL: &str = "\\`*_~|[]()>#+-.!{}=";

pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if SPECIAL.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

pub(super) fn read(text: &str) -> Result<Rich, MarkupError> {
    let source = Source::new(text);
    let mut reader = Reader {
        source: &source,
        out: Builder::default(),
        open: Vec::new(),
        quote: None,
        at: 0,
    };
    while reader.at < source.chars.len() {
        reader.step()?;
    }
    reader.end()
}

/// Without the backslashes that take a character as it is.
fn unescaped(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && next.is_ascii_punctuation() => {}
            _ => plain.push(c),
        }
        if c == '\\'
            && let Some(next) = chars.next_if(char::is_ascii_punctuation)
        {
            plain.push(next);
        }
    }
    plain
}

/// A part that has begun.
struct Open {
    what: What,
    /// Where it was opened in the source.
    at: usize,
    /// Where it begins in the text.
    offset: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Mark(&'static str),
    Link,
}

struct Reader<'a> {
    source: &'a Source,
    out: Builder,
    open: Vec<Open>,
    /// Where the quote began in the text.
    quote: Option<usize>,
    at: usize,
}

impl Reader<'_> {
    fn step(&mut self) -> Result<(), MarkupError> {
        if self.source.is_line_start(self.at) && self.line_start()? {
            return Ok(());
        }
        let Some(c) = self.source.get(self.at) else {
            return Ok(());
        };
        match c {
            '\\' => self.escaped(),
            '`' => self.code()?,
            '[' => self.begin(What::Link, 1),
            ']' if self.is_open(What::Link) => self.close_link()?,
            c => {
                if let Some(mark) = MARKS.iter().find(|mark| self.source.starts_with(self.at, mark)) {
                    self.mark(mark)?;
                } else {
                    self.take(c);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, c: char) {
        self.out.push(c);
        self.at += 1;
    }

    fn begin(&mut self, what: What, width: usize) {
        self.open.push(Open {
            what,
            at: self.at,
            offset: self.out.units,
        });
        self.at += width;
    }

    fn is_open(&self, what: What) -> bool {
        self.open.iter().any(|open| open.what == what)
    }

    /// A fence or a quote. `true` when something was taken.
    fn line_start(&mut self) -> Result<bool, MarkupError> {
        if self.source.starts_with(self.at, "```") {
            self.end_quote()?;
            self.fence()?;
            return Ok(true);
        }
        let is_quoted = self.source.get(self.at) == Some('>');
        if !is_quoted {
            self.end_quote()?;
            return Ok(false);
        }
        if self.quote.is_none() {
            self.nothing_open("a quote begins")?;
            self.quote = Some(self.out.units);
        }
        self.at += 1;
        if self.source.get(self.at) == Some(' ') {
            self.at += 1;
        }
        Ok(true)
    }

    fn end_quote(&mut self) -> Result<(), MarkupError> {
        let Some(offset) = self.quote else { return Ok(()) };
        self.nothing_open("a quote ends")?;
        self.quote = None;
        // The line break behind it is not part of it.
        let broken = self.out.text.ends_with('\n');
        if broken {
            self.out.text.pop();
            self.out.units -= 1;
        }
        self.out.close(EntityKind::Quote { collapsed: false }, offset);
        if broken {
            self.out.push('\n');
        }
        Ok(())
    }

    fn nothing_open(&self, what: &str) -> Result<(), MarkupError> {
        match self.open.last() {
            None => Ok(()),
            Some(open) => {
                let (line, column) = self.source.place(open.at);
                let problem = format!("{what} here, but what was opened at line {line}, column {column} is not closed");
                Err(self.source.error(self.at, problem))
            }
        }
    }

    fn escaped(&mut self) {
        match self.source.get(self.at + 1) {
            Some(next) if next.is_ascii_punctuation() => {
                self.at += 1;
                self.take(next);
            }
            // Before anything else it is itself.
            _ => self.take('\\'),
        }
    }

    fn code(&mut self) -> Result<(), MarkupError> {
        let ticks_from = &self.source.chars[self.at..];
        let width = ticks_from.iter().take_while(|&&c| c == '`').count();
        let ticks = "`".repeat(width);
        let begin = self.at + width;
        let Some(end) = self.source.find(begin, &ticks) else {
            let problem = "code is opened here and never closed; close it with as many backticks, or write \\` for a \
                           backtick";
            return Err(self.source.error(self.at, problem));
        };
        let code = self.source.slice(begin, end);
        let offset = self.out.units;
        self.out.push_str(&code);
        self.out.close(EntityKind::Code, offset);
        self.at = end + width;
        Ok(())
    }

    fn fence(&mut self) -> Result<(), MarkupError> {
        self.nothing_open("a fenced code block begins")?;
        let opened = self.at;
        let unclosed = "a fenced code block is opened here and never closed; end it with ``` on a line of its own";
        let Some(line_end) = self.source.find(opened, "\n") else {
            // Three backticks and their end in one line: code within the line.
            return self.code();
        };
        let language = self.source.slice(opened + 3, line_end).trim().to_owned();
        if language.contains('`') {
            return self.code();
        }
        let Some(end) = self.source.find(line_end, "\n```") else {
            return Err(self.source.error(opened, unclosed));
        };
        let code = if end > line_end {
            self.source.slice(line_end + 1, end)
        } else {
            String::new()
        };
        let offset = self.out.units;
        self.out.push_str(&code);
        self.out.close(EntityKind::Pre { language }, offset);
        self.at = end + 4;
        Ok(())
    }

    fn mark(&mut self, mark: &'static str) -> Result<(), MarkupError> {
        let width = mark.len();
        let before = self.source.before(self.at);
        let after = self.source.get(self.at + width);
        let within_word = mark.starts_with('_')
            && before.is_some_and(char::is_alphanumeric)
            && after.is_some_and(char::is_alphanumeric);
        let can_close = before.is_some_and(|c| !c.is_whitespace()) && !within_word;
        let can_open = after.is_some_and(|c| !c.is_whitespace())
            && !(mark.starts_with('_') && before.is_some_and(char::is_alphanumeric));
        // `***` closes the narrower of two that are open first.
        let is_triple = width == 2 && self.source.get(self.at + 2) == mark.chars().next();
        if is_triple && can_close && self.open.last().is_some_and(|open| open.what == What::Mark(&mark[..1])) {
            return self.close_mark(&mark[..1]);
        }
        if can_close && self.is_open(What::Mark(mark)) {
            return self.close_mark(mark);
        }
        if can_open && !self.is_open(What::Mark(mark)) {
            self.begin(What::Mark(mark), width);
            return Ok(());
        }
        for c in mark.chars() {
            self.take(c);
        }
        Ok(())
    }

    fn close_mark(&mut self, mark: &'static str) -> Result<(), MarkupError> {
        let Some(open) = self.open.pop_if(|open| open.what == What::Mark(mark)) else {
            return self.nothing_open(&format!("{mark} closes"));
        };
        let kind = match mark {
            "**" | "__" => EntityKind::Bold,
            "~~" => EntityKind::Strike,
            "||" => EntityKind::Spoiler,
            _ => EntityKind::Italic,
        };
        self.out.close(kind, open.offset);
        self.at += mark.len();
        Ok(())
    }

    fn close_link(&mut self) -> Result<(), MarkupError> {
        let Some(open) = self.open.pop_if(|open| open.what == What::Link) else {
            return self.nothing_open("the text of a link ends");
        };
        if self.source.get(self.at + 1) != Some('(') {
            // Brackets that are no link. What was opened in them stays as it is.
            self.brackets(&open);
            return Ok(());
        }
        let begin = self.at + 2;
        let Some(end) = self.address_end(begin) else {
            let problem = "the address of a link is opened here and never closed; end it with )";
            return Err(self.source.error(self.at + 1, problem));
        };
        let url = unescaped(&self.source.slice(begin, end));
        let kind = link(url.trim()).ok_or_else(|| self.source.error(begin, LINK_EXPECTED))?;
        self.out.close(kind, open.offset);
        self.at = end + 1;
        Ok(())
    }

    /// The parenthesis that closes an address, over pairs within it.
    fn address_end(&self, begin: usize) -> Option<usize> {
        let mut depth = 0_usize;
        let mut is_escaped = false;
        for at in begin..self.source.chars.len() {
            let c = self.source.get(at)?;
            if std::mem::take(&mut is_escaped) && c.is_ascii_punctuation() {
                continue;
            }
            match c {
                '\\' => is_escaped = true,
                '\n' => return None,
                '(' => depth += 1,
                ')' if depth == 0 => return Some(at),
                ')' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// Puts the brackets into the text, where the opening one was left out until it was known what it is.
    fn brackets(&mut self, open: &Open) {
        self.insert_bracket(open.offset);
        self.take(']');
    }

    fn insert_bracket(&mut self, offset: usize) {
        let mut units = 0;
        let place = self
            .out
            .text
            .char_indices()
            .find(|(_, c)| {
                let here = units == offset;
                units += c.len_utf16();
                here
            })
            .map_or(self.out.text.len(), |(index, _)| index);
        self.out.text.insert(place, '[');
        self.out.units += 1;
        for entity in &mut self.out.entities {
            if entity.offset >= offset {
                entity.offset += 1;
            }
        }
        for open in &mut self.open {
            if open.offset > offset {
                open.offset += 1;
            }
        }
    }

    fn end(mut self) -> Result<Rich, MarkupError> {
        // A bracket that nothing follows is a bracket.
        while let Some(open) = self.open.pop_if(|open| open.what == What::Link) {
            self.insert_bracket(open.offset);
        }
        if let Some(open) = self.open.last() {
            let problem = match open.what {
                What::Mark(mark) => {
                    let taken: String = mark.chars().flat_map(|c| ['\\', c]).collect();
                    format!("{mark} is opened here and never closed; close it, or write {taken} for the characters")
                }
                What::Link => "a link's text is opened here and never closed; close it with ], or write \\[".to_owned(),
            };
            return Err(self.source.error(open.at, problem));
        }
        self.end_quote()?;
        Ok(self.out.finish())
    }
}
