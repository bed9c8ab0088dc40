//! The trie against a list of prefixes.

use super::*;
use crate::packet::field::ones;
use proptest::collection::vec;
use proptest::prelude::*;

fn best(root: &Node, mut bits: u128) -> u64 {
    let (mut best, mut node) = (0, Some(root));
    while let Some(n) = node {
        let (met, child) = n.step(bits);
        (best, bits, node) = (best.max(met), bits << 8, child);
    }
    best
}

/// Leaves and single prefixes lie as high as they can, nodes have the kind for their number.
fn check_kinds(node: &Node) -> Result<(), TestCaseError> {
    let parts = match node {
        Node::Narrow(n) => &**n,
        Node::Wide(w) => &w.parts,
        Node::Near { len, .. } => {
            prop_assert!(*len > 0 && *len <= NEAR);
            return Ok(());
        }
        Node::Far(p) => {
            prop_assert!(p.len > NEAR);
            return Ok(());
        }
    };
    let kinds = (matches!(node, Node::Wide(_)), parts.len());
    prop_assert!(matches!(kinds, (true, 5..) | (false, ..=8)), "{:?}", kinds);
    for child in &parts.children {
        if child.leaf().is_none() {
            let mut child = child.clone();
            prop_assert_eq!(child.parts_mut().and_then(|p| p.single()), None);
        }
        check_kinds(child)?;
    }
    Ok(())
}

/// Prefixes of all lengths that often have their beginnings in common.
fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
    let one = (0u8..=128, 0u8..=8, any::<bool>(), any::<u128>(), 0u64..1 << 47);
    let one = one.prop_map(|(len, few, is_short, bits, rank)| {
        let spread = 0x1f07_0301_1f07_0301_1f07_0301_1f07_0301;
        let len = if is_short { len / 4 } else { len };
        // The last bits count too.
        let bits = bits & (spread | ones(16) << (128 - len.max(16)) >> few);
        let bits = bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Prefix { bits, len, rank }
    });
    vec(one, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    })]
    /// Built at once or one by one, changed, and cloned before a change: the answer is that
    /// of a list, for keys that prefixes cover or miss by a bit.
    #[test]
    fn is_a_list_of_prefixes(
        all in prefixes(), built in 0usize..200,
        steps in vec((any::<prop::sample::Index>(), any::<bool>()), 0..300),
        flip in vec(0u32..140, 4),
    ) {
        let mut sorted = all[..built.min(all.len())].to_vec();
        sorted.sort_unstable_by_key(|p| p.bits);
        let mut list: Vec<Prefix> = sorted.clone();
        let mut root = Node::build(&sorted);
        let mut old = vec![(root.clone(), list.clone())];
        for (n, (which, is_insert)) in steps.into_iter().enumerate() {
            let p = all[which.index(all.len())];
            let at = list.iter().position(|have| *have == p);
            match at {
                Some(at) if !is_insert => {
                    list.swap_remove(at);
                    prop_assert!(root.remove(p));
                }
                None if is_insert => {
                    list.push(p);
                    root.insert(p);
                }
                None => prop_assert!(!root.remove(p)),
                Some(_) => {}
            }
            if n % 64 == 0 {
                old.push((root.clone(), list.clone()));
            }
        }
        old.push((root, list));
        for (root, list) in &old {
            check_kinds(root)?;
            for p in &all {
                for bit in &flip {
                    let bits = p.bits ^ 1u128.checked_shl(*bit).unwrap_or(0);
                    let covering = list.iter().filter(|p| p.covers(bits));
                    let want = covering.map(|p| p.rank + 1).max().unwrap_or(0);
                    prop_assert_eq!(best(root, bits), want);
                }
            }
        }
    }
}
