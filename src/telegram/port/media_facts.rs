//! How long a video or a voice message is, and how large its picture: read from the bytes on their way into Telegram, since
//! Telegram shows a video without them as a black square of no length. Nothing is decoded, and little is kept in memory: of an
//! MP4 or a MOV file the index, of an Ogg file its first and last page. What cannot be read is left to whoever published it.

/// An index larger than this is that of no message.
const LARGEST_INDEX: u64 = 16 * 1024 * 1024;
/// Ogg's header is in here.
const HEAD: usize = 4096;
/// An Ogg page has at most 65,307 bytes, so that the last one begins in here.
const TAIL: usize = 66 * 1024;
/// Positions in Opus are counted at this rate, whatever the recording's.
const OPUS_RATE: f64 = 48_000.0;

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Facts {
    pub seconds: Option<f64>,
    /// Width and height as they are shown.
    pub size: Option<(i32, i32)>,
    /// An MP4: it may be shown while it loads.
    pub is_mp4: bool,
}

/// Reads a file as it goes by.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: Vec<u8>,
    tail: Vec<u8>,
    boxes: Boxes,
}

impl Reader {
    pub fn take(&mut self, bytes: &[u8]) {
        let room = HEAD - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.head.starts_with(b"OggS") {
            self.tail.extend_from_slice(bytes);
            let surplus = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..surplus);
        } else {
            self.boxes.take(bytes);
        }
    }

    pub fn facts(&self) -> Facts {
        if self.head.starts_with(b"OggS") {
            return Facts {
                seconds: ogg_seconds(&self.head, &self.tail),
                ..Facts::default()
            };
        }
        let is_mp4 = self.head.get(4..8) == Some(b"ftyp");
        let index = self.boxes.index.as_deref().filter(|_| is_mp4);
        Facts {
            is_mp4,
            ..index.map(of_index).unwrap_or_default()
        }
    }
}

/// Walks over the boxes of a file, and keeps its index (`moov`).
#[derive(Debug, Default)]
struct Boxes {
    header: Vec<u8>,
    /// Bytes of the present box that are still to come.
    left: u64,
    keeps: bool,
    index: Option<Vec<u8>>,
    is_over: bool,
}

impl Boxes {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_over {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                let (body, rest) = bytes.split_at(here);
                if let Some(index) = self.index.as_mut().filter(|_| self.keeps) {
                    index.extend_from_slice(body);
                }
                self.left -= here as u64;
                bytes = rest;
                continue;
            }
            // The index is whole: nothing else is wanted.
            if self.keeps {
                self.is_over = true;
                return;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            self.begin();
        }
    }

    /// Begins a box as soon as its header is whole.
    fn begin(&mut self) {
        let Some((size, kind, header)) = box_header(&self.header) else {
            return;
        };
        self.header.clear();
        // Zero: to the end of the file. Less than its own header: no such file.
        if size < header {
            self.is_over = true;
            return;
        }
        self.left = size - header;
        if kind == *b"moov" {
            self.is_over = self.left > LARGEST_INDEX;
            self.keeps = true;
            self.index = Some(Vec::new());
        }
    }
}

/// A box's size with its header, its kind, and the size of its header; `None`: the header is not whole.
fn box_header(bytes: &[u8]) -> Option<(u64, [u8; 4], u64)> {
    let size = u32_at(bytes, 0)?;
    let kind = bytes.get(4..8)?.try_into().ok()?;
    if size == 1 {
        let high = u64::from(u32_at(bytes, 8)?);
        let low = u64::from(u32_at(bytes, 12)?);
        return Some((high << 32 | low, kind, 16));
    }
    Some((size.into(), kind, 8))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The boxes in a box's body.
fn children(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (size, kind, header) = box_header(bytes)?;
        let size = usize::try_from(size).ok()?;
        let body = bytes.get(usize::try_from(header).ok()?..size)?;
        bytes = &bytes[size..];
        Some((kind, body))
    })
}

fn of_index(index: &[u8]) -> Facts {
    let mut facts = Facts::default();
    for (kind, body) in children(index) {
        match &kind {
            b"mvhd" => facts.seconds = movie_seconds(body),
            b"trak" => {
                let header = children(body).find(|(kind, _)| kind == b"tkhd");
                let size = header.and_then(|(_, body)| track_size(body));
                facts.size = facts.size.or(size);
            }
            _ => {}
        }
    }
    facts
}

fn movie_seconds(header: &[u8]) -> Option<f64> {
    let (scale, units) = if header.first() == Some(&1) {
        let high = f64::from(u32_at(header, 24)?);
        (
            u32_at(header, 20)?,
            high * 4_294_967_296.0 + f64::from(u32_at(header, 28)?),
        )
    } else {
        (u32_at(header, 12)?, f64::from(u32_at(header, 16)?))
    };
    (scale > 0).then(|| units / f64::from(scale))
}

/// `None` for a track that has no picture.
fn track_size(header: &[u8]) -> Option<(i32, i32)> {
    let matrix = if header.first() == Some(&1) { 52 } else { 40 };
    // Whole pixels: the lower half is a fraction.
    let pixels = |at| u32_at(header, at).and_then(|value| i32::try_from(value >> 16).ok());
    let (width, height) = (pixels(matrix + 36)?, pixels(matrix + 40)?);
    let is_turned = u32_at(header, matrix)? == 0 && u32_at(header, matrix + 4)? != 0;
    match (width, height) {
        (0, _) | (_, 0) => None,
        (width, height) if is_turned => Some((height, width)),
        size => Some(size),
    }
}

fn ogg_seconds(head: &[u8], tail: &[u8]) -> Option<f64> {
    let last = tail.windows(4).rposition(|four| four == b"OggS")?;
    let position: [u8; 8] = tail.get(last + 6..last + 14)?.try_into().ok()?;
    let position = i64::from_le_bytes(position);
    let opus = head.windows(8).position(|eight| eight == b"OpusHead");
    let (skipped, rate) = if let Some(at) = opus {
        let skipped: [u8; 2] = head.get(at + 10..at + 12)?.try_into().ok()?;
        (i64::from(u16::from_le_bytes(skipped)), OPUS_RATE)
    } else {
        let at = head.windows(7).position(|seven| seven == b"\x01vorbis")?;
        let rate: [u8; 4] = head.get(at + 12..at + 16)?.try_into().ok()?;
        (0, f64::from(u32::from_le_bytes(rate)))
    };
    let units = position.checked_sub(skipped).filter(|units| *units >= 0)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a recording of a hundred thousand years is told to the second"
    )]
    let units = units as f64;
    (rate > 0.0).then(|| units / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).expect("small");
        [&size.to_be_bytes()[..], &kind, body].concat()
    }

    /// Millisecond units, a track without a picture, and one of 1280 by 720, turned or not.
    fn mp4(millis: u32, is_turned: bool) -> Vec<u8> {
        let mut movie = vec![0; 100];
        movie[12..16].copy_from_slice(&1000_u32.to_be_bytes());
        movie[16..20].copy_from_slice(&millis.to_be_bytes());
        let sound = boxed(*b"tkhd", &[0; 84]);
        let mut picture = vec![0; 84];
        let one = if is_turned { 44 } else { 40 };
        picture[one..one + 4].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
        picture[76..80].copy_from_slice(&(1280_u32 << 16).to_be_bytes());
        picture[80..84].copy_from_slice(&(720_u32 << 16).to_be_bytes());
        let picture = boxed(*b"tkhd", &picture);
        let index = [
            boxed(*b"mvhd", &movie),
            boxed(*b"trak", &sound),
            boxed(*b"trak", &picture),
        ]
        .concat();
        [
            boxed(*b"ftyp", b"isom\0\0\0\0"),
            boxed(*b"mdat", &[7; 5000]),
            boxed(*b"moov", &index),
        ]
        .concat()
    }

    fn read(bytes: &[u8], step: usize) -> Facts {
        let mut reader = Reader::default();
        bytes.chunks(step).for_each(|chunk| reader.take(chunk));
        reader.facts()
    }

    #[test]
    fn a_video_tells_its_length_and_its_size_however_it_is_cut() {
        let facts = |size| Facts {
            seconds: Some(12.5),
            size: Some(size),
            is_mp4: true,
        };
        for step in [1, 7, 4096, 100_000] {
            assert_eq!(read(&mp4(12_500, false), step), facts((1280, 720)), "{step}");
        }
        assert_eq!(read(&mp4(12_500, true), 512), facts((720, 1280)));
    }

    #[test]
    fn a_voice_message_tells_its_length() {
        let page = |position: i64, body: &[u8]| {
            [
                b"OggS\0\0".as_slice(),
                &position.to_le_bytes(),
                &[0; 12],
                &[1, 19],
                body,
            ]
            .concat()
        };
        let mut header = b"OpusHead\x01\x01".to_vec();
        header.extend_from_slice(&312_u16.to_le_bytes());
        header.extend_from_slice(&[0; 7]);
        let file = [
            page(0, &header),
            page(960, &vec![3; 90_000]),
            page(48_000 * 9 + 312, &[4; 100]),
        ]
        .concat();
        for step in [1, 5000, 200_000] {
            assert_eq!(read(&file, step).seconds, Some(9.0), "{step}");
        }
    }

    #[test]
    fn what_is_no_such_file_tells_nothing_and_breaks_nothing() {
        let cut = &mp4(1000, false)[..5100];
        let endless = [boxed(*b"ftyp", b"isom"), vec![0xff; 64]].concat();
        let tiny = [boxed(*b"ftyp", b"isom"), vec![0, 0, 0, 3, b'm', b'o', b'o', b'v', 9, 9]].concat();
        for bytes in [
            b"".as_slice(),
            b"\x89PNG\r\n\x1a\n and so on",
            b"OggS",
            cut,
            &endless,
            &tiny,
            &[0xff; 300],
        ] {
            let facts = read(bytes, 64);
            assert_eq!((facts.seconds, facts.size), (None, None), "{bytes:?}");
        }
    }
}
