//! Real `aspen-node` processes on loopback, each in a directory of its own, and what a test asks them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aspen::production::client::{CallError, Caller};
use axum::http::Method;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

/// Nothing in a test takes so long, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Addresses, directories and processes of one test.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub http: Caller,
}

/// One process, killed when it is dropped.
pub struct Process {
    pub url: String,
    pub dir: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

/// An address on loopback that nothing else takes, not even while its node is down: a port that was free a moment ago may be
/// the local end of somebody's connection when it is needed.
pub fn own_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // 127.0.0.0/8 is ours as a whole (RFC 1122, section 3.2.1.3): the process in the middle, then the count.
    let [high, low] = (std::process::id() as u16 | 0x8000).to_be_bytes();
    let last =
        u8::try_from(COUNT.fetch_add(1, Ordering::Relaxed) + 1).expect("tests of one process use fewer addresses");
    format!("127.{high}.{low}.{last}:7000")
}

impl Site {
    pub fn new() -> Site {
        Site { dir: tempfile::tempdir().unwrap(), http: Caller::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a node in a directory of this name. Does not wait for it.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Process {
        self.spawn_at(name, &own_address(), arguments)
    }

    /// The same with HTTP at this address.
    pub fn spawn_at(&self, name: &str, http: &str, arguments: &[&str]) -> Process {
        let dir = self.path(name);
        let mut all =
            vec!["--data-dir".to_owned(), dir.display().to_string(), "--http-addr".to_owned(), http.to_owned()];
        if !arguments.contains(&"--bind-addr") {
            all.extend(["--bind-addr".to_owned(), own_address()]);
        }
        all.extend(["--heartbeat-interval-ms", "100", "--election-timeout-min-ms", "500"].map(str::to_owned));
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let child = start(self.dir.path(), &all);
        let url = format!("http://{}", http.replace("0.0.0.0", "127.0.0.1"));
        Process { url, dir, arguments: all, child }
    }

    /// Runs a node that does not start, and returns its exit code and what it said.
    pub fn refused(&self, name: &str, arguments: &[&str], variables: &[(&str, &OsStr)]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
        command.args(["--http-addr", "127.0.0.1:0", "--bind-addr", "127.0.0.1:0", "--data-dir"]).arg(self.path(name));
        command.args(arguments).envs(variables.iter().copied());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// Files in a directory of this name.
    pub fn files(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts a node and waits until it is ready.
    pub async fn start(&self, name: &str, arguments: &[&str]) -> Process {
        let process = self.spawn(name, arguments);
        process.ready(self).await;
        process
    }

    /// Waits until a node has written its ticket.
    pub async fn ticket(&self, path: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(path) {
                return text.trim().to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "no ticket was written");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn get(&self, url: &str) -> (u16, Value) {
        self.call(Method::GET, url, None, Vec::new()).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    pub async fn post(&self, url: &str, body: Value, token: Option<&str>) -> (u16, Value) {
        let body = serde_json::to_vec(&body).unwrap();
        self.call(Method::POST, url, token, body).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    async fn call(
        &self,
        method: Method,
        url: &str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Result<(u16, Value), CallError> {
        let (status, bytes) = self.http.call(method, url, token, body, PATIENCE).await?;
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Ok((status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Asks until `found` finds something in the answer.
    pub async fn until<T>(&self, url: &str, what: &str, found: impl FnMut(u16, &Value) -> Option<T>) -> T {
        self.until_unless(url, what, found, || None).await
    }

    /// The same, unless something happened that makes waiting vain.
    async fn until_unless<T>(
        &self,
        url: &str,
        what: &str,
        mut found: impl FnMut(u16, &Value) -> Option<T>,
        vain: impl Fn() -> Option<String>,
    ) -> T {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            if let Some(why) = vain() {
                panic!("it cannot come true at {url}: {what}: {why}");
            }
            match self.call(Method::GET, url, None, Vec::new()).await {
                Ok((status, value)) => {
                    if let Some(found) = found(status, &value) {
                        return found;
                    }
                    last = format!("{status} {value}");
                }
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it never came true at {url}: {what}; at last {last}");
    }

    /// Writes until it is acknowledged, wherever the leader is.
    pub async fn set(&self, url: &str, key: &str, value: &str) -> u64 {
        let begun = Instant::now();
        loop {
            let (status, reply) =
                self.post(&format!("{url}/write"), json!({"set": {"key": key, "value": value}}), None).await;
            if status == 200 {
                return reply["revision"].as_u64().unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "{key} could not be written: {reply}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A linearizable read, repeated until it is served.
    pub async fn value(&self, url: &str, key: &str) -> Option<String> {
        let read = format!("{url}/read?key={key}");
        self.until(&read, "a read is served", |status, reply| (status == 200).then(|| reply.clone())).await["row"]["value"]
            .as_str()
            .map(str::to_owned)
    }
}

/// The command `aspen`, told of this node and its token.
pub fn aspen(node: &Process) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
    command.args(["--endpoint", &node.url, "--token-file"]).arg(node.dir.join("http-token"));
    command
}

/// Standard output of `aspen` with these arguments, which ends with this code.
pub fn says(node: &Process, arguments: &[&str], code: i32) -> String {
    let output = aspen(node).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}{error}");
    text
}

/// The same as JSON.
pub fn says_json(node: &Process, arguments: &[&str], code: i32) -> Value {
    let text = says(node, &[&["--json"], arguments].concat(), code);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn start(cwd: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
    command.args(arguments).current_dir(cwd).env("RUST_BACKTRACE", "1").stdout(Stdio::null()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

impl Process {
    /// Waits until it answers, in a cluster or not.
    pub async fn lives(&self, site: &Site) {
        self.answers(site, "/livez").await;
    }

    pub async fn ready(&self, site: &Site) {
        self.answers(site, "/readyz").await;
    }

    async fn answers(&self, site: &Site, path: &str) {
        let url = format!("{}{path}", self.url);
        site.until_unless(&url, "200", |status, _| (status == 200).then_some(()), || self.ended()).await;
    }

    /// How it ended, if it did. The status stays, for whoever waits for it.
    fn ended(&self) -> Option<String> {
        let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), only_look).unwrap()?;
        Some(format!("the node ended, code {:?}, signal {:?}", status.exit_status(), status.terminating_signal()))
    }

    /// The bearer token that the node made for itself.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.dir.join("http-token")).unwrap().trim().to_owned()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then the status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGHUP, then the status.
    pub fn hang_up(&mut self) -> ExitStatus {
        self.signal(Signal::HUP);
        self.wait()
    }

    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again as it was.
    pub fn restart(&mut self) {
        self.child = start(self.dir.parent().unwrap(), &self.arguments);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
