//! Stop signals. CRI numbers them by name, not as the kernel does.

use cri_api::v1;
use model::Signal;

use super::{ConvertError, known};

/// `None` for "the runtime's default".
pub(crate) fn from_cri(value: i32) -> Result<Option<Signal>, ConvertError> {
    let signal: v1::Signal = known("stop_signal", value)?;
    if signal == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    let unknown = |_| ConvertError::UnknownValue { field: "stop_signal", value };
    Signal::parse(&kernel_name(signal)).map(Some).map_err(unknown)
}

/// The name the kernel's users write: `SIGRTMIN+3` for `SIGNAL_SIGRTMINPLUS3`.
fn kernel_name(signal: v1::Signal) -> String {
    let name = signal.as_str_name();
    name.strip_prefix("SIGNAL_").unwrap_or(name).replace("PLUS", "+").replace("MINUS", "-")
}

/// The kernel's number as CRI's. Numbers without a name (the C library's own) are "default".
pub(crate) fn to_cri(signal: Signal) -> i32 {
    let named = |cri: &v1::Signal| {
        *cri != v1::Signal::RuntimeDefault && Signal::parse(&kernel_name(*cri)) == Ok(signal)
    };
    // Aliases (SIGCHLD and SIGCLD) share a number; the first name wins.
    let all = (0..=65).filter_map(|value| v1::Signal::try_from(value).ok());
    let preferred = all.clone().find(|cri| kernel_name(*cri) == signal.to_string());
    let found = preferred.or_else(|| all.into_iter().find(named));
    found.unwrap_or(v1::Signal::RuntimeDefault).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cri_signal_is_one_of_the_kernels_and_back() {
        for value in 1..=65 {
            let signal = from_cri(value).unwrap().unwrap();
            assert_eq!(from_cri(to_cri(signal)).unwrap(), Some(signal), "{value}");
        }
        assert_eq!(to_cri(Signal::TERM), 23);
        assert_eq!(to_cri(Signal::KILL), 13);
        assert_eq!(from_cri(0), Ok(None));
        assert!(from_cri(66).is_err());
    }
}
