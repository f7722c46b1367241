//! Interface counters of a pod, as its shim (which lives in the pod's network namespace) sees
//! them.

use model::InterfaceStats;

/// Every interface but loopback.
pub(super) fn interfaces(shim_pid: i32) -> Vec<InterfaceStats> {
    let text = std::fs::read_to_string(format!("/proc/{shim_pid}/net/dev")).unwrap_or_default();
    parse(&text)
}

/// Two header lines, then `name: rx-bytes packets errs drop fifo frame compressed multicast
/// tx-bytes packets errs …`.
fn parse(text: &str) -> Vec<InterfaceStats> {
    text.lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, counters)| {
            let counters: Vec<u64> =
                counters.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
            Some(InterfaceStats {
                name: name.trim().to_owned(),
                rx_bytes: *counters.first()?,
                rx_errors: *counters.get(2)?,
                tx_bytes: *counters.get(8)?,
                tx_errors: *counters.get(10)?,
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
            eth0:    1000      10    1    0    0     0          0         0      2000      20    2    0    0     0       0          0\n";
        assert_eq!(
            parse(text),
            [InterfaceStats {
                name: "eth0".into(),
                rx_bytes: 1000,
                rx_errors: 1,
                tx_bytes: 2000,
                tx_errors: 2
            }]
        );
    }
}
