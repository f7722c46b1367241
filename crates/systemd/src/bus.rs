//! One connection: greeting, calls, and the end of jobs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::SystemdError;
use crate::wire::{self, Kind, Message, Target, Writer};

/// D-Bus: the longest line of the greeting.
const MAX_LINE: usize = 1024;

const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};
const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Where systemd is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its own socket: nobody in between, and signals come unasked.
    Direct,
    /// The message bus.
    Bus,
}

/// A method with its arguments.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) member: &'static str,
    /// What it is about, for messages.
    pub(crate) unit: &'a str,
    pub(crate) signature: &'static str,
    pub(crate) body: Writer,
}

/// A job of systemd's that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    job: String,
    result: String,
}

/// A connection that has been greeted.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    ended: Vec<Ended>,
}

impl Connection {
    /// Connects and says who is there. Nothing on this connection is waited for beyond `deadline`.
    pub(crate) fn open(path: &Path, way: Way, deadline: Instant) -> Result<Self, SystemdError> {
        let failed = |source| SystemdError::Connect { path: path.to_owned(), source };
        let stream = connect(path, deadline).map_err(failed)?;
        let mut connection = Self { stream, serial: 0, deadline, ended: Vec::new() };
        let answer = connection.authenticate().map_err(failed)?;
        if !answer.starts_with("OK ") {
            return Err(SystemdError::Unwelcome { path: path.to_owned(), answer });
        }
        if way == Way::Bus {
            let unit = "the bus";
            let none = || Call { member: "Hello", unit, signature: "", body: Writer::default() };
            connection.call_to(BUS, none())?;
            let mut body = Writer::default();
            body.text(JOB_REMOVED);
            let filter = Call { member: "AddMatch", unit, signature: "s", body };
            connection.call_to(BUS, filter)?;
            connection.call_to(MANAGER, Call { member: "Subscribe", ..none() })?;
        }
        Ok(connection)
    }

    /// D-Bus specification, "Authentication Protocol": EXTERNAL, by the socket's credentials.
    ///
    /// The end of the greeting is sent with its beginning and not when it has been answered: systemd
    /// greets by pieces of 256 bytes, and a call that came to lie in one piece with BEGIN would stay there
    /// until something else comes on the connection, which is never.
    fn authenticate(&mut self) -> io::Result<String> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
            if line.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls a method of the manager; what it returns.
    pub(crate) fn call(&mut self, call: Call<'_>) -> Result<Message, SystemdError> {
        self.call_to(MANAGER, call)
    }

    fn call_to(&mut self, target: Target, call: Call<'_>) -> Result<Message, SystemdError> {
        let Call { member, unit, signature, body } = call;
        self.serial += 1;
        let bytes = wire::call(self.serial, target, member, signature, &body);
        let silent = |source| SystemdError::Silent { call: member, unit: unit.to_owned(), source };
        self.write(&bytes).map_err(silent)?;
        let answer = loop {
            let message = self.next().map_err(silent)?;
            if message.reply_to == Some(self.serial) {
                break message;
            }
        };
        match answer.kind {
            Kind::Error => Err(SystemdError::Refused {
                call: member,
                unit: unit.to_owned(),
                message: answer.body().text().unwrap_or_default(),
                name: answer.error,
            }),
            Kind::Return | Kind::Signal | Kind::Other => Ok(answer),
        }
    }

    /// Waits for the end of the job that `answer` names.
    pub(crate) fn finish(
        &mut self,
        call: &'static str,
        unit: &str,
        answer: &Message,
    ) -> Result<(), SystemdError> {
        let silent = |source| SystemdError::Silent { call, unit: unit.to_owned(), source };
        let job = answer.body().text().map_err(silent)?;
        let result = loop {
            if let Some(ended) = self.ended.iter().find(|ended| ended.job == job) {
                break ended.result.clone();
            }
            self.next().map_err(silent)?;
        };
        match result.as_str() {
            "done" | "skipped" => Ok(()),
            _other => Err(SystemdError::Job { unit: unit.to_owned(), result }),
        }
    }

    /// The next message. Ends of jobs are remembered: one may end before its call is answered.
    fn next(&mut self) -> io::Result<Message> {
        let mut fixed = [0; wire::FIXED];
        self.read(&mut fixed)?;
        let rest = wire::rest(&fixed)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(wire::FIXED + rest, 0);
        self.read(&mut bytes[wire::FIXED..])?;
        let message = Message::parse(&bytes)?;
        if message.kind == Kind::Signal && message.member == "JobRemoved" {
            let mut body = message.body();
            body.u32()?;
            let job = body.text()?;
            let _unit = body.text()?;
            self.ended.push(Ended { job, result: body.text()? });
        }
        Ok(message)
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            self.stream.set_read_timeout(Some(left(self.deadline)?))?;
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(in_time(error)),
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write_all(bytes).map_err(in_time)
    }
}

/// A systemd that hangs accepts nobody: once as many wait for it as may, the next one would for ever.
fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(left(deadline)?))?;
    let address = SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))
        .map_err(|errno| in_time(errno.into()))?;
    Ok(socket.into())
}

/// What the kernel calls "try again" is, for a socket with a time limit, that the time is up.
fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _other => error,
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
