//! Conjunctions: rules of several clauses, each met by any of its flows (ovs-fields(7),
//! "Conjunctive Match Fields").

use sluice_dataplane::packet::field::{FIELDS, Field};

use super::super::chance::Chance;
use super::matches::{Drawn, KINDS, Kind, is_header, weight};

/// A conjunction.
pub struct Conjunction {
    pub kind: &'static Kind,
    /// Matches of the flows of each clause.
    pub clauses: Vec<Vec<Drawn>>,
}

/// Draws one. Every clause is about a field of its own, as such rules mostly are.
pub fn draw(c: &mut Chance) -> Conjunction {
    let weights: Vec<u64> = KINDS.iter().map(weight).collect();
    let kind = &KINDS[c.weighted(&weights)];
    let fields: Vec<Field> =
        FIELDS.iter().map(|f| f.id).filter(|f| is_header(*f) && kind.has(*f, false)).collect();
    let clause = |c: &mut Chance| {
        let field = *c.pick(&fields);
        let flow = |c: &mut Chance| {
            let mut drawn = Drawn::of(kind);
            drawn.field(field, c);
            drawn
        };
        (0..c.within(1, 3)).map(|_| flow(c)).collect()
    };
    let clauses = (0..c.within(2, 3)).map(|_| clause(c)).collect();
    Conjunction { kind, clauses }
}

impl Conjunction {
    /// What a packet must have to meet one flow of every clause.
    pub fn whole(&self, c: &mut Chance) -> Drawn {
        let mut whole = Drawn::of(self.kind);
        for clause in &self.clauses {
            whole.parts.extend(c.pick(clause).parts.iter().copied());
        }
        whole
    }
}
