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
        Self::at("private", answers, |_stream, _post| {})
    }

    /// The same by way of the message bus: nobody listens at its own socket.
    pub(crate) fn on_the_bus(answers: Vec<Answer>) -> Self {
        let this = Self::at("private.bus", answers, enter_the_bus);
        // As systemd leaves it when it ends.
        drop(UnixListener::bind(this.dir.path().join("private")).unwrap());
        this
    }

    fn at(
        socket: &str,
        answers: Vec<Answer>,
        enter: fn(&mut UnixStream, &Sender<Message>),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(socket)).unwrap();
        let (post, heard) = channel();
        let serve = move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                greet(&mut stream);
                enter(&mut stream, &post);
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

/// What the bus asks of who enters it, and what it says unasked.
fn enter_the_bus(stream: &mut UnixStream, post: &Sender<Message>) {
    let serial = hear(stream, post);
    let name = |body: &mut wire::Writer| body.text(":1.7");
    let hello = wire::made_by_systemd(2, Some(serial), None, None, name);
    let acquired = wire::made_by_systemd(4, None, Some("NameAcquired"), None, name);
    stream.write_all(&[hello, acquired].concat()).unwrap();
    for _add_match_and_subscribe in 0..2 {
        let serial = hear(stream, post);
        let done = wire::made_by_systemd(2, Some(serial), None, None, |_| {});
        stream.write_all(&done).unwrap();
    }
}

/// Takes in a call; its serial.
fn hear(stream: &mut UnixStream, post: &Sender<Message>) -> u32 {
    let mut fixed = [0; wire::FIXED];
    stream.read_exact(&mut fixed).unwrap();
    let mut bytes = fixed.to_vec();
    bytes.resize(wire::FIXED + wire::rest(&fixed).unwrap(), 0);
    stream.read_exact(&mut bytes[wire::FIXED..]).unwrap();
    post.send(Message::parse(&bytes).unwrap()).unwrap();
    u32::from_le_bytes(bytes[8..12].try_into().unwrap())
}

fn one(mut stream: UnixStream, answer: Answer, post: &Sender<Message>) {
    let serial = hear(&mut stream, post);
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

/// systemd's way: a piece of the stream is taken, and what comes in it behind the greeting is never
/// looked at again. So a greeting has to be whole when it is answered.
fn greet(stream: &mut UnixStream) {
    let mut piece = [0; 256];
    let length = stream.read(&mut piece).unwrap();
    let hello = std::str::from_utf8(&piece[..length]).unwrap();
    assert!(hello.starts_with("\0AUTH EXTERNAL "), "{hello}");
    assert!(hello.ends_with("\r\nBEGIN\r\n"), "{hello}");
    stream.write_all(b"OK 0123\r\n").unwrap();
}
