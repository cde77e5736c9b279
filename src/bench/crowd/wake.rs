//! The connections that may have something to send, each once.

/// A list of connections to be looked at when the turn ends.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    list: Vec<u32>,
    is_listed: Vec<bool>,
}

impl Wake {
    /// Makes room for one more connection.
    pub(super) fn grow(&mut self) {
        self.is_listed.push(false);
        self.list.reserve(1);
    }

    /// Puts `conn` on the list.
    #[inline]
    pub(crate) fn wake(&mut self, conn: u32) {
        if let Some(is_listed) = self.is_listed.get_mut(conn as usize)
            && !std::mem::replace(is_listed, true)
        {
            self.list.push(conn);
        }
    }

    /// Takes one off.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let conn = self.list.pop()?;
        self.is_listed[conn as usize] = false;
        Some(conn)
    }

    /// Whether nobody is on it.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
