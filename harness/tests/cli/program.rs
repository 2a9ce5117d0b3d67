//! Calling the program as a user does.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Makes this executable the program under test.
pub const SUBJECT: &str = "HARNESS_TEST_SUBJECT";

/// A directory of its own in which the program is called.
pub struct Desk {
    directory: TempDir,
}

/// What a call left behind.
#[derive(Debug)]
pub struct Called {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Desk {
    pub fn new() -> Desk {
        Desk { directory: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Calls the program with the words of `line`.
    pub fn call(&self, line: &str) -> Called {
        self.call_with(&line.split_whitespace().collect::<Vec<_>>(), &[])
    }

    pub fn call_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Called {
        self.finish(self.command(arguments).envs(environment.iter().copied()))
    }

    /// Calls the program with the words of `line`, its output going to `stdout`.
    pub fn call_into(&self, line: &str, stdout: impl Into<Stdio>) -> Called {
        self.finish(self.command(&line.split_whitespace().collect::<Vec<_>>()).stdout(stdout))
    }

    /// Calls the program with the words of `line`, and sends it `signal` once it has said something.
    pub fn interrupt(&self, line: &str, signal: Signal) -> Called {
        let mut child = self
            .command(&line.split_whitespace().collect::<Vec<_>>())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        called(child.wait_with_output().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).current_dir(self.directory.path()).env(SUBJECT, "1");
        command
    }

    fn finish(&self, command: &mut Command) -> Called {
        called(command.output().unwrap())
    }

    /// Calls the program with `--json` and expects exactly one object on stdout.
    pub fn json(&self, line: &str, code: i32) -> Value {
        let called = self.call(&format!("{line} --json"));
        assert_eq!(called.code, code, "{line}: {called:?}");
        let value: Value =
            serde_json::from_str(&called.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {called:?}"));
        assert!(value.is_object(), "{line}");
        value
    }

    /// Expects the one clear line of a usage error that contains `part`.
    pub fn usage_error(&self, line: &str, part: &str) {
        let called = self.call(line);
        assert_eq!((called.code, called.stdout.as_str()), (2, ""), "{line}: {called:?}");
        assert_eq!(called.stderr.trim_end().lines().count(), 1, "{line}: {}", called.stderr);
        assert!(called.stderr.contains(part), "{line}: {}", called.stderr);
    }
}

fn called(Output { status, stdout, stderr }: Output) -> Called {
    Called {
        code: status.code().expect("the program itself never dies of a signal"),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
