//! Durations and sizes as people write them: `"30s"`, `"64KiB"`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A number of bytes: an integer, or a string with `B`, `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

/// A duration: a string with `us`, `ms`, `s`, `m`, `h` or `d`; `off` is none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl ByteSize {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let factor: usize = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return None,
        };
        usize::try_from(number).ok()?.checked_mul(factor).map(Self)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        if text.trim() == "off" {
            return Some(Self(Duration::ZERO));
        }
        let (number, unit) = split(text)?;
        let micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        let micros = number.checked_mul(micros)?;
        Some(Self(Duration::from_micros(micros)))
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let fits = |unit: &&(usize, &str)| self.0 > 0 && self.0.is_multiple_of(unit.0);
        let (size, name) = units.iter().find(fits).unwrap_or(&(1, "B"));
        write!(f, "{}{name}", self.0 / size)
    }
}

impl fmt::Display for Span {
    /// In the largest unit in which it is a whole number; below a microsecond is nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros == 0 {
            return f.write_str("off");
        }
        let units = [
            (86_400_000_000, "d"),
            (3_600_000_000, "h"),
            (60_000_000, "m"),
            (1_000_000, "s"),
            (1_000, "ms"),
        ];
        let fits = |unit: &&(u128, &str)| micros.is_multiple_of(unit.0);
        let (size, name) = units.iter().find(fits).unwrap_or(&(1, "us"));
        write!(f, "{}{name}", micros / size)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<ByteSize, E> {
                usize::try_from(n)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("7B", Some(7)),
            ("64KiB", Some(65_536)),
            ("2 MiB", Some(2_097_152)),
            ("1kB", Some(1_000)),
            ("", None),
            ("KiB", None),
            ("1.5KiB", None),
            ("1kib", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(ByteSize::parse(text).map(|s| s.0), bytes, "{text}");
        }
    }

    #[test]
    fn spans() {
        for (text, millis) in [
            ("300ms", Some(300)),
            ("2000us", Some(2)),
            ("off", Some(0)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("1d", Some(86_400_000)),
            ("30", None),
            ("s", None),
            ("-1s", None),
        ] {
            assert_eq!(Span::parse(text).map(|s| s.0.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn both_are_written_in_their_largest_whole_unit() {
        for text in [
            "0B", "1B", "1023B", "1KiB", "1025B", "64KiB", "1536KiB", "1MiB", "3GiB",
        ] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "off", "1us", "999us", "1ms", "1500ms", "1s", "61s", "25s", "1m", "90m", "1h", "365d",
        ] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(n in 0_u64..u64::from(u32::MAX)) {
            let size = ByteSize(n as usize);
            assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
            let span = Span(Duration::from_micros(n));
            assert_eq!(Span::parse(&span.to_string()), Some(span));
        }
    }
}
