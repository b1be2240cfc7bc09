//! The disk as a power cut would leave it, by the journal of `shim.c`.
//!
//! What was written counts when the file was synced since. The names of files are a journal of their own, as on ext4 and
//! XFS: any sync puts all of it on the disk, and a cut leaves a first part of the rest. What an fsync that failed should
//! have put on the disk is lost for good, as on Linux: the next fsync does not try it again.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::harness::Seeded;

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;
/// The fixed part of a note in the journal.
const NOTE: usize = 24;
/// The test's own file in the data directory.
const LOG: &str = "broker.log";

/// What a file holds, and what it would hold.
#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Wrote { at: usize, bytes: Vec<u8> },
    Cut { length: usize },
}

enum Move {
    Made(String, usize),
    Renamed(String, String),
    Gone(String),
}

impl Move {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, content) => drop(names.insert(name.clone(), *content)),
            Self::Renamed(from, to) => {
                if let Some(content) = names.remove(from) {
                    names.insert(to.clone(), content);
                }
            }
            Self::Gone(name) => drop(names.remove(name)),
        }
    }
}

/// What a power cut would leave of a data directory.
pub(super) struct Platter {
    root: PathBuf,
    journal: PathBuf,
    contents: Vec<Content>,
    /// Which content has which name for the broker, and which on the disk.
    live: BTreeMap<String, usize>,
    kept: BTreeMap<String, usize>,
    moves: Vec<Move>,
    /// Writes that a cut has taken back so far.
    pub(super) taken_back: usize,
}

impl Platter {
    /// Starts with a folder in which nothing is.
    pub(super) fn new(root: &Path, journal: &Path) -> Self {
        Self {
            root: root.to_owned(),
            journal: journal.to_owned(),
            contents: Vec::new(),
            live: BTreeMap::new(),
            kept: BTreeMap::new(),
            moves: Vec::new(),
            taken_back: 0,
        }
    }

    /// Cuts the power of a broker that was killed: its folder holds what was synced, and with `random` also some of what
    /// was not, in whatever order it may have reached the disk.
    pub(super) fn cut_power(&mut self, mut random: Option<&mut Seeded>) {
        self.replay();
        let reached = random.as_mut().map_or(0, |random| random.below(self.moves.len() as u64 + 1) as usize);
        for change in self.moves.drain(..).take(reached) {
            change.apply(&mut self.kept);
        }
        for entry in std::fs::read_dir(&self.root).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with(LOG) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let kept = std::mem::take(&mut self.kept);
        let mut contents: Vec<Option<Content>> = self.contents.drain(..).map(Some).collect();
        for (name, number) in kept {
            let content = contents[number].take().expect("one name each");
            self.taken_back += content.pending.len();
            let bytes = content.after_cut(random.as_deref_mut());
            std::fs::write(&name, &bytes).unwrap();
            self.kept.insert(name, self.contents.len());
            self.contents.push(Content { synced: bytes, pending: Vec::new() });
        }
        self.live = self.kept.clone();
    }

    /// Takes in what the journal tells.
    fn replay(&mut self) {
        let journal = std::fs::read(&self.journal).expect("the shim is loaded and keeps a journal");
        let mut rest = journal.as_slice();
        while let Some((note, behind)) = rest.split_first_chunk::<NOTE>() {
            let number = |at: usize| u32::from_le_bytes(note[at..at + 4].try_into().unwrap()) as usize;
            let (name_length, length) = (number(4), number(8));
            // The last one may be cut by the kill: then nobody was told of it.
            if behind.len() < name_length + length {
                break;
            }
            let at = u64::from_le_bytes(note[16..].try_into().unwrap()) as usize;
            let (name, behind) = behind.split_at(name_length);
            let (bytes, behind) = behind.split_at(length);
            self.take(number(0), std::str::from_utf8(name).unwrap(), at, bytes);
            rest = behind;
        }
        std::fs::write(&self.journal, "").unwrap();
    }

    fn take(&mut self, op: usize, name: &str, at: usize, bytes: &[u8]) {
        match op {
            1 => {
                self.contents.push(Content::default());
                self.go(Move::Made(name.to_owned(), self.contents.len() - 1));
            }
            2 => self.change(name, Change::Wrote { at, bytes: bytes.to_vec() }),
            3 => self.change(name, Change::Cut { length: at }),
            4 => {
                // A folder has no content of ours.
                if let Some(number) = self.live.get(name) {
                    self.contents[*number].sync();
                }
                for change in self.moves.drain(..) {
                    change.apply(&mut self.kept);
                }
            }
            5 => {
                if let Some(number) = self.live.get(name) {
                    self.contents[*number].pending.retain(|change| matches!(change, Change::Cut { .. }));
                }
            }
            6 => self.go(Move::Renamed(name.to_owned(), std::str::from_utf8(bytes).unwrap().to_owned())),
            7 => self.go(Move::Gone(name.to_owned())),
            other => panic!("a note of kind {other}"),
        }
    }

    fn go(&mut self, change: Move) {
        change.apply(&mut self.live);
        self.moves.push(change);
    }

    fn change(&mut self, name: &str, change: Change) {
        // A file that was removed while it was open is nobody's.
        if let Some(number) = self.live.get(name) {
            self.contents[*number].pending.push(change);
        }
    }
}

impl Content {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.synced, None);
        }
    }

    fn after_cut(mut self, mut random: Option<&mut Seeded>) -> Vec<u8> {
        if let Some(random) = &mut random {
            for change in self.pending {
                if random.below(2) == 0 {
                    change.apply(&mut self.synced, Some(random));
                }
            }
        }
        self.synced
    }
}

impl Change {
    /// Makes the change; with `random` only some of its sectors reach the disk.
    fn apply(&self, file: &mut Vec<u8>, mut random: Option<&mut Seeded>) {
        match self {
            Self::Cut { length } => file.resize(*length, 0),
            Self::Wrote { at, bytes } => {
                if file.len() < at + bytes.len() {
                    file.resize(at + bytes.len(), 0);
                }
                for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                    if random.as_mut().is_none_or(|random| random.below(4) > 0) {
                        let from = at + n * SECTOR;
                        file[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
}
