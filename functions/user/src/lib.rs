//! Making somebody a user, and ending it: the step of the state machine `user-onboard`, and of
//! `user-offboard` those that are not about sandboxes.
//!
//! | function | action | what it does |
//! |---|---|---|
//! | `user-onboard` | | gives whoever signed in a record, an allowance, and the name of their account |
//! | `user-offboard` | `retire` | finds out who is a user no more, and locks their agent |
//! | | `purge` | deletes what is kept of them |
//!
//! What an event says is only why somebody looks: whether there is an account, and whether it may be
//! used, is asked of the user pool when the event is read, however late that is. So an event that
//! comes twice or long after changes nothing that is not so.
//!
//! How these steps and those of `carapace-sandbox` go together is told by that crate's tests.

pub mod config;
pub mod fault;
pub mod offboard;
pub mod onboard;
pub mod wire;

#[cfg(test)]
mod tests;
