//! Standard output, which somebody may stop reading: `wireroom dev --demo | head` ends, quietly.

use std::{
    fmt,
    io::{self, Write},
};

use anyhow::Context;

/// Nobody reads standard output any more: what was asked for is of no use to anyone. The command ends without a word.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("standard output is closed")]
pub struct Closed;

/// Writes a line. Fails with [`Closed`] when nobody reads it.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

fn write_to(out: &mut impl Write, text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_told_apart_from_a_full_disk() {
        let text = format_args!("text");
        let error = write_to(&mut Fails(io::ErrorKind::BrokenPipe), text).expect_err("nobody reads it");
        assert!(error.is::<Closed>());
        let error = write_to(&mut Fails(io::ErrorKind::StorageFull), text).expect_err("it is not written");
        assert!(
            !error.is::<Closed>() && error.to_string().contains("standard output"),
            "{error}"
        );
    }
}
