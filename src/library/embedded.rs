//! The assistant that comes with the program: a file in it, which is written down where models are, because it is mapped from there
//! by the inference process like any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Library, LibraryError, at};

/// What settings and flags call it.
pub const EMBEDDED: &str = "embedded";

static FILE: &[u8] = include_bytes!("../../models/embedded/assistant.gguf");
const FOLDER: &str = ".embedded";

impl Library {
    /// Where it is written down. That of another version of the program is exchanged.
    pub fn embedded(&self) -> PathBuf {
        self.directory().join(FOLDER).join("assistant.gguf")
    }

    /// Writes the assistant down, if `model` is its place and it is not there yet, so that the model can be opened.
    ///
    /// # Errors
    /// [`LibraryError::Io`].
    pub fn unpack(&self, model: &Path) -> Result<(), LibraryError> {
        if model != self.embedded() || fs::read(model).is_ok_and(|there| there == FILE) {
            return Ok(());
        }
        let draft = model.with_extension(format!("{}.part", std::process::id()));
        let written = || -> io::Result<()> {
            fs::create_dir_all(self.directory().join(FOLDER))?;
            fs::write(&draft, FILE)?;
            fs::rename(&draft, model)
        };
        written().map_err(|source| {
            // What cannot be removed only takes room.
            let _left = fs::remove_file(&draft);
            at(model, source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assistant_is_written_down_once_and_mended_where_somebody_changed_it() {
        let home = tempfile::tempdir().unwrap();
        let library = Library::of(home.path());
        let place = library.resolve(EMBEDDED).unwrap();
        assert!(!place.exists());
        library.unpack(&place).unwrap();
        assert!(models::inspect(&place).unwrap().assistant);
        let written = fs::metadata(&place).unwrap().modified().unwrap();
        library.unpack(&place).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().modified().unwrap(), written);
        fs::write(&place, b"GGUF").unwrap();
        library.unpack(&place).unwrap();
        assert_eq!(fs::read(&place).unwrap(), FILE);
        // Nothing else is touched, and it is no model of the list.
        library.unpack(&home.path().join("other.gguf")).unwrap();
        assert!(!home.path().join("other.gguf").exists());
        assert!(library.entries().unwrap().is_empty());
    }
}
