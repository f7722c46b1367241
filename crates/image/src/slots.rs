//! Who needs a layer right now: running pulls and leases hold it, one pull at a time makes it,
//! and garbage collection takes only what nobody holds.
//!
//! Order that makes collection safe: holders hold first and look for the layer (or the image)
//! afterwards; the collector decides under the same lock under which holders arrive, and keeps
//! the layer's own lock until it is gone. Whoever comes later waits for that lock and then finds
//! the layer missing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Digest;
use tokio::sync::{Mutex as LayerLock, OwnedMutexGuard};

/// Held by whoever makes or removes a layer.
pub(crate) type LayerGuard = OwnedMutexGuard<()>;

#[derive(Debug, Default)]
struct Slot {
    holders: usize,
    lock: Arc<LayerLock<()>>,
}

/// All layers that anybody is busy with.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    table: Mutex<HashMap<Digest, Slot>>,
}

/// Keeps layers alive until dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    slots: Arc<Slots>,
    layers: Vec<Digest>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        for layer in &self.layers {
            if let Some(slot) = table.get_mut(layer) {
                slot.holders -= 1;
            }
        }
        tidy(&mut table);
    }
}

impl Slots {
    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        // Every change of the table is one whole step: a panic elsewhere leaves it sound.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `layers`, there or yet to come, from being collected.
    pub(crate) fn hold(self: &Arc<Self>, layers: &[Digest]) -> Hold {
        let mut table = self.table();
        for layer in layers {
            table.entry(*layer).or_default().holders += 1;
        }
        Hold { slots: Arc::clone(self), layers: layers.to_vec() }
    }

    /// Waits until nobody else makes or removes `layer`. To be called with a [`Hold`] on it.
    pub(crate) async fn lock(&self, layer: &Digest) -> LayerGuard {
        let lock = Arc::clone(&self.table().entry(*layer).or_default().lock);
        lock.lock_owned().await
    }

    /// Those of `layers` that nobody holds and `in_use` does not know, locked.
    pub(crate) fn unused(
        &self,
        layers: Vec<Digest>,
        in_use: impl Fn(&Digest) -> bool,
    ) -> Vec<(Digest, LayerGuard)> {
        let mut table = self.table();
        let take = |layer: Digest| {
            let slot = table.entry(layer).or_default();
            if slot.holders > 0 || in_use(&layer) {
                return None;
            }
            let guard = Arc::clone(&slot.lock).try_lock_owned().ok()?;
            Some((layer, guard))
        };
        let taken = layers.into_iter().filter_map(take).collect();
        tidy(&mut table);
        taken
    }
}

/// Forgets layers nobody is busy with; a guard keeps its lock's count above one.
fn tidy(table: &mut HashMap<Digest, Slot>) {
    table.retain(|_, slot| slot.holders > 0 || Arc::strong_count(&slot.lock) > 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(byte: u8) -> Digest {
        Digest::from_sha256([byte; 32])
    }

    fn free(slots: &Slots, layers: &[Digest]) -> Vec<Digest> {
        slots.unused(layers.to_vec(), |_| false).into_iter().map(|(layer, _)| layer).collect()
    }

    #[test]
    fn held_layers_are_not_free_until_the_last_hold_drops() {
        let slots = Arc::new(Slots::default());
        let (a, b) = (layer(1), layer(2));
        let first = slots.hold(&[a, a]);
        let second = slots.hold(&[a, b]);
        assert!(free(&slots, &[a, b]).is_empty());
        drop(second);
        assert_eq!(free(&slots, &[a, b]), [b]);
        drop(first);
        assert_eq!(free(&slots, &[a, b]), [a, b]);
        drop(slots.hold(&[]));
        assert!(slots.table().is_empty(), "the next change forgets idle layers");
    }

    #[test]
    fn layers_in_use_are_not_free() {
        let slots = Slots::default();
        let in_use = |known: &Digest| *known == layer(1);
        let taken = slots.unused(vec![layer(1), layer(2)], in_use);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].0, layer(2));
    }

    #[tokio::test]
    async fn whoever_comes_while_a_layer_is_removed_waits() {
        let slots = Arc::new(Slots::default());
        let a = layer(1);
        let removing = slots.unused(vec![a], |_| false);
        let hold = slots.hold(&[a]);
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { drop(slots.lock(&a).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(removing);
        waiting.await.unwrap();
        drop(hold);
        assert!(slots.table().is_empty());
    }
}
