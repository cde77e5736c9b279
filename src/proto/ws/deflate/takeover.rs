//! What one connection keeps between its messages, where context takeover was agreed on
//! (RFC 7692 §7.1.1).
//!
//! A message that the gateway compressed for many (a room's) is readable without those before it,
//! but its receiver's window moves on by it (§7.2.2). So once such a message has gone out, the
//! connection's own deflater forgets what it has compressed: what it compresses afterwards refers
//! only to what comes after.

use super::{Agreed, Deflater, Inflater, Settings};

/// See the module.
#[derive(Debug)]
pub struct Takeover {
    sends: Option<Sends>,
    receives: Option<Receives>,
}

#[derive(Debug)]
struct Sends {
    window_bits: u8,
    mem_level: u8,
    /// Made when it is first needed.
    deflater: Option<Deflater>,
    /// The peer's window is not what the deflater has compressed.
    is_stale: bool,
}

#[derive(Debug)]
struct Receives {
    window_bits: u8,
    /// Made when it is first needed.
    inflater: Option<Inflater>,
}

impl Takeover {
    /// What a server keeps after it has `agreed`; `None` where each message stands by itself.
    #[must_use]
    pub fn new(agreed: &Agreed, settings: Settings) -> Option<Self> {
        let sends = (!agreed.server_no_context_takeover).then(|| Sends {
            window_bits: agreed.server_window_bits().min(settings.window_bits),
            mem_level: settings.mem_level,
            deflater: None,
            is_stale: false,
        });
        let receives = (!agreed.client_no_context_takeover).then(|| Receives {
            window_bits: agreed.client_window_bits(),
            inflater: None,
        });
        let keeps = sends.is_some() || receives.is_some();
        keeps.then_some(Self { sends, receives })
    }

    /// Bytes of memory that it may come to.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let sends = self.sends.as_ref().map_or(0, |sends| {
            Deflater::memory_bytes(sends.window_bits, sends.mem_level)
        });
        let receives = self.receives.as_ref();
        sends + receives.map_or(0, |receives| Inflater::memory_bytes(receives.window_bits))
    }

    /// A message that was compressed for others too goes out now.
    pub const fn on_shared_message(&mut self) {
        if let Some(sends) = &mut self.sends {
            sends.is_stale = true;
        }
    }

    /// What compresses the connection's messages. `None`: each stands by itself. `Some(None)`:
    /// there is no memory.
    pub(super) fn deflater(&mut self, level: u8) -> Option<Option<&mut Deflater>> {
        let sends = self.sends.as_mut()?;
        let is_stale = std::mem::replace(&mut sends.is_stale, false);
        match &mut sends.deflater {
            Some(deflater) if is_stale => deflater.reset(),
            Some(_) => {}
            none => *none = Deflater::new(level, sends.window_bits, sends.mem_level),
        }
        Some(sends.deflater.as_mut())
    }

    /// What decompresses the connection's messages. `None`: each stands by itself. `Some(None)`:
    /// there is no memory.
    pub(super) fn inflater(&mut self) -> Option<Option<&mut Inflater>> {
        let receives = self.receives.as_mut()?;
        if receives.inflater.is_none() {
            receives.inflater = Inflater::new(receives.window_bits);
        }
        Some(receives.inflater.as_mut())
    }
}
