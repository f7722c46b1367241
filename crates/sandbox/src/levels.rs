//! SELinux levels of pods: no two live pods share a pair of categories.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const CATEGORIES: u32 = 1024;

/// Tries until somebody must have taken nearly all of the half million pairs.
const TRIES: u32 = 4096;

/// Levels in use, with how many pods are at each: pods may ask for one by name.
#[derive(Debug, Default)]
pub(crate) struct Levels(Mutex<BTreeMap<String, u32>>);

impl Levels {
    /// A level of this sensitivity that nobody holds, held from now on; `random` gives any
    /// number. `None` when none was found.
    pub(crate) fn claim(
        &self,
        sensitivity: &str,
        mut random: impl FnMut() -> Option<u32>,
    ) -> Option<String> {
        let mut held = self.held();
        for _try in 0..TRIES {
            let number = random()?;
            let (first, second) = (number % CATEGORIES, number / CATEGORIES % CATEGORIES);
            if first == second {
                continue;
            }
            let category = |number: u32| u16::try_from(number).unwrap_or_default();
            let level = bundle::selinux_level(sensitivity, category(first), category(second));
            if !held.contains_key(&level) {
                held.insert(level.clone(), 1);
                return Some(level);
            }
        }
        None
    }

    /// Holds a level that was asked for, or that a record says is a pod's.
    pub(crate) fn hold(&self, level: &str) {
        *self.held().entry(level.to_owned()).or_default() += 1;
    }

    /// Lets go of one hold.
    pub(crate) fn release(&self, level: &str) {
        let mut held = self.held();
        if let Some(count) = held.get_mut(level) {
            *count -= 1;
            if *count == 0 {
                held.remove(level);
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_given_out_once_until_it_is_given_back() {
        let levels = Levels::default();
        let numbers = [5 + 9 * 1024, 7 + 7 * 1024, 9 + 5 * 1024, 1 + 2 * 1024];
        let mut random = numbers.into_iter();
        assert_eq!(levels.claim("s0", || random.next()).as_deref(), Some("s0:c5,c9"));
        let second = levels.claim("s0", || random.next());
        assert_eq!(second.as_deref(), Some("s0:c1,c2"), "not twice the same pair, nor c7,c7");
        levels.release("s0:c5,c9");
        assert_eq!(levels.claim("s0", || Some(numbers[0])).as_deref(), Some("s0:c5,c9"));
    }

    #[test]
    fn a_level_held_by_name_is_not_given_out() {
        let levels = Levels::default();
        levels.hold("s0:c0,c1");
        levels.hold("s0:c0,c1");
        levels.release("s0:c0,c1");
        assert_eq!(levels.claim("s0", || Some(1)), None);
        levels.release("s0:c0,c1");
        assert!(levels.claim("s0", || Some(1)).is_some());
    }
}
