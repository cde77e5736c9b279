//! `Sec-WebSocket-Extensions`: a list of extensions with parameters (RFC 6455 §9.1).
//!
//! It reads the grammar and knows no extension.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::HandshakeError;
use crate::proto::http1::is_token;

/// One extension of the list, with its parameters in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its name, a token.
    pub name: &'a str,
    /// Its parameters; a name may stand there twice.
    pub params: SmallVec<[Param<'a>; 4]>,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param<'a> {
    /// Its name, a token.
    pub name: &'a str,
    /// Its value, a token; without the quotes that it may have stood in.
    pub value: Option<Cow<'a, str>>,
}

/// Reads all fields of that name, in order: several are one list (RFC 6455 §9.1).
///
/// # Errors
/// [`HandshakeError::InvalidExtensions`] where the list is malformed or longer than
/// [`EXTENSIONS_MAX`].
pub fn read_extensions<'a>(
    values: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Extension<'a>>, HandshakeError> {
    let mut extensions = Vec::new();
    for value in values {
        read_list(value, &mut extensions).ok_or(HandshakeError::InvalidExtensions)?;
    }
    Ok(extensions)
}

fn read_list<'a>(value: &'a [u8], extensions: &mut Vec<Extension<'a>>) -> Option<()> {
    let mut cursor = Cursor { rest: value };
    loop {
        // RFC 9110 §5.6.1.2: empty elements do not count.
        while cursor.takes(b',') {}
        if cursor.is_at_end() {
            return Some(());
        }
        if extensions.len() == EXTENSIONS_MAX {
            return None;
        }
        let name = cursor.token()?;
        let mut params = SmallVec::new();
        while cursor.takes(b';') {
            if params.len() == PARAMS_MAX {
                return None;
            }
            let name = cursor.token()?;
            let value = match cursor.takes(b'=') {
                true => Some(cursor.value()?),
                false => None,
            };
            params.push(Param { name, value });
        }
        extensions.push(Extension { name, params });
        if !cursor.is_at_end() && !cursor.takes(b',') {
            return None;
        }
    }
}

/// A field's value, read from the front.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    /// Takes `byte`, if it is the next one but for white space.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Option<&'a str> {
        self.skip_space();
        let is_end = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b';' | b'=');
        let end = self.rest.iter().position(is_end);
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        is_token(token).then(|| std::str::from_utf8(token).ok())?
    }

    /// A token, as it is or in quotes.
    fn value(&mut self) -> Option<Cow<'a, str>> {
        if !self.takes(b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let end = self
            .rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\'))?;
        if self.rest[end] == b'"' {
            let token = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            let text = std::str::from_utf8(token).ok()?;
            return is_token(token).then_some(Cow::Borrowed(text));
        }
        self.escaped().map(Cow::Owned)
    }

    /// What stands in quotes and has a backslash before some bytes, up to the closing quote.
    fn escaped(&mut self) -> Option<String> {
        let mut token = String::new();
        loop {
            let (byte, rest) = match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return is_token(token.as_bytes()).then_some(token);
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => (*byte, rest),
                [] => return None,
            };
            // What is not ASCII is in no token.
            token.push(char::from(byte));
            self.rest = rest;
        }
    }
}

/// Extensions in one handshake.
pub const EXTENSIONS_MAX: usize = 32;

/// Parameters of one extension.
const PARAMS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written plainly, to compare with.
    fn read(values: &[&str]) -> Option<String> {
        let extensions = read_extensions(values.iter().map(|value| value.as_bytes())).ok()?;
        let texts = extensions.iter().map(|extension| {
            let params = extension.params.iter().map(|param| match &param.value {
                Some(value) => format!(";{}={value}", param.name),
                None => format!(";{}", param.name),
            });
            format!("{}{}", extension.name, params.collect::<String>())
        });
        Some(texts.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn lists_of_rfc_6455_section_9_1() {
        let table: &[(&[&str], &str)] = &[
            (&[], ""),
            (&[""], ""),
            (&["foo"], "foo"),
            (&["foo", "bar; baz=2"], "foo,bar;baz=2"),
            (&["foo, bar; baz=2"], "foo,bar;baz=2"),
            (&["deflate-stream"], "deflate-stream"),
            (
                &["mux; max-channels=4; flow-control, deflate-stream"],
                "mux;max-channels=4;flow-control,deflate-stream",
            ),
            (&["private-extension"], "private-extension"),
            (&["a;b=\"10\""], "a;b=10"),
            (&["a;b=\"1\\0\" , c"], "a;b=10,c"),
            (&["\ta ;\tb = 1 ,, c,"], "a;b=1,c"),
            (&["a;b;b=1;b"], "a;b;b=1;b"),
        ];
        for (values, expected) in table {
            assert_eq!(read(values).as_deref(), Some(*expected), "{values:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let table = [
            "a b",
            "a;",
            "a;;b",
            ";a",
            "=a",
            "a;b=",
            "a;b=,c",
            "a;b=1 2",
            "a;b=\"",
            "a;b=\"1",
            "a;b=\"\"",
            "a;b=\"1,2\"",
            "a;b=\"1 2\"",
            "a;b=\"1\"2",
            "a;b=\"1\\\"",
            "a;b=\"\\\"\"",
            "a;=1",
            "a=1",
            "ä",
            "a;b=\"\\\u{e9}\"",
        ];
        for value in table {
            assert_eq!(read(&[value]), None, "{value}");
        }
        let many = vec!["a"; EXTENSIONS_MAX];
        assert!(read(&many).is_some());
        let many = vec!["a"; EXTENSIONS_MAX + 1];
        assert_eq!(read(&many), None);
        let params = format!("a{}", ";b".repeat(PARAMS_MAX + 1));
        assert_eq!(read(&[&params]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_the_same_when_written_again(
            value in "[ab;,=\" \\\\0-9]{0,40}",
        ) {
            if let Some(text) = read(&[&value]) {
                prop_assert_eq!(read(&[&text]), Some(text));
            }
        }
    }
}
