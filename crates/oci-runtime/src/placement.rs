//! `linux.memoryPolicy`, `process.execCPUAffinity`: where memory comes from and where a process runs.

use launch::plan::{Affinity, MemoryPolicy, NumberRange};
use oci_spec::runtime::{
    Linux, LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode, Process,
};

use crate::PlanError;

/// `MPOL_*` of the kernel, in the order it numbers them.
pub(crate) const MODES: &[Mode] = &[
    Mode::MpolDefault,
    Mode::MpolPreferred,
    Mode::MpolBind,
    Mode::MpolInterleave,
    Mode::MpolLocal,
    Mode::MpolPreferredMany,
    Mode::MpolWeightedInterleave,
];

pub(crate) const FLAGS: &[Flag] =
    &[Flag::MpolFNumaBalancing, Flag::MpolFRelativeNodes, Flag::MpolFStaticNodes];

/// The highest number of a processor or a memory node that is taken.
const MOST: u32 = 8191;

pub(crate) fn memory_policy(linux: &Linux) -> Result<Option<MemoryPolicy>, PlanError> {
    linux.memory_policy().as_ref().map(policy).transpose()
}

fn policy(asked: &LinuxMemoryPolicy) -> Result<MemoryPolicy, PlanError> {
    let number = match asked.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let bit = |flag: &Flag| match flag {
        Flag::MpolFNumaBalancing => 1 << 13,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFStaticNodes => 1 << 15,
    };
    let mode = asked.flags().iter().flatten().fold(number, |mode, flag| mode | bit(flag));
    let field = "linux.memoryPolicy.nodes";
    let text = asked.nodes().as_deref().unwrap_or_default();
    let nodes = ranges(field, text)?;
    // The kernel says no more of this than that something is invalid.
    if matches!(asked.mode(), Mode::MpolDefault | Mode::MpolLocal) && !nodes.is_empty() {
        return Err(PlanError::invalid(field, text, "none, as this mode requires 0 nodes"));
    }
    Ok(MemoryPolicy { mode, nodes })
}

/// For a process that is exec'd; a container's first has none.
pub(crate) fn affinity(process: &Process) -> Result<Option<Affinity>, PlanError> {
    let Some(asked) = process.exec_cpu_affinity() else { return Ok(None) };
    let list = |field: &str, text: &Option<String>| {
        ranges(&format!("process.execCPUAffinity.{field}"), text.as_deref().unwrap_or_default())
    };
    Ok(Some(Affinity {
        initial: list("initial", asked.initial())?,
        last: list("final", asked.cpu_affinity_final())?,
    }))
}

/// `0-3,7`; nothing: none.
fn ranges(field: &str, text: &str) -> Result<Vec<NumberRange>, PlanError> {
    let refuse = || PlanError::invalid(field, text, "numbers and ranges up to 8191, as in 0-3,7");
    let number = |text: &str| text.parse().ok().filter(|number: &u32| *number <= MOST);
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = NumberRange { first: number(first)?, last: number(last)? };
        (range.first <= range.last).then_some(range)
    };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| range(part.trim()).ok_or_else(refuse)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(value: serde_json::Value) -> Result<MemoryPolicy, PlanError> {
        policy(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_memory_policy_is_a_number_and_nodes() {
        let asked =
            json!({"mode": "MPOL_BIND", "nodes": "0-1, 7", "flags": ["MPOL_F_STATIC_NODES"]});
        let plan = planned(asked).unwrap();
        assert_eq!(plan.mode, 2 | 1 << 15);
        let range = |first, last| NumberRange { first, last };
        assert_eq!(plan.nodes, [range(0, 1), range(7, 7)]);
        let plan = planned(json!({"mode": "MPOL_DEFAULT"})).unwrap();
        assert_eq!(plan, MemoryPolicy { mode: 0, nodes: vec![] });
        let error = planned(json!({"mode": "MPOL_LOCAL", "nodes": "0-7"})).unwrap_err();
        assert!(error.to_string().contains("requires 0 nodes"), "{error}");
    }

    #[test]
    fn lists_that_are_none_are_named() {
        for nodes in ["x", "1-", "3-1", "0,,1", "8192", "-1", "99999999999"] {
            let error = planned(json!({"mode": "MPOL_BIND", "nodes": nodes})).unwrap_err();
            assert!(error.to_string().contains("memoryPolicy.nodes"), "{nodes}: {error}");
        }
    }

    #[test]
    fn an_affinity_has_a_beginning_and_an_end() {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "execCPUAffinity": {"initial": "0", "final": "0-1"},
        });
        let plan = affinity(&serde_json::from_value(process).unwrap()).unwrap().unwrap();
        assert_eq!(plan.initial, [NumberRange { first: 0, last: 0 }]);
        assert_eq!(plan.last, [NumberRange { first: 0, last: 1 }]);
    }
}
