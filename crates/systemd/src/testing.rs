//! A systemd that says what it is told to say.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::manager::Manager;
use crate::wire::{self, Message};

/// How a call is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// With a job that ends like this, before the call is answered.
    Job(&'static str),
    /// With nothing but that it is done.
    Nothing,
    /// With an error.
    Error(&'static str, &'static str),
    /// The connection is closed.
    HangUp,
}

#[derive(Debug)]
pub(crate) struct FakeSystemd {
    dir: tempfile::TempDir,
    heard: Receiver<Message>,
    thread: Option<JoinHandle<()>>,
}

impl FakeSystemd {
    /// Gives these answers, each on a connection of its own.
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("private")).unwrap();
        let (post, heard) = channel();
        let serve = move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                one(stream, answer, &post);
            }
        };
        let thread = std::thread::Builder::new().spawn(serve).unwrap();
        Self { dir, heard, thread: Some(thread) }
    }

    pub(crate) fn manager(&self) -> Manager {
        Manager::at(&self.dir.path().join("private"))
    }

    /// All it was asked, once it has given all its answers.
    pub(crate) fn heard(mut self) -> Vec<Message> {
        self.thread.take().unwrap().join().unwrap();
        self.heard.try_iter().collect()
    }
}

fn one(mut stream: UnixStream, answer: Answer, post: &Sender<Message>) {
    let hello = line(&mut stream);
    assert!(hello.starts_with("\0AUTH EXTERNAL "), "{hello}");
    stream.write_all(b"OK 0123\r\n").unwrap();
    assert_eq!(line(&mut stream), "BEGIN\r\n");
    let mut fixed = [0; wire::FIXED];
    stream.read_exact(&mut fixed).unwrap();
    let mut bytes = fixed.to_vec();
    bytes.resize(wire::FIXED + wire::rest(&fixed).unwrap(), 0);
    stream.read_exact(&mut bytes[wire::FIXED..]).unwrap();
    let serial = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    post.send(Message::parse(&bytes).unwrap()).unwrap();
    let sent = match answer {
        Answer::Job(result) => {
            let signal = wire::made_by_systemd(4, None, Some("JobRemoved"), None, |body| {
                body.u32(7);
                for text in ["/job/7", "a.scope", result] {
                    body.text(text);
                }
            });
            let reply =
                wire::made_by_systemd(2, Some(serial), None, None, |body| body.text("/job/7"));
            [signal, reply].concat()
        }
        Answer::Nothing => wire::made_by_systemd(2, Some(serial), None, None, |_| {}),
        Answer::Error(name, text) => {
            wire::made_by_systemd(3, Some(serial), None, Some(name), |body| body.text(text))
        }
        Answer::HangUp => Vec::new(),
    };
    stream.write_all(&sent).unwrap();
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}
