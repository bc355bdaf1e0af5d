//! Who may have an agent: the triggers of the Cognito user pool.
//!
//! An agent costs money and acts in its user's name, so an account is only for people whose address
//! is at a domain that the operator named. Everything else is denied: an address that mail systems
//! could read in two ways, a way of signing up that nobody has thought about yet, and every event
//! that can't be read. Nobody is confirmed or verified here; that the address belongs to whoever
//! gave it is proven by the code that Cognito sends there.

pub mod pre_sign_up;
