//! A vector that grows by pages and never moves what it holds.
//!
//! A plain vector that doubles leaves a copy of itself behind at each step: with thousands of
//! connections that is as much memory as the connections take, and one long pause.

use std::ops::{Index, IndexMut};

/// A page of the largest values, connections, stays below 64 KiB: the allocator gives larger ones
/// out of regions of several MiB.
const PAGE_BITS: usize = 7;
const PAGE_LEN: usize = 1 << PAGE_BITS;

/// Values by position, grown at the end only.
#[derive(Debug)]
pub struct Paged<T> {
    pages: Vec<Vec<T>>,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Paged<T> {
    /// Holds nothing, and owns no memory.
    pub const fn new() -> Self {
        Self { pages: Vec::new() }
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        match self.pages.last() {
            Some(last) => ((self.pages.len() - 1) << PAGE_BITS) + last.len(),
            None => 0,
        }
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Adds a value at the end.
    pub fn push(&mut self, value: T) {
        match self.pages.last_mut() {
            Some(last) if last.len() < PAGE_LEN => last.push(value),
            _ => {
                let mut page = Vec::with_capacity(PAGE_LEN);
                page.push(value);
                self.pages.push(page);
            }
        }
    }

    /// Grows with `value()` until position `index` exists.
    pub fn grow_to(&mut self, index: usize, mut value: impl FnMut() -> T) {
        while self.len() <= index {
            self.push(value());
        }
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pages
            .get(index >> PAGE_BITS)?
            .get(index & (PAGE_LEN - 1))
    }

    /// The value at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pages
            .get_mut(index >> PAGE_BITS)?
            .get_mut(index & (PAGE_LEN - 1))
    }

    /// Every value, by position.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Every value, by position.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten()
    }
}

impl<T> Index<usize> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.pages[index >> PAGE_BITS][index & (PAGE_LEN - 1)]
    }
}

impl<T> IndexMut<usize> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pages[index >> PAGE_BITS][index & (PAGE_LEN - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_vector_across_its_pages() {
        let mut paged = Paged::new();
        assert_eq!((paged.len(), paged.get(0)), (0, None));
        for n in 0..3 * PAGE_LEN + 1 {
            assert_eq!(paged.len(), n);
            paged.push(n);
        }
        for n in [0, PAGE_LEN - 1, PAGE_LEN, 3 * PAGE_LEN] {
            assert_eq!(paged.get(n), Some(&n));
            paged[n] += 1;
            assert_eq!(paged[n], n + 1);
        }
        assert_eq!(paged.get(3 * PAGE_LEN + 1), None);
        assert_eq!(paged.iter().count(), 3 * PAGE_LEN + 1);
    }

    #[test]
    fn what_it_holds_does_not_move() {
        let mut paged = Paged::new();
        paged.push(0);
        let before: *const i32 = &paged[0];
        paged.grow_to(10 * PAGE_LEN, || 1);
        assert!(std::ptr::eq(before, &paged[0]));
        assert_eq!(paged.len(), 10 * PAGE_LEN + 1);
    }
}
