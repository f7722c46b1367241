//! `process.scheduler`, `process.ioPriority`, `linux.personality`.

use launch::plan::Scheduling;
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    Process, Scheduler,
};

use crate::PlanError;

/// What a deadline is not for: the kernel takes it for the processors of all.
const KEPT_TO_CPUS: &str = "another beside linux.resources.cpu.cpus, as this process scheduler can't be used \
                            together with AllowedCPUs";

/// The kernel's words (`sched.h`).
pub(crate) fn scheduling(
    process: &Process,
    linux: &Linux,
) -> Result<Option<Scheduling>, PlanError> {
    let Some(asked) = process.scheduler() else { return Ok(None) };
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let priority = asked.priority().unwrap_or_default();
    let priority = u32::try_from(priority)
        .map_err(|_| PlanError::invalid("process.scheduler.priority", priority, "0 or more"))?;
    check(asked, policy, priority)?;
    // The kernel would refuse it for want of a permission, which it is not.
    let resources = linux.resources().as_ref();
    let cpus = resources.and_then(|resources| resources.cpu().as_ref()?.cpus().as_ref());
    if policy == 6 && cpus.is_some_and(|cpus| !cpus.is_empty()) {
        return Err(PlanError::invalid("process.scheduler.policy", asked.policy(), KEPT_TO_CPUS));
    }
    let flags = asked.flags().iter().flatten().fold(0, |flags, flag| flags | bit(*flag));
    Ok(Some(Scheduling {
        policy,
        flags,
        nice: nice(asked, policy),
        priority,
        runtime: asked.runtime().unwrap_or_default(),
        deadline: asked.deadline().unwrap_or_default(),
        period: asked.period().unwrap_or_default(),
    }))
}

/// OCI: a priority is for the real-time policies, times for deadlines. The kernel would pass over what
/// does not fit.
fn check(asked: &Scheduler, policy: u32, priority: u32) -> Result<(), PlanError> {
    let refuse = |field: &str, value: String, want| {
        Err(PlanError::invalid(format!("process.scheduler.{field}"), value, want))
    };
    let nice = nice(asked, policy);
    if !(-20..=19).contains(&nice) {
        return refuse("nice", nice.to_string(), "-20 to 19");
    }
    if priority != 0 && !matches!(policy, 1 | 2) {
        return refuse("priority", priority.to_string(), "none but for SCHED_FIFO and SCHED_RR");
    }
    let timed = [asked.runtime(), asked.deadline(), asked.period()];
    let timed = timed.iter().any(|time| time.is_some_and(|time| time != 0));
    if timed && policy != 6 {
        return refuse("runtime", "set".to_owned(), "none but for SCHED_DEADLINE");
    }
    Ok(())
}

/// OCI: a nice value is for the ordinary policies. Others have always been written with one, which
/// every runtime passes over.
fn nice(asked: &Scheduler, policy: u32) -> i32 {
    asked.nice().filter(|_| matches!(policy, 0 | 3)).unwrap_or_default()
}

fn bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Class from bit 13 on, level below.
pub(crate) fn io_priority(process: &Process) -> Result<Option<u16>, PlanError> {
    let Some(asked) = process.io_priority() else { return Ok(None) };
    let class: u16 = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(asked.priority()) {
        Ok(level @ 0..=7) => Ok(Some(class << 13 | level)),
        Ok(_) | Err(_) => {
            Err(PlanError::invalid("process.ioPriority.priority", asked.priority(), "0 to 7"))
        }
    }
}

/// OCI: there are no flags yet.
pub(crate) fn personality(linux: &Linux) -> Result<Option<u32>, PlanError> {
    let Some(asked) = linux.personality() else { return Ok(None) };
    if let Some(flag) = asked.flags().iter().flatten().next() {
        return Err(PlanError::unsupported(format!("linux.personality.flags: {flag}")));
    }
    Ok(Some(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scheduling(process: &Process) -> Result<Option<Scheduling>, PlanError> {
        super::scheduling(process, &Linux::default())
    }

    fn process(field: &str, value: serde_json::Value) -> Process {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
        process[field] = value;
        serde_json::from_value(process).unwrap()
    }

    #[test]
    fn policies_become_the_kernels_numbers() {
        let batch = json!({"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RECLAIM"]});
        let plan = scheduling(&process("scheduler", batch)).unwrap().unwrap();
        assert_eq!((plan.policy, plan.nice, plan.flags), (3, 5, 2));
        let deadline = json!({
            "policy": "SCHED_DEADLINE", "runtime": 10, "deadline": 20, "period": 30,
        });
        let plan = scheduling(&process("scheduler", deadline)).unwrap().unwrap();
        assert_eq!((plan.policy, plan.runtime, plan.deadline, plan.period), (6, 10, 20, 30));
        let nice = json!({"policy": "SCHED_FIFO", "priority": 1, "nice": 19});
        let plan = scheduling(&process("scheduler", nice)).unwrap().unwrap();
        assert_eq!(
            (plan.policy, plan.nice, plan.priority),
            (1, 0, 1),
            "nice is for other policies"
        );
    }

    #[test]
    fn what_a_policy_does_not_have_is_refused() {
        for (value, word) in [
            (json!({"policy": "SCHED_OTHER", "priority": 3}), "priority"),
            (json!({"policy": "SCHED_OTHER", "priority": -3}), "priority"),
            (json!({"policy": "SCHED_OTHER", "nice": 30}), "nice"),
            (json!({"policy": "SCHED_IDLE", "runtime": 3}), "runtime"),
        ] {
            let error = scheduling(&process("scheduler", value)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_deadline_is_not_for_some_processors_only() {
        let process = process("scheduler", json!({"policy": "SCHED_DEADLINE", "runtime": 10}));
        let linux = serde_json::from_value(json!({"resources": {"cpu": {"cpus": "0"}}})).unwrap();
        let error = super::scheduling(&process, &linux).unwrap_err().to_string();
        assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
    }

    #[test]
    fn disk_priorities_have_a_class_and_a_level() {
        let ask = |class: &str, level: i64| {
            io_priority(&process("ioPriority", json!({"class": class, "priority": level})))
        };
        assert_eq!(ask("IOPRIO_CLASS_BE", 4).unwrap(), Some(2 << 13 | 4));
        assert_eq!(ask("IOPRIO_CLASS_IDLE", 0).unwrap(), Some(3 << 13));
        for level in [-1, 8] {
            assert!(ask("IOPRIO_CLASS_RT", level).is_err(), "{level}");
        }
    }
}
