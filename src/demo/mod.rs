//! L3: the demo page, embedded in the program: what is at `/` and below `/demo/`.
//!
//! Answers requests for it from a table of files. The page's own connections are those of any other
//! client; this module knows neither routes nor rooms nor sockets.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha1::{Digest, Sha1};

use crate::proto::http1::{Head, Response};

/// A file of the page.
struct Asset {
    /// Its path's segments behind the first `/`, joined by `/`.
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// The files below `/demo/`, by name.
macro_rules! below_demo {
    ($($name:literal: $content_type:ident,)+) => {
        [
            Asset {
                path: "",
                content_type: HTML,
                text: include_str!("assets/index.html"),
            },
            $(Asset {
                path: concat!("demo/", $name),
                content_type: $content_type,
                text: include_str!(concat!("assets/", $name)),
            },)+
        ]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: [Asset; 14] = below_demo! {
    "base.css": CSS,
    "parts.css": CSS,
    "chat.js": JS,
    "client.js": JS,
    "gauges.js": JS,
    "icon.svg": SVG,
    "main.js": JS,
    "noise.js": JS,
    "people.js": JS,
    "pond.js": JS,
    "slow-sleeper.js": JS,
    "slow-worker.js": JS,
    "slow.js": JS,
};

/// A validator for each file, from its content: another build's page is another page.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let hash = Sha1::digest(asset.text);
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..12]))
    };
    ASSETS.iter().map(tag).collect()
});

/// The page loads from its own origin only, runs no inline code, and is framed by nobody.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self'; object-src 'none'; \
                                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a request gets whose path has these segments; none if the page has nothing there.
///
/// The answer to `HEAD` has a body still, which the caller leaves unsent.
pub fn answer(head: &Head<'_>, segments: &[&str]) -> Option<Response> {
    let path = segments.join("/");
    let at = ASSETS.iter().position(|asset| asset.path == path)?;
    let (asset, tag) = (&ASSETS[at], &TAGS[at]);
    if !matches!(head.method, "GET" | "HEAD") {
        let refusal = Response::new(405).header("Allow", "GET, HEAD");
        return Some(refusal.body("only GET and HEAD are allowed here"));
    }
    let is_known = is_in(head, tag);
    let response = Response::new(if is_known { 304 } else { 200 })
        .header("ETag", tag.as_str())
        // Asked for again each time, and answered by a 304: a gateway may be replaced at any time.
        .header("Cache-Control", "no-cache")
        .header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer")
        // Together they give the page memory that it shares with its worker, to wake it.
        .header("Cross-Origin-Opener-Policy", "same-origin")
        .header("Cross-Origin-Embedder-Policy", "require-corp")
        .header("Cross-Origin-Resource-Policy", "same-origin");
    if is_known {
        return Some(response);
    }
    let response = response.header("Content-Type", asset.content_type);
    Some(response.body(asset.text))
}

/// Whether `If-None-Match` (RFC 9110 §13.1.2) names `tag`.
fn is_in(head: &Head<'_>, tag: &str) -> bool {
    head.header_values("if-none-match")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .map(|one| one.strip_prefix(b"W/").unwrap_or(one))
        .any(|one| one == b"*" || one == tag.as_bytes())
}

#[cfg(test)]
mod tests;
