//! What a child printed: the last of it, for the log of its attempt.

use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// How much is kept, in bytes.
const OUTPUT_MAX: usize = 64 * 1024;

/// The standard output and the standard error of a child, in the order of their coming.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    tail: VecDeque<u8>,
    /// How many bytes came before `tail`.
    n_dropped: usize,
}

impl Output {
    pub(super) fn new(stdout: Receiver, stderr: Receiver) -> Output {
        let (stdout, stderr) = (Some(stdout), Some(stderr));
        Output { stdout, stderr, tail: VecDeque::new(), n_dropped: 0 }
    }

    /// Reads until the child, and whoever else holds the pipes, has closed both.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept.
    pub(super) async fn read_to_end(&mut self) {
        let (mut out, mut err) = ([0; 4096], [0; 4096]);
        while self.stdout.is_some() || self.stderr.is_some() {
            tokio::select! {
                n = read(&mut self.stdout, &mut out) => self.keep(&out[..n]),
                n = read(&mut self.stderr, &mut err) => self.keep(&err[..n]),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let n_over = self.tail.len().saturating_sub(OUTPUT_MAX);
        self.tail.drain(..n_over);
        self.n_dropped += n_over;
    }

    /// The lines kept, the first of them perhaps without its beginning.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let text = String::from_utf8_lossy(self.tail.make_contiguous());
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if 0 < self.n_dropped {
            lines.insert(0, format!("({} bytes before this were dropped)", self.n_dropped));
        }
        lines
    }
}

/// Reads a little; closes `pipe` at its end, and then waits for ever.
async fn read(pipe: &mut Option<Receiver>, into: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    let n = open.read(into).await.unwrap_or(0);
    if n == 0 {
        *pipe = None;
    }
    n
}
