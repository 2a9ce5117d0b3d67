//! Runs on disk: what was asked, what came of it, and which build did it.
//!
//! The plan stands in [`Artifact::request`], where it may be edited; the record beside it is what the unedited plan
//! gave.

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::isolate;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::UsageError;

/// Grows by one when an older reader would misunderstand the file.
pub const VERSION: u32 = 1;

const FORMAT: &str = "harness artifact";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    format: String,
    version: u32,
    /// Hash of the executable that made the record, in hex.
    pub build: String,
    /// Hash of the plan that gave the record, and of the names it ran under, in hex.
    plan_hash: String,
    /// Replayed as it stands, plan included.
    pub request: RunRequest,
    /// Its plan is null, see above.
    pub record: RunRecord,
    /// The last of what the run wrote to stderr.
    pub stderr: String,
    /// What a scenario of the corpus guards, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Artifact {
    /// # Errors
    /// When the executable cannot be read.
    pub fn new(request: &RunRequest, record: &RunRecord, stderr: &str) -> Result<Artifact, UsageError> {
        let mut record = record.clone();
        (record.look, record.log) = (None, Vec::new());
        let plan = Some(record.plan.take()).filter(|plan| !plan.is_null()).or_else(|| request.plan.clone());
        let request = RunRequest { plan, window: None, stop_at: None, log: None, ..request.clone() };
        Ok(Artifact {
            format: FORMAT.to_owned(),
            version: VERSION,
            build: build()?,
            plan_hash: hash_of(&request),
            request,
            record,
            stderr: stderr.to_owned(),
            why: None,
        })
    }

    /// Whether what is asked for still is what gave the record.
    pub fn plan_is_untouched(&self) -> bool {
        self.plan_hash == hash_of(&self.request)
    }

    /// Writes the whole file or nothing, and creates the directories above it.
    ///
    /// # Errors
    /// When the path cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), UsageError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| UsageError::new(format!("the artifact cannot be rendered: {error}")))?;
        bytes.push(b'\n');
        write_whole(path, &bytes).map_err(|error| unwritable(path, &error))
    }

    /// # Errors
    /// When the file is unreadable, truncated, something else, or newer than this program.
    pub fn read(path: &Path) -> Result<Artifact, UsageError> {
        let shown = path.display();
        let bytes = fs::read(path).map_err(|error| {
            UsageError::new(format!(
                "cannot read {shown}: {error}; pass a file that a failing run or `run --save` wrote"
            ))
        })?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| match error.is_eof() {
            true => UsageError::new(format!("{shown} is truncated; write it again with `run --save`")),
            false => UsageError::new(format!("{shown} is not an artifact ({error}); write one with `run --save`")),
        })?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(UsageError::new(format!("{shown} is not an artifact; write one with `run --save`")));
        }
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version > u64::from(VERSION) => {
                let advice = "update this program or write the artifact again with it";
                return Err(UsageError::new(format!(
                    "{shown} has version {version}, this program reads up to {VERSION}; {advice}"
                )));
            }
            Some(_) => {}
            None => return Err(UsageError::new(format!("{shown} has no version; write it again with `run --save`"))),
        }
        serde_json::from_value(value)
            .map_err(|error| UsageError::new(format!("{shown} is damaged ({error}); write it again with `run --save`")))
    }
}

/// Where a failing run leaves its artifact.
pub fn path_for(directory: &Path, request: &RunRequest) -> PathBuf {
    let bug = request.bug.as_ref().map(|bug| format!("-{bug}")).unwrap_or_default();
    directory.join(format!("{}{bug}-{}.json", request.spec, request.seed))
}

/// Finds out before hours of work whether `directory` can be written.
///
/// # Errors
/// When it cannot.
pub fn prepare(directory: &Path) -> Result<(), UsageError> {
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&probe, b""))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| unwritable(directory, &error))
}

/// Like [`prepare`], for the directory that will hold `file`.
///
/// # Errors
/// When it cannot be written, or `file` is a directory itself.
pub fn prepare_file(file: &Path) -> Result<(), UsageError> {
    if file.is_dir() {
        return Err(unwritable(file, &io::Error::from(io::ErrorKind::IsADirectory)));
    }
    prepare(parent(file))
}

/// Hash of this executable's own bytes, in hex: every change of any crate in it makes another build.
///
/// # Errors
/// When the executable cannot be read.
pub fn build() -> Result<String, UsageError> {
    let hash = || -> io::Result<u128> {
        let mut executable = isolate::executable()?;
        let mut hasher = Xxh3Default::new();
        let mut chunk = vec![0; 1 << 20];
        loop {
            match executable.read(&mut chunk)? {
                0 => return Ok(hasher.digest128()),
                count => hasher.write(&chunk[..count]),
            }
        }
    };
    hash().map(|hash| format!("{hash:032x}")).map_err(|error| {
        UsageError::new(format!("cannot read this executable to name the build: {error}; mount /proc"))
    })
}

/// Maps are ordered in [`Value`], so equal plans have equal text.
fn hash_of(request: &RunRequest) -> String {
    let RunRequest { seed, spec, bug, plan, .. } = request;
    format!("{:032x}", xxh3_128(json!([seed, spec, bug, plan]).to_string().as_bytes()))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(parent(path))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written =
        File::create(&beside).and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritable(path: &Path, error: &io::Error) -> UsageError {
    UsageError::new(format!("cannot write to {}: {error}; choose another place", path.display()))
}
