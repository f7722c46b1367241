//! The daemon's end, against a shim that does what the test says.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use shim_protocol::{StartAttach, StartContainer, Started};

use super::*;

/// A shim that says hello in `version` and then works off `script`.
fn shim(
    version: u32,
    script: impl FnOnce(Shim) + Send + 'static,
) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut shim = Shim { socket, frames: FrameReader::default() };
        let hello = shim.next();
        shim.reply(
            hello.id,
            Response::Hello(Hello { version, build: "0.0.9".to_owned(), pid: 1 }),
            &[],
        );
        script(shim);
    });
    (dir, thread)
}

struct Shim {
    socket: StdStream,
    frames: FrameReader,
}

impl Shim {
    fn next(&mut self) -> Request {
        loop {
            if let Some(request) = self.frames.next().unwrap() {
                return request;
            }
            let mut buffer = [0; 4096];
            let count = self.socket.read(&mut buffer).unwrap();
            assert!(count > 0, "the link was closed");
            self.frames.push(&buffer[..count]);
        }
    }

    fn reply(&mut self, id: u64, response: Response, files: &[&StdStream]) {
        let frame = shim_protocol::encode(&FromShim::Reply { id, response });
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let sent = rustix::net::sendmsg(
            &self.socket,
            &[IoSlice::new(&frame)],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent.unwrap(), frame.len());
    }
}

async fn connect(dir: &tempfile::TempDir) -> ShimLink {
    let sandbox = SandboxId::from_random([7; 32]);
    ShimLink::connect(&sandbox, dir.path()).await.unwrap().0
}

#[tokio::test]
async fn what_is_only_told_is_done_after_what_was_asked_and_its_answer_is_nobodys() {
    let (dir, thread) = shim(shim_protocol::VERSION, |mut shim| {
        let (asked, told, last) = (shim.next(), shim.next(), shim.next());
        assert_eq!(asked.body, Body::State);
        assert_eq!(told.body, Body::KillExec { exec: 7 });
        for id in [told.id, asked.id, last.id] {
            shim.reply(id, Response::Done, &[]);
        }
    });
    let link = connect(&dir).await;
    let given_up = tokio::time::timeout(Duration::ZERO, link.call(Body::State, Vec::new()));
    assert!(given_up.await.is_err());
    link.tell(Body::KillExec { exec: 7 });
    link.call_done(Body::Shutdown).await.unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_new_shim_is_asked_without_waiting_for_its_greeting() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut shim = Shim { socket, frames: FrameReader::default() };
        let (hello, asked) = (shim.next(), shim.next());
        assert!(matches!(hello.body, Body::Hello(_)), "{hello:?}");
        assert_eq!(asked.body, Body::State);
        let theirs = Hello { version: shim_protocol::VERSION, build: "x".to_owned(), pid: 7 };
        shim.reply(hello.id, Response::Hello(theirs), &[]);
        shim.reply(asked.id, Response::Done, &[]);
    });
    let sandbox = SandboxId::from_random([7; 32]);
    let connected = ShimLink::connect_asking(&sandbox, dir.path(), Body::State);
    let ((_link, _events, hello), answer) = connected.await.unwrap();
    assert_eq!(hello.pid, 7);
    assert_eq!(answer.unwrap(), Response::Done);
    thread.join().unwrap();
}

#[tokio::test]
async fn files_reach_the_caller_whose_answer_they_came_with() {
    let (dir, thread) = shim(shim_protocol::VERSION, |mut shim| {
        let (first, second) = (shim.next(), shim.next());
        let (ours, mut theirs) = StdStream::pair().unwrap();
        // Answered the other way round, in one go.
        shim.reply(second.id, Response::Started(Started::default()), &[&ours]);
        shim.reply(first.id, Response::Done, &[]);
        theirs.write_all(b"x").unwrap();
    });
    let link = connect(&dir).await;
    let (first, second) = tokio::join!(
        link.call_for_files(Body::State, Vec::new()),
        link.call_for_files(Body::State, Vec::new()),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.0, first.1.len()), (Response::Done, 0));
    let mut file = StdStream::from(second.1.into_iter().next().unwrap());
    let mut byte = [0; 1];
    file.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    thread.join().unwrap();
}

#[tokio::test]
async fn an_older_shim_is_not_asked_for_what_it_lacks() {
    let (dir, thread) = shim(1, |mut shim| {
        let request = shim.next();
        assert_eq!(request.body, Body::State);
        shim.reply(request.id, Response::Done, &[]);
    });
    let link = connect(&dir).await;
    let refused = link.call_done(Body::Attach(StartAttach::default())).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, LinkError::TooOld { .. }) && text.contains("0.0.9"), "{text}");
    link.call_done(Body::State).await.unwrap();
    thread.join().unwrap();
}

/// Half a frame would make nonsense of all that follow.
#[tokio::test]
async fn a_caller_that_gives_up_leaves_whole_frames() {
    let (told, tell) = std::sync::mpsc::channel();
    let (dir, thread) = shim(shim_protocol::VERSION, move |mut shim| {
        // The frame is larger than what the socket holds: it is half written by now.
        tell.recv().unwrap();
        assert!(matches!(shim.next().body, Body::Start(_)));
        let request = shim.next();
        shim.reply(request.id, Response::Done, &[]);
    });
    let link = connect(&dir).await;
    let start = StartContainer { plan: vec![7; 3 << 20], ..StartContainer::default() };
    let mut call = Box::pin(link.call(Body::Start(Box::new(start)), Vec::new()));
    assert!(futures_poll(call.as_mut()).is_pending());
    tokio::task::yield_now().await;
    drop(call);
    told.send(()).unwrap();
    link.call_done(Body::State).await.unwrap();
    thread.join().unwrap();
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn those_who_wait_learn_that_the_shim_is_gone() {
    let (dir, thread) = shim(shim_protocol::VERSION, |mut shim| {
        let request = shim.next();
        shim.reply(request.id, Response::Done, &[]);
    });
    let link = connect(&dir).await;
    let (mut exec, mut attach) = (link.watch_exec(1), link.watch_attach(2));
    link.call_done(Body::State).await.unwrap();
    thread.join().unwrap();
    assert_eq!(end_of(&mut exec).await, None);
    assert_eq!(end_of(&mut attach).await, None);
    assert!(matches!(link.call_done(Body::State).await, Err(LinkError::Gone { .. })));
    // And whoever begins to wait now.
    assert_eq!(end_of(&mut link.watch_exec(3)).await, None);
}
