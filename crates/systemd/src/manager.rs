//! The requests: scopes that begin, change and end.
//!
//! systemd executes itself anew (`daemon-reexec`) without asking anybody, and closes its connections.
//! So each request is made again on a new one until the deadline; what the first attempt has done
//! is looked up in the kernel, which knows best.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bus::{Call, Connection, Way};
use crate::error::SystemdError;
use crate::properties::Property;
use crate::wire::{Value, Writer};

/// How long systemd may take. It reads all its units anew on `daemon-reload`, and answers nobody
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon one that does not listen is asked again.
const PAUSE: Duration = Duration::from_millis(50);

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const ABSENT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Whether systemd runs this host: `sd_booted(3)`.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A running systemd.
#[derive(Debug, Clone)]
pub struct Manager {
    direct: PathBuf,
    bus: PathBuf,
}

/// A transient scope: a group of processes that others have started.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// With `.scope`.
    pub name: &'a str,
    /// What `systemctl` shows.
    pub description: &'a str,
    /// The slice it is in, with `.slice`.
    pub slice: &'a str,
    /// The process it begins with. A scope lives as long as there is a process in it.
    pub pid: u32,
    /// Its limits.
    pub properties: Vec<Property>,
}

impl Manager {
    /// The one that runs the host.
    pub fn system() -> Self {
        Self { direct: "/run/systemd/private".into(), bus: "/run/dbus/system_bus_socket".into() }
    }

    /// That of a user, who has this run-time directory (`$XDG_RUNTIME_DIR`).
    pub fn of_user(runtime_dir: &Path) -> Self {
        Self { direct: runtime_dir.join("systemd/private"), bus: runtime_dir.join("bus") }
    }

    #[cfg(test)]
    pub(crate) fn at(direct: &Path) -> Self {
        Self { direct: direct.to_owned(), bus: direct.with_extension("bus") }
    }

    /// Begins a scope whose cgroup and all below it are the caller's to do with as it likes
    /// (`Delegate=`), and returns when its process is in it. Blocks.
    ///
    /// # Errors
    /// [`SystemdError`]; whether the scope exists is not known when systemd fell silent.
    pub fn start_scope(&self, scope: &Scope<'_>) -> Result<(), SystemdError> {
        const CALL: &str = "StartTransientUnit";
        let deadline = Instant::now() + PATIENCE;
        let mut cleared = false;
        loop {
            let attempt = self.connect(deadline).and_then(|mut connection| {
                let call = Call {
                    member: CALL,
                    unit: scope.name,
                    signature: "ssa(sv)a(sa(sv))",
                    body: start_body(scope),
                };
                let answer = connection.call(call)?;
                connection.finish(CALL, scope.name, &answer)
            });
            match attempt {
                // The first attempt may have been heard. If not, the name is taken by one that
                // has failed, of whose end nobody has taken note.
                Err(SystemdError::Refused { ref name, .. }) if name == EXISTS => {
                    if is_in(scope.pid, scope.name) {
                        return Ok(());
                    }
                    if cleared {
                        return attempt;
                    }
                    cleared = true;
                    self.reset_failed(scope.name)?;
                }
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                attempt => return attempt,
            }
        }
    }

    /// Kills what is in a unit and ends it; one that is not there is success. Blocks.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        const CALL: &str = "StopUnit";
        self.insist(|connection| {
            let mut body = Writer::default();
            body.text(unit);
            body.text("replace");
            let answer = connection.call(Call { member: CALL, unit, signature: "ss", body })?;
            connection.finish(CALL, unit, &answer)
        })
        .or_else(absent_is_fine)
    }

    /// Forgets that a unit has failed; one that is not there is success. Blocks.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        self.insist(|connection| {
            let mut body = Writer::default();
            body.text(unit);
            let call = Call { member: "ResetFailedUnit", unit, signature: "s", body };
            connection.call(call).map(drop)
        })
        .or_else(absent_is_fine)
    }

    /// Changes limits of a unit until it ends. Blocks.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub fn set_properties(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        if properties.is_empty() {
            return Ok(());
        }
        self.insist(|connection| {
            let mut body = Writer::default();
            body.text(unit);
            // Not beyond the next boot.
            body.bool(true);
            body.properties(properties.iter().map(|it| (it.name, &it.value)));
            let call = Call { member: "SetUnitProperties", unit, signature: "sba(sv)", body };
            connection.call(call).map(drop)
        })
    }

    /// Does what may be done twice until systemd has answered.
    fn insist(
        &self,
        mut f: impl FnMut(&mut Connection) -> Result<(), SystemdError>,
    ) -> Result<(), SystemdError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = self.connect(deadline).and_then(|mut connection| f(&mut connection));
            match result {
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// systemd's own socket is for root alone; then there is the bus.
    fn connect(&self, deadline: Instant) -> Result<Connection, SystemdError> {
        let direct = Connection::open(&self.direct, Way::Direct, deadline);
        match direct {
            Err(error) if self.bus.exists() => {
                Connection::open(&self.bus, Way::Bus, deadline).map_err(|_also| error)
            }
            direct => direct,
        }
    }
}

fn start_body(scope: &Scope<'_>) -> Writer {
    let mut body = Writer::default();
    body.text(scope.name);
    // Never instead of somebody else's.
    body.text("fail");
    let own = [
        Property::text("Description", scope.description),
        Property::text("Slice", scope.slice),
        Property { name: "PIDs", value: Value::Numbers(vec![scope.pid]) },
        // From here down systemd changes nothing, whatever it reads or writes again.
        Property::flag("Delegate", true),
        // At shutdown, pods end when kubelet says so, and with the machine.
        Property::flag("DefaultDependencies", false),
        // Nothing is remembered of one that has failed: its name is not used again.
        Property::text("CollectMode", "inactive-or-failed"),
    ];
    body.properties(own.iter().chain(&scope.properties).map(|it| (it.name, &it.value)));
    // Other units: none.
    body.array(8, |_none| {});
    body
}

/// Whether a process is in the cgroup of this name, or below it.
fn is_in(pid: u32, unit: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    unified.is_some_and(|path| path.split('/').any(|part| part == unit))
}

/// systemd is executing itself anew, or is not there yet.
fn is_passing(error: &SystemdError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    match error {
        SystemdError::Connect { source, .. } | SystemdError::Silent { source, .. } => matches!(
            source.kind(),
            NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof
        ),
        SystemdError::Unwelcome { .. }
        | SystemdError::Refused { .. }
        | SystemdError::Job { .. }
        | SystemdError::Setting { .. } => false,
    }
}

fn absent_is_fine(error: SystemdError) -> Result<(), SystemdError> {
    match error {
        SystemdError::Refused { ref name, .. } if name == ABSENT => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Answer, FakeSystemd};

    fn scope(name: &str) -> Scope<'_> {
        Scope {
            name,
            description: "a pod",
            slice: "kubepods.slice",
            pid: std::process::id(),
            properties: vec![Property::any_number_of_tasks()],
        }
    }

    #[test]
    fn a_scope_has_begun_when_its_job_has_ended() {
        let fake = FakeSystemd::start(vec![Answer::Job("done")]);
        fake.manager().start_scope(&scope("knarr-a.scope")).unwrap();
        let heard = fake.heard();
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].member, "StartTransientUnit");
        let mut body = heard[0].body();
        assert_eq!(body.text().unwrap(), "knarr-a.scope");
        assert_eq!(body.text().unwrap(), "fail");
    }

    #[test]
    fn a_job_that_fails_and_a_refusal_are_told() {
        let fake = FakeSystemd::start(vec![
            Answer::Job("failed"),
            Answer::Error("org.freedesktop.DBus.Error.InvalidArgs", "no such slice"),
        ]);
        let failed = fake.manager().start_scope(&scope("knarr-a.scope")).unwrap_err();
        assert!(failed.to_string().contains("`failed`"), "{failed}");
        let refused = fake.manager().start_scope(&scope("knarr-a.scope")).unwrap_err();
        assert!(refused.to_string().contains("no such slice"), "{refused}");
    }

    #[test]
    fn a_request_survives_systemds_new_beginning() {
        let fake = FakeSystemd::start(vec![Answer::HangUp, Answer::Nothing]);
        fake.manager().set_properties("a.scope", &[Property::any_number_of_tasks()]).unwrap();
        assert_eq!(fake.heard().len(), 2);
    }

    #[test]
    fn a_failed_scope_of_the_same_name_is_forgotten_first() {
        let fake = FakeSystemd::start(vec![
            Answer::Error(EXISTS, "it exists"),
            Answer::Nothing,
            Answer::Job("done"),
        ]);
        fake.manager().start_scope(&scope("knarr-a.scope")).unwrap();
        let heard: Vec<_> = fake.heard().into_iter().map(|message| message.member).collect();
        assert_eq!(heard, ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);
    }

    #[test]
    fn one_that_is_not_there_is_stopped() {
        let fake = FakeSystemd::start(vec![Answer::Error(ABSENT, "not loaded")]);
        fake.manager().stop("knarr-a.scope").unwrap();
    }

    #[test]
    fn where_its_own_socket_is_not_to_be_had_it_is_asked_over_the_bus() {
        let fake = FakeSystemd::on_the_bus(vec![
            Answer::Job("done"),
            Answer::Error(ABSENT, "not loaded"),
            Answer::Nothing,
        ]);
        fake.manager().start_scope(&scope("knarr-a.scope")).unwrap();
        fake.manager().stop("knarr-a.scope").unwrap();
        fake.manager().reset_failed("knarr-a.scope").unwrap();
        let heard = fake.heard();
        let names: Vec<&str> = heard.iter().map(|message| message.member.as_str()).collect();
        let entering = ["Hello", "AddMatch", "Subscribe"];
        let calls = ["StartTransientUnit", "StopUnit", "ResetFailedUnit"];
        assert_eq!(names, calls.map(|call| [entering.as_slice(), &[call]].concat()).concat());
        assert!(heard[1].body().text().unwrap().contains("member='JobRemoved'"));
    }

    #[test]
    fn where_neither_is_to_be_had_its_own_socket_is_what_is_told() {
        let dir = tempfile::tempdir().unwrap();
        // Nobody accepts there any more.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("private.bus")).unwrap());
        let manager = Manager::at(&dir.path().join("private"));
        let refused = manager.connect(Instant::now() + Duration::from_secs(1)).unwrap_err();
        assert!(refused.to_string().ends_with("private"), "{refused}");
    }

    #[test]
    fn one_that_hangs_is_waited_for_until_the_deadline_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // One may wait to be accepted, and one more does.
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let refused = Manager::at(&socket).connect(soon).unwrap_err();
        let SystemdError::Connect { source, .. } = refused else { panic!("{refused}") };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn nobody_listening_is_an_error_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let manager = Manager::at(&socket);
        let past = Instant::now();
        let refused = manager.connect(past + Duration::from_secs(1)).unwrap_err();
        assert!(refused.to_string().contains("private"), "{refused}");
        assert!(is_passing(&refused));
    }
}
