//! The command line: runc's words.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Run containers from OCI bundles, in runc's place
#[derive(Debug, Parser)]
#[command(name = "knarr-oci", version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1"),
          arg_required_else_help = true, disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: (),
    /// Directory of containers' state; empty after a reboot [default: /run/knarr-oci, of an
    /// ordinary user $XDG_RUNTIME_DIR/knarr-oci]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// File that messages are appended to [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Form of messages
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub(crate) debug: bool,
    /// Have systemd make the cgroups
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// This program has entered the container's user namespace
    #[arg(long, hide = true)]
    pub(crate) in_user_namespace: bool,
    /// Accepted as runc's; what a user may do is found out
    #[arg(long, value_name = "BOOL", hide = true)]
    pub(crate) rootless: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Create(CreateArgs),
    /// Start a container that was created
    Start(IdArgs),
    Run(RunArgs),
    /// Show a container's state
    State(IdArgs),
    Kill(KillArgs),
    Delete(DeleteArgs),
    Exec(Box<ExecArgs>),
    List(ListArgs),
    Ps(PsArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Update(Box<UpdateArgs>),
    Events(EventsArgs),
    /// Show what of the specification is known
    Features,
    Spec(SpecArgs),
}

impl Verb {
    /// What its errors begin with.
    pub(crate) fn failed(&self) -> &'static str {
        match self {
            Self::Create(_) => "create failed: ",
            Self::Run(_) => "run failed: ",
            Self::Exec(_) => "exec failed: ",
            Self::Start(_)
            | Self::State(_)
            | Self::Kill(_)
            | Self::Delete(_)
            | Self::List(_)
            | Self::Ps(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Update(_)
            | Self::Events(_)
            | Self::Features
            | Self::Spec(_) => "",
        }
    }

    pub(crate) fn is_exec(&self) -> bool {
        matches!(self, Self::Exec(_))
    }

    /// Whether this program will be seen from within a container.
    pub(crate) fn enters_containers(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Run(_) | Self::Exec(_))
    }
}

/// Create a container; its program waits until it is started
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) new: NewArgs,
    /// Name of the container
    pub(crate) id: String,
}

/// Create a container and start it
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) new: NewArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted as runc's; orphans are never reaped by this program
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Name of the container
    pub(crate) id: String,
}

/// What a container is made from.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub(crate) bundle: PathBuf,
    /// Move the root on top of the host's, for hosts that run from a ramdisk
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    #[command(flatten)]
    pub(crate) io: IoArgs,
}

/// How a process is connected to its caller.
#[derive(Debug, Args)]
pub(crate) struct IoArgs {
    /// Socket that the terminal's master is sent to
    #[arg(long, value_name = "SOCKET", value_parser = absolute())]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the number of the process
    #[arg(long, value_name = "FILE", value_parser = absolute())]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that a handle on the process is sent to
    #[arg(long, value_name = "SOCKET", value_parser = absolute())]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// How many files from number 3 on the program inherits
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) preserve_fds: u32,
}

/// The working directory changes before they are used.
fn absolute() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

/// A container
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Name of the container
    pub(crate) id: String,
}

/// Send a signal to a container's first process
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// To all its processes
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Name of the container
    pub(crate) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

/// Remove a container that has ended
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Also one that runs, which is killed, and one that is not there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names of containers
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
}

/// Run a further process in a container
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) io: IoArgs,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Variable of its environment, added to the container's
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User, and maybe group
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// File that describes the process as `process` of a specification does
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Forbid gaining privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Capability, added to the container's
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Also in a container that is paused
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Cgroup below the container's, of all controllers or of some
    #[arg(long, value_name = "[CONTROLLER,…:]PATH")]
    pub(crate) cgroup: Vec<String>,
    /// Accepted as runc's; orphans are never reaped by this program
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Name of the container
    pub(crate) id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// List containers
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Form of the list
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

/// List a container's processes
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Form of the list
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Name of the container
    pub(crate) id: String,
    /// Options for ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Stop all processes of a container for a while
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Name of the container
    pub(crate) id: String,
}

/// Let a paused container go on
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Name of the container
    pub(crate) id: String,
}

/// Change a running container's limits; what is not named stays as it is
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// File that has limits as `linux.resources` does, - for standard input; other options add to it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of its disk accesses
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds in which it may use its quota
    #[arg(long, value_name = "US")]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1: any
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds by which a period may exceed the quota with what earlier ones have left
    #[arg(long, value_name = "US")]
    pub(crate) cpu_burst: Option<u64>,
    /// Weight of its share of the processors
    #[arg(long, value_name = "SHARES", visible_alias = "cpu-shares")]
    pub(crate) cpu_share: Option<u64>,
    /// Microseconds in which it may use its real-time quota
    #[arg(long, value_name = "US")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Microseconds of real-time scheduling in a period
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// 1: runs only when nobody else wants to
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    pub(crate) cpu_idle: Option<i64>,
    /// Processors it may run on
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Bytes of memory; -1: any
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Bytes of memory it keeps when memory is short
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Bytes of memory and swap together; -1: any
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Cache ways of its class of service: a line of schemata
    #[arg(long, value_name = "L3:DOMAIN=MASK…")]
    pub(crate) l3_cache_schema: Option<String>,
    /// Memory bandwidth of its class of service: a line of schemata
    #[arg(long, value_name = "MB:DOMAIN=SHARE…")]
    pub(crate) mem_bw_schema: Option<String>,
    /// How many processes; -1: any
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Name of the container
    pub(crate) id: String,
}

/// Show what a container uses, again and again, and when it runs out of memory
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Time between two lines of statistics
    #[arg(long, value_name = "SECONDS[s]", default_value = "5s")]
    pub(crate) interval: String,
    /// Statistics, once
    #[arg(long)]
    pub(crate) stats: bool,
    /// Name of the container
    pub(crate) id: String,
}

/// Write a specification to begin with
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub(crate) bundle: PathBuf,
    /// For an ordinary user
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Verb {
        Arguments::try_parse_from(line.split(' ')).unwrap().verb
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_come_before_and_after_the_id() {
        for line in [
            "r --root /x create --bundle /b --pid-file /p --preserve-fds 2 box",
            "r --root=/x create box --bundle /b --pid-file=/p --preserve-fds=2",
        ] {
            let Verb::Create(args) = parse(line) else { panic!("{line}") };
            assert_eq!((args.id.as_str(), args.new.io.preserve_fds), ("box", 2));
            assert_eq!(args.new.bundle.to_str(), Some("/b"));
            assert_eq!(args.new.io.pid_file.as_deref(), Some(std::path::Path::new("/p")));
        }
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let Verb::Exec(args) = parse("r exec -t --env A=1 box ls -t --env x") else { panic!() };
        assert_eq!(args.command, ["ls", "-t", "--env", "x"]);
        assert_eq!((args.tty, args.env.len()), (true, 1));
        let Verb::Ps(args) = parse("r ps box -o pid,cmd") else { panic!() };
        assert_eq!(args.options, ["-o", "pid,cmd"]);
    }

    #[test]
    fn kill_asks_to_end_unless_told_otherwise() {
        let Verb::Kill(args) = parse("r kill box") else { panic!() };
        assert_eq!(args.signal, "SIGTERM");
        let Verb::Kill(args) = parse("r kill --all box 9") else { panic!() };
        assert_eq!((args.signal.as_str(), args.all), ("9", true));
    }
}
