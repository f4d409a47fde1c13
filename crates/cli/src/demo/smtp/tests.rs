//! The catcher, spoken to over real connections.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};

use super::*;

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(catcher: &MailCatcher) -> Client {
        Client(BufReader::new(TcpStream::connect(catcher.address()).await.unwrap()))
    }

    /// Sends `text`, unless it is empty, and compares the reply's beginning.
    async fn check(&mut self, text: &str, expected: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        let mut reply = String::new();
        self.0.read_line(&mut reply).await.unwrap();
        assert!(reply.starts_with(expected), "{text:?} got {reply:?}, not {expected}");
    }

    async fn check_closed(&mut self) {
        assert_eq!(self.0.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }

    /// Ends our side after `text` and waits for the other to end.
    async fn check_hang_up(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.shutdown().await.unwrap();
        self.check_closed().await;
    }
}

async fn start(folder: &Path, n_busy: u64) -> (TaskGroup, MailCatcher) {
    let group = TaskGroup::isolated();
    let catcher = MailCatcher::start(&group, folder, n_busy).await.unwrap();
    (group, catcher)
}

#[tokio::test]
async fn messages_become_files_as_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (group, catcher) = start(folder.path(), 0).await;
    let mut client = Client::connect(&catcher).await;
    client.check("", "220").await;
    client.check("HELO test\r\n", "250").await;
    for n in 1..=2 {
        client.check("MAIL FROM:<me@example.org>\r\n", "250").await;
        client.check("RCPT TO:<you@example.org>\r\n", "250").await;
        client.check("RCPT TO:<all@example.org>\r\n", "250").await;
        client.check("DATA\r\n", "354").await;
        client.check(&format!("Subject: {n}\r\n\r\n..dot\r\n.\r\n"), "250").await;
    }
    client.check("QUIT\r\n", "221").await;
    client.check_closed().await;
    assert_eq!(catcher.n_messages(), 2);
    let kept = std::fs::read_to_string(folder.path().join("000002.eml")).unwrap();
    let expected = "Return-Path: <me@example.org>\r\nX-Envelope-To: <you@example.org>\r\n\
                    X-Envelope-To: <all@example.org>\r\nSubject: 2\r\n\r\n.dot\r\n";
    assert_eq!(kept, expected);
    assert_eq!(group.drain(DRAIN_MAX * 2).await.n_aborted, 0);
}

#[tokio::test]
async fn commands_sent_ahead_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (_group, catcher) = start(folder.path(), 0).await;
    let mut client = Client::connect(&catcher).await;
    let ahead = "HELO test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    client.check(ahead, "220").await;
    for expected in ["250", "250", "250", "354"] {
        client.check("", expected).await;
    }
    client.check("hello\r\n.\r\nQUIT\r\n", "250").await;
    client.check("", "221").await;
    assert_eq!(catcher.n_messages(), 1);
}

#[tokio::test]
async fn a_busy_catcher_turns_away_the_first_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let (_group, catcher) = start(folder.path(), 1).await;
    let mut first = Client::connect(&catcher).await;
    first.check("", "421").await;
    first.check_closed().await;
    Client::connect(&catcher).await.check("", "220").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let (_group, catcher) = start(folder.path(), 0).await;
    let mut client = Client::connect(&catcher).await;
    client.check("HELO test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", "220").await;
    for expected in ["250", "250", "250", "354"] {
        client.check("", expected).await;
    }
    client.check_hang_up("half a mess").await;
    assert_eq!(catcher.n_messages(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn numbers_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("000041.eml"), "old").unwrap();
    let (_group, catcher) = start(folder.path(), 0).await;
    let mut client = Client::connect(&catcher).await;
    client.check("", "220").await;
    client.check("HELO test\r\n", "250").await;
    client.check("MAIL FROM:<a@b>\r\n", "250").await;
    client.check("RCPT TO:<c@d>\r\n", "250").await;
    client.check("DATA\r\n", "354").await;
    client.check("hello\r\n.\r\n", "250 2.0.0 kept as 000042.eml").await;
}

#[tokio::test]
async fn the_catcher_stops_at_once_in_the_middle_of_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let (group, catcher) = start(folder.path(), 0).await;
    let mut client = Client::connect(&catcher).await;
    client.check("", "220").await;
    assert_eq!(group.drain(DRAIN_MAX * 2).await.n_aborted, 0);
    client.check_closed().await;
}
