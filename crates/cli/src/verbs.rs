//! One file per verb.

mod attach;
mod df;
mod doctor;
mod each;
mod exec;
mod image;
mod images;
mod info;
mod inspect;
pub(crate) mod logs;
mod net;
mod pods;
mod port_forward;
mod ps;
pub(crate) mod pull;
mod remove;
mod rmi;
mod run;
mod stats;
mod stop;
mod version;

pub use attach::Attach;
pub use df::Df;
pub use doctor::Doctor;
pub use exec::Exec;
pub use image::{Image, Unpack};
pub use images::Images;
pub use info::Info;
pub use inspect::Inspect;
pub use logs::Logs;
pub use net::Net;
pub use pods::Pods;
pub use port_forward::PortForward;
pub use ps::Ps;
pub use pull::Pull;
pub use remove::Rm;
pub use rmi::Rmi;
pub use run::Run;
pub use stats::Stats;
pub use stop::Stop;
pub use version::Version;

pub(crate) use self::{remove::remove_pod, stop::stop_pod};
use crate::{Error, Io, client::Client};

/// The verbs that speak to a container runtime.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    Run(Run),
    Pods(Pods),
    Ps(Ps),
    Logs(Logs),
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
    Inspect(Inspect),
    Stats(Stats),
    Stop(Stop),
    Rm(Rm),
    Pull(Pull),
    Images(Images),
    Rmi(Rmi),
    #[command(subcommand)]
    Net(Net),
    Image(Image),
    Df(Df),
    Doctor(Doctor),
    Info(Info),
    Version(Version),
}

impl Verb {
    /// Does it. The value is the process's exit code.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        match self {
            Self::Run(verb) => Box::pin(verb.run(client, io)).await,
            Self::Pods(verb) => Box::pin(verb.run(client, io)).await,
            Self::Ps(verb) => Box::pin(verb.run(client, io)).await,
            Self::Logs(verb) => Box::pin(verb.run(client, io)).await,
            Self::Exec(verb) => Box::pin(verb.run(client, io)).await,
            Self::Attach(verb) => Box::pin(verb.run(client, io)).await,
            Self::PortForward(verb) => Box::pin(verb.run(client, io)).await,
            Self::Inspect(verb) => Box::pin(verb.run(client, io)).await,
            Self::Stats(verb) => Box::pin(verb.run(client, io)).await,
            Self::Stop(verb) => Box::pin(verb.run(client, io)).await,
            Self::Rm(verb) => Box::pin(verb.run(client, io)).await,
            Self::Pull(verb) => Box::pin(verb.run(client, io)).await,
            Self::Images(verb) => Box::pin(verb.run(client, io)).await,
            Self::Rmi(verb) => Box::pin(verb.run(client, io)).await,
            Self::Net(verb) => Box::pin(verb.run(client, io)).await,
            Self::Image(verb) => Box::pin(verb.run(client, io)).await,
            Self::Df(verb) => Box::pin(verb.run(client, io)).await,
            Self::Doctor(verb) => Box::pin(verb.run(client, io)).await,
            Self::Info(verb) => Box::pin(verb.run(client, io)).await,
            Self::Version(verb) => Box::pin(verb.run(client, io)).await,
        }
    }
}
