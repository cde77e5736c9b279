//! Values in no order, for lists of any length that are kept: a few take little more than
//! themselves, and many never leave a copy of themselves behind as they grow.

/// A page is as long as one of [`Paged`](super::paged::Paged).
const PAGE_BITS: usize = 7;
const PAGE_LEN: usize = 1 << PAGE_BITS;
/// The first page begins with so many places, and grows by as many at least. Five, ten or fifteen values
/// of 16 or 48 bytes leave less of an allocator's size classes unused than powers of two.
const FIRST_PLACES: usize = 5;

/// Values at positions from 0, which change as others are removed.
///
/// The first page grows by half; from then on the list grows by whole pages.
#[derive(Debug)]
pub struct Bag<T> {
    first: Vec<T>,
    /// The pages behind the first. Boxed, since few lists have any.
    #[allow(clippy::box_collection, reason = "it takes 8 bytes, a vector 24")]
    more: Option<Box<Vec<Vec<T>>>>,
}

impl<T> Default for Bag<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Bag<T> {
    /// Holds nothing, and owns no memory.
    pub const fn new() -> Self {
        Self {
            first: Vec::new(),
            more: None,
        }
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        match self
            .more
            .as_ref()
            .and_then(|more| Some((more, more.last()?)))
        {
            Some((more, last)) => (more.len() << PAGE_BITS) + last.len(),
            None => self.first.len(),
        }
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Adds a value; its position is the length before.
    pub fn push(&mut self, value: T) {
        let len = self.first.len();
        if len < PAGE_LEN {
            if len == self.first.capacity() {
                let places = (len / 2).max(FIRST_PLACES).min(PAGE_LEN - len);
                self.first.reserve_exact(places);
            }
            return self.first.push(value);
        }
        let more = self.more.get_or_insert_default();
        match more.last_mut() {
            Some(last) if last.len() < PAGE_LEN => last.push(value),
            _ => {
                let mut page = Vec::with_capacity(PAGE_LEN);
                page.push(value);
                more.push(page);
            }
        }
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index < PAGE_LEN {
            return self.first.get(index);
        }
        let page = self.more.as_ref()?.get((index >> PAGE_BITS) - 1)?;
        page.get(index & (PAGE_LEN - 1))
    }

    /// Values from position `from` on that lie side by side, none of them at `to` or behind it: at
    /// least one if there are any.
    #[inline]
    pub fn run(&self, from: usize, to: usize) -> &[T] {
        let page = match (from >> PAGE_BITS).checked_sub(1) {
            None => Some(&self.first),
            Some(page) => self.more.as_ref().and_then(|more| more.get(page)),
        };
        let Some(page) = page else {
            return &[];
        };
        let start = (from & (PAGE_LEN - 1)).min(page.len());
        let len = to.saturating_sub(from).min(page.len() - start);
        &page[start..start + len]
    }

    /// The value at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        if index < PAGE_LEN {
            return self.first.get_mut(index);
        }
        let page = self.more.as_mut()?.get_mut((index >> PAGE_BITS) - 1)?;
        page.get_mut(index & (PAGE_LEN - 1))
    }

    /// Takes the value at `index` out; the last one takes its place.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        self.get(index)?;
        let last = self.pop()?;
        match self.get_mut(index) {
            Some(place) => Some(std::mem::replace(place, last)),
            None => Some(last),
        }
    }

    /// Keeps those that `keeps` says; their positions change.
    pub fn retain(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        let mut index = 0;
        while let Some(value) = self.get(index) {
            if keeps(value) {
                index += 1;
            } else {
                self.swap_remove(index);
            }
        }
    }

    /// Every value, by position.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let more = self.more.iter().flat_map(|more| more.iter().flatten());
        self.first.iter().chain(more)
    }

    fn pop(&mut self) -> Option<T> {
        if let Some(more) = &mut self.more {
            let value = more.last_mut().and_then(Vec::pop);
            if more.last().is_some_and(Vec::is_empty) {
                more.pop();
            }
            if more.is_empty() {
                self.more = None;
            }
            return value;
        }
        let value = self.first.pop();
        if self.first.len() < self.first.capacity() / 4 {
            self.first.shrink_to(self.first.len() * 2);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_take_little_and_many_are_not_moved() {
        let mut bag = Bag::new();
        bag.push(0u64);
        assert_eq!(bag.first.capacity(), FIRST_PLACES);
        for n in 1..3 * PAGE_LEN as u64 {
            bag.push(n);
        }
        assert_eq!(bag.first.capacity(), PAGE_LEN);
        let before: *const u64 = bag.get(PAGE_LEN + 1).unwrap();
        for n in 0..10 * PAGE_LEN as u64 {
            bag.push(n);
        }
        assert!(std::ptr::eq(before, bag.get(PAGE_LEN + 1).unwrap()));
        while bag.swap_remove(0).is_some() {}
        assert_eq!(bag.first.capacity(), 0);
        assert!(bag.more.is_none());
    }

    proptest! {
        #[test]
        fn equals_a_vector(
            steps in proptest::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..900),
        ) {
            let (mut bag, mut vector) = (Bag::new(), Vec::new());
            for (n, (step, at)) in steps.into_iter().enumerate() {
                if step < 3 {
                    bag.push(n);
                    vector.push(n);
                } else if step == 3 && !vector.is_empty() {
                    let at = at.index(vector.len());
                    prop_assert_eq!(bag.swap_remove(at), Some(vector.swap_remove(at)));
                } else if at.index(100) == 0 {
                    bag.retain(|n| n % 3 > 0);
                    let mut kept: Vec<usize> = bag.iter().copied().collect();
                    kept.sort_unstable();
                    vector.retain(|n| n % 3 > 0);
                    vector.sort_unstable();
                    prop_assert_eq!(kept, vector);
                    vector = bag.iter().copied().collect();
                }
                prop_assert_eq!(bag.len(), vector.len());
                prop_assert_eq!(bag.is_empty(), vector.is_empty());
                prop_assert_eq!(bag.get(vector.len()), None);
            }
            prop_assert!(bag.iter().eq(&vector));
            for (from, to) in [(0, vector.len()), (vector.len() / 3, vector.len() / 2)] {
                let mut at = from;
                let mut seen = Vec::new();
                while at < to {
                    let run = bag.run(at, to);
                    prop_assert!(!run.is_empty());
                    seen.extend_from_slice(run);
                    at += run.len();
                }
                prop_assert_eq!(&seen, &vector[from..to]);
            }
            prop_assert!(bag.run(vector.len(), usize::MAX).is_empty());
            for (at, n) in vector.iter().enumerate() {
                prop_assert_eq!(bag.get(at), Some(n));
            }
        }
    }
}
