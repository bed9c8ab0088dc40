//! The actions of rules: what many have in common is there once.
//!
//! A hundred thousand rules have a handful of lists of actions, or lists that differ in values
//! alone: the MAC, the port, the register of each peer. A typed list takes some hundreds of bytes,
//! a value eight. So a list is an [`Outline`], in which some actions (`SetOwn`, `OutputOwn`) name
//! a value by its number, and the values. Rules with the same list share both, rules with other
//! values the outline. Whoever makes the lists decides which values are taken out of them.

use crate::action::Action;
use crate::pipeline::keymask;
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What there is once for all lists that differ only in values.
pub struct Outline {
    list: Box<[Action]>,
    /// The bits of a packet that the list reads or writes: pairs of word number and bits. Groups
    /// are not counted.
    sees: Box<[(u8, u64)]>,
    /// What it was made from, for who made it.
    source: Option<Box<dyn Any + Send + Sync>>,
}

impl Outline {
    /// A list with what it was made from.
    pub fn new(list: Box<[Action]>, source: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let sees = keymask::of_actions(&list);
        let words = sees.words().iter().zip(0..).filter(|(w, _)| **w != 0);
        let sees = words.map(|(w, at)| (at, *w)).collect();
        Self { list, sees, source }
    }

    /// What the list was made from.
    pub fn source(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.source.as_deref()
    }

    /// The actions, without the values.
    pub fn list(&self) -> &[Action] {
        &self.list
    }

    /// The bits of a packet that the list reads or writes: pairs of word number and bits.
    pub(super) fn sees(&self) -> &[(u8, u64)] {
        &self.sees
    }
}

impl fmt::Debug for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

/// The values of a list, by number.
#[derive(Debug)]
enum Values {
    Few([u64; 2]),
    Many(Box<[u64]>),
}

#[derive(Debug)]
struct Shared {
    outline: Arc<Outline>,
    values: Values,
}

const _: () = assert!(size_of::<Shared>() == 32, "each of a million rules may have its own");

/// A list of actions, for any number of rules. A clone is the same list.
///
/// As a slice it is the outline's list: [`Actions::spelled_out`] has the values in it.
#[derive(Clone, Debug)]
pub struct Actions(Arc<Shared>);

impl Actions {
    /// The list of an outline with these values. Numbers beyond them stand for 0.
    pub fn new(outline: Arc<Outline>, values: &[u64]) -> Self {
        let values = match *values {
            [] => Values::Few([0; 2]),
            [a] => Values::Few([a, 0]),
            [a, b] => Values::Few([a, b]),
            _ => Values::Many(values.into()),
        };
        Self(Arc::new(Shared { outline, values }))
    }

    pub fn outline(&self) -> &Arc<Outline> {
        &self.0.outline
    }

    /// The values; behind them may be zeros that the list does not ask for.
    #[inline]
    pub fn values(&self) -> &[u64] {
        match &self.0.values {
            Values::Few(few) => few,
            Values::Many(many) => many,
        }
    }

    /// The value of this number.
    #[inline]
    pub fn value(&self, at: u8) -> u64 {
        self.values().get(usize::from(at)).copied().unwrap_or(0)
    }

    /// The actions with the values in them.
    pub fn spelled_out(&self) -> impl Iterator<Item = Cow<'_, Action>> {
        self.iter().map(|a| match a {
            Action::SetOwn(own) => Cow::Owned(Action::Set(own.with(self.value(own.at)))),
            Action::OutputOwn(at) => Cow::Owned(Action::Output(self.value(*at) as u32)),
            other => Cow::Borrowed(other),
        })
    }

    /// Whether both are one list.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else has it.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Deref for Actions {
    type Target = [Action];

    #[inline]
    fn deref(&self) -> &[Action] {
        &self.0.outline.list
    }
}

impl From<Vec<Action>> for Actions {
    fn from(mut list: Vec<Action>) -> Self {
        let mut values = Vec::new();
        take_values(&mut list, &mut values);
        Self::new(Arc::new(Outline::new(list.into(), None)), &values)
    }
}

/// Takes the values out of a list: `values` gets them, behind those it has.
pub fn take_values(list: &mut [Action], values: &mut Vec<u64>) {
    for a in list {
        let Ok(at) = u8::try_from(values.len()) else { return };
        match a {
            Action::Set(set) => {
                let Ok(value) = u64::try_from(set.value) else { continue };
                values.push(value);
                *a = Action::SetOwn(set.own(at, 0));
            }
            Action::Output(port) => {
                values.push((*port).into());
                *a = Action::OutputOwn(at);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{PORT_LOCAL, Set};
    use crate::packet::field::Field;

    #[test]
    fn values_that_were_taken_out_come_back() {
        let set = |field: Field, value| {
            let (dst, prereq) = (field.info().whole(), field.info().prereq);
            Action::Set(Set { dst, prereq, value, mask: u128::MAX })
        };
        let list = [
            set(Field::EthDst, 0x0200_0000_0001),
            Action::DecTtl,
            set(Field::Ipv6Dst, u128::MAX),
            Action::Output(PORT_LOCAL),
            set(Field::Metadata, u64::MAX.into()),
        ];
        let sees = |list: &[Action]| Outline::new(list.into(), None).sees;
        for n in 0..=list.len() {
            let (mut open, mut values) = (list[..n].to_vec(), Vec::new());
            take_values(&mut open, &mut values);
            assert_eq!(values.len(), [0, 1, 1, 1, 2, 3][n], "the wide one stays in the list");
            let outline = Arc::new(Outline::new(open.into(), None));
            let actions = Actions::new(outline, &values);
            let back: Vec<Action> = actions.spelled_out().map(Cow::into_owned).collect();
            assert_eq!(back, list[..n]);
            assert_eq!(*actions.outline().sees(), *sees(&list[..n]));
        }
    }
}
