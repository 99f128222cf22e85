//! Which statements of an impersonated user are running, and when each is complete: one record a statement.
//!
//! An error leaves the hooks by longjmp and never returns to them, so what is open is a list that is closed either by
//! the hook that completes a statement, or from outside when an error or the end of a transaction passes over it.

use crate::core::time::Timestamp;

/// By what a hook recognizes its statement again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// A query, by the address of its descriptor.
    Execution(usize),
    /// A utility statement, by the nesting depth of its hook.
    Utility(u32),
    /// A cursor that was declared, by its execution.
    Cursor,
    /// A statement that rules made several queries of, between two of them.
    Between,
    /// A function called by a message of its own, which no hook completes.
    Call,
}

/// A statement on its way. `S` is what is remembered of it.
#[derive(Debug)]
pub struct Open<S> {
    key: Handle,
    /// The cursor that a DECLARE opened: its fetches belong to it.
    cursor: Option<usize>,
    /// How many queries of the statement are not over yet; rules may make several of one.
    parts: usize,
    /// Nesting depth: 0 for what the client sent.
    pub depth: u32,
    pub begun: Timestamp,
    /// When it last began to run; none while it is only open (a cursor between two fetches).
    running: Option<Timestamp>,
    /// Microseconds that it ran before that.
    active: i64,
    pub rows: u64,
    pub statement: S,
}

impl<S> Open<S> {
    /// Microseconds for which it was busy, at `now`.
    pub fn active(&self, now: Timestamp) -> i64 {
        let latest = self.running.map_or(0, |since| now.0.saturating_sub(since.0).max(0));
        self.active.saturating_add(latest)
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn pause(&mut self, now: Timestamp) {
        self.active = self.active(now);
        self.running = None;
    }
}

/// What a utility statement is to the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Statement,
    /// DECLARE CURSOR: done when its cursor is.
    Declare,
    /// FETCH, MOVE and CLOSE: part of their cursor, if that one is known.
    Fetch,
}

#[derive(Debug)]
pub struct Trail<S> {
    open: Vec<(Open<S>, Part)>,
}

impl<S> Trail<S> {
    pub const fn new() -> Trail<S> {
        Trail { open: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A statement begins that is of so many queries.
    pub fn begin(&mut self, key: Handle, role: Part, parts: usize, depth: u32, now: Timestamp, statement: S) {
        let running = Some(now);
        let open = Open { key, cursor: None, parts, depth, begun: now, running, active: 0, rows: 0, statement };
        self.open.push((open, role));
    }

    /// The next query of a statement that is of several.
    pub fn go_on(&mut self, key: Handle, depth: u32) -> Option<&mut Open<S>> {
        let (open, _) =
            self.open.iter_mut().rfind(|(open, _)| open.key == Handle::Between && open.depth == depth)?;
        open.key = key;
        Some(open)
    }

    /// A query starts inside of what is open: a DECLARE that has no cursor yet makes it its own. What is deeper inside
    /// belongs to functions that are called to plan the cursor's query.
    pub fn start_inside(&mut self, execution: usize, depth: u32) -> bool {
        match self.open.last_mut() {
            Some((open, Part::Declare)) if open.cursor.is_none() && depth == open.depth + 1 => {
                open.cursor = Some(execution);
                true
            }
            _ => false,
        }
    }

    /// The innermost statement that is running: what is accessed now is accessed by it.
    pub fn current(&mut self) -> Option<&mut Open<S>> {
        self.open.iter_mut().rev().map(|(open, _)| open).find(|open| open.is_running())
    }

    /// Whether the statement of this key is on its way.
    pub fn has(&self, key: Handle) -> bool {
        self.open.iter().any(|(open, _)| open.key == key)
    }

    /// A query runs (again): a statement of its own, or a cursor that a statement fetches from. That statement is then
    /// part of the cursor. Returns what it is a part of.
    pub fn run(&mut self, execution: usize, now: impl FnOnce() -> Timestamp) -> Option<&Open<S>> {
        let at = self.position(execution)?;
        let (open, role) = &mut self.open[at];
        if open.running.is_none() {
            open.running = Some(now());
        }
        if *role == Part::Declare && self.open.len() > at + 1 {
            self.drop_fetches();
        }
        let at = self.position(execution)?;
        self.open.get(at).map(|(open, _)| open)
    }

    /// FETCH, MOVE and CLOSE are part of the cursor they turned out to be about.
    fn drop_fetches(&mut self) {
        self.open.retain(|(open, role)| !(*role == Part::Fetch && open.is_running()));
    }

    /// A query stops running for now, or for good, having processed so many more rows.
    pub fn ran(&mut self, execution: usize, rows: u64, now: Timestamp) {
        let Some(at) = self.position(execution) else { return };
        let (open, role) = &mut self.open[at];
        open.rows = open.rows.saturating_add(rows);
        if *role == Part::Declare {
            open.pause(now);
        }
    }

    /// A row limit was reached: the query waits to be run again.
    pub fn suspend(&mut self, execution: usize, now: Timestamp) {
        if let Some(at) = self.position(execution) {
            self.open[at].0.pause(now);
        }
    }

    /// A query is done. Where it is that of a cursor, the CLOSE that ended it is part of it.
    pub fn end(&mut self, execution: usize) -> Option<Open<S>> {
        let at = self.position(execution)?;
        if self.open[at].1 == Part::Declare {
            self.drop_fetches();
        }
        let at = self.position(execution)?;
        self.end_part(at)
    }

    fn end_part(&mut self, at: usize) -> Option<Open<S>> {
        let open = &mut self.open[at].0;
        if open.parts > 1 {
            open.parts -= 1;
            open.key = Handle::Between;
            return None;
        }
        Some(self.open.remove(at).0)
    }

    /// A utility statement at this depth is done. A cursor that it declared stays open.
    pub fn end_utility(&mut self, depth: u32, now: Timestamp) -> Option<Open<S>> {
        let at = self.open.iter().rposition(|(open, _)| open.key == Handle::Utility(depth))?;
        if self.open[at].0.cursor.is_some() {
            self.open[at].0.key = Handle::Cursor;
            self.open[at].0.pause(now);
            return None;
        }
        self.end_part(at)
    }

    /// A call by a message of its own is over when something else begins.
    pub fn end_call(&mut self) -> Option<Open<S>> {
        let at = self.open.iter().position(|(open, _)| open.key == Handle::Call)?;
        Some(self.open.remove(at).0)
    }

    /// What is running at `depth` or deeper failed.
    pub fn fail(&mut self, depth: u32) -> Vec<Open<S>> {
        self.take(|open| open.depth >= depth && open.is_running())
    }

    /// Everything that is left, outermost first.
    pub fn close(&mut self) -> Vec<Open<S>> {
        self.take(|_| true)
    }

    fn take(&mut self, is_meant: impl Fn(&Open<S>) -> bool) -> Vec<Open<S>> {
        self.open.extract_if(.., |(open, _)| is_meant(open)).map(|(open, _)| open).collect()
    }

    fn position(&self, execution: usize) -> Option<usize> {
        self.open
            .iter()
            .rposition(|(open, _)| open.key == Handle::Execution(execution) || open.cursor == Some(execution))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    fn names(open: Vec<Open<&'static str>>) -> Vec<&'static str> {
        open.into_iter().map(|open| open.statement).collect()
    }

    #[test]
    fn a_query_runs_and_ends() {
        let mut trail = Trail::new();
        trail.begin(Handle::Execution(1), Part::Statement, 1, 0, at(10), "select");
        trail.run(1, || at(20));
        trail.ran(1, 3, at(50));
        assert!(trail.current().is_some());
        let done = trail.end(1);
        assert_eq!(done.map(|open| (open.rows, open.active(at(60)), open.statement)), Some((3, 50, "select")));
        assert!(trail.is_empty() && trail.end(1).is_none());
    }

    #[test]
    fn a_suspended_portal_counts_only_the_time_it_ran() {
        let mut trail = Trail::new();
        trail.begin(Handle::Execution(1), Part::Statement, 1, 0, at(0), "select");
        trail.ran(1, 2, at(10));
        trail.suspend(1, at(10));
        assert!(trail.current().is_none());
        trail.run(1, || at(100));
        trail.ran(1, 1, at(105));
        assert_eq!(trail.end(1).map(|open| (open.rows, open.active(at(105)))), Some((3, 15)));
    }

    #[test]
    fn fetches_are_part_of_their_cursor() {
        let mut trail = Trail::new();
        trail.begin(Handle::Utility(0), Part::Declare, 1, 0, at(0), "declare");
        assert!(!trail.start_inside(6, 2) && trail.start_inside(7, 1) && !trail.start_inside(8, 1));
        assert!(trail.end_utility(0, at(5)).is_none());
        for (from, rows) in [(10, 2), (20, 1)] {
            trail.begin(Handle::Utility(0), Part::Fetch, 1, 0, at(from), "fetch");
            trail.run(7, || at(from));
            trail.ran(7, rows, at(from + 4));
            assert!(trail.end_utility(0, at(from + 5)).is_none());
        }
        assert!(trail.current().is_none(), "an idle cursor runs nothing");
        trail.begin(Handle::Utility(0), Part::Fetch, 1, 0, at(98), "close");
        assert_eq!(
            trail.end(7).map(|open| (open.rows, open.active(at(99)), open.statement)),
            Some((3, 13, "declare"))
        );
    }

    #[test]
    fn a_fetch_from_an_unknown_cursor_is_a_statement_of_its_own() {
        let mut trail = Trail::new();
        trail.begin(Handle::Utility(0), Part::Fetch, 1, 0, at(0), "fetch");
        trail.run(9, || at(1));
        trail.ran(9, 1, at(2));
        assert_eq!(trail.end_utility(0, at(3)).map(|open| open.statement), Some("fetch"));
    }

    #[test]
    fn an_error_ends_what_runs_and_leaves_what_is_idle() {
        let mut trail = Trail::new();
        trail.begin(Handle::Utility(0), Part::Declare, 1, 0, at(0), "idle cursor");
        trail.start_inside(7, 1);
        trail.end_utility(0, at(1));
        trail.begin(Handle::Execution(1), Part::Statement, 1, 0, at(2), "outer");
        trail.begin(Handle::Execution(2), Part::Statement, 1, 1, at(3), "inner");
        trail.begin(Handle::Execution(3), Part::Statement, 1, 2, at(4), "innermost");
        assert_eq!(names(trail.fail(2)), ["innermost"], "caught in a function");
        assert_eq!(names(trail.fail(0)), ["outer", "inner"]);
        assert_eq!(names(trail.close()), ["idle cursor"]);
    }

    #[test]
    fn a_failing_fetch_fails_its_cursor() {
        let mut trail = Trail::new();
        trail.begin(Handle::Utility(0), Part::Declare, 1, 0, at(0), "declare");
        trail.start_inside(7, 1);
        trail.end_utility(0, at(1));
        trail.begin(Handle::Utility(0), Part::Fetch, 1, 0, at(2), "fetch");
        trail.run(7, || at(3));
        assert_eq!(names(trail.fail(0)), ["declare"]);
        assert!(trail.is_empty());
    }

    #[test]
    fn what_rules_make_of_a_statement_is_one_statement() {
        let mut trail = Trail::new();
        trail.begin(Handle::Execution(1), Part::Statement, 2, 0, at(0), "insert");
        trail.ran(1, 2, at(1));
        assert!(trail.end(1).is_none());
        assert!(trail.go_on(Handle::Execution(2), 1).is_none());
        assert!(trail.go_on(Handle::Execution(2), 0).is_some());
        trail.ran(2, 5, at(9));
        assert_eq!(trail.end(2).map(|open| (open.rows, open.active(at(9)))), Some((7, 9)));
        trail.begin(Handle::Execution(1), Part::Statement, 2, 0, at(0), "insert");
        trail.end(1);
        assert_eq!(names(trail.fail(0)), ["insert"]);
    }

    #[test]
    fn a_call_ends_when_something_else_begins() {
        let mut trail = Trail::new();
        trail.begin(Handle::Call, Part::Statement, 1, 0, at(0), "call");
        assert_eq!(trail.end_call().map(|open| open.statement), Some("call"));
        assert!(trail.end_call().is_none());
    }
}
