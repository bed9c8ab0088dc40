//! Priority match with wildcards.
//!
//! **Problem.** A table is a set of rules, each a value and a mask over the flow key and a
//! priority. A lookup returns the rule of highest priority whose masked bits equal the key's.
//!
//! **Tuple space search** (Srinivasan, Suri, Varghese, SIGCOMM 1999; Open vSwitch's choice).
//! Rules with the same mask form a *subtable*, a hash table over the masked key: one probe
//! answers for all its rules. Subtables are visited in falling order of their highest priority,
//! and the visit ends when no later one can beat what was found. The cost of a lookup is the
//! number of subtables visited, not of rules.
//!
//! **What a mask costs.** Only the words in which a mask has bits are hashed and compared: a
//! rule on `reg15` and `metadata` reads two words of forty.
//!
//! **Equal match, several priorities.** Only the highest can ever be met, so only it is kept.
//! Equal match and equal priority cannot reach us: the store replaces the older rule.
//!
//! **Two rules, same priority, both match.** OpenFlow leaves the choice open; we take the one
//! with the lower number (the older), in the reference too, so that results can be compared.
//!
//! **Conjunctive match** (ovs-fields(7), `conj_id`). A rule with clauses never wins by itself.
//! Take the best ordinary rule for the key, then the priorities above its own, highest first, at
//! which rules with clauses match the key. If those of one priority meet all n clauses of a
//! conjunction (and are at least n), the search is repeated among the ordinary rules with the
//! conjunction's number as `conj_id`, and what it finds wins. If it finds nothing the conjunction
//! does not count. Several conjunctions are tried in the order of their numbers.
//!
//! `reference` is the linear oracle: the property test holds this room against it.

pub mod reference;
mod rule;
mod subtable;
mod table;
#[cfg(test)]
mod tests;

pub use rule::{Clause, RuleMatch};
pub use table::{Table, Template};
