//! What an SMTP client may say when, and what it hears: RFC 5321, as data. No I/O.

use std::fmt::Write as _;

/// The longest message taken, in bytes.
pub(super) const MESSAGE_MAX: usize = 10 * 1024 * 1024;

/// How many recipients one message may have: RFC 5321 asks for at least 100.
const RECIPIENTS_MAX: usize = 100;

pub(super) const GREETING: &str = "220 localhost Taskloom's demo catches mail\r\n";
pub(super) const BUSY: &str = "421 4.3.2 busy, try again later\r\n";
pub(super) const SILENT: &str = "421 4.4.2 you were silent for too long\r\n";
pub(super) const GO_AHEAD: &str = "354 end with a dot on a line of its own\r\n";
pub(super) const TOO_BIG: &str = "552 5.3.4 the message is over 10 MiB\r\n";
pub(super) const NO_ROOM: &str = "452 4.3.1 the message could not be kept\r\n";
pub(super) const BYE: &str = "221 2.0.0 bye\r\n";

const HELLO: &str = "250 localhost\r\n";
/// The number after SIZE is [`MESSAGE_MAX`]; a test holds them together.
const EHLO: &str = "250-localhost\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 10485760\r\n";
const OK: &str = "250 2.0.0 ok\r\n";
const UNSURE: &str = "252 2.5.0 send it and see\r\n";
const TOO_MANY: &str = "452 4.5.3 too many recipients\r\n";
const UNKNOWN: &str = "500 5.5.2 unknown command\r\n";
const SYNTAX: &str = "501 5.5.4 that needs an address in <>\r\n";
const ABSENT: &str = "502 5.5.1 not offered here\r\n";
const OUT_OF_TURN: &str = "503 5.5.1 out of turn\r\n";

/// Where the message is from and who gets it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Envelope {
    /// Empty for a notice of failed delivery.
    from: String,
    to: Vec<String>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Say this and read on.
    Say(&'static str),
    /// Say [`GO_AHEAD`] and take the message.
    Receive(Envelope),
    /// Say [`BYE`] and hang up.
    Quit,
}

/// How far the client has come.
#[derive(Debug, Default)]
pub(super) struct Session {
    is_greeted: bool,
    /// Present from MAIL to the message or RSET.
    envelope: Option<Envelope>,
}

impl Envelope {
    /// The envelope as lines of a message's head, so that a kept file tells all.
    pub(super) fn headers(&self) -> String {
        let mut headers = format!("Return-Path: <{}>\r\n", self.from);
        for to in &self.to {
            write!(headers, "X-Envelope-To: <{to}>\r\n").expect("a string takes every text");
        }
        headers
    }
}

impl Session {
    /// Takes one line, without its end.
    pub(super) fn command(&mut self, line: &str) -> Step {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.trim_end().to_ascii_uppercase().as_str() {
            "HELO" => self.greet(HELLO),
            "EHLO" => self.greet(EHLO),
            "MAIL" => Step::Say(self.mail(rest)),
            "RCPT" => Step::Say(self.recipient(rest)),
            "DATA" => self.data(),
            "RSET" => {
                self.envelope = None;
                Step::Say(OK)
            }
            "NOOP" => Step::Say(OK),
            "VRFY" => Step::Say(UNSURE),
            "QUIT" => Step::Quit,
            "AUTH" | "STARTTLS" | "EXPN" | "HELP" | "BDAT" => Step::Say(ABSENT),
            _ => Step::Say(UNKNOWN),
        }
    }

    fn greet(&mut self, reply: &'static str) -> Step {
        *self = Session { is_greeted: true, envelope: None };
        Step::Say(reply)
    }

    fn mail(&mut self, rest: &str) -> &'static str {
        if !self.is_greeted || self.envelope.is_some() {
            return OUT_OF_TURN;
        }
        let Some((from, parameters)) = path_after("FROM:", rest) else { return SYNTAX };
        if MESSAGE_MAX < declared_size(parameters) {
            return TOO_BIG;
        }
        self.envelope = Some(Envelope { from: from.to_owned(), to: Vec::new() });
        OK
    }

    fn recipient(&mut self, rest: &str) -> &'static str {
        let Some(envelope) = &mut self.envelope else { return OUT_OF_TURN };
        match path_after("TO:", rest) {
            None | Some(("", _)) => SYNTAX,
            Some(_) if RECIPIENTS_MAX <= envelope.to.len() => TOO_MANY,
            Some((to, _)) => {
                envelope.to.push(to.to_owned());
                OK
            }
        }
    }

    fn data(&mut self) -> Step {
        match self.envelope.take_if(|it| !it.to.is_empty()) {
            Some(envelope) => Step::Receive(envelope),
            None => Step::Say(OUT_OF_TURN),
        }
    }
}

/// The address in `<>` that follows `keyword`, and the parameters behind it.
fn path_after<'a>(keyword: &str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    tail.trim_start().strip_prefix('<')?.split_once('>')
}

fn declared_size(parameters: &str) -> usize {
    let sizes = parameters.split_whitespace().filter_map(|it| it.split_once('='));
    let mut sizes = sizes.filter(|(name, _)| name.eq_ignore_ascii_case("SIZE"));
    // A number too long to read is too big as well.
    sizes.next_back().map_or(0, |(_, it)| it.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says every line in turn and compares the codes of the replies; 354 stands for DATA taken.
    #[track_caller]
    fn check_codes(lines: &[&str], expected: &str) {
        let mut session = Session::default();
        let codes = lines.iter().map(|line| match session.command(line) {
            Step::Say(reply) => &reply[..3],
            Step::Receive(_) => "354",
            Step::Quit => "221",
        });
        assert_eq!(codes.collect::<Vec<_>>().join(" "), expected, "{lines:?}");
    }

    #[test]
    fn commands_have_their_turn() {
        check_codes(&["MAIL FROM:<a@b>"], "503");
        check_codes(&["EHLO x", "DATA"], "250 503");
        check_codes(&["EHLO x", "RCPT TO:<a@b>"], "250 503");
        check_codes(&["EHLO x", "MAIL FROM:<a@b>", "DATA"], "250 250 503");
        check_codes(&["EHLO x", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>"], "250 250 503");
        let lines = ["helo x", "mail from:<>", "rcpt to:<a@b>", "data", "data", "quit"];
        check_codes(&lines, "250 250 250 354 503 221");
        let lines = ["EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RSET", "DATA", "NOOP"];
        check_codes(&lines, "250 250 250 250 503 250");
    }

    #[test]
    fn nonsense_is_refused_and_forgotten() {
        check_codes(&["", "HELLO", "é", "STARTTLS", "VRFY a"], "500 500 500 502 252");
        check_codes(&["EHLO x", "MAIL FROM: a@b", "MAIL to", "MAIL"], "250 501 501 501");
        check_codes(&["EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<>"], "250 250 501");
    }

    #[test]
    fn bounds_hold() {
        check_codes(&["EHLO x", "MAIL FROM:<a@b> SIZE=10485760"], "250 250");
        check_codes(&["EHLO x", "MAIL FROM:<a@b> BODY=8BITMIME SIZE=10485761"], "250 552");
        check_codes(&["EHLO x", "MAIL FROM:<a@b> SIZE=99999999999999999999999"], "250 552");
        assert!(EHLO.contains(&format!("SIZE {MESSAGE_MAX}\r\n")));
        let mut session = Session::default();
        session.command("EHLO x");
        session.command("MAIL FROM:<a@b>");
        for _ in 0..RECIPIENTS_MAX {
            assert_eq!(session.command("RCPT TO:<c@d>"), Step::Say(OK));
        }
        assert_eq!(session.command("RCPT TO:<c@d>"), Step::Say(TOO_MANY));
    }
}
