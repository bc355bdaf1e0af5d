//! The steps together, as the state machine runs them, on a world that can be looked at.

mod asl;
mod machine;
mod stories;
mod users;
mod world;
