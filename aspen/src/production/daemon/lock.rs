//! A data directory has one user at a time, and a start that is refused leaves nothing behind that was not there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::production::daemon::IdentityError;

/// Held while a process uses the data directory; the operating system lets go of it however the process ends.
///
/// Unless [`keep`](DirectoryLock::keep) was called, what taking it made is removed again when it is dropped: the lock's file,
/// and directories that are still empty.
#[derive(Debug)]
pub struct DirectoryLock {
    /// Dropped after what is below was removed.
    _file: File,
    /// Files and directories that were not there before, each before what it is in.
    made: Vec<PathBuf>,
}

impl DirectoryLock {
    /// Makes the directory if there is none, and takes it.
    pub fn take(dir: &Path) -> Result<DirectoryLock, IdentityError> {
        let path = dir.join("lock");
        let fail = |problem: String| IdentityError { path: path.clone(), problem };
        let mut made: Vec<PathBuf> = [&path].into_iter().filter(|path| !path.exists()).cloned().collect();
        made.extend(dir.ancestors().filter(|of| !of.as_os_str().is_empty() && !of.exists()).map(Path::to_owned));
        let taken = fs::create_dir_all(dir).map_err(|error| error.to_string()).and_then(|()| lock(&path));
        match taken {
            Ok(file) => Ok(DirectoryLock { _file: file, made }),
            Err(problem) => {
                remove(&made);
                Err(fail(problem))
            }
        }
    }

    /// The directory is in use from now on: what is in it stays.
    pub fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

fn lock(path: &Path) -> Result<File, String> {
    loop {
        let opened = File::options().create(true).truncate(false).write(true).open(path);
        let file = opened.map_err(|error| error.to_string())?;
        match file.try_lock() {
            // Whoever had it before may have removed it in between: then nobody else sees that it is locked.
            Ok(()) if is_at(&file, path).map_err(|error| error.to_string())? => return Ok(file),
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err("another process uses this data directory".to_owned()),
            Err(fs::TryLockError::Error(error)) => return Err(error.to_string()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(there) => Ok(file.metadata()?.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Directories go only if they are empty.
fn remove(made: &[PathBuf]) {
    for path in made {
        // Whatever stays does no harm.
        let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(dir.path()).unwrap();
        assert!(DirectoryLock::take(dir.path()).unwrap_err().problem.contains("another process"));
        drop(lock);
        DirectoryLock::take(dir.path()).unwrap();
    }

    #[test]
    fn what_was_made_goes_again_unless_it_is_kept() {
        let site = tempfile::tempdir().unwrap();
        let dir = site.path().join("a").join("b");
        drop(DirectoryLock::take(&dir).unwrap());
        assert!(!site.path().join("a").exists());
        // What somebody else put there stays.
        let lock = DirectoryLock::take(&dir).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        drop(lock);
        assert!(dir.join("file").exists() && !dir.join("lock").exists());
        let mut lock = DirectoryLock::take(&dir).unwrap();
        lock.keep();
        drop(lock);
        drop(DirectoryLock::take(&dir).unwrap());
        assert!(dir.join("lock").exists(), "it was there before");
    }

    #[test]
    fn who_waits_for_a_lock_that_is_removed_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = lock(&path).unwrap();
        assert!(is_at(&file, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap());
        fs::write(&path, "").unwrap();
        assert!(!is_at(&file, &path).unwrap());
    }

    #[test]
    fn a_place_where_no_directory_can_be_is_left_alone() {
        let site = tempfile::tempdir().unwrap();
        std::fs::write(site.path().join("file"), "").unwrap();
        assert!(DirectoryLock::take(&site.path().join("file").join("dir")).is_err());
        assert!(site.path().join("file").is_file());
    }
}
