//! What the error stream says at the end. `metav1.Status`, as far as clients read it.

use serde_json::json;

use crate::backend::Ending;

/// How the end is told: by the sub-protocol's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusFormat {
    /// v1 to v3: nothing for success, a text for failure.
    Text,
    /// v4 and later: a JSON object.
    Json,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// The command's exit code, not 0.
    ExitCode(u8),
    /// Something did not work, and what.
    Failure(String),
}

/// What a shell reports for a process that a signal ended.
const SIGNAL_BASE: u8 = 128;

impl Outcome {
    /// Of a command.
    pub(crate) fn of_exec(ending: Ending) -> Self {
        match ending {
            Ending::Exited(0) => Self::Success,
            Ending::Exited(code) => Self::ExitCode(code),
            Ending::Signaled(signal) => {
                let number = u8::try_from(signal.number()).unwrap_or(u8::MAX);
                Self::ExitCode(SIGNAL_BASE.saturating_add(number))
            }
            Ending::Lost(why) => {
                Self::Failure(format!("error executing command in container: {why}"))
            }
        }
    }

    /// Of an attached container: how it ended is asked for elsewhere.
    pub(crate) fn of_attach(ending: Ending) -> Self {
        match ending {
            Ending::Exited(_) | Ending::Signaled(_) => Self::Success,
            Ending::Lost(why) => Self::Failure(format!("error attaching to container: {why}")),
        }
    }

    /// The bytes for the error stream.
    pub(crate) fn write(&self, format: StatusFormat) -> String {
        match (self, format) {
            (Self::Success, StatusFormat::Text) => String::new(),
            (Self::Success, StatusFormat::Json) => {
                json!({"metadata": {}, "status": "Success"}).to_string()
            }
            (Self::ExitCode(code), StatusFormat::Text) => exit_message(*code),
            (Self::ExitCode(code), StatusFormat::Json) => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_message(*code),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
            .to_string(),
            (Self::Failure(why), StatusFormat::Text) => internal_message(why),
            (Self::Failure(why), StatusFormat::Json) => json!({
                "metadata": {},
                "status": "Failure",
                "message": internal_message(why),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            })
            .to_string(),
        }
    }
}

fn exit_message(code: u8) -> String {
    format!("command terminated with non-zero exit code: {code}")
}

fn internal_message(why: &str) -> String {
    format!("Internal error occurred: {why}")
}

#[cfg(test)]
mod tests {
    use model::Signal;

    use super::*;

    #[test]
    fn each_ending_is_told_as_its_version_wants() {
        let lost = Ending::Lost("its shim is gone".into());
        for (outcome, text, json) in [
            (Outcome::of_exec(Ending::Exited(0)), "", r#"{"metadata":{},"status":"Success"}"#),
            (
                Outcome::of_exec(Ending::Exited(3)),
                "command terminated with non-zero exit code: 3",
                r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#,
            ),
            (
                Outcome::of_attach(lost),
                "Internal error occurred: error attaching to container: its shim is gone",
                r#"{"code":500,"details":{"causes":[{"message":"error attaching to container: its shim is gone"}]},"message":"Internal error occurred: error attaching to container: its shim is gone","metadata":{},"reason":"InternalError","status":"Failure"}"#,
            ),
        ] {
            assert_eq!(outcome.write(StatusFormat::Text), text);
            let written: serde_json::Value =
                serde_json::from_str(&outcome.write(StatusFormat::Json)).unwrap();
            assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap());
        }
    }

    #[test]
    fn a_signal_is_128_and_its_number_and_an_attached_containers_end_is_success() {
        let killed = Ending::Signaled(Signal::KILL);
        assert_eq!(Outcome::of_exec(killed.clone()), Outcome::ExitCode(137));
        assert_eq!(Outcome::of_attach(killed), Outcome::Success);
        assert_eq!(Outcome::of_attach(Ending::Exited(3)), Outcome::Success);
    }
}
