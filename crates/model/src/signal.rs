//! Linux signals by number and name.

use std::fmt;

/// Why a text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a signal: want a name such as SIGTERM or a number from 1 to 64")]
pub struct SignalError {
    /// The refused text.
    pub text: String,
}

/// A Linux signal number, 1…64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct Signal(u8);

/// The kernel's numbers, the same on every architecture knarr supports.
const NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

impl Signal {
    /// Ends a process at once.
    pub const KILL: Self = Self(9);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);

    /// From the kernel's number.
    ///
    /// # Errors
    /// [`SignalError`] for anything outside 1…64.
    pub fn from_number(number: i32) -> Result<Self, SignalError> {
        match u8::try_from(number) {
            Ok(small @ 1..=64) => Ok(Self(small)),
            Ok(_) | Err(_) => Err(SignalError { text: number.to_string() }),
        }
    }

    /// From a name (`SIGTERM`, `term`, `SIGRTMIN+3`, `RTMAX-1`) or a number.
    ///
    /// # Errors
    /// [`SignalError`] names the refused text.
    pub fn parse(text: &str) -> Result<Self, SignalError> {
        let refuse = || SignalError { text: text.to_owned() };
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |digits: &str| digits.parse::<u8>().ok().filter(|n| *n <= 30);
        let number = if let Some(digits) = name.strip_prefix("RTMIN+") {
            offset(digits).map(|n| 34 + n)
        } else if let Some(digits) = name.strip_prefix("RTMAX-") {
            offset(digits).map(|n| 64 - n)
        } else {
            NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
        };
        number.map(Self).ok_or_else(refuse)
    }

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => match self.0 {
                low @ 35..=49 => write!(f, "SIGRTMIN+{}", low - 34),
                high @ 50..=63 => write!(f, "SIGRTMAX-{}", 64 - high),
                // 32 and 33 are the C library's own.
                other => write!(f, "{other}"),
            },
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({self})")
    }
}

impl TryFrom<String> for Signal {
    type Error = SignalError;
    fn try_from(text: String) -> Result<Self, SignalError> {
        Self::parse(&text)
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> String {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_prints_to_something_that_parses_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
        }
    }

    #[test]
    fn names_are_read_in_any_case_with_and_without_prefix() {
        for text in ["SIGTERM", "sigterm", "TERM", "15"] {
            assert_eq!(Signal::parse(text), Ok(Signal::TERM), "{text}");
        }
        assert_eq!(Signal::parse("SIGRTMIN+3").unwrap().number(), 37);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+99"] {
            assert_eq!(Signal::parse(text), Err(SignalError { text: text.into() }), "{text}");
        }
    }
}
