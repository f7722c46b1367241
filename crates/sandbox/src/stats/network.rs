//! Interface counters of a pod, as its shim (which lives in the pod's network namespace) sees
//! them.

use model::InterfaceStats;

use crate::host;
use crate::view::PodView;

/// Every interface of the pod's own network but loopback; none when it is closed or the host's.
pub(super) fn of_pod(pod: &PodView) -> Vec<InterfaceStats> {
    let own = pod.is_ready() && pod.record.network.is_some();
    let Some(shim) = pod.record.shim.filter(|_| own) else { return Vec::new() };
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", shim.pid)).unwrap_or_default();
    // Asked afterwards: a number that went to another process meanwhile told of another network.
    if host::start_ticks(shim.pid) != Some(shim.start_ticks) {
        return Vec::new();
    }
    parse(&text)
}

/// Two header lines, then `name: rx-bytes packets errs drop fifo frame compressed multicast
/// tx-bytes packets errs drop …`.
fn parse(text: &str) -> Vec<InterfaceStats> {
    text.lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, counters)| {
            let counters: Vec<u64> =
                counters.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
            let &[rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, ref tx @ ..] =
                &counters[..]
            else {
                return None;
            };
            let &[tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = tx else { return None };
            Some(InterfaceStats {
                name: name.trim().to_owned(),
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_listed_without_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
            eth0:    1000      10    1    3    0     0          0         0      2000      20    2    4    0     0       0          0\n";
        assert_eq!(
            parse(text),
            [InterfaceStats {
                name: "eth0".into(),
                rx_bytes: 1000,
                rx_packets: 10,
                rx_errors: 1,
                rx_dropped: 3,
                tx_bytes: 2000,
                tx_packets: 20,
                tx_errors: 2,
                tx_dropped: 4,
            }]
        );
    }
}
