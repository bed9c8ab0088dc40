//! From a case that differs to a small one that still does.
//!
//! Greedy, in rounds until nothing more can go: packets, then flows, then single actions and parts
//! of matches. Every attempt is played on both switches, so the number of attempts is bounded.

use super::case::Case;

/// Attempts that a reduction may take.
const TRIES_MAX: usize = 600;

/// Makes a case smaller as long as `differs` says that it still shows the difference.
pub fn reduce(case: &Case, differs: &mut dyn FnMut(&Case) -> bool) -> Case {
    let mut r = Reducer { best: case.clone(), differs, tries: 0 };
    loop {
        let before = r.best.clone();
        r.packets();
        r.flows();
        r.texts();
        if r.best == before || r.tries >= TRIES_MAX {
            return r.best;
        }
    }
}

struct Reducer<'a> {
    best: Case,
    differs: &'a mut dyn FnMut(&Case) -> bool,
    tries: usize,
}

impl Reducer<'_> {
    fn attempt(&mut self, candidate: Case) -> bool {
        if self.tries >= TRIES_MAX || candidate == self.best {
            return false;
        }
        self.tries += 1;
        let still = (self.differs)(&candidate);
        if still {
            self.best = candidate;
        }
        still
    }

    fn packets(&mut self) {
        self.chunks(|case| &mut case.packets);
    }

    fn flows(&mut self) {
        self.chunks(|case| &mut case.flows);
    }

    /// Leaves out runs of a list, long ones first.
    fn chunks<T>(&mut self, list: fn(&mut Case) -> &mut Vec<T>) {
        let mut size = list(&mut self.best.clone()).len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < list(&mut self.best.clone()).len() {
                let mut candidate = self.best.clone();
                let all = list(&mut candidate);
                let end = (at + size).min(all.len());
                all.drain(at..end);
                if !self.attempt(candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Leaves out single words of flows.
    fn texts(&mut self) {
        for at in 0..self.best.flows.len() {
            loop {
                let text = self.best.flows[at].text.clone();
                let shorter = shorter_texts(&text);
                let worked = shorter.into_iter().any(|text| {
                    let mut candidate = self.best.clone();
                    candidate.flows[at].text = text;
                    self.attempt(candidate)
                });
                if !worked {
                    break;
                }
            }
        }
    }
}

/// The pieces between commas outside parentheses.
fn pieces(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, ch) in text.char_indices() {
        match ch {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}

/// The flow without one of its words, in all ways; and with a clone's content in its place.
fn shorter_texts(text: &str) -> Vec<String> {
    let Some((head, actions)) = text.split_once("actions=") else { return Vec::new() };
    let head_words = pieces(head.trim_end_matches(','));
    let mut out = Vec::new();
    for at in 0..head_words.len() {
        let settled = head_words[at].starts_with("table=") || head_words[at].starts_with("priori");
        if !settled {
            let mut rest = head_words.clone();
            rest.remove(at);
            out.push(format!("{},actions={actions}", rest.join(",")));
        }
    }
    let list = pieces(actions);
    for at in 0..list.len() {
        let mut rest = list.clone();
        let word = rest.remove(at);
        if !rest.is_empty() {
            out.push(format!("{head}actions={}", rest.join(",")));
        }
        let inner = word.strip_prefix("clone(").and_then(|w| w.strip_suffix(')'));
        if let Some(inner) = inner {
            let mut opened = list.clone();
            opened[at] = inner;
            out.push(format!("{head}actions={}", opened.join(",")));
            for one in pieces(inner).iter().filter(|p| p.len() < inner.len()) {
                let shorter = format!("clone({one})");
                let mut opened = list.clone();
                opened[at] = &shorter;
                out.push(format!("{head}actions={}", opened.join(",")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::case::{CaseFlow, CasePacket};
    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let flow = |cookie, text: &str| CaseFlow { bridge: 0, cookie, text: text.to_owned() };
        let packet = |n| CasePacket { port: "p1", bytes: vec![n; 20] };
        let case = Case {
            flows: vec![
                flow(1, "table=0,priority=3,tcp,reg0=1,actions=output:1"),
                flow(2, "table=0,priority=2,ip,reg0=1,actions=clone(dec_ttl,output:1),output:2"),
                flow(3, "table=0,priority=1,actions=output:3"),
            ],
            packets: (0..9).map(packet).collect(),
            ..Case::default()
        };
        let mut differs = |c: &Case| {
            let bad = c.flows.iter().any(|f| f.text.contains("dec_ttl"));
            bad && c.packets.iter().any(|p| p.bytes[0] == 5)
        };
        let small = reduce(&case, &mut differs);
        assert_eq!(small.packets, [packet(5)]);
        assert_eq!(small.flows, [flow(2, "table=0,priority=2,actions=dec_ttl")]);
    }

    #[test]
    fn commas_inside_do_not_split() {
        assert_eq!(pieces("a,resubmit(,1),c(d(e,f),g)"), ["a", "resubmit(,1)", "c(d(e,f),g)"]);
    }
}
