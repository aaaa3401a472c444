//! An archive as a stream: a header, and frames that are sealed one by one, so that neither side needs room for the
//! whole. The nonce of a frame is its number and whether it is the last one (the STREAM construction of Hoang,
//! Reyhanitabar, Rogaway and Vizár, 2015): frames that are exchanged, left out, added or cut off are noticed.

use std::io::{self, Read, Write};
use std::num::NonZeroU32;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

use super::super::vault::KEY_BYTES;
use super::{ArchiveError, ArchiveSecret};

/// What a file of frames begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// What it is.
    pub(crate) name: &'static [u8; NAME_BYTES],
    /// The version of what its frames mean, as a digit.
    pub(crate) version: u8,
}

const NAME_BYTES: usize = 15;
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = NAME_BYTES + 1 + 1 + 4 + SALT_BYTES;

/// What OWASP's Password Storage Cheat Sheet asks for with HMAC-SHA-256.
const ITERATIONS: u32 = 600_000;
/// Of a stranger's archive: more would only keep us busy.
const MAX_ITERATIONS: u32 = 10_000_000;

/// Room for the largest message that MQTT can carry, and what is around it.
const MAX_FRAME_BYTES: u32 = 300 * 1024 * 1024;

const BY_PASSPHRASE: u8 = 1;
const BY_KEY: u8 = 2;

struct Seal {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
    frame: u64,
}

impl Seal {
    fn of(secret: &ArchiveSecret, header: [u8; HEADER_BYTES]) -> Result<Self, ArchiveError> {
        let (kind, iterations, salt) = parts(&header);
        let mut key = [0; KEY_BYTES];
        match (kind, secret) {
            (BY_PASSPHRASE, ArchiveSecret::Passphrase(passphrase)) => {
                let iterations = NonZeroU32::new(iterations)
                    .filter(|count| count.get() <= MAX_ITERATIONS)
                    .ok_or(ArchiveError::NoArchive)?;
                let passphrase = passphrase.as_bytes();
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, passphrase, &mut key);
            }
            (BY_KEY, ArchiveSecret::Key(random)) => Salt::new(HKDF_SHA256, salt)
                .extract(random)
                .expand(&[b"clawdbot archive"], HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .map_err(|_| ArchiveError::NoArchive)?,
            (BY_PASSPHRASE, _) => return Err(ArchiveError::OtherSecret("a passphrase")),
            (BY_KEY, _) => return Err(ArchiveError::OtherSecret("a key")),
            _ => return Err(ArchiveError::NoArchive),
        }
        let sealing = UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new);
        key.zeroize();
        Ok(Self {
            key: sealing.map_err(|_| ArchiveError::NoArchive)?,
            header,
            frame: 0,
        })
    }

    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        let (number, rest) = nonce.split_at_mut(8);
        number.copy_from_slice(&self.frame.to_be_bytes());
        rest.fill(u8::from(is_last));
        self.frame += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn parts(header: &[u8; HEADER_BYTES]) -> (u8, u32, &[u8]) {
    let rest = header.get(NAME_BYTES + 1..).unwrap_or_default();
    let kind = rest.first().copied().unwrap_or_default();
    let iterations = rest.get(1..5).and_then(|bytes| bytes.try_into().ok());
    let salt = rest.get(5..).unwrap_or_default();
    (kind, iterations.map_or(0, u32::from_be_bytes), salt)
}

/// Writes frames.
pub(crate) struct Sealer<W> {
    output: W,
    seal: Seal,
}

impl<W: Write> Sealer<W> {
    pub(crate) fn new(mut output: W, form: Form, secret: &ArchiveSecret) -> Result<Self, ArchiveError> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| ArchiveError::NoRandomness)?;
        let (kind, iterations) = match secret {
            ArchiveSecret::Passphrase(_) => (BY_PASSPHRASE, ITERATIONS),
            ArchiveSecret::Key(_) => (BY_KEY, 0),
        };
        let mut header = [0; HEADER_BYTES];
        let bytes = [
            &form.name[..],
            &[form.version, kind],
            &iterations.to_be_bytes(),
            &salt,
        ]
        .concat();
        header.copy_from_slice(&bytes);
        output.write_all(&header)?;
        let mut sealer = Self {
            output,
            seal: Seal::of(secret, header)?,
        };
        // By it a wrong secret is told from an archive that was changed.
        sealer.frame(Vec::new(), false)?;
        Ok(sealer)
    }

    pub(crate) fn frame(&mut self, mut bytes: Vec<u8>, is_last: bool) -> Result<(), ArchiveError> {
        let nonce = self.seal.nonce(is_last);
        let aad = Aad::from(self.seal.header);
        self.seal
            .key
            .seal_in_place_append_tag(nonce, aad, &mut bytes)
            .map_err(|_| ArchiveError::TooLarge)?;
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= MAX_FRAME_BYTES)
            .ok_or(ArchiveError::TooLarge)?;
        self.output.write_all(&[u8::from(is_last)])?;
        self.output.write_all(&length.to_be_bytes())?;
        self.output.write_all(&bytes)?;
        Ok(())
    }

    pub(crate) fn into_inner(self) -> W {
        self.output
    }
}

/// Reads frames.
pub(crate) struct Opener<R> {
    input: R,
    seal: Seal,
    is_over: bool,
}

impl<R: Read> Opener<R> {
    pub(crate) fn new(mut input: R, form: Form, secret: &ArchiveSecret) -> Result<Self, ArchiveError> {
        let mut header = [0; HEADER_BYTES];
        match input.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ArchiveError::NoArchive);
            }
            read => read?,
        }
        let version = header.strip_prefix(form.name).and_then(<[u8]>::first);
        match version {
            Some(version) if *version == form.version => {}
            Some(version) if *version > form.version => return Err(ArchiveError::Newer),
            _ => return Err(ArchiveError::NoArchive),
        }
        let mut opener = Self {
            input,
            seal: Seal::of(secret, header)?,
            is_over: false,
        };
        match opener.frame() {
            Ok(Some((greeting, false))) if greeting.is_empty() => Ok(opener),
            Err(ArchiveError::Forged) => Err(ArchiveError::WrongSecret),
            Err(error) => Err(error),
            Ok(_) => Err(ArchiveError::NoArchive),
        }
    }

    /// The next frame, and whether it is the last; None behind that.
    pub(crate) fn frame(&mut self) -> Result<Option<(Vec<u8>, bool)>, ArchiveError> {
        if self.is_over {
            return Ok(None);
        }
        let mut head = [0; 5];
        self.read(&mut head)?;
        let [is_last, length @ ..] = head;
        let length = u32::from_be_bytes(length);
        if is_last > 1 || length > MAX_FRAME_BYTES {
            return Err(ArchiveError::Forged);
        }
        // Grows with what is there, not with what is said.
        let mut bytes = Vec::new();
        let read = (&mut self.input)
            .take(u64::from(length))
            .read_to_end(&mut bytes)?;
        if read as u64 != u64::from(length) {
            return Err(ArchiveError::CutShort);
        }
        let nonce = self.seal.nonce(is_last == 1);
        let aad = Aad::from(self.seal.header);
        let opened = self.seal.key.open_in_place(nonce, aad, &mut bytes);
        let length = match opened {
            Ok(opened) => opened.len(),
            Err(_) => return Err(ArchiveError::Forged),
        };
        bytes.truncate(length);
        self.is_over = is_last == 1;
        if self.is_over && self.input.read(&mut [0])? > 0 {
            return Err(ArchiveError::Forged);
        }
        Ok(Some((bytes, self.is_over)))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        match self.input.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ArchiveError::CutShort),
            read => Ok(read?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form {
        name: b"frames of tests",
        version: b'3',
    };

    fn secret() -> ArchiveSecret {
        ArchiveSecret::Key([5; KEY_BYTES])
    }

    fn archive(frames: &[&[u8]]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), FORM, &secret()).unwrap();
        for (at, frame) in frames.iter().enumerate() {
            sealer.frame(frame.to_vec(), at + 1 == frames.len()).unwrap();
        }
        sealer.into_inner()
    }

    fn read(bytes: &[u8], secret: &ArchiveSecret) -> Result<Vec<Vec<u8>>, ArchiveError> {
        let mut opener = Opener::new(bytes, FORM, secret)?;
        let mut frames = Vec::new();
        while let Some((frame, _)) = opener.frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_back_in_their_order() {
        let bytes = archive(&[b"one", b"", b"three"]);
        let frames = read(&bytes, &secret()).unwrap();
        assert_eq!(frames, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn whatever_is_cut_off_or_changed_or_added_is_noticed() {
        let bytes = archive(&[b"one", b"two", b"three"]);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], &secret()).is_err(), "{length}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed, &secret()).is_err(), "byte {at}, bit {bit}");
            }
        }
        assert!(read(&[&bytes[..], b"x"].concat(), &secret()).is_err());
        // Frames of 3 bytes with their heads and tags: the first two in the other order.
        let (first, second) = (HEADER_BYTES + 21, HEADER_BYTES + 45);
        let exchanged = [
            &bytes[..first],
            &bytes[second..second + 24],
            &bytes[first..second],
            &bytes[second + 24..],
        ]
        .concat();
        assert!(read(&exchanged, &secret()).is_err());
        // And one left out.
        let without = [&bytes[..second], &bytes[second + 24..]].concat();
        assert!(read(&without, &secret()).is_err());
    }

    #[test]
    fn another_secret_opens_nothing_and_another_kind_of_secret_is_named() {
        let bytes = archive(&[b"one"]);
        let wrong = read(&bytes, &ArchiveSecret::Key([6; KEY_BYTES]));
        assert!(matches!(wrong, Err(ArchiveError::WrongSecret)));
        let passphrase = ArchiveSecret::Passphrase("a".to_owned());
        let other = read(&bytes, &passphrase);
        assert!(matches!(other, Err(ArchiveError::OtherSecret("a key"))));
        let mut sealer = Sealer::new(Vec::new(), FORM, &passphrase).unwrap();
        sealer.frame(b"x".to_vec(), true).unwrap();
        let bytes = sealer.into_inner();
        assert_eq!(read(&bytes, &passphrase).unwrap(), [b"x"]);
        let wrong = read(&bytes, &ArchiveSecret::Passphrase("b".to_owned()));
        assert!(matches!(wrong, Err(ArchiveError::WrongSecret)));
    }

    #[test]
    fn a_newer_form_is_told_from_something_else() {
        let of = |name: &[u8], version: u8| [name, &[version], &[0; 100]].concat();
        for (bytes, is_newer) in [
            (of(FORM.name, b'4'), true),
            (of(FORM.name, b'2'), false),
            (of(b"frames of other", b'4'), false),
            (FORM.name.to_vec(), false),
            (Vec::new(), false),
        ] {
            match read(&bytes, &secret()) {
                Err(ArchiveError::Newer) => assert!(is_newer, "{bytes:?}"),
                Err(ArchiveError::NoArchive) => assert!(!is_newer, "{bytes:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
