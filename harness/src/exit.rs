//! What the exit status says.

use std::process::ExitCode;

use sim_runtime::engine::report::Verdict;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Pass,
    /// A property was violated.
    Violated,
    /// Wrong arguments, an unreadable file, an unwritable path.
    Usage,
    NotDeterministic,
    /// Coverage was asked for and not reached, or a planted bug was not found.
    NotReached,
    Inconclusive,
    /// Somebody ended the command before it was done; nothing was wrong until then.
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Pass => 0,
            Exit::Violated => 1,
            Exit::Usage => 2,
            Exit::NotDeterministic => 3,
            Exit::NotReached => 4,
            Exit::Inconclusive => 5,
            // As shells say of SIGINT.
            Exit::Interrupted => 130,
        }
    }

    /// Of several that apply the most telling one.
    pub fn first_of(exits: &[Exit]) -> Exit {
        const ORDER: [Exit; 6] = [
            Exit::Usage,
            Exit::NotDeterministic,
            Exit::Violated,
            Exit::Interrupted,
            Exit::Inconclusive,
            Exit::NotReached,
        ];
        ORDER.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Pass)
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Exit {
        match verdict {
            Verdict::Pass => Exit::Pass,
            Verdict::Fail => Exit::Violated,
            Verdict::Inconclusive => Exit::Inconclusive,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_exit_wins() {
        assert_eq!(Exit::first_of(&[]), Exit::Pass);
        assert_eq!(Exit::first_of(&[Exit::NotReached, Exit::Inconclusive]), Exit::Inconclusive);
        assert_eq!(Exit::first_of(&[Exit::Inconclusive, Exit::Violated, Exit::Pass]), Exit::Violated);
        assert_eq!(Exit::first_of(&[Exit::Inconclusive, Exit::Interrupted]), Exit::Interrupted);
        assert_eq!(Exit::first_of(&[Exit::Interrupted, Exit::Violated]), Exit::Violated);
        assert_eq!(Exit::first_of(&[Exit::Violated, Exit::NotDeterministic]), Exit::NotDeterministic);
    }
}
