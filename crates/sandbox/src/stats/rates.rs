//! Processor rates. One background task takes the samples; readers only compare with them, so
//! that nobody's answer depends on who else asks, or how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Two samples closer than this give a rate that is mostly noise.
const RATE_OVER: Duration = Duration::from_millis(500);

/// The last two samples of every cgroup.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    taken: Mutex<HashMap<Arc<str>, History>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// By the clock that nobody sets.
    at: Instant,
    usage_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct History {
    last: Sample,
    before: Option<Sample>,
}

impl Rates {
    /// Takes note that the cgroup `key` had used `usage_ns` at `at`.
    pub(crate) fn sample(&self, key: &Arc<str>, at: Instant, usage_ns: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let last = Sample { at, usage_ns };
        let before = taken.get(key).map(|history| history.last);
        taken.insert(Arc::clone(key), History { last, before });
    }

    /// Billionths of a core in use between the newest sample that is old enough and now; `None`
    /// until there is one.
    pub(crate) fn rate(&self, key: &str, now: Instant, usage_ns: u64) -> Option<u64> {
        let history =
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()?;
        let old_enough = |sample: &Sample| now.saturating_duration_since(sample.at) >= RATE_OVER;
        let from = Some(history.last).filter(old_enough);
        let from = from.or_else(|| history.before.filter(old_enough))?;
        let elapsed = now.saturating_duration_since(from.at).as_nanos();
        let used = u128::from(usage_ns.saturating_sub(from.usage_ns));
        u64::try_from(used * 1_000_000_000 / elapsed).ok()
    }

    /// Forgets what no longer exists.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|key, _| lives(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_time_since_a_sample_that_is_old_enough() {
        let rates = Rates::default();
        let key: Arc<str> = "c".into();
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        assert_eq!(rates.rate("c", at(0), 0), None, "nothing to compare with");
        rates.sample(&key, at(0), 0);
        assert_eq!(rates.rate("c", at(100), 50_000_000), None, "too close");
        assert_eq!(rates.rate("c", at(1000), 500_000_000), Some(500_000_000));
        rates.sample(&key, at(1000), 500_000_000);
        assert_eq!(
            rates.rate("c", at(1250), 500_000_000),
            Some(400_000_000),
            "the sample before the last one"
        );
        assert_eq!(rates.rate("c", at(2000), 500_000_000), Some(0));
        rates.retain(|_| false);
        assert_eq!(rates.rate("c", at(3000), 500_000_000), None);
    }

    #[test]
    fn a_counter_that_fell_is_no_negative_rate() {
        let rates = Rates::default();
        let begin = Instant::now();
        rates.sample(&"c".into(), begin, 900);
        assert_eq!(rates.rate("c", begin + Duration::from_secs(1), 1), Some(0));
    }
}
