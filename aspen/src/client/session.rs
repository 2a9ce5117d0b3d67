//! The client's side of a session: which number the next operation has, and what a reply says about earlier attempts.
//!
//! One operation of a session is in flight at a time. A number is used for one operation only, also when it was never
//! delivered: a higher number tells the store that the reply to every lower one is no longer wanted.

use crate::command::{Outcome, SessionSeq};
use crate::planted::planted;

/// A session as its client knows it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    open: Option<SessionSeq>,
}

impl Session {
    /// The session that the store opened.
    pub(crate) fn opened(session: u64) -> Self {
        Session { open: Some(SessionSeq { session, seq: 0 }) }
    }

    /// The id, while the session is believed to be open.
    pub(crate) fn id(&self) -> Option<u64> {
        self.open.map(|open| open.session)
    }

    /// The name of the next operation, or `None` if a session must be opened first.
    pub(crate) fn next(&mut self) -> Option<SessionSeq> {
        let open = self.open.as_mut()?;
        open.seq += 1;
        Some(*open)
    }

    /// The store does not know the session, or it was closed.
    pub(crate) fn forget(&mut self) {
        self.open = None;
    }
}

/// What the reply to the last attempt says about the operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the operation's reply.
    Done,
    /// The session is gone and nothing happened: the operation may be sent again in a new session.
    Reopen,
    /// The session is gone and with it the record of what an earlier attempt did.
    ///
    /// `SessionUnknown` says that *this* attempt had no effect. An earlier one may have been applied while the session
    /// still lived; its cached reply died with the session. So it proves nothing about the operation.
    Lost,
}

/// `earlier` says that an attempt before this one may have been delivered.
pub(crate) fn judge(outcome: &Outcome, earlier: bool) -> Verdict {
    match outcome {
        Outcome::SessionUnknown if earlier && !planted!("lost-session-reopened") => Verdict::Lost,
        Outcome::SessionUnknown => Verdict::Reopen,
        // Only a newer operation of the same session makes a number stale, and there is none while this one is in
        // flight. Should it happen nevertheless, an effect of an earlier attempt cannot be excluded.
        Outcome::SessionStale => Verdict::Lost,
        _ => Verdict::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_one_and_are_never_used_twice() {
        let mut session = Session::default();
        assert_eq!(session.next(), None);
        session = Session::opened(7);
        assert_eq!(session.next(), Some(SessionSeq { session: 7, seq: 1 }));
        assert_eq!(session.next(), Some(SessionSeq { session: 7, seq: 2 }));
        session.forget();
        assert_eq!((session.next(), session.id()), (None, None));
    }

    #[test]
    fn an_unknown_session_proves_nothing_about_an_earlier_attempt() {
        assert_eq!(judge(&Outcome::SessionUnknown, true), Verdict::Lost);
        assert_eq!(judge(&Outcome::SessionUnknown, false), Verdict::Reopen);
        assert_eq!(judge(&Outcome::SessionStale, false), Verdict::Lost);
        assert_eq!(judge(&Outcome::Written { version: 1 }, true), Verdict::Done);
    }
}
