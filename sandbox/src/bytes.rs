//! Bytes that are mostly text (paths, arguments, xattr names) as JSON strings a person can read.
//!
//! A byte that is not part of valid UTF-8, a control character and the backslash are written
//! `\xNN`; all else stands for itself. Use with `#[serde(with = "crate::bytes")]`.

use std::{
    ffi::{CString, OsStr, OsString},
    fmt::Write,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error};

/// A path as system calls take it.
pub(crate) fn c_string(path: &Path) -> crate::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| crate::Error::plan(format_args!("the path {} has a NUL in it", path.display())))
}

/// A path below a folder; the folder itself if it is empty.
pub(crate) fn below(folder: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { folder.to_owned() } else { folder.join(OsStr::from_bytes(path)) }
}

/// The bytes as readable text.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, byte: u8| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' | '\0'..='\x1f' | '\x7f' => hex(&mut text, character as u8),
                _ => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|&byte| hex(&mut text, byte));
    }
    text
}

/// The reverse of [`escape`]; none if a backslash is not followed by `xNN`.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        bytes.extend_from_slice(&rest[..at]);
        let digits = rest.get(at + 2..at + 4).filter(|_| rest[at + 1] == b'x')?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None; // from_str_radix would take a sign
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest);
    Some(bytes)
}

/// A type that has a readable form.
pub(crate) trait Readable: Sized {
    /// The form.
    type Form: Serialize + DeserializeOwned;
    /// Into it.
    fn form(&self) -> Self::Form;
    /// Out of it.
    fn parse(form: Self::Form) -> Option<Self>;
}

impl Readable for Vec<u8> {
    type Form = String;
    fn form(&self) -> String {
        escape(self)
    }
    fn parse(form: String) -> Option<Self> {
        unescape(&form)
    }
}

impl Readable for PathBuf {
    type Form = String;
    fn form(&self) -> String {
        escape(self.as_os_str().as_encoded_bytes())
    }
    fn parse(form: String) -> Option<Self> {
        unescape(&form).map(|bytes| OsString::from_vec(bytes).into())
    }
}

impl Readable for (Vec<u8>, Vec<u8>) {
    type Form = (String, String);
    fn form(&self) -> Self::Form {
        (escape(&self.0), escape(&self.1))
    }
    fn parse(form: Self::Form) -> Option<Self> {
        Some((unescape(&form.0)?, unescape(&form.1)?))
    }
}

/// Lists, written out for each element: `Vec<u8>` is itself an element.
macro_rules! readable_lists {
    ($($element:ty),*) => {$(
        impl Readable for Vec<$element> {
            type Form = Vec<<$element as Readable>::Form>;
            fn form(&self) -> Self::Form {
                self.iter().map(Readable::form).collect()
            }
            fn parse(form: Self::Form) -> Option<Self> {
                form.into_iter().map(Readable::parse).collect()
            }
        }
    )*};
}

readable_lists!(Vec<u8>, PathBuf, (Vec<u8>, Vec<u8>));

/// For `#[serde(with)]`.
pub(crate) fn serialize<T: Readable, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

/// For `#[serde(with)]`.
pub(crate) fn deserialize<'de, T: Readable, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::parse(T::Form::deserialize(deserializer)?)
        .ok_or_else(|| D::Error::custom("a backslash is not followed by xNN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for (bytes, text) in [
            (b"usr/bin/env".as_slice(), "usr/bin/env"),
            (b"", ""),
            (b"a\\b", "a\\x5cb"),
            (b"\xff\xc3\xa4\xc3", "\\xff\u{e4}\\xc3"),
            (b"line\nline\0\x7f", "line\\x0aline\\x00\\x7f"),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text).as_deref(), Some(bytes));
        }
    }

    #[test]
    fn every_byte_round_trips() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&all)), Some(all));
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["\\", "\\x", "\\x1", "\\xzz", "\\n", "\\x+1", "\\xé"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
