//! What stands in a certificate, as far as anybody here wants to know. Whether it may be believed is not
//! asked here: TLS does that.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use actors::policy::expiry::Validity;
use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{DateTime, Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use ring::digest;

/// The parts of a certificate that are shown or acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The common names of its subject; one, in all but the oddest.
    pub common_names: Vec<String>,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// From when to when it holds.
    pub validity: Validity,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// The bits of its key, where that is an RSA key.
    pub rsa_bits: Option<usize>,
}

/// Not a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate")]
pub struct NotX509;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

impl Facts {
    /// Reads a certificate.
    pub fn read(certificate: &[u8]) -> Result<Facts, NotX509> {
        let whole = AnyRef::from_der(certificate).map_err(|_| NotX509)?;
        whole
            .sequence(|certificate| {
                let facts = next(certificate)?.sequence(to_be_signed)?;
                let (_algorithm, _signature) = (next(certificate)?, next(certificate)?);
                Ok(facts)
            })
            .map_err(|_: der::Error| NotX509)
    }

    /// Its subject, for people.
    pub fn subject(&self) -> &str {
        self.common_names
            .first()
            .map_or("(no common name)", String::as_str)
    }
}

/// The SHA-256 of a certificate as tools show it, to be compared by eye.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// A time in UTC for people, as in `2027-11-22T02:48:29Z`.
pub fn utc(time: SystemTime) -> String {
    DateTime::from_system_time(time).map_or_else(
        |_| "before 1970 or after 9999".to_owned(),
        |time| time.to_string(),
    )
}

fn next<'a>(reader: &mut SliceReader<'a>) -> der::Result<AnyRef<'a>> {
    AnyRef::decode(reader)
}

fn is_context(tag: Tag, number: u32) -> bool {
    matches!(tag, Tag::ContextSpecific { number: found, .. } if found == TagNumber(number))
}

/// TBSCertificate [RFC 5280 4.1].
fn to_be_signed(fields: &mut SliceReader<'_>) -> der::Result<Facts> {
    let version_or_serial = next(fields)?;
    if is_context(version_or_serial.tag(), 0) {
        let _serial = next(fields)?;
    }
    let (_algorithm, _issuer) = (next(fields)?, next(fields)?);
    let validity = next(fields)?.sequence(|times| {
        let (not_before, not_after) = (time(next(times)?)?, time(next(times)?)?);
        der::Result::Ok(Validity {
            not_before,
            not_after,
        })
    })?;
    let mut facts = Facts {
        common_names: next(fields)?.sequence(common_names)?,
        names: Vec::new(),
        validity,
        is_authority: false,
        rsa_bits: None,
    };
    // What is wrong with a key is for TLS to say.
    facts.rsa_bits = next(fields)?.sequence(rsa_bits).unwrap_or_default();
    while !fields.is_finished() {
        let field = next(fields)?;
        if is_context(field.tag(), 3) {
            AnyRef::from_der(field.value())?.sequence(|extensions| {
                while !extensions.is_finished() {
                    next(extensions)?.sequence(|extension| facts.take(extension))?;
                }
                der::Result::Ok(())
            })?;
        }
    }
    Ok(facts)
}

impl Facts {
    fn take(&mut self, extension: &mut SliceReader<'_>) -> der::Result<()> {
        let kind = next(extension)?;
        let mut value = next(extension)?;
        if value.tag() == Tag::Boolean {
            value = next(extension)?;
        }
        let content = value.value();
        match kind.value() {
            SUBJECT_ALT_NAME => {
                self.names = AnyRef::from_der(content)?.sequence(alternative_names)?;
            }
            BASIC_CONSTRAINTS => {
                self.is_authority = AnyRef::from_der(content)?.sequence(|constraints| {
                    let mut is_authority = false;
                    while !constraints.is_finished() {
                        let constraint = next(constraints)?;
                        is_authority |= constraint.tag() == Tag::Boolean && constraint.value() != [0];
                    }
                    der::Result::Ok(is_authority)
                })?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// SubjectPublicKeyInfo [RFC 5280 4.1], and in it RSAPublicKey [RFC 8017 A.1.1].
fn rsa_bits(key: &mut SliceReader<'_>) -> der::Result<Option<usize>> {
    let is_rsa = next(key)?.sequence(|algorithm| {
        let kind = next(algorithm)?;
        while !algorithm.is_finished() {
            next(algorithm)?;
        }
        der::Result::Ok(kind.value() == RSA_ENCRYPTION)
    })?;
    let key = next(key)?;
    // The first byte of a bit string says how many bits are missing at its end.
    let (true, Some(inner)) = (is_rsa, key.value().get(1..)) else {
        return Ok(None);
    };
    AnyRef::from_der(inner)?.sequence(|numbers| {
        let (modulus, _exponent) = (next(numbers)?, next(numbers)?);
        let first = modulus.value().iter().position(|byte| *byte != 0);
        let digits = modulus.value().get(first.unwrap_or(0)..).unwrap_or_default();
        let leading = digits.first().map_or(0, |byte| byte.leading_zeros() as usize);
        der::Result::Ok(Some(digits.len() * 8 - leading))
    })
}

fn time(value: AnyRef<'_>) -> der::Result<SystemTime> {
    let since_1970 = match value.tag() {
        Tag::UtcTime => value.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => value.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(UNIX_EPOCH + since_1970)
}

/// Name [RFC 5280 4.1.2.4]: a sequence of sets of attributes.
fn common_names(sets: &mut SliceReader<'_>) -> der::Result<Vec<String>> {
    let mut found = Vec::new();
    while !sets.is_finished() {
        let mut set = SliceReader::new(next(sets)?.value())?;
        while !set.is_finished() {
            let (kind, value) = next(&mut set)?
                .sequence(|attribute| der::Result::Ok((next(attribute)?, next(attribute)?)))?;
            // Other kinds of strings are long out of use, and one misread could be taken for somebody else.
            let is_text = matches!(
                value.tag(),
                Tag::Utf8String | Tag::PrintableString | Tag::Ia5String
            );
            if let (true, COMMON_NAME, Ok(text)) = (is_text, kind.value(), str::from_utf8(value.value())) {
                found.push(text.to_owned());
            }
        }
    }
    Ok(found)
}

/// GeneralNames [RFC 5280 4.2.1.6]: those that a server can be reached by.
fn alternative_names(names: &mut SliceReader<'_>) -> der::Result<Vec<String>> {
    let mut found = Vec::new();
    while !names.is_finished() {
        let name = next(names)?;
        if is_context(name.tag(), 2)
            && let Ok(text) = str::from_utf8(name.value())
        {
            found.push(text.to_owned());
        } else if is_context(name.tag(), 7) {
            let address = match name.value().len() {
                4 => name
                    .value()
                    .try_into()
                    .ok()
                    .map(|octets: [u8; 4]| IpAddr::from(octets)),
                _ => name
                    .value()
                    .try_into()
                    .ok()
                    .map(|octets: [u8; 16]| IpAddr::from(octets)),
            };
            found.extend(address.map(|address| address.to_string()));
        }
    }
    Ok(found)
}
