//! A blocking client. Events that come between are kept for whoever asks.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use shim_protocol::{
    Body, Event, Exit, Failure, FrameReader, FromShim, Hello, Phase, Request, Response, StateReport,
};

/// A hung shim fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    reader: FrameReader,
    files: Vec<OwnedFd>,
    events: VecDeque<Event>,
    next: u64,
}

impl Client {
    /// Connects without a hello.
    pub(crate) fn connect(socket: &Path) -> Self {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = FrameReader::default();
        Self { socket, reader, files: Vec::new(), events: VecDeque::new(), next: 1 }
    }

    pub(crate) fn hello(mut self) -> Self {
        let hello = Hello { version: shim_protocol::VERSION, build: "test".to_owned(), pid: 1 };
        match self.ask(Body::Hello(hello)) {
            Response::Hello(theirs) => assert_eq!(theirs.version, shim_protocol::VERSION),
            other => panic!("no hello but {other:?}"),
        }
        self
    }

    pub(crate) fn send(&mut self, body: Body, files: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next;
        self.next += 1;
        let frame = shim_protocol::encode(&Request { id, body });
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let parts = [IoSlice::new(&frame)];
        let sent =
            rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, frame.len());
        id
    }

    fn receive(&mut self) -> Option<FromShim> {
        loop {
            if let Some(message) = self.reader.next().unwrap() {
                return Some(message);
            }
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received =
                rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags).unwrap();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = part {
                    self.files.extend(files);
                }
            }
            if received.bytes == 0 {
                return None;
            }
            self.reader.push(&buffer[..received.bytes]);
        }
    }

    /// Whether the shim closes the connection without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.receive().is_none()
    }

    pub(crate) fn answer_to(&mut self, wanted: u64) -> Response {
        loop {
            match self.receive().expect("the shim closed the connection") {
                FromShim::Reply { id, response } => {
                    assert_eq!(id, wanted);
                    return response;
                }
                FromShim::Event(event) => self.events.push_back(event),
            }
        }
    }

    pub(crate) fn ask(&mut self, body: Body) -> Response {
        let id = self.send(body, &[]);
        self.answer_to(id)
    }

    #[track_caller]
    pub(crate) fn done(&mut self, body: Body) {
        assert_eq!(self.ask(body), Response::Done);
    }

    #[track_caller]
    pub(crate) fn fails(&mut self, body: Body) -> Failure {
        match self.ask(body) {
            Response::Failed(failure) => failure,
            other => panic!("no failure but {other:?}"),
        }
    }

    pub(crate) fn state(&mut self) -> StateReport {
        match self.ask(Body::State) {
            Response::State(report) => report,
            other => panic!("no state but {other:?}"),
        }
    }

    /// The phase of one container.
    pub(crate) fn phase(&mut self, container: &str) -> Option<Phase> {
        let containers = self.state().containers.into_iter();
        containers.filter(|known| known.container == container).map(|known| known.phase).next()
    }

    /// Files received so far.
    pub(crate) fn take_files(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.files)
    }

    /// The next event that `wanted` accepts; others stay.
    pub(crate) fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(index) = self.events.iter().position(|event| wanted(event).is_some()) {
                let event = self.events.remove(index).unwrap();
                return wanted(&event).unwrap();
            }
            match self.receive().expect("the shim closed the connection") {
                FromShim::Event(event) => self.events.push_back(event),
                FromShim::Reply { id, response } => panic!("answer {response:?} to {id}?"),
            }
        }
    }

    /// Waits for a container's end.
    pub(crate) fn exit_of(&mut self, wanted: &str) -> Exit {
        self.event(|event| match event {
            Event::Exited { container, exit } if container == wanted => Some(exit.clone()),
            _ => None,
        })
    }

    /// Waits for an exec's end.
    pub(crate) fn exec_exit(&mut self, wanted: u64) -> Exit {
        self.event(|event| match event {
            Event::ExecExited { exec, exit } if *exec == wanted => Some(exit.clone()),
            _ => None,
        })
    }

    /// Runs an exec with pipes: what it wrote to stdout and stderr, its exit.
    pub(crate) fn exec(&mut self, exec: shim_protocol::StartExec) -> (String, String, Exit) {
        let number = exec.exec;
        let null = std::fs::File::open("/dev/null").unwrap();
        let (out, out_w) = std::io::pipe().unwrap();
        let (err, err_w) = std::io::pipe().unwrap();
        let id =
            self.send(Body::Exec(Box::new(exec)), &[null.as_fd(), out_w.as_fd(), err_w.as_fd()]);
        drop((out_w, err_w));
        match self.answer_to(id) {
            Response::Started(_) => {}
            other => panic!("exec not started but {other:?}"),
        }
        let exit = self.exec_exit(number);
        (std::io::read_to_string(out).unwrap(), std::io::read_to_string(err).unwrap(), exit)
    }
}
