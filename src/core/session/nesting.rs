//! What has to be put back when a subtransaction aborts: an error leaves our hooks by longjmp and never returns
//! to them, so counters kept across a hook are restored from marks taken when the subtransaction began.

/// State of the hooks at the start of a subtransaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub subxact: u32,
    /// Nesting depth of the hooks.
    pub depth: u32,
    /// Number of executions begun under the impersonation.
    pub begun: usize,
}

#[derive(Default)]
pub struct Marks(Vec<Mark>);

impl Marks {
    pub fn start(&mut self, mark: Mark) {
        self.0.push(mark);
    }

    #[cfg(feature = "inject")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The subtransaction committed into its parent.
    pub fn commit(&mut self, subxact: u32) {
        self.pop(subxact);
    }

    /// The subtransaction aborted: what to go back to.
    pub fn abort(&mut self, subxact: u32) -> Option<Mark> {
        self.pop(subxact)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Subtransactions end innermost first; one whose start was never reported has no mark.
    fn pop(&mut self, subxact: u32) -> Option<Mark> {
        let at = self.0.iter().rposition(|mark| mark.subxact == subxact)?;
        let mark = self.0[at];
        self.0.truncate(at);
        Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(subxact: u32, depth: u32) -> Mark {
        Mark { subxact, depth, begun: 0 }
    }

    #[test]
    fn an_abort_goes_back_to_the_start() {
        let mut marks = Marks::default();
        marks.start(mark(2, 1));
        marks.start(mark(3, 4));
        assert_eq!(marks.abort(3), Some(mark(3, 4)));
        assert_eq!(marks.abort(2), Some(mark(2, 1)));
        assert_eq!(marks.abort(2), None);
    }

    #[test]
    fn a_commit_forgets_the_mark_and_what_lies_above() {
        let mut marks = Marks::default();
        marks.start(mark(2, 1));
        marks.start(mark(3, 4));
        marks.commit(2);
        assert_eq!(marks.abort(3), None);
        marks.start(mark(4, 0));
        marks.clear();
        assert_eq!(marks.abort(4), None);
    }
}
