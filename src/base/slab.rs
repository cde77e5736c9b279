//! A slab whose keys carry a generation, so that a late message can't reach a reused slot.

use super::paged::Paged;

/// A slot's index and the generation it was handed out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Position in the slab; small and reused.
    pub index: u32,
    /// Changes each time the position is reused.
    pub generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
    next_free: u32,
}

/// Values at stable positions, found again by [`Key`].
#[derive(Debug)]
pub struct Slab<T> {
    slots: Paged<Slot<T>>,
    first_free: u32,
    len: usize,
    first_generation: u32,
}

const NONE: u32 = u32::MAX;

impl<T> Slab<T> {
    /// An empty slab whose generations start at `first_generation`.
    pub const fn new(first_generation: u32) -> Self {
        Self {
            slots: Paged::new(),
            first_free: NONE,
            len: 0,
            first_generation,
        }
    }

    /// How many values it holds.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions ever used: the bound for walks by index.
    pub fn index_bound(&self) -> usize {
        self.slots.len()
    }

    /// The key that the next insertion will get.
    pub fn next_key(&self) -> Key {
        match self.slots.get(self.first_free as usize) {
            Some(slot) => Key {
                index: self.first_free,
                generation: slot.generation,
            },
            None => Key {
                index: self.slots.len() as u32,
                generation: self.first_generation,
            },
        }
    }

    /// Stores `value` and says where.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        if let Some(slot) = self.slots.get_mut(key.index as usize) {
            self.first_free = slot.next_free;
            slot.value = Some(value);
        } else {
            assert!(self.slots.len() < NONE as usize, "slab is full");
            self.slots.push(Slot {
                generation: key.generation,
                value: Some(value),
                next_free: NONE,
            });
        }
        self.len += 1;
        key
    }

    /// The value at `key`, unless it is gone.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation {
            slot.value.as_ref()
        } else {
            None
        }
    }

    /// The value at `key`, unless it is gone.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation {
            slot.value.as_mut()
        } else {
            None
        }
    }

    /// Takes the value out; its position is reused under another generation.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = self.first_free;
        self.first_free = key.index;
        self.len -= 1;
        Some(value)
    }

    /// The key of the value at position `index`, if there is one.
    pub fn key_at(&self, index: usize) -> Option<Key> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref()?;
        Some(Key {
            index: index as u32,
            generation: slot.generation,
        })
    }

    /// Every value with its key.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let value = slot.value.as_ref()?;
            Some((
                Key {
                    index: index as u32,
                    generation: slot.generation,
                },
                value,
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_position_refuses_the_old_key() {
        let mut slab = Slab::new(0);
        let a = slab.insert('a');
        assert_eq!(slab.remove(a), Some('a'));
        let b = slab.insert('b');
        assert_eq!(a.index, b.index);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get(b), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn next_key_foretells_the_insertion() {
        let mut slab = Slab::new(9);
        for round in 0..3 {
            let foretold = slab.next_key();
            let key = slab.insert(round);
            assert_eq!(foretold, key);
            if round == 1 {
                slab.remove(key);
            }
        }
    }

    #[test]
    fn key_at_sees_only_the_living() {
        let mut slab = Slab::new(0);
        let a = slab.insert(1);
        let b = slab.insert(2);
        slab.remove(a);
        assert_eq!(slab.key_at(0), None);
        assert_eq!(slab.key_at(1), Some(b));
        assert_eq!(slab.key_at(2), None);
        assert_eq!(slab.iter().count(), 1);
    }
}
