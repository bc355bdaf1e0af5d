//! Who may have an agent: the triggers of the Cognito user pool.
//!
//! An agent costs money and acts in its user's name, so an account is only for people whom the
//! operator's sign-up policy names. Everything else is denied: an address that mail systems could
//! read in two ways, a second account for one mailbox, a way of signing up that nobody has thought
//! about yet, every event that can't be read, and everybody while the policy can't be read. No
//! mailbox is verified here; that the address belongs to whoever gave it is proven by the code that
//! Cognito sends there.

pub mod config;
pub mod pre_sign_up;
pub mod pre_token;
