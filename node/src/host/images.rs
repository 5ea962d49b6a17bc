//! Images: the whole state of a service in a file, from which, with the log behind it, a restarted host builds the service
//! again.
//!
//! [`Images`] is the folder, [`ImageWriter`] makes one file and [`ImageReader`] reads one. An image is there completely
//! or not at all: it is written under another name, synced, and renamed. It holds what the service holds in memory, so it
//! is for this user only. All numbers are little endian.
//!
//! | Head | 80 bytes |
//! |---|---|
//! | magic | `WFIMAGES` |
//! | version | u32 |
//! | salt | 32 bytes: of the runtime's `h(state)` |
//! | code | 32 bytes: the module's hash |
//! | checksum | u32: CRC-32C of the head before it |
//!
//! | Record | 9 bytes and the payload |
//! |---|---|
//! | kind | u8: the runtime's (`state`), or belongings, or end |
//! | length | u32: of the payload |
//! | payload | |
//! | checksum | u32: CRC-32C of kind, length and payload |
//!
//! The end record comes last: the runtime's `h(state)`, and a BLAKE3 hash over the image's name and all bytes before the
//! record.

use std::{
    fmt::Display,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tracing::warn;
use wayfare_protocol::{ids::Digest, limits::RECORD_BYTES_MAX};

use crate::runtime::{
    Salt, Sink, SinkClosed,
    state::{KIND_GLOBALS, KIND_PAGE, PAYLOAD_BYTES_MAX},
};

const MAGIC: [u8; 8] = *b"WFIMAGES";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 32 + 32 + 4;
const RECORD_HEAD_BYTES: usize = 1 + 4;
const CHECKSUM_BYTES: usize = 4;

/// Part of the belongings: the client table and what else goes with a service.
const KIND_BELONGINGS: u8 = 16;
const KIND_END: u8 = 255;

/// Bytes of a record's payload: a longer one is damage.
const RECORD_PAYLOAD_MAX: usize = RECORD_BYTES_MAX;
const _: () = assert!(PAYLOAD_BYTES_MAX <= RECORD_PAYLOAD_MAX);
/// Bytes that are written or read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// How a file's name ends.
const EXTENSION: &str = "image";
/// How its name ends until it is complete.
const PARTIAL: &str = "part";

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// The disk has no room, or is broken. No image was made.
    #[error("the image {path} cannot be written", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    /// It is not there, or cannot be read.
    #[error("the image {path} cannot be read: put it back from a copy, or have the owner recover the service", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Another kind of file.
    #[error("{path} is no image: put the right file back from a copy, or have the owner recover the service", path = path.display())]
    NotAnImage { path: PathBuf },
    /// Of another program.
    #[error("the image {path} has format {found}, this program reads {VERSION}: run the version that wrote it", path = path.display())]
    Version { path: PathBuf, found: u32 },
    /// Not what was written.
    #[error("the image {path} is damaged at byte {at}: put it back from a copy, or have the owner recover the service", path = path.display())]
    Damaged { path: PathBuf, at: u64 },
}

/// The folder of a host's images.
#[derive(Clone, Debug)]
pub(super) struct Images {
    dir: PathBuf,
}

impl Images {
    /// The images in `dir`, which is made for this user only if it is missing.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, PermissionsExt::from_mode(0o700))?;
        File::open(dir.parent().unwrap_or(dir))?.sync_all()?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.dir)? {
            if entry?.path().extension().is_some_and(|extension| extension == EXTENSION) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn path(&self, id: &impl Display) -> PathBuf {
        self.dir.join(format!("{id}.{EXTENSION}"))
    }

    /// Begins an image. `salt` is that of the records that will follow.
    pub(super) fn begin(&self, id: &impl Display, salt: &Salt, code: &Digest) -> Result<ImageWriter, ImageError> {
        let path = self.path(id);
        let open = || {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let partial = self.dir.join(format!("{id}.{}.{PARTIAL}", data_encoding::HEXLOWER.encode(&random)));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            Ok((file, partial))
        };
        let (file, partial) = open().map_err(|source| ImageError::Write { path: path.clone(), source })?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend(salt.0);
        head.extend(code.0);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        let mut writer = ImageWriter {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            partial,
            path,
            hasher: hasher(id),
            bytes: 0,
            failed: None,
            named: false,
        };
        writer.write(&head);
        Ok(writer)
    }

    /// Opens an image.
    pub(super) fn read(&self, id: &impl Display) -> Result<ImageReader, ImageError> {
        let path = self.path(id);
        let failed = |source| ImageError::Read { path: path.clone(), source };
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(&path).map_err(failed)?);
        let mut reader = ImageReader {
            file,
            hasher: hasher(id),
            at: 0,
            salt: Salt([0; 32]),
            code: Digest([0; 32]),
            payload: Vec::new(),
            path,
        };
        reader.head()?;
        Ok(reader)
    }

    /// Deletes every other file of the folder.
    pub(super) fn keep(&self, ids: &[impl Display]) -> io::Result<()> {
        let kept: Vec<PathBuf> = ids.iter().map(|id| self.path(id)).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let mine = path.extension().is_some_and(|extension| extension == EXTENSION || extension == PARTIAL);
            if mine && !kept.contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Deletes an image, if it is there.
    pub(super) fn drop_image(&self, id: &impl Display) {
        let path = self.path(id);
        if let Err(error) = remove(&path) {
            warn!(%error, path = %path.display(), "an image of no more use cannot be deleted: the next start tries again");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A file that passes for another than it is named does not match its hash.
fn hasher(id: &impl Display) -> blake3::Hasher {
    let name = id.to_string();
    let mut hasher = blake3::Hasher::new_derive_key("wayfare 2026 image of a service");
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hasher
}

/// An image that is being written. Dropped before [`finish`](Self::finish), nothing is left of it.
#[derive(Debug)]
pub(super) struct ImageWriter {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    hasher: blake3::Hasher,
    bytes: u64,
    /// The first failure: what follows is not written any more.
    failed: Option<io::Error>,
    named: bool,
}

impl ImageWriter {
    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.failed = self.file.write_all(bytes).err();
    }

    fn put(&mut self, kind: u8, payload: &[u8]) {
        let mut head = [0; RECORD_HEAD_BYTES];
        head[0] = kind;
        head[1..].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), payload);
        self.write(&head);
        self.write(payload);
        self.write(&checksum.to_le_bytes());
    }

    /// Why nothing more is written, if that is so: whoever has much left to do may as well stop.
    pub(super) fn failure(&mut self) -> Option<ImageError> {
        self.failed.take().map(|source| {
            self.failed = Some(source.kind().into());
            ImageError::Write { path: self.path.clone(), source }
        })
    }

    /// Adds what goes with the service.
    pub(super) fn belongings(&mut self, bytes: &[u8]) {
        bytes.chunks(RECORD_PAYLOAD_MAX).for_each(|piece| self.put(KIND_BELONGINGS, piece));
    }

    /// Ends the image of the state with this hash, syncs it and gives it its name. Returns its length.
    pub(super) fn finish(mut self, state: &Digest) -> Result<u64, ImageError> {
        let hash = self.hasher.finalize();
        self.put(KIND_END, &[state.0, *hash.as_bytes()].concat());
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let named = (self.file.flush())
            .and_then(|()| self.file.get_ref().sync_all())
            .and_then(|()| fs::rename(&self.partial, &self.path));
        named.map_err(|source| ImageError::Write { path: self.path.clone(), source })?;
        self.named = true;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| ImageError::Write { path: self.path.clone(), source })?;
        Ok(self.bytes)
    }
}

impl Sink for ImageWriter {
    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), SinkClosed> {
        self.put(kind, payload);
        if self.failed.is_some() { Err(SinkClosed) } else { Ok(()) }
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if !self.named {
            // What stays is deleted by the next start.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// One record of an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// For the runtime.
    State { kind: u8, payload: &'a [u8] },
    /// Part of what goes with the service.
    Belongings(&'a [u8]),
    /// All was there: `h(state)`.
    End(Digest),
}

/// An image that is being read. What it gives counts only once it has given [`Record::End`].
#[derive(Debug)]
pub(super) struct ImageReader {
    file: BufReader<File>,
    hasher: blake3::Hasher,
    at: u64,
    salt: Salt,
    code: Digest,
    payload: Vec<u8>,
    path: PathBuf,
}

impl ImageReader {
    /// The salt of `h(state)`.
    pub(super) fn salt(&self) -> &Salt {
        &self.salt
    }

    /// The module that the state belongs to.
    pub(super) const fn code(&self) -> Digest {
        self.code
    }

    /// Bytes read so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.at
    }

    fn damaged(&self) -> ImageError {
        ImageError::Damaged { path: self.path.clone(), at: self.at }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.file.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(),
            _ => ImageError::Read { path: self.path.clone(), source },
        })
    }

    fn head(&mut self) -> Result<(), ImageError> {
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head)?;
        let (body, checksum) = head.split_at(HEAD_BYTES - CHECKSUM_BYTES);
        if body[..8] != MAGIC {
            return Err(ImageError::NotAnImage { path: self.path.clone() });
        }
        let version = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
        if version != VERSION {
            return Err(ImageError::Version { path: self.path.clone(), found: version });
        }
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err(self.damaged());
        }
        self.salt.0.copy_from_slice(&body[12..44]);
        self.code.0.copy_from_slice(&body[44..76]);
        self.hasher.update(&head);
        self.at = HEAD_BYTES as u64;
        Ok(())
    }

    /// The next record; the last is [`Record::End`].
    pub(super) fn next(&mut self) -> Result<Record<'_>, ImageError> {
        let mut head = [0; RECORD_HEAD_BYTES];
        self.fill(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > RECORD_PAYLOAD_MAX {
            return Err(self.damaged());
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        let mut checksum = [0; CHECKSUM_BYTES];
        self.fill(&mut payload)?;
        self.fill(&mut checksum)?;
        if crc32c::crc32c_append(crc32c::crc32c(&head), &payload).to_le_bytes() != checksum {
            return Err(self.damaged());
        }
        self.payload = payload;
        if kind == KIND_END {
            return self.end();
        }
        self.hasher.update(&head).update(&self.payload).update(&checksum);
        let begin = self.at;
        self.at += (RECORD_HEAD_BYTES + length + CHECKSUM_BYTES) as u64;
        match kind {
            KIND_PAGE | KIND_GLOBALS => Ok(Record::State { kind, payload: &self.payload }),
            KIND_BELONGINGS => Ok(Record::Belongings(&self.payload)),
            _ => Err(ImageError::Damaged { path: self.path.clone(), at: begin }),
        }
    }

    fn end(&mut self) -> Result<Record<'_>, ImageError> {
        let ([state, hash], []) = self.payload.as_chunks::<32>() else { return Err(self.damaged()) };
        if self.hasher.finalize() != *hash {
            return Err(self.damaged());
        }
        let state = Digest(*state);
        let more = self.file.read(&mut [0]).map_err(|source| ImageError::Read { path: self.path.clone(), source })?;
        if more > 0 {
            return Err(self.damaged());
        }
        Ok(Record::End(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt([1; 32]);
    const CODE: Digest = Digest([2; 32]);
    const STATE: Digest = Digest([3; 32]);

    fn folder() -> (tempfile::TempDir, Images) {
        let temp = tempfile::tempdir().unwrap();
        let images = Images::open(&temp.path().join("images")).unwrap();
        (temp, images)
    }

    fn write(images: &Images, id: &str) -> u64 {
        let mut writer = images.begin(&id, &SALT, &CODE).unwrap();
        writer.record(KIND_GLOBALS, b"layout").unwrap();
        writer.record(KIND_PAGE, &[7; 100]).unwrap();
        writer.belongings(&vec![8; RECORD_PAYLOAD_MAX + 1]);
        writer.record(KIND_GLOBALS, b"globals").unwrap();
        writer.finish(&STATE).unwrap()
    }

    /// Reads to the end: what was there, in short.
    fn read(images: &Images, id: &str) -> Result<Vec<String>, ImageError> {
        let mut reader = images.read(&id)?;
        assert_eq!((reader.salt(), reader.code()), (&SALT, CODE));
        let mut records = Vec::new();
        loop {
            match reader.next()? {
                Record::State { kind, payload } => records.push(format!("{kind}: {}", payload.len())),
                Record::Belongings(piece) => records.push(format!("belongings: {}", piece.len())),
                Record::End(state) => {
                    assert_eq!(state, STATE);
                    return Ok(records);
                }
            }
        }
    }

    fn file(images: &Images, id: &str) -> PathBuf {
        images.path(&id)
    }

    #[test]
    fn what_is_written_is_read_and_is_this_users_alone() {
        let (_temp, images) = folder();
        let bytes = write(&images, "a");
        assert_eq!(read(&images, "a").unwrap(), ["2: 6", "1: 100", "belongings: 262144", "belongings: 1", "2: 7"]);
        let metadata = fs::metadata(file(&images, "a")).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (bytes, 0o600));
        assert_eq!(fs::metadata(&images.dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&images.dir).unwrap().count(), 1);
    }

    #[test]
    fn an_image_that_is_not_finished_is_none() {
        let (_temp, images) = folder();
        let mut writer = images.begin(&"a", &SALT, &CODE).unwrap();
        writer.record(KIND_PAGE, &[7; 100]).unwrap();
        assert!(matches!(images.read(&"a"), Err(ImageError::Read { .. })));
        drop(writer);
        assert_eq!(fs::read_dir(&images.dir).unwrap().count(), 0);
        // One that a crash has left is in nobody's way.
        fs::write(images.dir.join("a.00.part"), b"torn").unwrap();
        write(&images, "a");
        assert!(read(&images, "a").is_ok());
    }

    #[test]
    fn a_torn_image_is_damaged_wherever_it_is_torn() {
        let (_temp, images) = folder();
        write(&images, "a");
        let whole = fs::read(file(&images, "a")).unwrap();
        let step = |at: usize| if at < 300 || at + 300 > whole.len() { 1 } else { 5003 };
        let mut length = 0;
        while length < whole.len() {
            fs::write(file(&images, "a"), &whole[..length]).unwrap();
            let error = read(&images, "a").unwrap_err();
            assert!(matches!(error, ImageError::Damaged { .. }), "{length}: {error}");
            length += step(length);
        }
        fs::write(file(&images, "a"), [whole.as_slice(), b"more"].concat()).unwrap();
        assert!(matches!(read(&images, "a"), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn a_flipped_byte_is_found_wherever_it_is() {
        let (_temp, images) = folder();
        write(&images, "a");
        let whole = fs::read(file(&images, "a")).unwrap();
        let step = |at: usize| if at < 300 || at + 300 > whole.len() { 1 } else { 5003 };
        let mut at = 0;
        while at < whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(file(&images, "a"), &bytes).unwrap();
            let error = read(&images, "a").unwrap_err();
            let expected = match at {
                0..8 => matches!(error, ImageError::NotAnImage { .. }),
                8..12 => matches!(error, ImageError::Version { .. }),
                _ => matches!(error, ImageError::Damaged { at: found, .. } if found <= at as u64),
            };
            assert!(expected, "{at}: {error}");
            assert!(error.to_string().contains("a.image"), "{error}");
            at += step(at);
        }
    }

    #[test]
    fn another_version_says_what_to_do() {
        let (_temp, images) = folder();
        write(&images, "a");
        let mut bytes = fs::read(file(&images, "a")).unwrap();
        bytes[8] = 2;
        fs::write(file(&images, "a"), bytes).unwrap();
        let error = read(&images, "a").unwrap_err().to_string();
        assert!(error.contains("format 2, this program reads 1: run the version that wrote it"), "{error}");
    }

    #[test]
    fn records_that_change_places_or_files_that_change_names_are_damage() {
        let (_temp, images) = folder();
        write(&images, "a");
        let whole = fs::read(file(&images, "a")).unwrap();
        fs::write(file(&images, "b"), &whole).unwrap();
        assert!(matches!(read(&images, "b"), Err(ImageError::Damaged { .. })));
        let (first, second) = (HEAD_BYTES..HEAD_BYTES + 15, HEAD_BYTES + 15..HEAD_BYTES + 15 + 109);
        let swapped = [&whole[..HEAD_BYTES], &whole[second.clone()], &whole[first], &whole[second.end..]].concat();
        fs::write(file(&images, "a"), swapped).unwrap();
        assert!(matches!(read(&images, "a"), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn only_what_is_kept_stays() {
        let (_temp, images) = folder();
        for id in ["a", "b", "c"] {
            write(&images, id);
        }
        fs::write(images.dir.join("d.part"), b"torn").unwrap();
        fs::write(images.dir.join("README"), b"mine").unwrap();
        images.keep(&["b", "not there"]).unwrap();
        images.drop_image(&"not there");
        let mut names: Vec<_> = fs::read_dir(&images.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["README", "b.image"]);
        images.drop_image(&"b");
        assert!(read(&images, "b").is_err());
    }

    #[test]
    fn a_full_disk_leaves_no_image() {
        let (_temp, images) = folder();
        let mut writer = images.begin(&"a", &SALT, &CODE).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        writer.file = BufWriter::with_capacity(16, full);
        assert_eq!(writer.record(KIND_PAGE, &[7; 100]), Err(SinkClosed));
        assert!(writer.failure().is_some());
        let error = writer.finish(&STATE).unwrap_err();
        assert!(
            matches!(&error, ImageError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(&images.dir).unwrap().count(), 0);
    }
}
