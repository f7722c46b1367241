//! A spec as JSON that is the same each time.

use oci_spec::runtime::Spec;
use serde_json::Value;

/// The spec's JSON with everything in a fixed order: keys of maps, and the capability lists, which
/// are sets to the types and come in any order.
///
/// # Errors
/// The types cannot be written as JSON; not for specs made here.
pub fn canonical_json(spec: &Spec) -> serde_json::Result<Value> {
    // serde_json's own map is sorted.
    let mut value = serde_json::to_value(spec)?;
    let sets = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(names) = set.as_array_mut() {
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    Ok(value)
}
