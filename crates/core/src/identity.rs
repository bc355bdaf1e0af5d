//! One account for each mailbox.
//!
//! Cognito keeps two accounts from having one address; it does not know that `ada+2@example.com` is
//! `ada@example.com` again. So a sign-up first enters its canonical address, and whose entry is
//! there already is denied. The entry is found by its key: nothing here asks who exists.
//!
//! An entry is written before the account is, so it may be left without one: the password was too
//! weak, the function died, nobody ever typed the code. Such an entry must not keep the mailbox's
//! owner out for ever. So if it is somebody else's, Cognito is asked for that one account, and
//! [`stand`] says what its answer means.

use std::future::Future;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::{
    email::{CanonicalAddress, EmailDomain},
    event::UserSignedIn,
    policy::Policy,
    ports::Trouble,
};

/// How long a sign-up may be under way before an entry without an account counts as abandoned.
/// Cognito tries a trigger three times and gives each five seconds.
pub const UNDER_WAY: SignedDuration = SignedDuration::from_secs(60);

/// How long an account may wait for its code before its mailbox may be entered again. Cognito's
/// codes are good for 24 hours.
pub const UNCONFIRMED_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// A mailbox in one user pool, in 64 characters that reveal neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityKey(String);

impl IdentityKey {
    /// The key of this mailbox in this pool.
    pub fn derive(pool_id: &str, address: &CanonicalAddress) -> Self {
        let digest = Sha256::digest(format!("{pool_id}/{address}"));
        Self(HEXLOWER.encode(&digest))
    }

    /// Reads a key as it was [written](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        let digest = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 64 && text.bytes().all(digest)).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An account's name in its user pool: with addresses as aliases a UUID of Cognito's, with another
/// identity provider `<provider>_<subject>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username(String);

impl Username {
    /// Takes what Cognito would take: 1 to 128 characters, none of them a space or a control.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        let fits = (1..=128).contains(&text.chars().count()) && text.chars().all(plain);
        fits.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the identity provider that the account comes from, if it comes from one.
    pub fn provider(&self) -> Option<&str> {
        self.0.split_once('_').map(|(provider, _)| provider)
    }
}

/// Whose mailbox it is, as it was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The account that it was entered for.
    pub username: Username,
    /// When.
    pub at: Timestamp,
}

/// What Cognito says of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// There is none of that name.
    Missing,
    /// Nobody has proven its mailbox yet.
    Unconfirmed,
    /// It is somebody's, whether or not it may be used at the moment.
    Standing,
}

/// What an entry of another account means to a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// The mailbox has its account.
    Taken,
    /// Another sign-up is, or may be, under way.
    UnderWay,
    /// No account came of it: the new one may take its place.
    Abandoned,
    /// Its account was never confirmed: it goes, and the new one may take its place.
    NeverConfirmed,
}

/// What an entry of another account means, by what Cognito says of that account.
pub fn stand(entry: &Entry, account: Account, now: Timestamp) -> Stand {
    let older_than = |time| now.duration_since(entry.at) >= time;
    match account {
        Account::Missing if older_than(UNDER_WAY) => Stand::Abandoned,
        Account::Missing => Stand::UnderWay,
        Account::Unconfirmed if older_than(UNCONFIRMED_KEPT) => Stand::NeverConfirmed,
        Account::Unconfirmed | Account::Standing => Stand::Taken,
    }
}

/// The hour in which sign-ups are counted together, in hours since 1970.
pub fn hour(now: Timestamp) -> i64 {
    now.as_second().div_euclid(3600)
}

/// Which mailboxes have accounts.
pub trait Entries {
    /// The entry of a mailbox.
    fn entry(&self, key: &IdentityKey) -> impl Future<Output = Result<Option<Entry>, Trouble>>;
}

/// Which mailboxes have accounts, and how many asked for one, to be written.
pub trait Identities: Entries {
    /// Enters a mailbox in place of what was read, or says that somebody else was faster.
    fn enter(
        &self,
        key: &IdentityKey,
        read: Option<&Entry>,
        entry: &Entry,
    ) -> impl Future<Output = Result<Entered, Trouble>>;

    /// Counts a sign-up for a domain in an hour, unless there were that many already.
    fn count(
        &self,
        domain: &EmailDomain,
        hour: i64,
        most: u32,
    ) -> impl Future<Output = Result<Counted, Trouble>>;
}

/// What came of entering a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Entered {
    /// It is durable.
    Yes,
    /// Somebody else wrote the entry since it was read; nothing was written.
    Overtaken,
}

/// What came of counting a sign-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Counted {
    /// It counts.
    Yes,
    /// There were too many in this hour.
    TooMany,
}

/// The accounts of the user pool, asked for one by one.
pub trait Accounts {
    /// What there is of this name.
    fn account(
        &self,
        pool_id: &str,
        username: &Username,
    ) -> impl Future<Output = Result<Account, Trouble>>;

    /// Deletes an account that nobody has confirmed. One that is gone already is no trouble.
    fn delete_unconfirmed(
        &self,
        pool_id: &str,
        username: &Username,
    ) -> impl Future<Output = Result<(), Trouble>>;
}

/// Where it is said that somebody signed in.
pub trait SignIns {
    /// Says it to whoever listens; when this returns, it is accepted.
    fn announce(&self, sign_in: &UserSignedIn) -> impl Future<Output = Result<(), Trouble>>;
}

/// Where the policy is kept.
pub trait Policies {
    /// The policy as it is now, or as it was a minute ago.
    fn policy(&self) -> impl Future<Output = Result<std::sync::Arc<Policy>, Trouble>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::email::{EmailAddress, PlusTags};

    #[test]
    fn a_key_is_the_digest_of_the_pool_and_the_mailbox() {
        let key = |pool, text| {
            let address = EmailAddress::parse(text).unwrap();
            IdentityKey::derive(pool, &address.canonical(PlusTags::SameIdentity))
        };
        // printf 'us-east-1_Pool/ada@example.com' | sha256sum
        assert_eq!(
            key("us-east-1_Pool", "Ada+claw@Example.com").as_str(),
            "3b83fec33e2844e517931f8af45e9db9121c3ccb9f12a4bc54b0cc922a0748ac"
        );
        assert_ne!(key("a", "ada@example.com"), key("b", "ada@example.com"));
        assert_ne!(key("a", "ada@example.com"), key("a", "bob@example.com"));
    }

    #[test]
    fn a_username_tells_its_provider() {
        let provider = |text| Username::parse(text).unwrap().provider().map(str::to_owned);
        assert_eq!(provider("Okta_00u1_x"), Some("Okta".to_owned()));
        assert_eq!(provider("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f"), None);
        for text in ["", "a b", "a\n", &"a".repeat(129)] {
            assert_eq!(Username::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_mailbox_is_taken_until_its_account_is_known_to_have_come_to_nothing() {
        let entry = Entry {
            username: Username::parse("first").unwrap(),
            at: Timestamp::UNIX_EPOCH,
        };
        let after = |seconds, account| {
            let now = Timestamp::from_second(seconds).unwrap();
            stand(&entry, account, now)
        };
        let (day, year) = (24 * 3600, 365 * 24 * 3600);
        assert_eq!(after(-5, Account::Missing), Stand::UnderWay);
        assert_eq!(after(59, Account::Missing), Stand::UnderWay);
        assert_eq!(after(60, Account::Missing), Stand::Abandoned);
        assert_eq!(after(day - 1, Account::Unconfirmed), Stand::Taken);
        assert_eq!(after(day, Account::Unconfirmed), Stand::NeverConfirmed);
        assert_eq!(after(0, Account::Standing), Stand::Taken);
        assert_eq!(after(year, Account::Standing), Stand::Taken);
    }

    #[test]
    fn an_hour_is_an_hour_before_and_after_1970() {
        let at = |seconds| hour(Timestamp::from_second(seconds).unwrap());
        assert_eq!((at(0), at(3599), at(3600), at(-1)), (0, 0, 1, -1));
    }
}
