//! Addresses, attachments, links and host ports, compared with the pods there are.

use std::time::Duration;

use cni::{Engine, Live};

use super::{Area, Cases, Mend, Severity};

/// How long links are given that go by themselves.
const A_MOMENT: Duration = Duration::from_millis(500);

/// What records and reservations say of pods that are not known.
pub(super) fn attachments(out: &mut Cases, network: &Engine, live: &impl Live) {
    let holdings = match network.holdings(live) {
        Ok(holdings) => holdings,
        Err(error) => return out.unseen(Area::Address, &"the pods' networks", &error),
    };
    for holding in holdings.into_iter().filter(|it| it.state == cni::HoldingState::Left) {
        let addresses: Vec<_> = holding.addresses.iter().map(ToString::to_string).collect();
        let problem = format!(
            "network `{}` keeps it for sandbox {}, which is not known",
            holding.network,
            if holding.container.is_empty() { "(none)" } else { &holding.container },
        );
        let told = (problem, "release it, as `knarr net gc` does");
        let mend = Some(Mend::CollectNetworks);
        out.add(Area::Address, Severity::Problem, &addresses.join(","), told, mend);
    }
}

/// What the kernel has.
pub(super) fn strays(out: &mut Cases, network: &Engine, live: &impl Live) {
    let mut found = match network.strays(live) {
        Ok(found) => found,
        Err(error) => return out.unseen(Area::Link, &"links and host ports", &error),
    };
    if !found.is_empty() {
        // What was just going is gone then.
        std::thread::sleep(A_MOMENT);
        found.retain({
            let again = network.strays(live).unwrap_or_default();
            move |stray| again.contains(stray)
        });
    }
    for stray in found {
        let mend = Some(Mend::RemoveStray(stray.clone()));
        match stray {
            cni::Stray::Link { name, bridge } => {
                let problem = format!("a link on bridge {bridge} that leads to no pod");
                let told = (problem, "delete it; the kernel does so too, some minutes later");
                out.add(Area::Link, Severity::Advice, &name, told, mend);
            }
            cni::Stray::Ports { container, address } => {
                let problem = format!(
                    "host ports lead to {address} of sandbox {container}, which is not known"
                );
                let told = (problem, "remove the rules");
                out.add(Area::PacketFilter, Severity::Problem, &container, told, mend);
            }
        }
    }
}
