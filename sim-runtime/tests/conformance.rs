//! Files on the simulated disk, with faults off, do what files on a real one do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sim_runtime::conformance::{self, Files};
use sim_runtime::disk::{Disk, OpenMode, SimFile};
use sim_runtime::world::{self, World, WorldConfig, section};

struct RealFiles(PathBuf);

impl Files for RealFiles {
    type File = File;

    fn open(&self, name: &str, create: bool, create_new: bool, truncate: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).create_new(create_new).truncate(truncate);
        options.open(self.0.join(name))
    }

    fn read_at(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match file.read_at(&mut out[done..], offset + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        file.metadata().map(|metadata| metadata.len())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().expect("plain")));
        let mut names = entries.collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

const DIRECTORY: &str = "/data";

struct SimFiles(Disk);

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

impl Files for SimFiles {
    type File = SimFile;

    fn open(&self, name: &str, create: bool, create_new: bool, truncate: bool) -> io::Result<SimFile> {
        self.0.open(&path(name), OpenMode { create, create_new, truncate })
    }

    fn read_at(&self, file: &SimFile, out: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(out, offset)
    }

    fn write_at(&self, file: &SimFile, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_at(bytes, offset)
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn len(&self, file: &SimFile) -> io::Result<u64> {
        file.len()
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        file.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(&path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(&path(from), &path(to))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let paths = self.0.list(DIRECTORY)?;
        Ok(paths.iter().map(|path| path[DIRECTORY.len() + 1..].to_owned()).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir(DIRECTORY)
    }
}

#[test]
fn real_files() {
    for seed in 0..5 {
        let directory = tempfile::tempdir().expect("a temporary directory");
        conformance::files(&RealFiles(directory.path().to_owned()), seed, 400);
    }
}

#[test]
fn simulated_files() {
    for seed in 0..50 {
        let world = World::new(WorldConfig::seeded(seed));
        let done = world.run(async move {
            let host = world::add_host("files");
            let disk = Disk::of(host);
            disk.create_dir_all(DIRECTORY).expect("made");
            section::run("files", || conformance::files(&SimFiles(disk), seed, 400)).await;
        });
        done.unwrap_or_else(|halt| panic!("{halt}"));
    }
}
