//! Secrets: the cluster's, the node's key, and the token of the HTTP interface.
//!
//! None is ever printed, nor taken from the command line: everybody on the machine can read that. Files that are made
//! here are readable by their owner only.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use iroh::{PublicKey, SecretKey};

use crate::message::ClusterId;

/// Shorter secrets can be guessed.
pub const SECRET_BYTES_MIN: usize = 16;
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// A secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: a secret has {SECRET_BYTES_MIN} characters at least")]
    TooShort { path: PathBuf },
    #[error("{path}: {problem}")]
    Unusable { path: PathBuf, problem: &'static str },
}

/// What the members of a cluster share (the "cookie").
#[derive(Clone)]
pub struct ClusterSecret {
    id: [u8; 32],
    proofs: [u8; 32],
    tickets: [u8; 32],
}

impl ClusterSecret {
    pub fn new(text: &str) -> Self {
        let derive = |purpose: &str| blake3::derive_key(purpose, text.as_bytes());
        ClusterSecret {
            id: derive("aspen 2026 cluster id"),
            proofs: derive("aspen 2026 connection proof"),
            tickets: derive("aspen 2026 cluster ticket"),
        }
    }

    /// The cluster whose secret this is. It says nothing about the secret.
    pub fn cluster(&self) -> ClusterId {
        let (head, _) = self.id.split_first_chunk().expect("it has 32 bytes");
        ClusterId(u64::from_le_bytes(*head))
    }

    /// Shows `acceptor` that `dialler` holds the secret. TLS proves both keys, so nobody else can use it.
    pub fn proof(&self, dialler: &PublicKey, acceptor: &PublicKey) -> [u8; 32] {
        let both = [*dialler.as_bytes(), *acceptor.as_bytes()].concat();
        *blake3::keyed_hash(&self.proofs, &both).as_bytes()
    }

    /// In constant time.
    pub fn is_proof(&self, proof: &[u8; 32], dialler: &PublicKey, acceptor: &PublicKey) -> bool {
        blake3::Hash::from_bytes(self.proof(dialler, acceptor)) == blake3::Hash::from_bytes(*proof)
    }

    pub(super) fn ticket_mac(&self, body: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.tickets, body)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret of {}", self.cluster())
    }
}

/// What callers of the HTTP interface must present. Kept as a hash: comparing hashes takes the same time for every
/// wrong token.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    pub fn new(text: &str) -> Self {
        Token(blake3::hash(text.as_bytes()))
    }

    /// In constant time.
    pub fn matches(&self, presented: &str) -> bool {
        blake3::hash(presented.as_bytes()) == self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Reads a secret from a file, without the white space around it.
pub fn read(path: &Path) -> Result<String, SecretError> {
    let fail = |error| SecretError::Io { path: path.to_owned(), error };
    if fs::metadata(path).map_err(fail)?.len() > SECRET_FILE_BYTES_MAX {
        return Err(SecretError::Unusable { path: path.to_owned(), problem: "the file is too long for a secret" });
    }
    let text = fs::read_to_string(path).map_err(fail)?.trim().to_owned();
    if is_too_short(&text) {
        return Err(SecretError::TooShort { path: path.to_owned() });
    }
    Ok(text)
}

/// Reads a secret from a file, if the file is there.
pub fn read_if_there(path: &Path) -> Result<Option<String>, SecretError> {
    match fs::exists(path) {
        Ok(true) => read(path).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(SecretError::Io { path: path.to_owned(), error }),
    }
}

/// Whether a secret, without the white space around it, can be guessed. An empty one is no secret, and not the same as none.
pub fn is_too_short(text: &str) -> bool {
    text.len() < SECRET_BYTES_MIN
}

/// Whether others than the owner may read the file.
pub fn is_exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// Writes a file that only its owner can read, wholly or not at all.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    // The file may have been there.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(dir)?.sync_all()
}

/// The node's key: its identity towards its peers. Made when it is first asked for.
pub fn node_key(path: &Path) -> Result<SecretKey, SecretError> {
    if let Some(key) = node_key_if_there(path)? {
        return Ok(key);
    }
    let mut fresh = Fresh::default();
    let key = fresh.node_key(path)?;
    fresh.keep();
    Ok(key)
}

/// The node's key, if it was made before.
pub fn node_key_if_there(path: &Path) -> Result<Option<SecretKey>, SecretError> {
    let unusable =
        || SecretError::Unusable { path: path.to_owned(), problem: "it is not a key: 64 hexadecimal digits" };
    read_if_there(path)?.map(|text| text.parse().map_err(|_| unusable())).transpose()
}

/// Secrets that a start makes: they are removed again unless it gets so far that they are worth keeping.
#[derive(Debug, Default)]
pub struct Fresh {
    paths: Vec<PathBuf>,
}

impl Fresh {
    /// Makes a secret.
    pub fn secret(&mut self, path: &Path) -> Result<String, SecretError> {
        let text = random_text();
        self.write(path, &text)?;
        Ok(text)
    }

    /// Makes a node's key.
    pub fn node_key(&mut self, path: &Path) -> Result<SecretKey, SecretError> {
        let key = SecretKey::generate();
        self.write(path, &HEXLOWER.encode(&key.to_bytes()))?;
        Ok(key)
    }

    /// They stay.
    pub fn keep(mut self) {
        self.paths.clear();
    }

    fn write(&mut self, path: &Path, text: &str) -> Result<(), SecretError> {
        write(path, text).map_err(|error| SecretError::Io { path: path.to_owned(), error })?;
        self.paths.push(path.to_owned());
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // The start has failed already, for a reason that matters more.
        self.paths.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

/// 160 bits from the system's generator, as text.
fn random_text() -> String {
    BASE32_NOPAD.encode(&random::<20>()).to_lowercase()
}

/// Bytes from the system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    // A key is drawn from the system's generator; hashing it gives as many bytes as wanted without another dependency.
    let seed = SecretKey::generate().to_bytes();
    let mut bytes = [0; N];
    blake3::Hasher::new_derive_key("aspen 2026 random bytes").update(&seed).finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_pair_and_one_secret() {
        let key = |byte| SecretKey::from_bytes(&[byte; 32]).public();
        let (secret, other) = (ClusterSecret::new("a long secret of ours"), ClusterSecret::new("another secret"));
        let proof = secret.proof(&key(1), &key(2));
        assert!(secret.is_proof(&proof, &key(1), &key(2)));
        assert!(!secret.is_proof(&proof, &key(2), &key(1)), "the other way round");
        assert!(!secret.is_proof(&proof, &key(3), &key(2)), "another dialler");
        assert!(!other.is_proof(&proof, &key(1), &key(2)), "another cluster");
        assert_ne!(secret.cluster(), other.cluster());
    }

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cookie");
        assert_eq!(read_if_there(&path).unwrap(), None);
        let mut fresh = Fresh::default();
        let made = fresh.secret(&path).unwrap();
        assert!(!is_too_short(&made));
        fresh.keep();
        assert_eq!(read_if_there(&path).unwrap(), Some(made));
        assert!(!is_exposed(&path));
        let key = node_key(&dir.path().join("key")).unwrap();
        assert_eq!(node_key(&dir.path().join("key")).unwrap().public(), key.public());
    }

    #[test]
    fn what_a_failed_start_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut fresh = Fresh::default();
        fresh.secret(&dir.path().join("cookie")).unwrap();
        fresh.node_key(&dir.path().join("key")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        drop(fresh);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_short_or_false_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(read(&path), Err(SecretError::TooShort { .. })));
        fs::write(&path, "sixteen characters, but no key").unwrap();
        assert!(matches!(node_key(&path), Err(SecretError::Unusable { .. })));
    }

    #[test]
    fn only_the_right_token_matches() {
        let token = Token::new("let me in, please");
        assert!(token.matches("let me in, please"));
        assert!(!token.matches("let me in, pleas") && !token.matches(""));
        assert_eq!(format!("{token:?}"), "Token");
    }
}
