//! Masks: what subscribers see of a column on which they have no SELECT.
//!
//! A query that names such a column is changed before it is planned: its table becomes a subquery that shows the mask in
//! the place of the column, and asks for rights on the other columns only. What is not changed, for whatever reason,
//! is refused by PostgreSQL's own check of columns. So a fault in here refuses, and shows nothing.

mod cache;
mod copy;
mod expression;
mod fault;
mod hidden;
mod parameters;
mod query;
mod reads;
mod renaming;
mod rules;
mod statistics;
mod subquery;
mod wrap;

pub use cache::{changed, may_be_used, watch};
pub use copy::as_query;
pub use parameters::{hash, regex, show_reference};
pub use query::{depends_on_role, is_for_subscriber, keeps_its_frame, planning, rewrite, set_planning};
pub use reads::{are_unasked as are_reads_unasked, ask as ask_for_reads};
pub use rules::{check, may_fail};
pub use statistics::{
    are_hidden as are_statistics_hidden, has_hidden, hide_extended as hide_extended_statistics, hide_widths,
};

use fault::MaskFault;

/// What anybody learns who tries to make a `mask_ref`.
pub fn refuse_reference() -> ! {
    MaskFault::Reference.raise()
}
