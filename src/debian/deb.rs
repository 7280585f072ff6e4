//! deb(5) packages: an ar archive of `debian-binary`, `control.tar.*` and `data.tar.*`, read in one
//! pass over a stream.
//!
//! What is accepted is what `dpkg-deb` accepts, and nothing more: members whose name begins with
//! `_` are passed over, names may have GNU ar's `/` at their end, any other order or member is an
//! error. The tar inside is not looked at here.

use std::io::{self, BufRead, BufReader, Read};

/// The most a `debian-binary` member may hold; it is four bytes in every deb there is.
const FORMAT_MEMBER_LIMIT: u64 = 4096;

/// An xz stream that wants more memory than this to be decompressed is refused. `xz -9` wants
/// 65 MiB; dpkg-deb makes nothing that wants more.
const XZ_MEMORY_LIMIT: u64 = 256 << 20;

/// zstd frames with a window larger than 2^27 bytes are refused, as zstd(1) does by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// How a member is compressed, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression: `data.tar`.
    None,
    /// gzip: `.gz`.
    Gzip,
    /// xz: `.xz`.
    Xz,
    /// Zstandard: `.zst`.
    Zstd,
    /// bzip2: `.bz2`, in data members of old packages only.
    Bzip2,
    /// lzma-alone: `.lzma`, in data members of old packages only.
    Lzma,
}

impl Compression {
    fn by_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "" => Compression::None,
            ".gz" => Compression::Gzip,
            ".xz" => Compression::Xz,
            ".zst" => Compression::Zstd,
            ".bz2" => Compression::Bzip2,
            ".lzma" => Compression::Lzma,
            _ => return None,
        })
    }
}

/// A deb that is being read. The members come in their order: [`Deb::control`], [`Deb::data`], then
/// [`Deb::finish`].
pub struct Deb<R> {
    reader: R,
    /// Whether what xz says of its own content is compared.
    checks: bool,
}

/// The header of an ar member.
struct Header {
    name: String,
    size: u64,
}

impl<R: Read> Deb<R> {
    /// Reads the archive's magic and its `debian-binary` member.
    ///
    /// # Errors
    /// `InvalidData` if it is no deb or one of a format other than 2.x; what the reader reports.
    pub fn new(mut reader: R) -> io::Result<Self> {
        let mut magic = [0; 8];
        read_exact(&mut reader, &mut magic, "the archive's magic")?;
        if &magic != b"!<arch>\n" {
            return Err(invalid("not a deb: no ar archive"));
        }
        let mut deb = Deb { reader, checks: true };
        let header = deb.header()?.ok_or_else(|| invalid("not a deb: an empty archive"))?;
        if header.name != "debian-binary" {
            return Err(invalid(format!("not a deb: its first member is {:?}", header.name)));
        }
        if header.size > FORMAT_MEMBER_LIMIT {
            return Err(invalid("the debian-binary member is too large"));
        }
        let mut text = vec![0; header.size as usize];
        read_exact(&mut deb.reader, &mut text, "debian-binary")?;
        deb.padding(header.size)?;
        // deb(5): "2.0\n"; a newer minor version is backwards compatible and may have more lines.
        let text = String::from_utf8_lossy(&text);
        let Some((version, _)) = text.split_once('\n') else {
            return Err(invalid("debian-binary has no newline"));
        };
        match version.split_once('.') {
            Some(("2", minor)) if !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()) => Ok(deb),
            _ => Err(invalid(format!("the deb's format version is {version:?}, not 2.0"))),
        }
    }

    /// The control member, decompressed.
    ///
    /// # Errors
    /// `InvalidData` if another member comes first; what the reader reports.
    pub fn control(&mut self) -> io::Result<Member<'_, R>> {
        self.member(
            "control.tar",
            &[Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd],
        )
    }

    /// Leaves out the comparison of xz's own checksums, which takes as long as a tenth of the decompression. For
    /// who compares a digest of the whole deb, and makes nothing of it before.
    #[must_use]
    pub fn of_known_digest(self) -> Self {
        Deb { checks: false, ..self }
    }

    /// The data member, decompressed. The control member must have been read and finished.
    ///
    /// # Errors
    /// As [`Deb::control`].
    pub fn data(&mut self) -> io::Result<Member<'_, R>> {
        use Compression::{Bzip2, Gzip, Lzma, None, Xz, Zstd};
        self.member("data.tar", &[None, Gzip, Xz, Zstd, Bzip2, Lzma])
    }

    /// Reads to the end: nothing but members whose name begins with `_` may follow.
    ///
    /// # Errors
    /// `InvalidData` for anything that follows; what the reader reports.
    pub fn finish(mut self) -> io::Result<R> {
        match self.next_member()? {
            None => Ok(self.reader),
            Some(header) => Err(invalid(format!("the deb has a member {:?} after its data", header.name))),
        }
    }

    fn member(&mut self, stem: &str, allowed: &[Compression]) -> io::Result<Member<'_, R>> {
        let header = self.next_member()?.ok_or_else(|| invalid(format!("the deb has no {stem} member")))?;
        let Some(extension) = header.name.strip_prefix(stem) else {
            return Err(invalid(format!("the deb has a member {:?} where {stem} belongs", header.name)));
        };
        let compression = Compression::by_extension(extension)
            .filter(|compression| allowed.contains(compression))
            .ok_or_else(|| invalid(format!("unknown compression of the deb's member {:?}", header.name)))?;
        if header.size == 0 {
            return Err(invalid(format!("the deb's member {:?} is empty", header.name)));
        }
        let odd = header.size % 2 == 1;
        let raw = Raw { reader: &mut self.reader, left: header.size, odd, failed: false };
        Member::new(header.name, (compression, self.checks), BufReader::with_capacity(64 << 10, raw))
    }

    /// The next member that matters, or none at the end.
    fn next_member(&mut self) -> io::Result<Option<Header>> {
        while let Some(header) = self.header()? {
            if !header.name.starts_with('_') {
                return Ok(Some(header));
            }
            let skipped = io::copy(&mut (&mut self.reader).take(header.size), &mut io::sink())?;
            if skipped != header.size {
                return Err(truncated(&header.name));
            }
            self.padding(header.size)?;
        }
        Ok(None)
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = [0; 60];
        // A clean end is one before the first byte of a header.
        loop {
            match self.reader.read(&mut header[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        read_exact(&mut self.reader, &mut header[1..], "a member's header")?;
        if &header[58..] != b"`\n" {
            return Err(invalid("bad ar header: no member starts where one should"));
        }
        let name = String::from_utf8_lossy(&header[..16]);
        let name = name.trim_end_matches(' ');
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        // Digits with spaces around them, as dpkg reads it; ten digits cannot overflow.
        let size = String::from_utf8_lossy(&header[48..58]);
        let size = size.trim_matches(' ');
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid(format!("bad ar header: the size of member {name:?} is {size:?}")));
        }
        let size = size.parse().map_err(|_| invalid("bad ar header: a member's size"))?;
        Ok(Some(Header { name, size }))
    }

    /// Members begin at even offsets; the byte between is of no meaning.
    fn padding(&mut self, size: u64) -> io::Result<()> {
        if size % 2 == 1 { read_exact(&mut self.reader, &mut [0], "padding") } else { Ok(()) }
    }
}

fn truncated(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the deb ends inside {what}"))
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8], what: &str) -> io::Result<()> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => truncated(what),
        _ => error,
    })
}

/// The compressed bytes of a member: like `Take`, but an early end is an error.
struct Raw<'a, R> {
    reader: &'a mut R,
    left: u64,
    odd: bool,
    /// Whether the reader failed, rather than what it read.
    failed: bool,
}

impl<R: Read> Read for Raw<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most]).inspect_err(|_| self.failed = true)?;
        if count == 0 {
            self.failed = true;
            return Err(truncated("a member"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

type Source<'a, R> = BufReader<Raw<'a, R>>;

/// The decompressed bytes of a member. [`Member::finish`] must be called at the end: it checks what
/// follows the last byte that was read.
pub struct Member<'a, R: Read> {
    name: String,
    decoder: Decoder<'a, R>,
}

enum Decoder<'a, R: Read> {
    None(Source<'a, R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<'a, R>>>),
    Xz(liblzma::bufread::XzDecoder<Source<'a, R>>),
    Zstd(zstd::Decoder<'static, Source<'a, R>>),
    Bzip2(bzip2::bufread::MultiBzDecoder<Source<'a, R>>),
}

impl<'a, R: Read> Member<'a, R> {
    fn new(
        name: String,
        (compression, checks): (Compression, bool),
        source: Source<'a, R>,
    ) -> io::Result<Self> {
        use liblzma::stream::{CONCATENATED, IGNORE_CHECK, Stream};
        let decoder = match compression {
            Compression::None => Decoder::None(source),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Xz => {
                let flags = if checks { CONCATENATED } else { CONCATENATED | IGNORE_CHECK };
                let stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT, flags)?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(source, stream))
            }
            Compression::Lzma => {
                let stream = Stream::new_lzma_decoder(XZ_MEMORY_LIMIT)?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(source, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(decoder)
            }
            Compression::Bzip2 => Decoder::Bzip2(bzip2::bufread::MultiBzDecoder::new(source)),
        };
        Ok(Member { name, decoder })
    }

    fn source(&self) -> &Source<'a, R> {
        match &self.decoder {
            Decoder::None(source) => source,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Xz(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
            Decoder::Bzip2(decoder) => decoder.get_ref(),
        }
    }

    /// Checks that the decompressed bytes end here, after any number of zeros (tar pads its records
    /// with them), that the decompressor accepts the checksum at the end, and that no garbage
    /// follows inside the member.
    ///
    /// # Errors
    /// `InvalidData` for garbage; what the decompressor and the reader report.
    pub fn finish(mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) if buffer[..count].iter().all(|&byte| byte == 0) => {}
                Ok(_) => return Err(invalid(format!("garbage after the end of the tar in {}", self.name))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut source = match self.decoder {
            Decoder::None(source) => source,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
            Decoder::Bzip2(decoder) => decoder.into_inner(),
        };
        if !source.fill_buf()?.is_empty() {
            return Err(invalid(format!("garbage after the compressed data in {}", self.name)));
        }
        let raw = source.into_inner();
        if raw.odd { read_exact(raw.reader, &mut [0], "padding") } else { Ok(()) }
    }
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.decoder {
            Decoder::None(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::Bzip2(decoder) => decoder.read(buffer),
        };
        // Decompressors report corruption with several kinds and terse words ("corrupt deflate
        // stream", "Unknown frame descriptor"): they get the member's name. What came through them
        // from the reader (an interrupted download) stays as it is.
        result.map_err(|error| match self.source().get_ref().failed {
            true => error,
            false => invalid(format!("{} is corrupt: {error}", self.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut out = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", content.len());
        out.truncate(60);
        let mut out = out.into_bytes();
        out.extend_from_slice(content);
        if content.len() % 2 == 1 {
            out.push(b'\n');
        }
        out
    }

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let members = members.iter().flat_map(|(name, content)| member(name, content));
        b"!<arch>\n".iter().copied().chain(members).collect()
    }

    fn compressed(extension: &str, content: &[u8]) -> Vec<u8> {
        match extension {
            ".gz" => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(content).expect("gzip");
                out.finish().expect("gzip")
            }
            ".xz" => liblzma::encode_all(content, 0).expect("xz"),
            ".lzma" => {
                let options = liblzma::stream::LzmaOptions::new_preset(0).expect("options");
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("lzma");
                let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                out.write_all(content).expect("lzma");
                out.finish().expect("lzma")
            }
            ".zst" => zstd::encode_all(content, 1).expect("zstd"),
            ".bz2" => {
                let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                out.write_all(content).expect("bzip2");
                out.finish().expect("bzip2")
            }
            _ => content.to_vec(),
        }
    }

    /// Control and data, or why there are none.
    fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let read = || -> io::Result<(Vec<u8>, Vec<u8>)> {
            let (mut control, mut data) = (vec![0; 7], vec![0; 4]);
            let mut deb = Deb::new(bytes)?;
            let mut member = deb.control()?;
            member.read_exact(&mut control)?;
            member.finish()?;
            let mut member = deb.data()?;
            member.read_exact(&mut data)?;
            member.finish()?;
            deb.finish()?;
            Ok((control, data))
        };
        read().map_err(|error| error.to_string())
    }

    #[test]
    fn every_compression() {
        for extension in ["", ".gz", ".xz", ".zst", ".bz2", ".lzma"] {
            // bzip2 and lzma were never allowed for control members (deb(5)).
            let control = if matches!(extension, ".bz2" | ".lzma") { ".gz" } else { extension };
            let bytes = archive(&[
                ("debian-binary", b"2.0\n"),
                ("_comment/", b"odd"),
                (&format!("control.tar{control}/"), &compressed(control, b"control\0\0")),
                (&format!("data.tar{extension}"), &compressed(extension, b"data")),
                ("_signature", b"x"),
            ]);
            assert_eq!(read(&bytes), Ok((b"control".to_vec(), b"data".to_vec())), "{extension:?}");
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        let version: (&str, &[u8]) = ("debian-binary", b"2.0\n");
        let control: (&str, &[u8]) = ("control.tar", b"control");
        let data: (&str, &[u8]) = ("data.tar", b"data");
        let gz = compressed(".gz", b"data");
        let xz = compressed(".xz", &[b"data".as_slice(), &[0; 4096]].concat());
        let mut trailing = gz.clone();
        trailing.extend_from_slice(b"garbage");
        let mut damaged = xz.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        for (bytes, message) in [
            (b"!<arch>".to_vec(), "ends inside the archive's magic"),
            (b"not a deb at all".to_vec(), "no ar archive"),
            (archive(&[]), "an empty archive"),
            (archive(&[control]), "its first member is \"control.tar\""),
            (archive(&[("debian-binary", b"3.0\n")]), "format version is \"3.0\""),
            (archive(&[("debian-binary", b"2.0")]), "no newline"),
            (archive(&[version, data]), "\"data.tar\" where control.tar belongs"),
            (archive(&[version, control]), "no data.tar member"),
            (archive(&[version, control, control]), "where data.tar belongs"),
            (archive(&[version, ("control.tar.lz4", b"control"), data]), "unknown compression"),
            (archive(&[version, ("control.tar.bz2", b"control"), data]), "unknown compression"),
            (archive(&[version, control, ("data.tar", b"")]), "is empty"),
            (archive(&[version, control, data, data]), "\"data.tar\" after its data"),
            (archive(&[version, control, ("data.tar", b"data\0garbage")]), "after the end of the tar"),
            (archive(&[version, control, ("data.tar.gz", &trailing)]), "data.tar.gz"),
            (archive(&[version, control, ("data.tar.gz", &gz[..gz.len() - 4])]), "data.tar.gz is corrupt"),
            (archive(&[version, control, ("data.tar.xz", &damaged)]), "data.tar.xz is corrupt"),
            (archive(&[version, control, ("data.tar.xz", &xz[..xz.len() - 12])]), "data.tar.xz is corrupt"),
            (archive(&[version, control, ("data.tar.zst", &xz)]), "data.tar.zst is corrupt"),
            (
                [archive(&[version, control, data]), b"tail".to_vec()].concat(),
                "ends inside a member's header",
            ),
            ([archive(&[version, control, data]), vec![b'x'; 60]].concat(), "bad ar header"),
        ] {
            let error = read(&bytes).expect_err(message);
            assert!(error.contains(message), "{error:?} should say {message:?}");
        }
        // Cut anywhere, it is an error, and never a panic.
        let whole = archive(&[version, control, ("data.tar.xz", &xz)]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn checksums_of_xz_are_compared_unless_the_deb_has_a_digest() {
        let mut xz = compressed(".xz", b"data");
        // The check of four bytes or eight stands before the index and the footer, of 24 bytes in all
        // (xz-file-format.txt, 2.1.2 and 3.4).
        let check = xz.len() - 24 - 1;
        xz[check] ^= 1;
        let bytes =
            archive(&[("debian-binary", b"2.0\n"), ("control.tar", b"control"), ("data.tar.xz", &xz)]);
        let data = |deb: Deb<&[u8]>| -> io::Result<Vec<u8>> {
            let mut deb = deb;
            let mut member = deb.control()?;
            io::copy(&mut member, &mut io::sink())?;
            member.finish()?;
            let mut data = vec![0; 4];
            let mut member = deb.data()?;
            member.read_exact(&mut data)?;
            member.finish()?;
            Ok(data)
        };
        let error = data(Deb::new(bytes.as_slice()).expect("a deb")).expect_err("damaged");
        assert!(error.to_string().contains("data.tar.xz is corrupt"), "{error}");
        let found =
            data(Deb::new(bytes.as_slice()).expect("a deb").of_known_digest()).expect("what is there");
        assert_eq!(found, b"data");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(tail: Vec<u8>, name in "[a-z_/.]{0,16}") {
            let _ = read(&tail);
            let mut bytes = archive(&[("debian-binary", b"2.0\n"), ("control.tar", b"control"), (&name, &tail)]);
            let _ = read(&bytes);
            bytes.extend_from_slice(&tail);
            let _ = read(&bytes);
        }
    }
}
