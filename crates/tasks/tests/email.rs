//! The task `email`, against an SMTP server in another process (`smtp_server.py`).

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use taskloom_dispatch::{CancelReason, Ctx, Task, TaskError, TaskErrorKind};
use taskloom_tasks::email::{Attachment, Tls};
use taskloom_tasks::{Email, EmailArgs, EmailOutput, Span};
use tokio::net::TcpListener;

/// The server; it ends when its standard input does.
struct SmtpServer {
    port: u16,
    lines: BufReader<ChildStdout>,
    child: Child,
    input: Option<ChildStdin>,
}

impl SmtpServer {
    fn start(arguments: &[&str]) -> SmtpServer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp_server.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need python3: install it (`apt-get install python3`)");
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        lines.read_line(&mut port).unwrap();
        let port = port.trim().parse().expect("the SMTP server says its port; see its errors");
        let input = child.stdin.take();
        SmtpServer { port, lines, child, input }
    }

    fn args(&self) -> EmailArgs {
        EmailArgs::new("127.0.0.1", "Shop <shop@example.com>", "ann@example.org")
            .port(self.port)
            .tls(Tls::None)
            .subject("Hello")
            .text("How are you?")
    }

    /// The next mail it has taken.
    fn mail(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().ok();
    }
}

async fn run(args: EmailArgs) -> Result<EmailOutput, TaskError> {
    Email::default().run(&Ctx::detached(), args).await
}

async fn check_error(args: EmailArgs, kind: TaskErrorKind, code: &str) -> TaskError {
    let error = run(args).await.expect_err("the mail should not be taken");
    assert_eq!(error.code_str(), Some(code), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
    error
}

/// The value of a header of a message.
fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let head = message.split("\r\n\r\n").next()?;
    head.split("\r\n").find_map(|it| it.strip_prefix(name)?.strip_prefix(": "))
}

/// A certificate for 127.0.0.1 that signs itself, in a folder.
fn certificate() -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &cert])
        .output()
        .expect("these tests need openssl: install it (`apt-get install openssl`)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (folder, cert, key)
}

#[tokio::test]
async fn a_mail_arrives() {
    let mut server = SmtpServer::start(&[]);
    let args = server.args().cc("bob@example.org").bcc("eve@example.org").reply_to("re@x.org");
    let output = run(args).await.unwrap();
    assert_eq!(output.recipients, 3);
    assert_eq!(output.response, "250 taken as 42");
    let mail = server.mail();
    assert_eq!(mail["from"], "shop@example.com");
    assert_eq!(mail["to"], json!(["ann@example.org", "bob@example.org", "eve@example.org"]));
    let message = mail["message"].as_str().unwrap();
    assert_eq!(header(message, "From"), Some("Shop <shop@example.com>"));
    assert_eq!(header(message, "To"), Some("ann@example.org"));
    assert_eq!(header(message, "Cc"), Some("bob@example.org"));
    assert_eq!(header(message, "Reply-To"), Some("re@x.org"));
    assert_eq!(header(message, "Subject"), Some("Hello"));
    assert!(header(message, "Date").is_some());
    assert!(!message.contains("eve@example.org"), "a hidden copy is to stay hidden");
    assert!(message.trim_end().ends_with("\r\n\r\nHow are you?"), "{message}");
}

#[tokio::test]
async fn every_attempt_carries_the_same_message_id() {
    let mut server = SmtpServer::start(&[]);
    let ctx = Ctx::detached();
    let expected = format!("<{}@example.com>", ctx.idempotency_key());
    for _ in 0..2 {
        let output = Email::default().run(&ctx, server.args()).await.unwrap();
        assert_eq!(output.message_id, expected);
        let mail = server.mail();
        let message = mail["message"].as_str().unwrap();
        assert_eq!(header(message, "Message-ID"), Some(expected.as_str()));
    }
}

#[tokio::test]
async fn html_and_attachments_travel_along() {
    let mut server = SmtpServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.bin");
    std::fs::write(&path, b"\0\x01\x02").unwrap();
    let args = server
        .args()
        .html("<p>How are <b>you</b>?")
        .attach(Attachment::file(&path))
        .attach(Attachment::text("day.csv", "a,b\n1,2\n"));
    run(args).await.unwrap();
    let mail = server.mail();
    let message = mail["message"].as_str().unwrap();
    for part in [
        "multipart/mixed",
        "multipart/alternative",
        "text/html",
        "<b>you</b>",
        "filename=\"report.bin\"",
        "AAEC",
        "filename=\"day.csv\"",
        "YSxiCjEsMgo=",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[tokio::test]
async fn a_login_is_needed_where_the_server_says_so() {
    let mut server = SmtpServer::start(&["--auth", "shop", "secret"]);
    check_error(server.args(), TaskErrorKind::Permanent, "email.smtp.530").await;
    let mut args = server.args();
    (args.username, args.password) = (Some("shop".into()), Some("secret".into()));
    run(args.clone()).await.unwrap();
    assert_eq!(server.mail()["user"], "shop");
    args.password = Some("wrong".into());
    let error = check_error(args, TaskErrorKind::Permanent, "email.auth").await;
    assert!(error.message().contains("wrong user or password"), "{error}");
}

#[tokio::test]
async fn a_login_by_the_older_mechanism_works() {
    let mut server =
        SmtpServer::start(&["--auth", "shop", env!("CARGO_PKG_NAME"), "--mechanisms", "LOGIN"]);
    // A variable that cargo sets while tests run.
    run(server.args().login_env("shop", "CARGO_PKG_NAME")).await.unwrap();
    assert_eq!(server.mail()["user"], "shop");
}

#[tokio::test]
async fn the_answers_of_the_server_decide_about_another_attempt() {
    let server = SmtpServer::start(&[]);
    let to = |address: &str| {
        let mut args = server.args();
        args.to = vec![address.into()];
        args
    };
    check_error(to("code-550@x.org"), TaskErrorKind::Permanent, "email.smtp.550").await;
    let error = check_error(to("code-450@x.org"), TaskErrorKind::Transient, "email.smtp.450").await;
    assert!(error.message().contains("no such luck"), "{error}");
    let from = |address: &str| EmailArgs { from: address.into(), ..server.args() };
    check_error(from("code-451@x.org"), TaskErrorKind::Transient, "email.smtp.451").await;
    check_error(from("code-554@x.org"), TaskErrorKind::Permanent, "email.smtp.554").await;
}

#[tokio::test]
async fn starttls_protects_the_login() {
    let (_folder, cert, key) = certificate();
    let mut server = SmtpServer::start(&["--starttls", &cert, &key, "--auth", "shop", "secret"]);
    for tls in [Tls::RequiredStarttls, Tls::Starttls] {
        let mut args = server.args().tls(tls);
        args.ca_file = Some(cert.clone().into());
        (args.username, args.password) = (Some("shop".into()), Some("secret".into()));
        run(args).await.unwrap();
        let mail = server.mail();
        assert_eq!((&mail["secure"], &mail["user"]), (&json!(true), &json!("shop")));
    }
}

#[tokio::test]
async fn implicit_tls_protects_everything() {
    let (_folder, cert, key) = certificate();
    let mut server = SmtpServer::start(&["--implicit", &cert, &key]);
    let mut args = server.args().tls(Tls::Implicit);
    args.ca_file = Some(cert.into());
    run(args).await.unwrap();
    assert_eq!(server.mail()["secure"], true);
}

#[tokio::test]
async fn an_unknown_certificate_is_not_trusted() {
    let (_folder, cert, key) = certificate();
    let server = SmtpServer::start(&["--starttls", &cert, &key]);
    let args = server.args().tls(Tls::RequiredStarttls);
    check_error(args, TaskErrorKind::Transient, "email.tls").await;
}

#[tokio::test]
async fn a_server_without_starttls_is_refused_where_it_is_required() {
    let mut server = SmtpServer::start(&["--auth", "shop", "secret"]);
    let required = server.args().tls(Tls::RequiredStarttls);
    check_error(required, TaskErrorKind::Permanent, "email.starttls").await;
    let mut with_password = server.args().tls(Tls::Starttls);
    (with_password.username, with_password.password) = (Some("a".into()), Some("b".into()));
    check_error(with_password, TaskErrorKind::Permanent, "email.starttls").await;
    server = SmtpServer::start(&[]);
    run(server.args().tls(Tls::Starttls)).await.unwrap();
    assert_eq!(server.mail()["secure"], false);
}

#[tokio::test]
async fn a_server_that_is_not_there_or_silent_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut args = EmailArgs::new("127.0.0.1", "a@x.org", "b@x.org").port(port).text("x");
    args.timeout = Some(Span::from_millis(50));
    check_error(args.clone(), TaskErrorKind::Transient, "email.timeout").await;
    drop(listener);
    check_error(args.clone(), TaskErrorKind::Transient, "email.connect").await;
    args.host = "no-such-host.invalid".into();
    args.timeout = None;
    check_error(args, TaskErrorKind::Transient, "email.connect").await;
}

#[tokio::test]
async fn a_cancelled_attempt_sends_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let args = EmailArgs::new("127.0.0.1", "a@x.org", "b@x.org").port(port).text("x");
    let ctx = Ctx::detached();
    let cancel = async {
        let _connection = listener.accept().await.unwrap();
        ctx.cancel(CancelReason::Requested);
    };
    let email = Email::default();
    let (ended, ()) = tokio::join!(email.run(&ctx, args), cancel);
    assert_eq!(ended.unwrap_err().kind(), TaskErrorKind::Cancelled);
}

#[tokio::test]
async fn what_can_not_be_sent_is_permanent() {
    let good = || EmailArgs::new("localhost", "a@x.org", "b@x.org").text("x");
    let permanent = TaskErrorKind::Permanent;
    check_error(EmailArgs { from: "nobody".into(), ..good() }, permanent, "email.address").await;
    check_error(good().cc("a b c"), permanent, "email.address").await;
    check_error(EmailArgs::default(), permanent, "email.args").await;
    check_error(EmailArgs { to: Vec::new(), ..good() }, permanent, "email.args").await;
    check_error(EmailArgs { text: None, ..good() }, permanent, "email.args").await;
    check_error(good().login_env("a", "TASKLOOM_NO_SUCH_VARIABLE"), permanent, "email.args").await;
    let mut in_the_clear = good().tls(Tls::None);
    in_the_clear.host = "mail.example.com".into();
    (in_the_clear.username, in_the_clear.password) = (Some("a".into()), Some("b".into()));
    check_error(in_the_clear, permanent, "email.args").await;
    let missing = Attachment::file("/no/such/file");
    check_error(good().attach(missing), permanent, "email.attachment").await;
    let large = Attachment::text("large.txt", "x".repeat(11 << 20));
    check_error(good().attach(large), permanent, "email.too_large").await;
}

#[test]
fn a_password_is_not_shown() {
    let mut args = EmailArgs::new("localhost", "a@x.org", "b@x.org");
    args.password = Some("secret".into());
    assert!(!format!("{args:?}").contains("secret"));
    let json = json!({"host": "h", "from": "a@x.org", "to": ["b@x.org"], "tls": "required-starttls",
        "subject": "s", "text": "t", "password_env": "P", "username": "u", "timeout": "10s"});
    let args: EmailArgs = serde_json::from_value(json).unwrap();
    assert_eq!(args.tls, Tls::RequiredStarttls);
}
