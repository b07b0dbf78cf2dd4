//! Looking at files, and damaging them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Every plain file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// All bytes of a file.
pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Flips one bit of the byte at `at`; doing so twice changes nothing.
pub fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file to damage");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte there");
    byte[0] ^= 1;
    file.write_all_at(&byte, at).expect("written");
}

/// Whether `needle` occurs in `hay`.
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut from = 0;
    while let Some(found) = hay[from..].iter().position(|byte| byte == first) {
        if hay[from + found..].starts_with(needle) {
            return true;
        }
        from += found + 1;
    }
    false
}
