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
//! `reference` is the linear oracle: the property test holds this room against it.

pub mod reference;
mod subtable;
mod table;

pub use table::{RuleMatch, Table};
