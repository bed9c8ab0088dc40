//! Priority match with wildcards.
//!
//! **Problem.** A table is a set of rules, each a value and a mask over the flow key and a
//! priority. A lookup returns the rule of highest priority whose masked bits equal the key's. A
//! packet cache also wants to know which bits of the key the answer depended on, as few as can
//! be: each bit too many splits a cached flow in two, each bit too few is a wrong answer.
//!
//! **Tuple space search** (Srinivasan, Suri, Varghese, SIGCOMM 1999; Open vSwitch's choice).
//! Rules with the same mask form a *subtable*, a hash table over the masked key: one probe
//! answers for all its rules (`subtable`, `pages`, `parts`). Subtables are visited in falling
//! order of their highest priority, and the visit ends when no later one can beat what was found
//! (`tuples`). The tuple space holds all rules of a table and follows each change at a cost that
//! does not grow with the table.
//!
//! **Bits seen.** `lookup_wild` walks the tuple space. A subtable that a known prefix rules out
//! costs the bits of that prefix (`prefix`); one that misses in an early stage costs the fields
//! of the stages so far (`subtable`); only one that matches, or misses in its last stage, costs
//! its whole mask.
//!
//! **Forms.** A visit of many subtables is slow, and so is any hash for three rules. Beside the
//! tuple space a table may have a second index for plain lookups, the one that fits its rules
//! (`table`): a list of a few rules (`few`), an array for one small number (`direct`), a trie of
//! prefixes (`lpm`), bit vectors for many masks (`bits`), whose cost is bounded whatever rules and
//! packets are. It follows changes where that is cheap, and is made anew after a share of the rules
//! changed where it is not. The tuple space itself sifts its subtables before it visits them
//! (`sieve`).
//!
//! **Versions.** Control clones a table, changes the clone and publishes it; workers read the
//! version they have. Versions share what is equal, so a clone costs some reference counts and a
//! change copies the pages that it touches.
//!
//! **Two rules, same priority, both match.** OpenFlow leaves the choice open; we take the one
//! with the lower number (the older), in the reference too, so that results can be compared.
//! Equal match and equal priority cannot reach us: the store replaces the older rule.
//!
//! **Conjunctive match** (ovs-fields(7), `conj_id`; `conjunction`). A rule with clauses never wins
//! by itself. Take the best ordinary rule for the key, then the priorities above its own, highest
//! first, at which rules with clauses match the key. If those of one priority meet all n clauses
//! of a conjunction (and are at least n), the search is repeated among the ordinary rules with the
//! conjunction's number as `conj_id`, and what it finds wins, whatever its priority. If it finds
//! nothing the conjunction does not count. Several conjunctions are tried in the order of their
//! numbers, where Open vSwitch takes them as they come. A conjunction of which a clause was
//! removed is never complete.
//!
//! `reference` is the linear oracle: the property tests hold this room against it.

mod bits;
mod compact;
mod conjunction;
mod counts;
mod direct;
mod few;
mod lpm;
mod pages;
mod parts;
mod prefix;
pub mod reference;
mod rule;
mod sieve;
mod subtable;
mod table;
#[cfg(test)]
mod tests;
mod tuples;

pub use compact::{CompactMatch, Shape};
pub use rule::{Clause, RuleMatch};
pub use table::{Table, Template};
