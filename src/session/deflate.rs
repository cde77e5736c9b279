//! Which messages are compressed, and how: what the configuration says, for whoever sends.

use crate::{
    config::Deflate,
    proto::ws::{OpCode, deflate::Settings},
};

/// How messages are compressed.
pub fn settings(config: &Deflate) -> Settings {
    // The configuration's ranges are those of the settings.
    let small = |n: u16| n.min(u8::MAX.into()) as u8;
    Settings {
        level: small(config.level),
        window_bits: small(config.window_bits),
        mem_level: small(config.mem_level),
    }
}

/// Whether a message may be worth compressing.
#[inline]
pub fn is_worthwhile(config: &Deflate, opcode: OpCode, bytes: usize) -> bool {
    bytes >= config.message_bytes_min.0
        && match opcode {
            OpCode::Text => true,
            OpCode::Binary => config.binary,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_compressed_and_bytes_where_that_is_asked_for() {
        let mut config = Deflate::default();
        let min = config.message_bytes_min.0;
        let worth = |config: &Deflate| {
            [OpCode::Text, OpCode::Binary, OpCode::Ping].map(|opcode| {
                assert!(!is_worthwhile(config, opcode, min - 1));
                is_worthwhile(config, opcode, min)
            })
        };
        assert_eq!(worth(&config), [true, false, false]);
        config.binary = true;
        assert_eq!(worth(&config), [true, true, false]);
    }
}
