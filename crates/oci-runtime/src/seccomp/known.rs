//! The programs of the profiles met last. A node has many containers and few profiles, and a
//! container's is compiled when it is created, when it starts and for its first exec.

use std::sync::{Mutex, MutexGuard, PoisonError};

use launch::plan::SeccompPlan;
use oci_spec::runtime::LinuxSeccomp;

use super::{Architecture, SeccompError, compile};

/// Profiles that are remembered.
const ROOM: usize = 8;

struct Known {
    profile: LinuxSeccomp,
    native: Architecture,
    program: SeccompPlan,
}

/// The one used last comes last.
struct Memory(Mutex<Vec<Known>>);

static MEMORY: Memory = Memory(Mutex::new(Vec::new()));

/// As [`compile`], which this asks once for each profile as long as it is among the last few.
pub(crate) fn program(
    profile: &LinuxSeccomp,
    native: Architecture,
) -> Result<SeccompPlan, SeccompError> {
    MEMORY.program(profile, native)
}

impl Memory {
    fn program(
        &self,
        profile: &LinuxSeccomp,
        native: Architecture,
    ) -> Result<SeccompPlan, SeccompError> {
        if let Some(program) = self.recall(profile, native) {
            return Ok(program);
        }
        // Not under the lock: another profile need not wait for this one.
        let program = compile(profile, native)?;
        let known = Known { profile: profile.clone(), native, program: program.clone() };
        let mut all = self.all();
        if all.len() >= ROOM {
            all.remove(0);
        }
        all.push(known);
        Ok(program)
    }

    fn recall(&self, profile: &LinuxSeccomp, native: Architecture) -> Option<SeccompPlan> {
        let mut all = self.all();
        let place = all.iter().position(|one| one.native == native && one.profile == *profile)?;
        let found = all.remove(place);
        let program = found.program.clone();
        all.push(found);
        Some(program)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompBuilder};

    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActErrno)
            .default_errno_ret(errno)
            .build()
            .unwrap()
    }

    #[test]
    fn each_profile_has_its_own_program_whatever_was_asked_before() {
        let memory = Memory(Mutex::new(Vec::new()));
        for errno in (1..=12).chain(1..=12) {
            let profile = profile(errno);
            for native in [Architecture::X86_64, Architecture::Aarch64] {
                let known = memory.program(&profile, native).unwrap();
                assert_eq!(known, compile(&profile, native).unwrap());
                assert_eq!(memory.recall(&profile, native), Some(known));
            }
        }
        assert_eq!(memory.recall(&profile(1), Architecture::X86_64), None);
        assert_eq!(memory.all().len(), ROOM);
    }
}
