//! Backups of the records, and their way back (PROTOCOL 4, rule 7).
//!
//! A backup is a store of its own: one file, consistent, made while the Registry runs or not. What was decided after
//! it, only the hosts know. So [`restore`] marks the records, and the next run asks the hosts before it decides anything.
//! The signing key is not in a backup.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

use wayfare_protocol::{
    ids::RegistryId,
    registry::{self, RestoreError, StoreOp, Table, audit::Head},
};

use crate::{
    audit::{Known, State},
    clock,
    config::{ConfigError, StateDir},
    store::{LogStore, RedbStore, Row, Store, StoreError},
    view::{BackupView, RestoredView},
};

/// What a backup begins with: one of this version, and one of an earlier version.
const MAGIC: &[u8; 8] = b"WFJOURNL";
const MAGIC_REDB: &[u8; 4] = b"redb";

/// Why a backup was not made, or not restored. What was there is as it was, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It would overwrite something.
    #[error("{} exists already: choose another name, or say --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The directory has records.
    #[error("{} holds records: restoring replaces all that was decided since the backup; if that is what you want, say --force \
        (the present records are kept as {})", path.display(), kept.display())]
    WouldReplace {
        /// The records.
        path: PathBuf,
        /// Where they would be kept.
        kept: PathBuf,
    },
    /// There is nothing to back up.
    #[error("{} holds no records yet: the registry has never run there", path.display())]
    NoRecords {
        /// Where they would be.
        path: PathBuf,
    },
    /// A Registry runs there.
    #[error("a registry is running in {}: stop that one first", dir.display())]
    Running {
        /// The directory.
        dir: PathBuf,
    },
    /// It is something else.
    #[error("{} is no backup of a registry: `wayfare-registry backup FILE` makes one", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {}: check that it exists, its owner and the disk's space", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records cannot be understood.
    #[error("{}: {source}", path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// The directory's configuration or key.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl BackupError {
    /// Whether all is well, and only the answer is no.
    pub(crate) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Exists { .. } | Self::WouldReplace { .. })
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    |source| BackupError::Io { path, source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Renames `from` to `to`, and has that on disk.
fn put_in_place(from: &Path, to: &Path) -> Result<(), BackupError> {
    let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
    sync(from).and_then(|()| fs::rename(from, to)).map_err(io_error(to))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(parent).map_err(io_error(parent))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn row(op: &StoreOp) -> Option<Row> {
    Some((op.table, op.key.clone(), op.value.clone()?))
}

/// Why records were not marked; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records cannot be understood.
    #[error(transparent)]
    Records(#[from] RestoreError),
}

/// Marks the records of Registry `id` as restored from a backup: the next [`run`](crate::run) on this store begins by asking
/// the hosts. Returns how many services there are.
///
/// # Errors
/// [`MarkError`].
pub fn mark_restored(store: &mut dyn Store, id: RegistryId) -> Result<usize, MarkError> {
    let rows = store.load()?;
    let services = rows.iter().filter(|(table, ..)| *table == Table::Services).count();
    let log = Known::restored(&Known::of(&rows), &Known::default());
    let mut marks = registry::mark_restored(id, rows, clock::now().wall)?;
    marks.extend(log);
    store.commit(&marks)?;
    Ok(services)
}

/// Writes `records` as a new store at `path`, whole or not at all, with the last entry of the audit log.
pub(crate) fn write(
    records: &[StoreOp],
    log: Option<Head>,
    path: &Path,
    force: bool,
) -> Result<BackupView, BackupError> {
    let log = log.map(|head| State { head, synced: head.sequence, restored: None }.put());
    write_rows(records.iter().chain(&log).filter_map(row).collect(), path, force)
}

fn write_rows(rows: Vec<Row>, path: &Path, force: bool) -> Result<BackupView, BackupError> {
    if path.exists() && !force {
        return Err(BackupError::Exists { path: path.to_owned() });
    }
    let partial = beside(path, ".partial");
    remove(&partial)?;
    let count = |wanted: Table| rows.iter().filter(|(table, ..)| *table == wanted).count();
    let (services, hosts) = (count(Table::Services), count(Table::Hosts));
    drop(LogStore::create(&partial, rows)?);
    put_in_place(&partial, path)?;
    let bytes = fs::metadata(path).map_err(io_error(path))?.len();
    let file = path.display().to_string();
    Ok(BackupView { file, bytes, services, hosts })
}

/// Backs up the records of a Registry that does not run.
pub(crate) fn of_stopped(dir: &StateDir, path: &Path, force: bool) -> Result<BackupView, BackupError> {
    let store = dir.store();
    if !LogStore::exists(&store) {
        return Err(BackupError::NoRecords { path: store });
    }
    write_rows(LogStore::open(&store)?.load()?, path, force)
}

/// Puts the backup at `path` in place of the directory's records, marked: the next run begins by asking the hosts.
pub(crate) fn restore(dir: &StateDir, path: &Path, force: bool) -> Result<RestoredView, BackupError> {
    // The key first: without it, the records are worth nothing.
    let config = dir.load()?;
    if UnixStream::connect(dir.socket()).is_ok() {
        return Err(BackupError::Running { dir: dir.path().to_owned() });
    }
    let (target, kept) = (dir.store(), beside(&dir.store(), ".replaced"));
    let present = LogStore::exists(&target);
    // Whoever runs on it holds it, and nobody else can while this does. A damaged one may be replaced.
    let mut held = match present.then(|| LogStore::open(&target)) {
        Some(Err(StoreError::InUse { .. })) => return Err(BackupError::Running { dir: dir.path().to_owned() }),
        opened => opened.and_then(Result::ok),
    };
    if present && !force {
        return Err(BackupError::WouldReplace { path: target, kept });
    }
    let restoring = beside(&target, ".restoring");
    remove(&restoring)?;
    copy(path, &restoring)?;
    // The audit log goes on where it is, and not where it was when the backup was made.
    let replaced = held.as_mut().and_then(|store| store.load().ok()).map(|rows| Known::of(&rows)).unwrap_or_default();
    let marked = mark(&restoring, config.id(), path, &replaced);
    let view = match marked {
        Ok(view) => view,
        Err(error) => {
            remove(&restoring)?;
            return Err(error);
        }
    };
    let replaces = target.exists();
    if replaces {
        fs::rename(&target, &kept).map_err(io_error(&kept))?;
    }
    put_in_place(&restoring, &target)?;
    Ok(RestoredView { kept: replaces.then(|| kept.display().to_string()), ..view })
}

fn mark(restoring: &Path, id: RegistryId, source: &Path, replaced: &Known) -> Result<RestoredView, BackupError> {
    let mut store = LogStore::open(restoring)?;
    let backup = Known::of(&store.load()?);
    let services = mark_restored(&mut store, id).map_err(|error| match error {
        MarkError::Store(error) => BackupError::Store(error),
        MarkError::Records(error) => BackupError::Records { path: source.to_owned(), source: error },
    })?;
    store.commit(&Known::restored(&backup, replaced))?;
    Ok(RestoredView { file: source.display().to_string(), services, kept: None })
}

/// Makes the backup at `path` a store at `to`, which is only this user's. A store is made of an empty file, too: that is no
/// backup.
fn copy(path: &Path, to: &Path) -> Result<(), BackupError> {
    let mut head = [0; MAGIC.len()];
    let mut file = fs::File::open(path).map_err(io_error(path))?;
    let read = file.read_exact(&mut head);
    if read.is_ok() && head == *MAGIC {
        fs::copy(path, to).map_err(io_error(path))?;
        return fs::set_permissions(to, fs::Permissions::from_mode(0o600)).map_err(io_error(to));
    }
    if read.is_err() || !head.starts_with(MAGIC_REDB) {
        return Err(BackupError::NoBackup { path: path.to_owned() });
    }
    // Opening it changes the file: a copy is opened.
    let old = beside(to, ".redb");
    fs::copy(path, &old).map_err(io_error(path))?;
    let rows = RedbStore::open(&old).and_then(|mut store| store.load());
    remove(&old)?;
    drop(LogStore::create(to, rows?)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::{
        registry::{Effect, Registry, RegistryConfig},
        time::Micros,
        trust::Role,
    };

    use super::*;
    use crate::handle::Machine;

    /// A directory whose registry has made a join token, and what is to be stored of that.
    fn place() -> (tempfile::TempDir, StateDir, Vec<StoreOp>) {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::new(root.path().join("registry"));
        dir.init("tests", &["127.0.0.1:0".to_owned()], crate::Observed::default()).unwrap();
        let config = RegistryConfig::new::<wayfare_protocol::suite::Dalek>(dir.load().unwrap().secret, Vec::new());
        let mut machine: Machine = Registry::new(config);
        let lifetime = Micros::from_secs(60);
        machine.create_join_token(clock::now(), &mut clock::entropy(), "fjord", Role::Cloud, lifetime).unwrap();
        let Some(Effect::Persist { batch, .. }) = machine.poll_effect() else { panic!("nothing to store") };
        (root, dir, batch)
    }

    fn tables(dir: &StateDir) -> Vec<Table> {
        let mut tables: Vec<Table> =
            LogStore::open(&dir.store()).unwrap().load().unwrap().into_iter().map(|(table, ..)| table).collect();
        tables.sort();
        tables
    }

    #[test]
    fn a_backup_of_an_earlier_version_is_restored_as_it_is() {
        let (root, dir, batch) = place();
        let path = root.path().join("backup");
        RedbStore::open(&path).unwrap().commit(&batch).unwrap();
        let before = fs::read(&path).unwrap();
        restore(&dir, &path, false).unwrap();
        assert!(tables(&dir).contains(&Table::Restored));
        assert_eq!(fs::read(&path).unwrap(), before, "the backup itself is only read");
        assert_eq!(fs::metadata(dir.store()).unwrap().permissions().mode() & 0o777, 0o600);
        // Backed up again, it is of this version.
        let again = root.path().join("again");
        of_stopped(&dir, &again, false).unwrap();
        assert!(fs::read(&again).unwrap().starts_with(MAGIC));
    }

    #[test]
    fn a_backup_that_was_cut_is_no_backup() {
        let (root, dir, batch) = place();
        let path = root.path().join("backup");
        write(&batch, None, &path, false).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in [0, 4, 8, 20, 33, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = restore(&dir, &path, false).unwrap_err();
            assert!(matches!(error, BackupError::NoBackup { .. } | BackupError::Store(_)), "{length}: {error}");
            assert!(!LogStore::exists(&dir.store()), "{length}");
        }
        fs::write(&path, &whole).unwrap();
        restore(&dir, &path, false).unwrap();
    }

    #[test]
    fn records_of_an_earlier_version_are_backed_up_and_replaced_with_care() {
        let (root, dir, batch) = place();
        let old = dir.store().with_extension("redb");
        RedbStore::open(&old).unwrap().commit(&batch).unwrap();
        let path = root.path().join("backup");
        of_stopped(&dir, &path, false).unwrap();
        assert_eq!(tables(&dir), [Table::Tokens]);
        assert!(!old.exists());
        let refused = restore(&dir, &path, false).unwrap_err();
        assert!(matches!(refused, BackupError::WouldReplace { .. }), "{refused}");
    }
}
