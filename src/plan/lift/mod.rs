//! The rule: calls leave their expressions and move up to where the fewest rows pass.
//!
//! Bottom-up, every node gives a plan and the *late* columns that it lacks. A parent that only passes a late column on keeps
//! it late; one that works with it (a filter, a sort key, a join condition, an aggregate) has its calls run right below, in an
//! [`EmbedNode`](crate::plan::node::EmbedNode). What is late at the root runs last of all.
//!
//! | file | node | what happens |
//! |---|---|---|
//! | `project.rs` | projection | an expression with a call becomes late; the columns it needs are carried along |
//! | `filter.rs` | filter | conditions without a call run first, then those with one, in the order written |
//! | `sort.rs` | sort | keys with a call are computed once, into a column; everything else stays late, behind LIMIT and top-k |
//! | `alias.rs` | subquery alias | passes late columns on, under the alias |
//! | `join.rs` | inner join | passes late columns of both sides on |
//! | `join.rs` | outer join | from the side that it fills with NULLs it passes on only those that are NULL then |
//! | `join.rs` | join condition | one with a call runs above an inner join with keys, as conditions of its inputs do |
//! | `union.rs` | union | a column that is late in all inputs by the same expression is late above, its texts side by side |
//! | `aggregate.rs` | first_value | and `last_value` of a vector pick its text |
//! | `aggregate.rs` | DISTINCT ON | is `first_value` by then |
//! | `aggregate.rs` | aggregate | other arguments run below |
//! | `window.rs` | window | passes late columns on; what its functions need runs below |
//! | `scan.rs` | table scan | filters with a call leave it |
//! | `rule.rs` | limit | passes late columns on |
//! | `rule.rs` | anything else | gets its inputs complete |
//! | `rule.rs` | recursive query | keeps plain calls |
//! | `lifter.rs` | | what all of these share: names of new columns, and how calls are run |
//! | `lifted.rs` | | what goes up through the tree: a plan and what it lacks |
//! | `columns.rs` | | expressions as the columns of a plan |
//! | `template.rs` | | what an expression does, apart from its texts |
//!
//! Each file shows a plan before and after for each of its nodes; `tests.rs` reads them there and plans them.
//!
//! | word | what |
//! |---|---|
//! | late column | one that the plan lacks: an expression with a call, over columns that the plan has, which nobody needed so far |
//! | to carry | to pass a column on only because a late column needs it |
//! | computed | of an expression: the plan has a column with its value |
//! | deferred | of a condition with a call: left to the join above, which leaves fewer rows |
//! | complete | of a plan: it has all columns of the plan that it was made of |
//!
//! Correlated subqueries, UPDATE and DELETE of tables that are not in memory, conditions of outer joins beside their keys,
//! lambda bodies and texts with volatile parts keep plain calls too. A row that a join or a cross join repeats carries the
//! same text, which the query's memo embeds once. An expression that is late above a sort makes the sort carry its texts in
//! place of its vectors.

mod aggregate;
mod alias;
mod columns;
mod filter;
mod join;
mod lifted;
mod lifter;
mod project;
mod rule;
mod scan;
mod sort;
mod template;
#[cfg(test)]
mod tests;
mod union;
mod window;

#[cfg(feature = "stages")]
pub(crate) use rule::fail_on_broken_rule;
pub(super) use rule::lift;
