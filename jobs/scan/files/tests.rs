//! Which files are downloaded, in which parts, where an attempt goes on, and what is passed over.

use std::collections::BTreeMap;

use super::*;
use crate::{
    Job as _,
    message::MediaKind,
    ports::Decision,
    scan::{
        HistoryArgs, ScanArgs, ScanResult, ScanWhat,
        ports::{Medium, MessagePage},
    },
    testing::{Fakes, chat_message, chat_profile, flood, result, scanned, snoozed, supergroup},
};

const SIZE: i64 = 1_200_000;

fn remote(id: i64, size_bytes: i64) -> RemoteFile {
    RemoteFile {
        medium: Medium::Document,
        id,
        size_bytes,
        content_type: "application/pdf".into(),
        name: Some("tides.pdf".into()),
        dc: 2,
        location: vec![1],
    }
}

fn with_file(id: i32, file: Option<RemoteFile>, kind: MediaKind) -> ScannedMessage {
    let mut with = scanned(chat_message(id, ""));
    with.message.media = Some(kind);
    with.file = file;
    with
}

fn args(download: DownloadArgs) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::History,
        chat: "@reading_club".into(),
        purpose: "The posters".into(),
        history: Some(HistoryArgs::default()),
        download: Some(download),
        ..ScanArgs::default()
    }
}

/// A chat with these messages, the highest number first.
fn with(messages: Vec<ScannedMessage>) -> Fakes {
    let fakes = Fakes::new();
    look_up(&fakes);
    fakes.telegram.messages(Ok(page(messages)));
    fakes
}

fn page(messages: Vec<ScannedMessage>) -> MessagePage {
    MessagePage {
        oldest: messages.last().map_or(0, |last| last.message.id),
        count: i64::try_from(messages.len()).ok(),
        messages,
    }
}

fn look_up(fakes: &Fakes) {
    fakes.telegram.resolve_username(Ok(supergroup(1)));
    fakes.telegram.chat_in_full(Ok(chat_profile()));
}

fn gives(fakes: &Fakes, bytes: usize) {
    fakes.telegram.file_part(Ok(FilePart::Bytes(vec![7; bytes])));
}

fn gives_whole(fakes: &Fakes) {
    for bytes in [524_288, 524_288, 151_424] {
        gives(fakes, bytes);
    }
}

fn parts(fakes: &Fakes) -> Vec<String> {
    let journal = fakes.take_journal();
    let parts = journal.iter().filter_map(|call| call.strip_prefix("file_part "));
    parts.map(str::to_owned).collect()
}

fn refused(code: &str) -> TelegramError {
    TelegramError {
        code: code.into(),
        message: "As Telegram says.".into(),
        decision: Decision::Bug,
    }
}

async fn report(fakes: &Fakes, download: DownloadArgs) -> FilesReport {
    let outcome = args(download).run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "{outcome:?}");
    let scanned: ScanResult = result(outcome);
    scanned.files.expect("files were wanted")
}

#[tokio::test]
async fn a_file_is_asked_for_in_parts_and_once_however_many_carry_it() {
    let fakes = with(vec![
        with_file(2, Some(remote(5, SIZE)), MediaKind::Document),
        with_file(1, Some(remote(5, SIZE)), MediaKind::Document),
    ]);
    gives_whole(&fakes);
    let report = report(&fakes, DownloadArgs::default()).await;
    assert_eq!((report.downloaded, report.known, report.bytes), (1, 1, SIZE));
    assert_eq!(parts(&fakes), ["5 0 524288", "5 524288 524288", "5 1048576 524288"]);
}

#[tokio::test]
async fn a_flood_in_the_middle_is_waited_out_and_the_next_part_asked_for() {
    let fakes = with(vec![with_file(1, Some(remote(5, SIZE)), MediaKind::Document)]);
    gives(&fakes, 524_288);
    fakes.telegram.file_part(Err(flood(90)));
    let wanted = args(DownloadArgs::default());
    assert_eq!(snoozed(wanted.run(&fakes.context()).await).1.code, "flood");
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.chat_in_full(Ok(chat_profile()));
    gives(&fakes, 524_288);
    gives(&fakes, 151_424);
    let report = report(&fakes, DownloadArgs::default()).await;
    assert_eq!((report.downloaded, report.bytes), (1, SIZE));
    assert_eq!(parts(&fakes), ["5 524288 524288", "5 1048576 524288"]);
}

#[tokio::test]
async fn what_is_passed_over_says_why_and_is_not_asked_for() {
    let fakes = with(vec![
        with_file(6, Some(remote(6, SIZE)), MediaKind::Voice),
        with_file(5, Some(remote(5, 3_000_000)), MediaKind::Document),
        with_file(4, None, MediaKind::Document),
        with_file(3, Some(remote(3, SIZE)), MediaKind::Document),
        with_file(2, Some(remote(2, SIZE)), MediaKind::Document),
        with_file(1, None, MediaKind::Poll),
    ]);
    gives_whole(&fakes);
    let wanted = DownloadArgs {
        kinds: vec![MediaKind::Document],
        max_bytes_each: Some(2_000_000),
        max_bytes_total: 2_000_000,
    };
    let outcome = args(wanted).run(&fakes.context()).await;
    let scanned: ScanResult = result(outcome);
    let files = scanned.files.expect("files were wanted");
    assert_eq!((files.downloaded, files.bytes), (1, SIZE));
    // What is known from the message alone is noted with the message.
    assert_eq!(files.skipped, BTreeMap::from([("total_bound".to_owned(), 1)]));
    let state = fakes.store.state();
    let passed_over = |id: i32| state.messages[&(supergroup(1).id, id)].1.passed_over;
    assert_eq!(passed_over(6), Some(PassedOver::Kind));
    assert_eq!(passed_over(5), Some(PassedOver::TooLarge));
    assert_eq!(passed_over(4), Some(PassedOver::NotDownloadable));
    assert_eq!(passed_over(1), None);
}

#[tokio::test]
async fn an_expired_reference_is_read_again_once() {
    let message = with_file(1, Some(remote(5, SIZE)), MediaKind::Document);
    let fakes = with(vec![message.clone()]);
    gives(&fakes, 524_288);
    fakes.telegram.file_part(Err(refused("FILE_REFERENCE_EXPIRED")));
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.message_again(Ok(Some(message.clone())));
    gives(&fakes, 524_288);
    gives(&fakes, 151_424);
    let read = report(&fakes, DownloadArgs::default()).await;
    assert_eq!((read.downloaded, read.bytes), (1, SIZE));

    let fakes = with(vec![message.clone()]);
    fakes.telegram.file_part(Err(refused("FILE_REFERENCE_EXPIRED")));
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.message_again(Ok(Some(message)));
    fakes.telegram.file_part(Err(refused("FILE_REFERENCE_INVALID")));
    let read = report(&fakes, DownloadArgs::default()).await;
    assert_eq!(read.skipped, BTreeMap::from([("reference_expired".to_owned(), 1)]));
}

#[tokio::test]
async fn what_telegram_does_not_give_is_passed_over_and_the_rest_goes_on() {
    let fakes = with(vec![
        with_file(4, Some(remote(4, SIZE)), MediaKind::Document),
        with_file(3, Some(remote(3, SIZE)), MediaKind::Document),
        with_file(2, Some(remote(2, SIZE)), MediaKind::Document),
        with_file(1, Some(remote(1, 10)), MediaKind::Document),
    ]);
    gives(&fakes, 10);
    fakes.telegram.file_part(Ok(FilePart::Elsewhere));
    fakes.telegram.file_part(Err(refused("LOCATION_INVALID")));
    // Fewer bytes than the file is said to have.
    gives(&fakes, 524_287);
    let report = report(&fakes, DownloadArgs::default()).await;
    assert_eq!((report.downloaded, report.bytes), (1, 10));
    assert_eq!(report.skipped, BTreeMap::from([("not_downloadable".to_owned(), 3)]));
}
