//! A network for the nodes in which single directions between two of them can be cut: a network namespace per node, and a
//! pair of virtual interfaces per link.
//!
//! Everything is within a namespace of this process, which [`enter`] starts anew in one, so nothing is left behind on the
//! machine, however the run ends. A cut sends packets to a hardware address that nobody has: they are lost in silence.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use crate::{Exit, UsageError};

/// Of networks for benchmarks (RFC 2544): no real host has such an address.
fn address(last: u32) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, u8::try_from(last).unwrap_or(u8::MAX))
}

/// Where the clients are.
const CLIENTS: u32 = 254;
/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";

/// Whether a namespace can be made and virtual interfaces in it.
pub fn permitted() -> bool {
    privilege().is_some()
}

/// What `unshare` must be told besides `--net`: nothing for root.
fn privilege() -> Option<&'static [&'static str]> {
    const PROBE: &str =
        "ip link set lo up && ip link add probe0 type veth peer name probe1 && nsenter --help >/dev/null";
    let ways: [&[&str]; 2] = [&[], &["--map-root-user"]];
    ways.into_iter().find(|way| {
        let mut command = Command::new("unshare");
        command.args(*way).args(["--net", "sh", "-c", PROBE]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// Runs this very command in a namespace, and ends as it ends.
pub fn enter() -> Result<Exit, UsageError> {
    let unusable = |error: io::Error| UsageError::new(format!("this program cannot be started again: {error}"));
    let program = std::env::current_exe().map_err(unusable)?;
    let mut command = Command::new("unshare");
    command.args(privilege().unwrap_or_default()).arg("--net").arg(program);
    command.args(std::env::args_os().skip(1)).arg("--in-namespace");
    let status = command.status().map_err(unusable)?;
    Ok(match status.code() {
        Some(0) => Exit::Pass,
        Some(1) => Exit::Violated,
        Some(2) => Exit::Usage,
        _ => Exit::Inconclusive,
    })
}

/// The namespaces of all nodes. They end with this value, or with this process.
pub struct Namespaces {
    /// One per node: a process that does nothing in its namespace until its standard input ends.
    holders: Vec<Child>,
}

impl Namespaces {
    pub fn build(nodes: u32) -> io::Result<Namespaces> {
        let here = std::process::id();
        run_ip(here, &format!("link set lo up\naddress add {}/32 dev lo\n", address(CLIENTS)))?;
        let mut holders = Vec::new();
        for _ in 0..nodes {
            let mut command = Command::new("unshare");
            command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
            holders.push(command.spawn()?);
        }
        let namespaces = Namespaces { holders };
        for node in 0..nodes {
            namespaces.entered(node)?;
        }
        for node in 0..nodes {
            let (pid, own) = (namespaces.pid(node), address(node + 1));
            run_ip(pid, &format!("link set lo up\naddress add {own}/32 dev lo\n"))?;
            link((here, CLIENTS), (pid, node + 1))?;
            for other in 0..node {
                link((namespaces.pid(other), other + 1), (pid, node + 1))?;
            }
        }
        Ok(namespaces)
    }

    /// Waits until the holder is in a namespace of its own.
    fn entered(&self, node: u32) -> io::Result<()> {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let here = of(std::process::id())?;
        for _ in 0..200 {
            if of(self.pid(node))? != here {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(io::Error::other("`unshare --net` made no namespace within 2 s"))
    }

    fn pid(&self, node: u32) -> u32 {
        self.holders[node as usize].id()
    }

    /// Where a node listens.
    pub fn address(&self, node: u32) -> Ipv4Addr {
        address(node + 1)
    }

    /// Where the clients listen.
    pub fn clients_address(&self) -> Ipv4Addr {
        address(CLIENTS)
    }

    /// A command that runs `program` in the namespace of a node.
    pub fn command(&self, node: u32, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid(node))).arg("--").arg(program);
        command
    }

    /// What `from` sends to `to` is lost, or not any more.
    pub fn cut(&self, from: u32, to: u32, cut: bool) -> io::Result<()> {
        lose((self.pid(from), from + 1), to + 1, cut)
    }

    /// The same between a node and all clients, both ways.
    pub fn cut_clients(&self, node: u32, cut: bool) -> io::Result<()> {
        lose((std::process::id(), CLIENTS), node + 1, cut)?;
        lose((self.pid(node), node + 1), CLIENTS, cut)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            // It may have ended already.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Process and number of a host.
type Host = (u32, u32);

/// The interface of a host towards another one.
fn interface(towards: u32) -> String {
    format!("to{towards}")
}

fn link(a: Host, b: Host) -> io::Result<()> {
    let made = format!("link add {} type veth peer name {} netns {}\n", interface(b.1), interface(a.1), b.0);
    run_ip(a.0, &made)?;
    for (host, towards) in [(a, b), (b, a)] {
        let (interface, own, other) = (interface(towards.1), address(host.1), address(towards.1));
        run_ip(host.0, &format!("link set {interface} up\nroute add {other} dev {interface} src {own}\n"))?;
    }
    Ok(())
}

fn lose(from: Host, to: u32, lost: bool) -> io::Result<()> {
    let (interface, other) = (interface(to), address(to));
    run_ip(
        from.0,
        &match lost {
            true => format!("neighbour replace {other} lladdr {NOWHERE} dev {interface} nud permanent\n"),
            false => format!("neighbour del {other} dev {interface}\n"),
        },
    )
}

/// Runs lines for `ip` in the network namespace of a process.
fn run_ip(pid: u32, lines: &str) -> io::Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).args(["--", "ip", "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}: {}", lines.trim(), String::from_utf8_lossy(&output.stderr).trim()))),
    }
}
