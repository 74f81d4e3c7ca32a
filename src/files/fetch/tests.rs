//! What is followed, what is taken, and where nobody goes.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::config::FilesPlace;

fn fetcher(allow_private: bool) -> Fetcher {
    crate::tls::install();
    let config = FilesConfig {
        place: FilesPlace::Directory(PathBuf::from("unused")),
        max_bytes: 1000,
        keep_days: 1,
        fetch_timeout: Duration::from_secs(5),
        allow_private,
    };
    Fetcher::new(&config).expect("a client")
}

/// A server that gives these answers, one per connection; returns its address.
async fn serving(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = [0; 2048];
            let _read = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    address
}

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 3\r\nConnection: close\r\n\r\nabc")
}

fn why(error: &FilesError) -> String {
    error.to_string()
}

#[tokio::test]
async fn redirects_are_followed_and_the_bytes_are_given() {
    let png = "Content-Type: image/png; q=1\r\n";
    let address = serving(vec![answer("302 Found", "Location: /b.png\r\n"), answer("200 OK", png)]).await;
    let fetched = fetcher(true)
        .open(&format!("http://{address}/a"), Wanted::Picture, 1000)
        .await;
    let fetched = fetched.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (fetched.name.as_deref(), fetched.content_type.as_str()),
        (Some("b.png"), "image/png")
    );
    let bytes: Vec<_> = fetched.bytes.collect().await;
    let bytes: Vec<u8> = bytes.into_iter().flat_map(|chunk| chunk.expect("a chunk")).collect();
    assert_eq!(bytes, b"abc");
}

#[tokio::test]
async fn what_is_not_wanted_is_refused() {
    for (answers, most, word) in [
        (vec![answer("200 OK", "Content-Type: text/html\r\n")], 1000, "a picture"),
        (vec![answer("404 Not Found", "")], 1000, "404"),
        (
            vec![answer("200 OK", "Content-Type: image/png\r\n")],
            2,
            "larger than 2",
        ),
        (vec![answer("302 Found", "Location: /a\r\n"); 6], 1000, "too often"),
        (
            vec![answer("302 Found", "Location: ftp://example.com/\r\n")],
            1000,
            "http",
        ),
        (vec![answer("302 Found", "")], 1000, "nowhere"),
        (vec![answer("503 Service Unavailable", "")], 1000, "503"),
    ] {
        let address = serving(answers).await;
        let fetched = fetcher(true)
            .open(&format!("http://{address}/a"), Wanted::Picture, most)
            .await;
        let error = fetched.map(|_| ()).expect_err(word);
        assert!(why(&error).contains(word), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_named_without_its_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let busy = serving(vec![answer("503 Service Unavailable", "")]).await;
    for (address, cause) in [(address, "refuses connections"), (busy, "answered 503")] {
        let url = format!("http://{address}/secret/path?token=secret");
        let fetched = fetcher(true).open(&url, Wanted::Anything, 1000).await;
        let error = why(&fetched.map(|_| ()).expect_err("nobody answers"));
        assert!(error.contains(&address.to_string()) && error.contains(cause), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn no_address_of_the_own_network_is_reached_at_any_step() {
    let strict = fetcher(false);
    for url in [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://2130706433/",
    ] {
        let url = Url::parse(url).expect("a URL");
        assert!(strict.check(&url).is_err(), "{url}");
    }
    assert!(
        strict
            .check(&Url::parse("https://example.com/").expect("a URL"))
            .is_ok()
    );
    let error = strict
        .open("http://localhost:9/a", Wanted::Anything, 1000)
        .await
        .map(|_| ());
    assert!(why(&error.expect_err("a name of this machine")).contains("public internet"));
}
