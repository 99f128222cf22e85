//! Files that settings name: certificates to trust, and a client secret. Read when the setting is set, to say at once
//! what is wrong, and again when they are needed.

use crate::core::provider::jwt::cache::keys_by_issuer;
use crate::core::provider::jwt::keys::KeySet;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use ureq::tls::{Certificate, PemItem, parse_pem};
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

const MAX_CERTIFICATES_BYTES: u64 = 1024 * 1024;
const MAX_SECRET_BYTES: u64 = 4096;
const MAX_KEYS_BYTES: u64 = 1024 * 1024;

/// The certificates in a PEM file, all of which can be trusted. The error tells what is wrong with the file: rustls would
/// leave out silently what it cannot read.
pub fn certificates(path: &str) -> Result<Vec<Certificate<'static>>, String> {
    let (_, pem) = read(path, MAX_CERTIFICATES_BYTES)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => {
                if let Some(fault) = fault_of_trusted(certificate.der()) {
                    return Err(format!("holds a certificate that {fault}: number {}", found.len() + 1));
                }
                found.push(certificate);
            }
            Ok(_) => {}
            Err(_) => return Err("is not in PEM format".into()),
        }
    }
    if found.is_empty() { Err("holds no certificate".into()) } else { Ok(found) }
}

/// Why nothing could be trusted for the sake of this certificate. One of an authority, or a self-signed one, can.
fn fault_of_trusted(der: &[u8]) -> Option<&'static str> {
    let der = CertificateDer::from(der);
    let Ok(anchor) = webpki::anchor_from_trusted_cert(&der) else { return Some("cannot be read") };
    let anchors = [anchor];
    // As if a server showed it. Versions without extensions are for authorities only.
    let certificate = EndEntityCert::try_from(&der).ok()?;
    let verified = certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &[],
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    );
    // Another error, its dates say, is told where it is used.
    matches!(verified, Err(webpki::Error::UnknownIssuer))
        .then_some("is neither that of a certificate authority nor self-signed")
}

/// The secret in a file that nobody but the server may read: its own with no rights for others, or root's with at
/// most a right for a group, as PostgreSQL wants of `ssl_key_file`. One newline at the end does not count.
pub fn secret(path: &str) -> Result<Zeroizing<String>, String> {
    let (about, content) = read(path, MAX_SECRET_BYTES)?;
    let others = if about.uid() == 0 { 0o027 } else { 0o077 };
    if about.mode() & others != 0 {
        return Err("may be read by others than the server: use mode 0600".into());
    }
    let Ok(text) = std::str::from_utf8(&content) else { return Err("is not text in UTF-8".into()) };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains(char::is_control) {
        return Err("holds no secret in a single line".into());
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// The keys of issuers in a file. They are no secret, but nobody else may change them.
pub fn keys(path: &str) -> Result<Vec<(String, KeySet)>, String> {
    let (about, content) = read(path, MAX_KEYS_BYTES)?;
    if about.mode() & 0o022 != 0 {
        return Err("may be changed by others than the server: use mode 0644".into());
    }
    keys_by_issuer(&content).ok_or_else(|| {
        r#"is not {"<issuer>": {"keys": [...]}, ...} with at least one key each that can be used"#.into()
    })
}

/// What is wrong with the path of a file that the server is to append to.
pub fn fault_of_log(path: &str) -> Option<&'static str> {
    let path = Path::new(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        Some("is not a regular file")
    } else if !folder.is_dir() {
        Some("is to be in a directory that does not exist")
    } else {
        None
    }
}

fn read(path: &str, limit: u64) -> Result<(Metadata, Zeroizing<Vec<u8>>), String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {}", error.kind());
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let about = std::fs::metadata(path).map_err(cannot)?;
    if !about.is_file() {
        return Err("is not a regular file".into());
    }
    if about.len() > limit {
        return Err("is too large".into());
    }
    let mut content = Zeroizing::new(Vec::new());
    File::open(path).map_err(cannot)?.take(limit).read_to_end(&mut content).map_err(cannot)?;
    Ok((about, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A file of this test, removed with it.
    struct Sample(PathBuf);

    impl Sample {
        fn of(name: &str, content: &[u8], mode: u32) -> Sample {
            let path = std::env::temp_dir().join(format!("immuta_ext-{}-{name}", std::process::id()));
            assert!(fs::write(&path, content).is_ok());
            assert!(fs::set_permissions(&path, fs::Permissions::from_mode(mode)).is_ok());
            Sample(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap_or_default()
        }
    }

    impl Drop for Sample {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_secret_is_one_line_that_others_cannot_read() {
        let read = |content: &[u8], mode| secret(Sample::of("secret", content, mode).path()).map(|s| s.len());
        assert_eq!(read(b"s3cret\n", 0o600), Ok(6));
        assert_eq!(read(b"s3cret", 0o400), Ok(6));
        for mode in [0o604, 0o622, 0o666] {
            assert!(read(b"s3cret", mode).is_err(), "{mode:o}");
        }
        for bad in [&b""[..], b"\n", b"a\nb", b"\xff", &[b'x'; 5000]] {
            assert!(read(bad, 0o600).is_err());
        }
        assert!(secret("/").is_err() && secret("/nonexistent/file").is_err());
    }

    #[test]
    fn keys_are_a_file_that_others_cannot_change() {
        let read =
            |content: &str, mode| keys(Sample::of("keys", content.as_bytes(), mode).path()).map(|k| k.len());
        let good = r#"{"https://id":{"keys":[{"kty":"OKP","crv":"Ed25519",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}}"#;
        assert_eq!(read(good, 0o644), Ok(1));
        for mode in [0o664, 0o646] {
            assert!(read(good, mode).is_err(), "{mode:o}");
        }
        assert!(read("{", 0o644).is_err() && read(r#"{"https://id":{"keys":[]}}"#, 0o644).is_err());
    }

    #[test]
    fn a_log_is_a_regular_file_in_a_directory_that_exists() {
        let sample = Sample::of("log", b"", 0o600);
        assert_eq!(fault_of_log(sample.path()), None);
        assert_eq!(fault_of_log("a-file-to-be"), None);
        for bad in ["/", "..", "/nonexistent/file", "/dev/null"] {
            assert!(fault_of_log(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn certificates_are_pem() {
        for bad in [&b""[..], b"text", b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"] {
            assert!(certificates(Sample::of("ca", bad, 0o644).path()).is_err());
        }
        let pem = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let found = certificates(Sample::of("ca", pem, 0o644).path());
        assert_eq!(found.map(drop), Err("holds a certificate that cannot be read: number 1".into()));
    }
}
