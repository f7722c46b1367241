//! Name reservation: at most one living object per name.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Somebody else holds the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name is reserved for {holder}")]
pub struct NameTaken<I: std::fmt::Display> {
    /// Who.
    pub holder: I,
}

/// Names and who holds them. The lock is held for a look-up only.
#[derive(Debug)]
pub struct Names<N, I> {
    taken: Mutex<HashMap<N, I>>,
}

impl<N: Eq + Hash, I: Clone + PartialEq + std::fmt::Display> Default for Names<N, I> {
    fn default() -> Self {
        Self { taken: Mutex::new(HashMap::new()) }
    }
}

impl<N: Eq + Hash, I: Clone + PartialEq + std::fmt::Display> Names<N, I> {
    /// Takes `name` for `id`.
    ///
    /// # Errors
    /// [`NameTaken`] when another id holds it; holding it already is success.
    pub fn reserve(&self, name: N, id: I) -> Result<(), NameTaken<I>> {
        match self.lock().entry(name) {
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(id);
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(slot) if *slot.get() == id => Ok(()),
            std::collections::hash_map::Entry::Occupied(slot) => {
                Err(NameTaken { holder: slot.get().clone() })
            }
        }
    }

    /// Whether `id` holds a name.
    pub fn holds(&self, id: &I) -> bool {
        self.lock().values().any(|holder| holder == id)
    }

    /// Gives `name` back, if `id` holds it.
    pub fn release(&self, name: &N, id: &I) {
        let mut taken = self.lock();
        if taken.get(name) == Some(id) {
            taken.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<N, I>> {
        // A panic elsewhere cannot leave a half-made entry: each change is one map operation.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_holder_until_that_holder_gives_it_back() {
        let names: Names<&str, u32> = Names::default();
        assert_eq!(names.reserve("a", 1), Ok(()));
        assert_eq!(names.reserve("a", 1), Ok(()));
        assert!(names.holds(&1) && !names.holds(&2));
        assert_eq!(names.reserve("a", 2), Err(NameTaken { holder: 1 }));
        names.release(&"a", &2);
        assert_eq!(names.reserve("a", 2), Err(NameTaken { holder: 1 }));
        names.release(&"a", &1);
        assert_eq!(names.reserve("a", 2), Ok(()));
    }
}
