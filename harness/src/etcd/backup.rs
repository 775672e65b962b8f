//! A copy of a member's data, to go back to.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Error, system};

/// How much of a file is looked at together.
const CHUNK: usize = 64 * 1024;

/// Keeps a copy of what is in `data`, in the place of an earlier one. Nobody may write there meanwhile.
///
/// # Errors
/// When it cannot be read, or there is no room.
pub(super) fn save(data: &Path) -> Result<(), Error> {
    replace(&place(data), data).map_err(system(format!("saving {}", data.display())))
}

/// Makes `data` what it was when it was saved.
///
/// # Errors
/// When it never was, or there is no room.
pub(super) fn restore(data: &Path) -> Result<(), Error> {
    replace(data, &place(data)).map_err(system(format!("restoring {}", data.display())))
}

fn place(data: &Path) -> PathBuf {
    data.with_extension("saved")
}

fn replace(old: &Path, new: &Path) -> io::Result<()> {
    // Before anything is removed.
    fs::metadata(new)?;
    match fs::remove_dir_all(old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => copy(new, old),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            copy_file(&mut File::open(entry.path())?, &mut File::create(to)?)?;
        }
    }
    Ok(())
}

/// Copies a file, and leaves holes where it has zeros: of its log's 64 MiB etcd has written a few pages.
fn copy_file(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk)?;
        let octets = chunk.get(..read).unwrap_or_default();
        match i64::try_from(read) {
            Ok(0) => return to.stream_position().and_then(|end| to.set_len(end)),
            Ok(hole) if octets.iter().all(|octet| *octet == 0) => {
                to.seek(SeekFrom::Current(hole)).map(drop)?
            }
            _ => to.write_all(octets)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_there_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let log = data.join("wal/0.wal");
        let content = [vec![1; 10], vec![0; 3 * CHUNK], vec![2; 5], vec![0; 2 * CHUNK]].concat();
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        assert!(restore(&data).is_err());
        fs::write(&log, &content).unwrap();
        save(&data).unwrap();
        fs::write(&log, "other").unwrap();
        fs::write(data.join("more"), "more").unwrap();
        restore(&data).unwrap();
        assert_eq!(fs::read(&log).unwrap(), content);
        assert!(!data.join("more").exists());
        restore(&data).unwrap();
        assert_eq!(fs::read(&log).unwrap(), content);
    }
}
