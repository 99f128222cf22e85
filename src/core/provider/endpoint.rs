//! URLs that settings hold.

use ureq::http::Uri;

/// Longest URL accepted, in bytes.
const MAX_BYTES: usize = 2048;

/// What is wrong with the URL of a service, or `None`: it must be absolute, have a host, and neither credentials
/// (everybody may see a setting) nor query nor fragment.
pub fn fault(url: &str) -> Option<&'static str> {
    if url.contains('?') { Some("The URL must have neither query nor fragment.") } else { document_fault(url) }
}

/// What is wrong with the URL of a document: as [`fault`], but it may have a query.
pub fn document_fault(url: &str) -> Option<&'static str> {
    if url.len() > MAX_BYTES {
        return Some("The URL is too long.");
    }
    let Ok(uri) = url.parse::<Uri>() else { return Some("This is not a URL.") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("The URL must begin with https:// (or http://).");
    }
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Some("The URL has no host.");
    };
    if authority.as_str().contains('@') {
        return Some("Credentials do not belong in the URL.");
    }
    let has_port = authority.as_str() != authority.host();
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Some("The port must be a number from 1 to 65535.");
    }
    url.contains('#').then_some("The URL must have neither query nor fragment.")
}

/// What is wrong with the URL of a proxy: as [`fault`], and nothing follows the host.
pub fn proxy_fault(url: &str) -> Option<&'static str> {
    fault(url).or_else(|| {
        let path = url.parse::<Uri>().map(|uri| uri.path().to_owned()).unwrap_or_default();
        (!matches!(path.as_str(), "" | "/")).then_some("The URL of a proxy has no path.")
    })
}

pub fn is_plain_http(url: &str) -> bool {
    !url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_nothing_secret() {
        for fine in
            ["https://immuta.example.com", "HTTPS://h:8443/base/", "http://[::1]:80", "http://127.0.0.1:1/x"]
        {
            assert_eq!(fault(fine), None, "{fine}");
        }
        for bad in [
            "",
            "immuta",
            "/path",
            "ftp://h",
            "https://",
            "https:///x",
            "https://:443/",
            "https://user:password@h/",
            "https://h:0/",
            "https://h:99999/",
            "https://h:/",
            "https://h/?token=1",
            "https://h/#x",
            "https://h h/",
            "https://h/\r\nHost: x",
        ] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
        assert!(fault(&format!("https://h/{}", "x".repeat(MAX_BYTES))).is_some());
    }

    #[test]
    fn a_document_may_have_a_query() {
        assert_eq!(document_fault("https://h/keys?p=policy"), None);
        for bad in ["https://h/keys#x", "file:///etc/passwd", "https://u:p@h/", "//h/keys"] {
            assert!(document_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_proxy_is_only_a_host() {
        assert_eq!(proxy_fault("http://proxy:3128"), None);
        assert_eq!(proxy_fault("http://proxy:3128/"), None);
        assert!(proxy_fault("http://proxy:3128/x").is_some() && proxy_fault("socks5://proxy").is_some());
    }

    #[test]
    fn only_https_is_not_plain() {
        assert!(is_plain_http("http://h") && is_plain_http("") && is_plain_http("httpsx://h"));
        assert!(!is_plain_http("https://h") && !is_plain_http("HTTPS://h"));
    }
}
