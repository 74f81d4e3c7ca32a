//! As much of `SQLite`'s file format as a session file takes: the rows of one small table, read from bytes in memory.
//!
//! A session file comes from outside, so nothing in it is believed: every offset is checked, every page is visited once, and what
//! this does not read (write-ahead logs, rows over several pages) is refused. A library that reads all of `SQLite` would be a
//! thousand times larger, and written for files one trusts. The format is at <https://www.sqlite.org/fileformat2.html>.

const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER: usize = 100;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
/// More rows than this no session file has in the tables that are read.
const MOST_ROWS: usize = 1_000;

/// Why a file was not read. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SqliteError {
    #[error("is not an SQLite file.")]
    NotSqlite,
    #[error("has a write-ahead log that may hold the session: close the program that uses it first.")]
    WriteAhead,
    #[error("is damaged, or of a form that is not read here.")]
    Unreadable,
    #[error("has no table of sessions.")]
    NoTable,
}

/// A column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Integer(i64),
    /// Text or bytes.
    Bytes(&'a [u8]),
    Real,
}

/// A row with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    pub id: i64,
    pub values: Vec<Value<'a>>,
}

struct File<'a> {
    bytes: &'a [u8],
    page: usize,
    usable: usize,
}

/// The rows of the table of that name.
pub fn rows<'a>(bytes: &'a [u8], table: &str) -> Result<Vec<Row<'a>>, SqliteError> {
    let file = File::open(bytes)?;
    let schema = file.table(1)?;
    let root = schema
        .iter()
        .find_map(|row| match row.values.as_slice() {
            [Value::Bytes(b"table"), Value::Bytes(name), _, Value::Integer(root), ..] if *name == table.as_bytes() => {
                usize::try_from(*root).ok()
            }
            _ => None,
        })
        .ok_or(SqliteError::NoTable)?;
    file.table(root)
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, SqliteError> {
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return Err(SqliteError::NotSqlite);
        }
        if bytes[18] > 1 || bytes[19] > 1 {
            return Err(SqliteError::WriteAhead);
        }
        let page = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size => usize::from(size),
        };
        let usable = page.saturating_sub(usize::from(bytes[20]));
        if !page.is_power_of_two() || page < 512 || usable < 480 {
            return Err(SqliteError::Unreadable);
        }
        Ok(Self { bytes, page, usable })
    }

    /// All rows of the b-tree at that page, in order.
    fn table(&self, root: usize) -> Result<Vec<Row<'a>>, SqliteError> {
        let mut found = Vec::new();
        let mut to_visit = vec![root];
        let mut left = self.bytes.len() / self.page;
        while let Some(number) = to_visit.pop() {
            left = left.checked_sub(1).ok_or(SqliteError::Unreadable)?;
            let (page, header) = self.page(number)?;
            let kind = *page.get(header).ok_or(SqliteError::Unreadable)?;
            let cells = cells(page, header, if kind == LEAF { 8 } else { 12 })?;
            match kind {
                LEAF => {
                    for cell in cells {
                        found.push(self.row(page.get(cell..).ok_or(SqliteError::Unreadable)?)?);
                    }
                    if found.len() > MOST_ROWS {
                        return Err(SqliteError::Unreadable);
                    }
                }
                INTERIOR => {
                    // The last is visited last: they are taken from the end.
                    to_visit.push(number_at(page, header + 8)?);
                    for cell in cells.into_iter().rev() {
                        to_visit.push(number_at(page, cell)?);
                    }
                }
                _ => return Err(SqliteError::Unreadable),
            }
        }
        Ok(found)
    }

    /// A page, and where its b-tree's header begins.
    fn page(&self, number: usize) -> Result<(&'a [u8], usize), SqliteError> {
        let start = number
            .checked_sub(1)
            .and_then(|index| index.checked_mul(self.page))
            .ok_or(SqliteError::Unreadable)?;
        let end = start.checked_add(self.page).ok_or(SqliteError::Unreadable)?;
        let page = self.bytes.get(start..end).ok_or(SqliteError::Unreadable)?;
        Ok((page, if number == 1 { HEADER } else { 0 }))
    }

    fn row(&self, cell: &'a [u8]) -> Result<Row<'a>, SqliteError> {
        let mut at = 0;
        let length = usize::try_from(varint(cell, &mut at)?).map_err(|_| SqliteError::Unreadable)?;
        let id = varint(cell, &mut at)?;
        if length > self.usable - 35 {
            return Err(SqliteError::Unreadable);
        }
        let payload = cell.get(at..at + length).ok_or(SqliteError::Unreadable)?;
        Ok(Row {
            id,
            values: values(payload)?,
        })
    }
}

/// Where the cells of a page begin.
fn cells(page: &[u8], header: usize, header_bytes: usize) -> Result<Vec<usize>, SqliteError> {
    let count = usize::from(short(page, header + 3)?);
    (0..count)
        .map(|index| short(page, header + header_bytes + 2 * index).map(usize::from))
        .collect()
}

fn values(payload: &[u8]) -> Result<Vec<Value<'_>>, SqliteError> {
    let mut at = 0;
    let header = usize::try_from(varint(payload, &mut at)?).map_err(|_| SqliteError::Unreadable)?;
    let mut body = header;
    let mut values = Vec::new();
    while at < header {
        let serial = varint(payload, &mut at)?;
        let length = match serial {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(serial).unwrap_or(0),
            5 => 6,
            6 | 7 => 8,
            12.. => usize::try_from((serial - 12) / 2).map_err(|_| SqliteError::Unreadable)?,
            _ => return Err(SqliteError::Unreadable),
        };
        let end = body.checked_add(length).ok_or(SqliteError::Unreadable)?;
        let bytes = payload.get(body..end).ok_or(SqliteError::Unreadable)?;
        body = end;
        values.push(match serial {
            0 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            7 => Value::Real,
            1..=6 => Value::Integer(integer(bytes)),
            _ => Value::Bytes(bytes),
        });
    }
    Ok(values)
}

/// A big-endian number with its sign.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    bytes.iter().fold(if negative { -1 } else { 0 }, |number, byte| {
        number << 8 | i64::from(*byte)
    })
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<i64, SqliteError> {
    let mut number = 0_i64;
    for index in 0..9 {
        let byte = *bytes.get(*at).ok_or(SqliteError::Unreadable)?;
        *at += 1;
        if index == 8 {
            return Ok(number << 8 | i64::from(byte));
        }
        number = number << 7 | i64::from(byte & 0x7f);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(SqliteError::Unreadable)
}

fn short(bytes: &[u8], at: usize) -> Result<u16, SqliteError> {
    let bytes = bytes.get(at..at + 2).ok_or(SqliteError::Unreadable)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn number_at(bytes: &[u8], at: usize) -> Result<usize, SqliteError> {
    let bytes = bytes.get(at..at + 4).ok_or(SqliteError::Unreadable)?;
    let number = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    usize::try_from(number).map_err(|_| SqliteError::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `SQLite` itself: the tables of a Telethon session, with a made-up key of the bytes 0 to 255.
    const FILE: &[u8] = include_bytes!("tests/made-up.session");

    #[test]
    fn the_row_of_a_session_file_is_read() {
        let rows = rows(FILE, "sessions").unwrap();
        let [row] = rows.as_slice() else {
            panic!("{} rows", rows.len())
        };
        assert_eq!(row.id, 4);
        let key: Vec<u8> = (0..=255).collect();
        assert_eq!(row.values[1], Value::Bytes(b"149.154.167.92"));
        assert_eq!(row.values[2], Value::Integer(443));
        assert_eq!(row.values[3], Value::Bytes(&key));
        assert_eq!(super::rows(FILE, "nothing").unwrap_err(), SqliteError::NoTable);
    }

    #[test]
    fn a_table_of_many_pages_is_read_in_order() {
        let rows = rows(FILE, "entities").unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, (-3..297).collect::<Vec<i64>>());
        assert_eq!(rows[0].values[1], Value::Integer(-7_000_000_000_000_000_000));
    }

    #[test]
    fn damage_is_refused_and_never_panics() {
        assert_eq!(rows(b"hello", "sessions").unwrap_err(), SqliteError::NotSqlite);
        let mut write_ahead = FILE.to_vec();
        write_ahead[18] = 2;
        assert_eq!(rows(&write_ahead, "sessions").unwrap_err(), SqliteError::WriteAhead);
        for at in 0..FILE.len() {
            for value in [0x00, 0x01, 0x05, 0x7f, 0x80, 0xff] {
                if at >= 4096 && at % 41 != 0 {
                    continue;
                }
                let mut damaged = FILE.to_vec();
                damaged[at] = value;
                // Whatever it answers, it answers.
                let _ = rows(&damaged, "entities");
                let _ = rows(&damaged, "sessions");
            }
        }
        for length in (0..FILE.len()).step_by(97) {
            let _ = rows(&FILE[..length], "entities");
        }
    }
}
