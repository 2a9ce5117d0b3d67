//! What an implementation of a seam must do, as checks that run on the simulated and on the real one.
//!
//! [`files`] drives files through random operations and compares every result with a plain model; run on a real
//! directory it shows that the model is right, run on the simulated disk that the disk is. Errors are compared by kind.
//! What a crash does is outside of it: no test can pull the plug of a real disk.

use std::collections::BTreeMap;
use std::io;

use crate::world::draws::Dice;

/// A directory of files, as a storage program uses one. Names are plain, without a slash.
pub trait Files {
    type File;

    /// Opens for reading and writing; `create_new` fails when the name exists.
    fn open(&self, name: &str, create: bool, create_new: bool, truncate: bool) -> io::Result<Self::File>;
    /// Reads what there is, up to the length of `out`.
    fn read_at(&self, file: &Self::File, out: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    fn sync_dir(&self) -> io::Result<()>;
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const OPEN_FILES_MAX: usize = 6;
/// Several pages, so that reads and writes cross their ends.
const OFFSET_MAX: u64 = 20_000;
const BYTES_MAX: u64 = 6_000;

/// Runs `steps` random operations. The directory begins empty.
///
/// # Panics
/// When a result differs from the model's.
pub fn files<F: Files>(files: &F, seed: u64, steps: u64) {
    let mut run = Run { files, dice: Dice::new(seed), model: Model::default(), open: Vec::new() };
    for step in 0..steps {
        run.step(step);
    }
    run.open.clear();
    for (name, id) in run.model.names.clone() {
        let file = files.open(&name, false, false, false).expect("it exists");
        assert_eq!(contents(files, &file), run.model.files[id], "`{name}` at the end");
    }
}

/// What files are: names that lead to vectors of bytes.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, usize>,
    /// Also those whose names are gone: open handles keep them.
    files: Vec<Vec<u8>>,
}

struct Run<'a, F: Files> {
    files: &'a F,
    dice: Dice,
    model: Model,
    /// Handles, each with its file in the model.
    open: Vec<(F::File, usize)>,
}

impl<F: Files> Run<'_, F> {
    fn step(&mut self, step: u64) {
        match self.dice.below(10) {
            0 | 1 => self.open(step),
            2 => self.name_operation(step),
            3 => self.directory(step),
            _ if self.open.is_empty() => {}
            4..=6 => self.write(step),
            7 => self.set_len(step),
            _ => self.read(step),
        }
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.dice.below(NAMES.len() as u64) as usize]
    }

    fn open(&mut self, step: u64) {
        let name = self.name();
        let (create_new, truncate) = (self.dice.below(4) == 0, self.dice.below(4) == 0);
        let create = create_new || self.dice.below(2) == 0;
        let expected = match self.model.names.get(name) {
            Some(_) if create_new => Err(io::ErrorKind::AlreadyExists),
            Some(id) => Ok(*id),
            None if !create => Err(io::ErrorKind::NotFound),
            None => Ok(self.model.create(name)),
        };
        let opened = self.files.open(name, create, create_new, truncate && !create_new);
        assert_eq!(kind(&opened), expected.map(|_| ()), "step {step}: open `{name}`");
        if let (Ok(file), Ok(id)) = (opened, expected) {
            if truncate && !create_new {
                self.model.files[id].clear();
            }
            if self.open.len() == OPEN_FILES_MAX {
                self.open.remove(0);
            }
            self.open.push((file, id));
        }
    }

    fn name_operation(&mut self, step: u64) {
        let (from, to) = (self.name(), self.name());
        if self.dice.below(2) == 0 {
            let expected = self.model.names.remove(from).map(|_| ()).ok_or(io::ErrorKind::NotFound);
            assert_eq!(kind(&self.files.remove(from)), expected, "step {step}: remove `{from}`");
        } else {
            let moved = self.model.names.remove(from);
            let expected = moved.map(|_| ()).ok_or(io::ErrorKind::NotFound);
            assert_eq!(kind(&self.files.rename(from, to)), expected, "step {step}: rename `{from}` to `{to}`");
            if let Some(id) = moved {
                self.model.names.insert(to.to_owned(), id);
            }
        }
    }

    fn directory(&mut self, step: u64) {
        let names: Vec<String> = self.model.names.keys().cloned().collect();
        assert_eq!(self.files.list().expect("listed"), names, "step {step}: list");
        self.files.sync_dir().expect("synced");
    }

    fn write(&mut self, step: u64) {
        let (file, id) = &self.open[self.dice.below(self.open.len() as u64) as usize];
        let (offset, len) = (self.dice.below(OFFSET_MAX), self.dice.below(BYTES_MAX));
        let bytes: Vec<u8> = (0..len).map(|n| (n * 31 + step) as u8).collect();
        self.files.write_at(file, &bytes, offset).expect("written");
        self.model.write(*id, offset, &bytes);
        if self.dice.below(3) == 0 {
            self.files.sync(file).expect("synced");
        }
    }

    fn set_len(&mut self, step: u64) {
        let (file, id) = &self.open[self.dice.below(self.open.len() as u64) as usize];
        let len = self.dice.below(OFFSET_MAX);
        self.files.set_len(file, len).expect("cut or grown");
        self.model.files[*id].resize(index(len), 0);
        assert_eq!(self.files.len(file).expect("known"), len, "step {step}: length");
    }

    fn read(&mut self, step: u64) {
        let (file, id) = &self.open[self.dice.below(self.open.len() as u64) as usize];
        let (offset, len) = (self.dice.below(OFFSET_MAX + BYTES_MAX), self.dice.below(BYTES_MAX));
        let model = &self.model.files[*id];
        let start = index(offset).min(model.len());
        let expected = &model[start..(start + index(len)).min(model.len())];
        let mut out = vec![0xaa; index(len)];
        let read = self.files.read_at(file, &mut out, offset).expect("read");
        assert_eq!(&out[..read], expected, "step {step}: {len} bytes at {offset}");
    }
}

impl Model {
    fn create(&mut self, name: &str) -> usize {
        self.files.push(Vec::new());
        self.names.insert(name.to_owned(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn write(&mut self, id: usize, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (file, start) = (&mut self.files[id], index(offset));
        let end = start + bytes.len();
        file.resize(file.len().max(end), 0);
        file[start..end].copy_from_slice(bytes);
    }
}

fn kind<T>(result: &io::Result<T>) -> Result<(), io::ErrorKind> {
    result.as_ref().map(|_| ()).map_err(io::Error::kind)
}

fn contents<F: Files>(files: &F, file: &F::File) -> Vec<u8> {
    let mut bytes = vec![0; index(files.len(file).expect("known"))];
    let read = files.read_at(file, &mut bytes, 0).expect("read");
    assert_eq!(read, bytes.len());
    bytes
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("small")
}
