//! The macros. Each expands to one static site, registered with the linker, and one visit.

/// Registers a site. Not for use by hand.
#[doc(hidden)]
#[macro_export]
macro_rules! __site {
    ($kind:ident, $message:expr, $owed_by:expr) => {{
        #[$crate::__private::linkme::distributed_slice($crate::__private::SITES)]
        #[linkme(crate = $crate::__private::linkme)]
        static SITE: $crate::Site = $crate::Site::new(
            $crate::Kind::$kind,
            ::core::module_path!(),
            $message,
            (::core::file!(), ::core::line!(), ::core::column!()),
            $owed_by,
        );
        &SITE
    }};
}

/// Renders the details of a violation: a format string with arguments, `name = value` pairs, or plain expressions.
#[doc(hidden)]
#[macro_export]
macro_rules! __details {
    () => { ::std::string::String::new() };
    ($format:literal $(, $($argument:tt)*)?) => { ::std::format!($format $(, $($argument)*)?) };
    ($($name:ident = $value:expr),+ $(,)?) => {
        [$(::std::format!("{}={:?}", ::core::stringify!($name), $value)),+].join(" ")
    };
    ($($value:expr),+ $(,)?) => {
        [$(::std::format!("{}={:?}", ::core::stringify!($value), $value)),+].join(" ")
    };
}

/// Asserts that a condition holds at every visit.
///
/// Details may follow the message; they are evaluated on a violation only: a format string with arguments,
/// `name = value` pairs, or plain expressions.
///
/// ```
/// # let (applied, committed) = (1, 2);
/// buggify::assert_always!(applied <= committed, "applied never passes committed", applied, committed);
/// buggify::assert_always!(applied <= committed, "applied stays behind committed", "by {}", committed - applied);
/// ```
#[macro_export]
macro_rules! assert_always {
    ($condition:expr, $message:literal $(, $($details:tt)*)?) => {
        $crate::__private::always(
            $crate::__site!(Always, $message, ""),
            $condition,
            || $crate::__details!($($($details)*)?),
        )
    };
}

/// Asserts that a place is never reached. Details as in [`assert_always!`].
#[macro_export]
macro_rules! assert_unreachable {
    ($message:literal $(, $($details:tt)*)?) => {
        $crate::__private::always(
            $crate::__site!(Unreachable, $message, ""),
            false,
            || $crate::__details!($($($details)*)?),
        )
    };
}

/// Asserts that a condition holds at one visit at least, over the runs of the specs that owe it.
///
/// The spec `default` owes it unless `owed_by = "power,disk"` says otherwise. The condition is evaluated only while
/// simulating, so it must have no effect.
#[macro_export]
macro_rules! assert_sometimes {
    ($condition:expr, $message:literal, owed_by = $owed_by:literal $(,)?) => {
        $crate::__private::sometimes($crate::__site!(Sometimes, $message, $owed_by), || $condition)
    };
    ($condition:expr, $message:literal $(, $($details:tt)*)?) => {
        $crate::__private::sometimes($crate::__site!(Sometimes, $message, "default"), || {
            let _ = || $crate::__details!($($($details)*)?);
            $condition
        })
    };
}

/// Asserts that a place is reached at least once, over the runs of the specs that owe it; see [`assert_sometimes!`].
#[macro_export]
macro_rules! assert_reachable {
    ($message:literal, owed_by = $owed_by:literal $(,)?) => {
        $crate::__private::sometimes($crate::__site!(Reachable, $message, $owed_by), || true)
    };
    ($message:literal $(, $($details:tt)*)?) => {
        $crate::__private::sometimes($crate::__site!(Reachable, $message, "default"), || {
            let _ = || $crate::__details!($($($details)*)?);
            true
        })
    };
}

/// A fault point: `true` when the simulation wants the fault to happen here, now. Always `false` outside.
///
/// A site is live in a run with 25 %, and a live site fires with 25 % per visit, or with the probability given:
/// `buggify!(0.05)`. A name makes its id independent of its line: `buggify!(at "reply is lost")`,
/// `buggify!(at "reply is lost", 0.05)`.
#[macro_export]
macro_rules! buggify {
    () => {
        $crate::__private::fire($crate::__site!(Buggify, $crate::__place!(), ""), None)
    };
    (at $name:literal) => {
        $crate::__private::fire($crate::__site!(Buggify, $name, ""), None)
    };
    (at $name:literal, $probability:expr) => {
        $crate::__private::fire($crate::__site!(Buggify, $name, ""), Some($probability))
    };
    ($probability:expr) => {
        $crate::__private::fire($crate::__site!(Buggify, $crate::__place!(), ""), Some($probability))
    };
}

/// Names a fault point after its place. Not for use by hand.
#[doc(hidden)]
#[macro_export]
macro_rules! __place {
    () => {
        ::core::concat!("buggify at ", ::core::line!(), ":", ::core::column!())
    };
}
