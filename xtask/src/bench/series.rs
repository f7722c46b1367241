//! What was measured: one quantity of one runtime.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::statistics::{Ratio, median, quantile};

/// One quantity's values, in the order in which they were taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Which benchmark it belongs to.
    pub(super) section: String,
    pub(super) quantity: String,
    pub(super) unit: String,
    /// What it depends on, such as the number of pods.
    pub(super) at: Option<u64>,
    /// Who was measured.
    pub(super) who: String,
    pub(super) values: Vec<f64>,
}

/// A quantity, whoever has it.
pub(super) type Key<'a> = (&'a str, &'a str, Option<u64>);

impl Series {
    /// `measured` (taken off already), SECTION, QUANTITY with its unit, PARAMETER, WHO, VALUES.
    pub(super) fn parse(fields: &[&str]) -> Result<Self> {
        let [section, quantity, at, who, values] = fields else {
            anyhow::bail!("not a measurement: {fields:?}")
        };
        let unitless = || format!("a quantity without its unit: {quantity}");
        let (quantity, unit) = quantity.rsplit_once(", ").with_context(unitless)?;
        let values = values.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>();
        let at = if at.is_empty() { None } else { Some(at.parse().context("the parameter")?) };
        Ok(Self {
            section: (*section).to_owned(),
            quantity: quantity.to_owned(),
            unit: unit.to_owned(),
            at,
            who: (*who).to_owned(),
            values: values.with_context(|| format!("not all numbers: {quantity}"))?,
        })
    }

    pub(super) fn key(&self) -> Key<'_> {
        (&self.section, &self.quantity, self.at)
    }

    pub(super) fn median(&self) -> f64 {
        median(&self.values)
    }

    pub(super) fn quantile(&self, q: f64) -> f64 {
        quantile(&self.values, q)
    }

    /// Rates are to be high, everything else low.
    pub(super) fn more_is_better(&self) -> bool {
        self.unit == "per second" || self.unit == "MiB/s" || self.unit.starts_with("MiB/s ")
    }

    /// How many times better `self` is than `other`.
    pub(super) fn better_than(&self, other: &Self) -> Ratio {
        let ratio = Ratio::of(&other.values, &self.values);
        if self.more_is_better() { ratio.inverse() } else { ratio }
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { section, quantity, unit, at, who, values } = self;
        json!({
            "section": section, "quantity": quantity, "unit": unit, "at": at, "who": who,
            "median": self.median(), "values": values,
        })
    }

    pub(super) fn from_json(value: &Value) -> Result<Self> {
        let text = |key: &str| {
            let text = value.get(key).and_then(Value::as_str).map(str::to_owned);
            text.with_context(|| format!("no `{key}`"))
        };
        let values = value.get("values").and_then(Value::as_array).context("no `values`")?;
        Ok(Self {
            section: text("section")?,
            quantity: text("quantity")?,
            unit: text("unit")?,
            at: value.get("at").and_then(Value::as_u64),
            who: text("who")?,
            values: values.iter().filter_map(Value::as_f64).collect(),
        })
    }
}

/// The quantities in their order, each with everybody who has it.
pub(super) fn by_quantity(all: &[Series]) -> Vec<Vec<&Series>> {
    let mut groups: Vec<Vec<&Series>> = Vec::new();
    for series in all {
        match groups.iter_mut().find(|group| group.iter().any(|one| one.key() == series.key())) {
            Some(group) => group.push(series),
            None => groups.push(vec![series]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_read_and_kept() {
        let series =
            Series::parse(&["list", "List, of all, ms", "100", "knarr", "1.5 2.25"]).unwrap();
        assert_eq!(series.key(), ("list", "List, of all", Some(100)));
        assert_eq!((series.unit.as_str(), &series.values), ("ms", &vec![1.5, 2.25]));
        assert_eq!(Series::from_json(&series.to_json()).unwrap(), series);
        assert!(Series::parse(&["list", "List, ms", "", "knarr", "fast"]).is_err());
        assert!(Series::parse(&["list", "without a unit", "", "knarr", "1"]).is_err());
    }

    #[test]
    fn less_time_and_higher_rates_are_better() {
        let of = |unit: &str, value| {
            let quantity = format!("x, {unit}");
            Series::parse(&["s", &quantity, "", "w", &format!("{value}")]).unwrap()
        };
        assert!(of("ms", 2).better_than(&of("ms", 8)).value > 3.9);
        assert!(of("per second", 8).better_than(&of("per second", 2)).value > 3.9);
        assert!(of("MiB/s", 1).better_than(&of("MiB/s", 2)).value < 1.0);
    }

    #[test]
    fn everybody_who_has_a_quantity_stands_together() {
        let of = |quantity: &str, at: &str, who: &str| {
            Series::parse(&["s", quantity, at, who, "1"]).unwrap()
        };
        let all = [of("a, s", "1", "x"), of("a, s", "2", "x"), of("a, s", "1", "y")];
        let sizes: Vec<usize> = by_quantity(&all).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1]);
    }
}
