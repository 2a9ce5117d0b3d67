//! What people read: plain words, aligned, at most 100 columns, colour on a terminal only.

pub mod bench;
pub mod failure;
pub mod figures;
#[cfg(feature = "live")]
pub mod live;
pub mod mutants;
pub mod nodes;
pub mod page;
pub mod replay;
pub mod run;
pub mod scoreboard;
pub mod shrink;
pub mod sweep;
pub mod table;
pub mod verify;

use std::env;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;

use sim_runtime::engine::record::RunRequest;

use crate::UsageError;
use crate::tally::{DETERMINISM, Failure};

/// Writes to stdout. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// When what was to be said is lost: a script must not take silence for a result.
pub fn print(text: &str) -> Result<(), UsageError> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(UsageError::new(format!("the result cannot be written to stdout: {error}; send it elsewhere")))
        }
        _ => Ok(()),
    }
}

/// Writes lines to stderr, as long as somebody reads it.
pub fn say(lines: &[String]) {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = stderr().lock().write_all(text.as_bytes());
}

/// The one command that shows this failure again: a replay, or a verification of a seed that gave two different runs.
pub fn replay_command(request: &RunRequest, failure: &Failure) -> String {
    match &failure.artifact {
        Some(path) if failure.property != DETERMINISM => command(&["replay", path]),
        _ => {
            let verb = if failure.property == DETERMINISM { "verify" } else { "run" };
            let seed = request.seed.to_string();
            let mut arguments = vec![verb, "--seed", &seed, "--spec", &request.spec];
            if let Some(bug) = &request.bug {
                arguments.extend(["--bug", bug]);
            }
            command(&arguments)
        }
    }
}

/// A command line for this very build, ready to be pasted.
pub fn command(arguments: &[&str]) -> String {
    let executable = env::current_exe().unwrap_or_default();
    let mut line = through_cargo(&executable).unwrap_or_else(|| quoted(&executable.to_string_lossy()));
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

/// `cargo run` with the profile that the executable was built with; `None` when cargo did not build it as `harness`.
fn through_cargo(executable: &Path) -> Option<String> {
    let directory = executable.parent().filter(|directory| directory.join("deps").is_dir())?;
    if executable.file_name() != Some(OsStr::new("harness")) {
        return None;
    }
    let profile = match directory.file_name()?.to_str()? {
        "debug" => String::new(),
        "release" => "--release ".to_owned(),
        other => format!("--profile {other} "),
    };
    Some(format!("cargo run {profile}-p harness --"))
}

fn quoted(argument: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._/-=:+,".contains(character);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_shell() {
        assert_eq!(quoted("target/harness/default-1.json"), "target/harness/default-1.json");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
