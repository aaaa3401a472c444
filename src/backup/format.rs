//! A backup as a stream of sealed frames, as an archive of the store is one. Each frame begins with what it is: first the head,
//! then files, then values of the store, and the end, which says how many of each there were.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::library::{Manifest, is_file_name};
use crate::store::frames::{Form, Opener, Sealer};
use crate::store::{ArchiveContents, ArchiveError, ArchiveSecret, Progress, look_at};

pub(super) const FORM: Form = Form {
    name: b"clawdbot backup",
    version: b'1',
};

/// Keys, certificates and settings are small; whatever is not, is none.
pub(super) const MAX_MEMBER_BYTES: usize = 1 << 20;
/// What the settings file is called in every backup, and after it was restored.
pub(super) const SETTINGS: &str = "clawdbot.toml";

const HEAD: u8 = b'H';
const MEMBER: u8 = b'M';
const VALUES: u8 = b'V';
const END: u8 = b'E';

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When it was begun, in Unix time.
    pub made_at_unix_s: u64,
    /// The version of the program that made it.
    pub version: String,
    /// Whether there was a store.
    pub has_store: bool,
    /// The models that there were, without their files.
    pub models: Vec<Manifest>,
    /// Files that the settings name and that are not in it.
    pub outside: Vec<String>,
}

/// A file. There is no Debug: it may be a key.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

/// What is told of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// Its name in the data directory.
    pub name: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its length.
    pub bytes: usize,
}

/// All that is told of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What it says of itself.
    pub head: Head,
    /// Its files.
    pub members: Vec<MemberFacts>,
    /// What is in it of the store, where there was one.
    pub store: Option<ArchiveContents>,
}

#[derive(Serialize, Deserialize)]
struct End {
    members: u64,
    store: Option<ArchiveContents>,
}

/// What comes next in a backup.
pub(super) enum Part {
    Member(Member),
    Values(Vec<u8>),
    End(Option<ArchiveContents>),
}

impl Drop for Member {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Member {
    pub(super) fn facts(&self) -> MemberFacts {
        MemberFacts {
            name: self.name.clone(),
            mode: self.mode,
            bytes: self.bytes.len(),
        }
    }

    /// The mode, the length of the name, the name, and all else is the file.
    fn decode(body: &[u8]) -> Option<Self> {
        let (mode, rest) = body.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (name, bytes) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        Some(Self {
            name: str::from_utf8(name).ok()?.to_owned(),
            mode: u32::from_be_bytes(*mode),
            bytes: Some(bytes)
                .filter(|bytes| bytes.len() <= MAX_MEMBER_BYTES)?
                .to_vec(),
        })
    }
}

/// Whether a backup may have a file of this name: nothing else is ever written by a restoration, wherever a name would lead.
pub(super) fn is_member_name(name: &str) -> bool {
    match name.split_once('/') {
        None => name == SETTINGS,
        Some(("keys", key)) => is_kept_key(key),
        Some(("certs", certificate)) => is_kept_certificate(certificate),
        Some(_) => false,
    }
}

/// Keys that sign or signed tokens, and the one that seals backups: with it, backups go on under the key that somebody has
/// written down, and whoever can read it here has opened the backup already. The master key stays where it is.
pub(super) fn is_kept_key(name: &str) -> bool {
    let is_ours = name == "backup.key" || name.starts_with("token-signing");
    is_file_name(name) && is_ours && name.ends_with(".key")
}

pub(super) fn is_kept_certificate(name: &str) -> bool {
    is_file_name(name) && name.ends_with(".pem")
}

/// Writes a backup.
pub(super) struct Writer<W> {
    sealer: Sealer<W>,
    members: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(output: W, secret: &ArchiveSecret, head: &Head) -> Result<Self, ArchiveError> {
        let mut writer = Self {
            sealer: Sealer::new(output, FORM, secret)?,
            members: 0,
        };
        writer.frame(HEAD, &[&json(head)?], false)?;
        Ok(writer)
    }

    pub(super) fn member(&mut self, member: &Member) -> Result<(), ArchiveError> {
        let length = u16::try_from(member.name.len()).map_err(|_| ArchiveError::TooLarge)?;
        self.members += 1;
        let parts = [
            &member.mode.to_be_bytes()[..],
            &length.to_be_bytes(),
            member.name.as_bytes(),
            &member.bytes,
        ];
        self.frame(MEMBER, &parts, false)
    }

    pub(super) fn values(&mut self, frame: &[u8]) -> Result<(), ArchiveError> {
        self.frame(VALUES, &[frame], false)
    }

    pub(super) fn end(mut self, store: Option<ArchiveContents>) -> Result<W, ArchiveError> {
        let end = End {
            members: self.members,
            store,
        };
        self.frame(END, &[&json(&end)?], true)?;
        Ok(self.sealer.into_inner())
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]], is_last: bool) -> Result<(), ArchiveError> {
        let mut frame = vec![kind];
        // As a whole at once, so that nothing of a key is left behind where it grew.
        frame.reserve_exact(parts.iter().map(|part| part.len()).sum::<usize>() + 16);
        for part in parts {
            frame.extend_from_slice(part);
        }
        self.sealer.frame(frame, is_last)
    }
}

/// Reads a backup, and believes nothing of it.
pub(super) struct Reader<R> {
    opener: Opener<R>,
    head: Head,
    names: BTreeSet<String>,
    store: ArchiveContents,
    has_values: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn open(input: R, secret: &ArchiveSecret) -> Result<Self, ArchiveError> {
        let mut opener = Opener::new(input, FORM, secret)?;
        let first = opener.frame()?;
        let head = match first
            .as_ref()
            .map(|(frame, is_last)| (frame.split_first(), *is_last))
        {
            Some((Some((&HEAD, body)), false)) => serde_json::from_slice(body).map_err(strange)?,
            _ => return Err(strange("it does not begin with what it is")),
        };
        Ok(Self {
            opener,
            head,
            names: BTreeSet::new(),
            store: ArchiveContents::default(),
            has_values: false,
        })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// What comes next; None behind the end.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>, ArchiveError> {
        let Some((mut frame, is_last)) = self.opener.frame()? else {
            return Ok(None);
        };
        let part = self.part(&frame, is_last);
        frame.zeroize();
        part.map(Some)
    }

    fn part(&mut self, frame: &[u8], is_last: bool) -> Result<Part, ArchiveError> {
        match (frame.split_first(), is_last) {
            (Some((&MEMBER, body)), false) if !self.has_values => {
                let member =
                    Member::decode(body).ok_or_else(|| strange("a file in it is cut short or too large"))?;
                if !is_member_name(&member.name) || !self.names.insert(member.name.clone()) {
                    let name: String = member.name.chars().take(100).collect();
                    return Err(strange(format!(
                        "it has a file that belongs in no backup, {name:?}"
                    )));
                }
                Ok(Part::Member(member))
            }
            (Some((&VALUES, body)), false) if self.head.has_store => {
                self.has_values = true;
                look_at(body, &mut self.store)?;
                Ok(Part::Values(body.to_vec()))
            }
            (Some((&END, body)), true) => {
                let end: End = serde_json::from_slice(body).map_err(strange)?;
                if end.members != self.names.len() as u64 || end.store.is_some() != self.head.has_store {
                    return Err(strange("it has not all that it says"));
                }
                if let Some(store) = &end.store {
                    self.store.is_all_of(store)?;
                }
                Ok(Part::End(end.store))
            }
            _ => Err(strange(
                "a part of it is of a kind, or in a place, that is not known",
            )),
        }
    }
}

/// Opens every frame of a backup, and looks at all that is in it as a restoration would.
pub fn verify(
    input: impl Read,
    secret: &ArchiveSecret,
    progress: &Progress,
) -> Result<Summary, ArchiveError> {
    let mut reader = Reader::open(input, secret)?;
    let mut members = Vec::new();
    while let Some(part) = reader.next_part()? {
        if progress.stop.load(Relaxed) {
            return Err(ArchiveError::Stopped);
        }
        match part {
            Part::Member(member) => members.push(member.facts()),
            Part::Values(_) => {}
            Part::End(store) => {
                return Ok(Summary {
                    head: reader.head().clone(),
                    members,
                    store,
                });
            }
        }
    }
    Err(ArchiveError::CutShort)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ArchiveError> {
    serde_json::to_vec(value).map_err(strange)
}

fn strange(what: impl ToString) -> ArchiveError {
    ArchiveError::Unknown(what.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> ArchiveSecret {
        ArchiveSecret::Key([5; 32])
    }

    fn head(has_store: bool) -> Head {
        Head {
            made_at_unix_s: 1_800_000_000,
            version: "0.1.0".to_owned(),
            has_store,
            models: Vec::new(),
            outside: Vec::new(),
        }
    }

    fn member(name: &str, bytes: &[u8]) -> Member {
        Member {
            name: name.to_owned(),
            mode: 0o600,
            bytes: bytes.to_vec(),
        }
    }

    fn written(members: &[Member]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &secret(), &head(false)).unwrap();
        for member in members {
            writer.member(member).unwrap();
        }
        writer.end(None).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Summary, ArchiveError> {
        verify(bytes, &secret(), &Progress::default())
    }

    /// Frames that no `Writer` writes, under the right key.
    fn by_hand(frames: &[(u8, &[u8])]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), FORM, &secret()).unwrap();
        for (at, (kind, body)) in frames.iter().enumerate() {
            sealer
                .frame([&[*kind], *body].concat(), at + 1 == frames.len())
                .unwrap();
        }
        sealer.into_inner()
    }

    #[test]
    fn what_was_written_is_told_again() {
        let members = [
            member("keys/token-signing.key", &[7; 32]),
            member("certs/ca.pem", b"-----"),
            member(SETTINGS, b""),
        ];
        let summary = read(&written(&members)).unwrap();
        let facts: Vec<_> = members.iter().map(Member::facts).collect();
        assert_eq!(
            (summary.head, summary.members, summary.store),
            (head(false), facts, None)
        );
    }

    #[test]
    fn a_backup_that_is_cut_off_or_changed_anywhere_is_noticed() {
        let bytes = written(&[
            member("keys/token-signing.key", &[7; 32]),
            member(SETTINGS, &[b'#'; 9000]),
        ]);
        for at in (0..bytes.len()).step_by(997) {
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn another_key_another_programs_file_a_newer_form_and_a_huge_length_each_have_their_word() {
        let bytes = written(&[]);
        let other = ArchiveSecret::Key([6; 32]);
        let wrong = verify(&bytes[..], &other, &Progress::default());
        assert!(matches!(wrong, Err(ArchiveError::WrongSecret)));
        assert!(matches!(
            read(b"SQLite format 3\0 and more than a header of ours has"),
            Err(ArchiveError::NoArchive)
        ));
        let mut newer = bytes.clone();
        newer[15] += 1;
        assert!(matches!(read(&newer), Err(ArchiveError::Newer)));
        let mut huge = bytes.clone();
        // The length of the greeting, behind the header and its mark.
        huge[38..42].copy_from_slice(&[0xff; 4]);
        assert!(read(&huge).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_or_come_twice_are_refused() {
        for name in [
            "../clawdbot.toml",
            "/etc/passwd",
            "keys/../../x.key",
            "keys/token-signing/../x.key",
            "keys//token-signing.key",
            "keys/master.key",
            "keys/.key",
            "certs/",
            "certs/a/b.pem",
            "store.redb",
            "",
            ".",
            "keys",
            "clawdbot.toml/x",
        ] {
            let refused = read(&written(&[member(name, b"x")]));
            assert!(
                matches!(&refused, Err(ArchiveError::Unknown(why)) if why.contains("belongs in no backup")),
                "{name}: {refused:?}"
            );
        }
        assert!(read(&written(&[member(SETTINGS, b"x"), member(SETTINGS, b"y")])).is_err());
    }

    #[test]
    fn what_is_sealed_and_makes_no_sense_is_refused() {
        let (head_of_none, end) = (json(&head(false)).unwrap(), b"{\"members\":0,\"store\":null}");
        let head_of_a_store = json(&head(true)).unwrap();
        let file = [&[0_u8, 0, 1, 0x80, 0, 13][..], SETTINGS.as_bytes(), b"x"].concat();
        assert!(read(&by_hand(&[(HEAD, &head_of_none), (END, end)])).is_ok());
        let cases: [&[(u8, &[u8])]; 12] = [
            &[(END, end)],
            &[(HEAD, b"{}"), (END, end)],
            // Without what it announces.
            &[(HEAD, &head_of_a_store), (END, end)],
            &[(HEAD, &head_of_none), (END, b"{\"members\":1,\"store\":null}")],
            // With what it does not.
            &[(HEAD, &head_of_none), (VALUES, b""), (END, end)],
            &[(HEAD, &head_of_none), (MEMBER, &file), (END, end)],
            // In the wrong place.
            &[(HEAD, &head_of_none), (HEAD, &head_of_none), (END, end)],
            &[
                (HEAD, &head_of_a_store),
                (VALUES, b""),
                (MEMBER, &file),
                (END, b"{\"members\":1,\"store\":{\"values\":{}}}"),
            ],
            // Not whole.
            &[(HEAD, &head_of_none), (MEMBER, b"\0\0\0\0\0"), (END, end)],
            &[(HEAD, &head_of_none), (MEMBER, b"\0\0\0\0\xff\xffx"), (END, end)],
            &[(HEAD, &head_of_none), (b'?', b""), (END, end)],
            &[(HEAD, &head_of_none), (END, b"")],
        ];
        for frames in cases {
            assert!(read(&by_hand(frames)).is_err(), "{frames:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Member::decode(&bytes);
        }

        #[test]
        fn a_name_that_is_taken_leads_nowhere_else(name in "(keys|certs)?/?[a-z./-]{0,12}(\\.key|\\.pem|\\.toml)?") {
            if is_member_name(&name) {
                prop_assert!(!name.contains("../"));
                prop_assert!(!name.starts_with('/') && name.matches('/').count() <= 1);
            }
        }
    }
}
