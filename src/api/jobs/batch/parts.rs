//! A batch's body, taken apart as it comes in: what is in memory is a few items, however many there are. A task pumps the
//! bytes; NDJSON is split by another one, and JSON is read by serde on a thread that may wait for them.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    time::Duration,
};

use futures::StreamExt as _;
use poem::Body;
use serde::{
    Deserializer as _,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, error::Category};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{super::field_error::is_name, body::read_mode};
use crate::{
    api::{
        jobs::body,
        problem::{Code, Problem},
        sent,
    },
    store::batches::BatchMode,
};

/// Most bytes of a body: 64 MiB.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Most bytes of an item, and of what stands between two.
const MAX_ITEM: usize = sent::MAX_BODY;

/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(8);

/// Parts and pieces of the body that wait to be taken.
const AHEAD: usize = 8;

/// A part of a body.
pub enum Part {
    Mode(BatchMode),
    Item(Box<Item>),
}

/// One item, as far as it can be read.
pub struct Item {
    /// Its line in the body, from 1, of NDJSON.
    pub line: Option<u64>,
    pub body: Result<Value, Broken>,
    /// The bytes it took.
    pub size: usize,
}

/// An item that is not JSON.
pub struct Broken {
    pub problem: Problem,
    /// Of its bytes.
    pub hash: [u8; 32],
}

type Parts = mpsc::Sender<Result<Part, Problem>>;
type Bytes = mpsc::Receiver<Result<Vec<u8>, Problem>>;

/// The items of NDJSON: a job per line. Blank lines are none.
pub fn of_ndjson(body: Body) -> mpsc::Receiver<Result<Part, Problem>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(split(pump(body), sender));
    receiver
}

/// The parts of `{"jobs": […], "mode": …}`.
pub fn of_json(body: Body) -> mpsc::Receiver<Result<Part, Problem>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let bytes = pump(body);
    tokio::task::spawn_blocking(move || read(bytes, &sender));
    receiver
}

/// Passes the body's bytes on, within its limits. Ends when nobody takes them.
fn pump(body: Body) -> Bytes {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(body.into_bytes_stream());
        let mut left = MAX_BODY;
        loop {
            let next = match tokio::time::timeout(IDLE, stream.next()).await {
                Ok(None) => return,
                Ok(Some(Ok(bytes))) if bytes.len() <= left => Ok(bytes),
                Ok(Some(Ok(_))) => Err(Problem::new(
                    Code::BodyTooLarge,
                    "The body of a batch may have at most 64 MiB (67,108,864 bytes).",
                )),
                Ok(Some(Err(_))) => Err(Problem::new(Code::BadRequest, "The body broke off.")),
                Err(_) => {
                    let detail = format!("A body may stand still for at most {} s.", IDLE.as_secs());
                    Err(Problem::new(Code::BodyTimeout, detail))
                }
            };
            let next = next.map(|bytes| {
                left -= bytes.len();
                bytes.to_vec()
            });
            let is_last = next.is_err();
            if sender.send(next).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn item_too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, "A job may have at most 1 MiB (1,048,576 bytes).")
}

/// A line that is being put together.
struct Line {
    number: u64,
    bytes: Vec<u8>,
    size: usize,
}

impl Line {
    fn push(&mut self, piece: &[u8]) {
        self.size += piece.len();
        if self.size <= MAX_ITEM {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// The line's item, if it has one; the next line begins.
    fn end(&mut self) -> Option<Item> {
        let number = self.number;
        self.number += 1;
        let size = std::mem::take(&mut self.size);
        let bytes = std::mem::take(&mut self.bytes);
        let line = bytes.trim_ascii();
        if line.is_empty() && size <= MAX_ITEM {
            return None;
        }
        let read = if size > MAX_ITEM {
            Err(item_too_large())
        } else {
            serde_json::from_slice(line).map_err(|error| not_json(number, &error))
        };
        let body = read.map_err(|problem| {
            let mut hash = Sha256::new_with_prefix((size as u64).to_be_bytes());
            hash.update(line);
            Broken {
                problem,
                hash: hash.finalize().into(),
            }
        });
        Some(Item {
            line: Some(number),
            body,
            size,
        })
    }
}

/// Never quotes the line: it may hold the text of a message.
fn not_json(line: u64, error: &serde_json::Error) -> Problem {
    let detail = format!("Line {line} cannot be read as JSON: see column {}.", error.column());
    Problem::new(Code::InvalidJson, detail)
}

async fn split(mut bytes: Bytes, parts: Parts) {
    let mut line = Line {
        number: 1,
        bytes: Vec::new(),
        size: 0,
    };
    while let Some(chunk) = bytes.recv().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(problem) => {
                // Nobody may be there to be told.
                let _ = parts.send(Err(problem)).await;
                return;
            }
        };
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.push(piece);
            if piece.ends_with(b"\n")
                && let Some(item) = line.end()
                && parts.send(Ok(Part::Item(Box::new(item)))).await.is_err()
            {
                return;
            }
        }
    }
    if let Some(item) = line.end() {
        let _ = parts.send(Ok(Part::Item(Box::new(item)))).await;
    }
}

/// Reads a JSON body on a thread of its own.
fn read(bytes: Bytes, parts: &Parts) {
    let reading = Reading {
        parts,
        left: Cell::new(MAX_ITEM),
        at: Cell::new(""),
        problem: RefCell::new(None),
    };
    let source = Source {
        reading: &reading,
        bytes,
        chunk: Vec::new(),
        next: 0,
    };
    let mut json = serde_json::Deserializer::from_reader(source);
    let done = json.deserialize_map(Envelope(&reading)).and_then(|()| json.end());
    if let Err(error) = done {
        let problem = reading.problem.take().unwrap_or_else(|| reading.explain(&error));
        // Nobody may be there to be told.
        let _ = parts.blocking_send(Err(problem));
    }
}

/// What the visitors of one body share.
struct Reading<'a> {
    parts: &'a Parts,
    /// Bytes that the item at hand may still have.
    left: Cell<usize>,
    /// The field at hand.
    at: Cell<&'static str>,
    /// What was found wrong by us; serde carries an error without it.
    problem: RefCell<Option<Problem>>,
}

impl Reading<'_> {
    fn refuse<E: serde::de::Error>(&self, problem: Problem) -> E {
        self.problem.replace(Some(problem));
        E::custom("refused")
    }

    fn send<E: serde::de::Error>(&self, part: Part) -> Result<(), E> {
        self.parts
            .blocking_send(Ok(part))
            .map_err(|_| E::custom("nobody wants it any more"))
    }

    fn explain(&self, error: &serde_json::Error) -> Problem {
        match (error.classify(), self.at.get()) {
            (Category::Data, "") => Problem::new(
                Code::WrongType,
                "The body must be an object with jobs and, if need be, a mode.",
            ),
            (Category::Data, field) => Problem::new(Code::WrongType, "jobs must be an array.").field(field),
            _ => body::not_json(error),
        }
    }
}

struct Envelope<'a>(&'a Reading<'a>);

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        let mut seen: Vec<String> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if seen.contains(&name) {
                return Err(reading.refuse(body::invalid(name, "is there twice.")));
            }
            match name.as_str() {
                "jobs" => {
                    reading.at.set("jobs");
                    map.next_value_seed(Jobs(reading))?;
                    reading.at.set("");
                }
                "mode" => {
                    let word = map.next_value::<Value>()?;
                    if let Some(mode) = mode(&word).map_err(|problem| reading.refuse(problem))? {
                        reading.send(Part::Mode(mode))?;
                    }
                }
                _ if is_name(&name) => {
                    let detail = format!("{name} is not a field; known are jobs, mode.");
                    return Err(reading.refuse(Problem::new(Code::UnknownField, detail).field(name)));
                }
                _ => {
                    let detail = "The body has a field that is not known; known are jobs, mode.";
                    return Err(reading.refuse(Problem::new(Code::UnknownField, detail)));
                }
            }
            seen.push(name);
        }
        if seen.iter().any(|name| name == "jobs") {
            return Ok(());
        }
        Err(reading.refuse(Problem::new(Code::MissingField, "jobs is missing.").field("jobs")))
    }
}

fn mode(word: &Value) -> Result<Option<BatchMode>, Problem> {
    match word {
        Value::Null => Ok(None),
        Value::String(word) => read_mode(word)
            .map(Some)
            .map_err(|problem| body::invalid("mode", problem.detail())),
        _ => Err(Problem::new(Code::WrongType, "mode must be one of all_or_nothing, per_item.").field("mode")),
    }
}

struct Jobs<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for Jobs<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Jobs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let reading = self.0;
        loop {
            reading.left.set(MAX_ITEM);
            let Some(value) = items.next_element::<Value>()? else {
                return Ok(());
            };
            let item = Item {
                line: None,
                body: Ok(value),
                size: MAX_ITEM - reading.left.get(),
            };
            reading.send(Part::Item(Box::new(item)))?;
        }
    }
}

/// The body's bytes for serde, which takes them one by one.
struct Source<'a> {
    reading: &'a Reading<'a>,
    bytes: Bytes,
    chunk: Vec<u8>,
    next: usize,
}

impl io::Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.next == self.chunk.len() {
            match self.bytes.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => (self.chunk, self.next) = (chunk, 0),
                Some(Err(problem)) => {
                    self.reading.problem.replace(Some(problem));
                    return Err(io::Error::other("the body is not whole"));
                }
            }
        }
        let size = into.len().min(self.chunk.len() - self.next);
        let Some(left) = self.reading.left.get().checked_sub(size) else {
            self.reading.problem.replace(Some(item_too_large()));
            return Err(io::Error::other("an item is too large"));
        };
        self.reading.left.set(left);
        into[..size].copy_from_slice(&self.chunk[self.next..self.next + size]);
        self.next += size;
        Ok(size)
    }
}
