//! Hears that something in a directory may have changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Watches directories, not files: an editor puts a new file in the place of the old one.
///
/// What it hears is a hint and never more. Whoever is told looks for themselves; so a hint too many costs a look, and one
/// that the kernel had no room for is made up for by the next.
#[derive(Debug)]
pub struct DirectoryWatch {
    watcher: Option<RecommendedWatcher>,
    watched: Vec<Place>,
    hint: Arc<Notify>,
}

/// A directory as it is now: another one in its place is watched anew.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    identity: (u64, u64),
}

impl DirectoryWatch {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self { watcher: None, watched: Vec::new(), hint: Arc::default() }
    }

    /// Watches these directories and no others; `Err` is why one of them is not watched. Does nothing where they are
    /// watched already.
    pub fn watch(&mut self, directories: &[PathBuf]) -> Result<(), notify::Error> {
        let place = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).map_err(notify::Error::io)?;
            Ok(Place { path: path.clone(), identity: (metadata.dev(), metadata.ino()) })
        };
        let places: Vec<Place> = directories.iter().map(place).collect::<Result<_, notify::Error>>()?;
        if self.watcher.is_some() && self.watched == places {
            return Ok(());
        }
        // A new one, so that nothing is left of the old.
        self.forget();
        let hint = Arc::clone(&self.hint);
        let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
            if is_hint(&event) {
                hint.notify_one();
            }
        })?;
        for place in &places {
            watcher.watch(&place.path, RecursiveMode::NonRecursive)?;
        }
        self.watched = places;
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Watches nothing.
    pub fn forget(&mut self) {
        self.watcher = None;
        self.watched.clear();
    }

    /// Waits until something may have changed. Cancelling it loses no hint.
    pub async fn hint(&self) {
        self.hint.notified().await;
    }

    /// The directories in which a change of this file shows: where its name is, and where what it refers to is.
    pub fn places_of(path: &Path) -> Vec<PathBuf> {
        let real = std::fs::canonicalize(path).ok();
        let mut places: Vec<PathBuf> =
            [Some(path), real.as_deref()].into_iter().flatten().filter_map(Path::parent).map(Path::to_owned).collect();
        places.dedup();
        places
    }
}

impl Default for DirectoryWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a file may have another content or name. That somebody read one is none: whoever is told does so.
fn is_hint(event: &Result<Event, notify::Error>) -> bool {
    match event {
        Ok(event) => {
            let is_access =
                matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
            event.need_rescan() || !is_access
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_new_file_in_the_place_of_the_old_one_is_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = DirectoryWatch::new();
        let path = dir.path().join("f");
        watch.watch(&DirectoryWatch::places_of(&path)).unwrap();
        for text in ["a", "b"] {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
            timeout(LIMIT, watch.hint()).await.expect("a hint");
        }
    }

    #[tokio::test]
    async fn a_directory_in_the_place_of_the_old_one_is_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (old, aside) = (dir.path().join("d"), dir.path().join("aside"));
        std::fs::create_dir(&old).unwrap();
        let mut watch = DirectoryWatch::new();
        let places = [old.clone()];
        watch.watch(&places).unwrap();
        std::fs::rename(&old, &aside).unwrap();
        timeout(LIMIT, watch.hint()).await.expect("a hint that it is gone");
        assert!(watch.watch(&places).is_err(), "there is nothing to watch");
        std::fs::create_dir(&old).unwrap();
        watch.watch(&places).unwrap();
        std::fs::write(old.join("f"), "x").unwrap();
        timeout(LIMIT, watch.hint()).await.expect("a hint");
    }

    #[test]
    fn what_only_reads_is_no_hint_and_what_was_lost_is_one() {
        let event = |kind| Ok(Event::new(kind));
        assert!(!is_hint(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)))));
        assert!(!is_hint(&event(EventKind::Access(AccessKind::Close(AccessMode::Read)))));
        assert!(is_hint(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)))));
        assert!(is_hint(&event(EventKind::Any)));
        assert!(is_hint(&Ok(Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan))));
        assert!(is_hint(&Err(notify::Error::generic("overflow"))));
    }

    #[test]
    fn a_file_behind_a_link_changes_in_two_places() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("data")).unwrap();
        std::fs::write(dir.join("data/f"), "").unwrap();
        std::os::unix::fs::symlink("data/f", dir.join("l")).unwrap();
        assert_eq!(DirectoryWatch::places_of(&dir.join("l")), [dir.clone(), dir.join("data")]);
        assert_eq!(DirectoryWatch::places_of(&dir.join("none")), [dir]);
    }
}
