//! Who is behind a user of Slack.
//!
//! The platform knows people by the mailbox they signed up with, Slack knows the address of its
//! members, and whoever has both is one person. That holds only as far as Slack's word for the
//! address does: for a full member of our own workspace who has confirmed it. A guest, a stranger in
//! a shared channel and a bot can call themselves anything. Whoever isn't plainly one of our users
//! is told what to do about it, and nothing about anybody else.

use serde::{Deserialize, Serialize};

use crate::{
    SlackUserId, TeamId,
    email::{CanonicalAddress, EmailAddress},
    policy::{Denied, Policy},
};

/// A user as `users.info` describes one
/// (<https://docs.slack.dev/reference/objects/user-object>). A flag that Slack does not send is one
/// that isn't set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are Slack's")]
pub struct SlackProfile {
    /// The user.
    pub id: SlackUserId,
    /// The workspace that they are a member of.
    pub team_id: TeamId,
    /// Whether they have been deactivated.
    pub deleted: bool,
    /// Whether it is a bot.
    pub is_bot: bool,
    /// Whether they have given this app rights of their own. Says nothing about who they are.
    pub is_app_user: bool,
    /// Whether they are a guest.
    pub is_restricted: bool,
    /// Whether they are a guest of a single channel.
    pub is_ultra_restricted: bool,
    /// Whether they are of another workspace and only share a channel with ours.
    pub is_stranger: bool,
    /// Whether they have shown that the mailbox is theirs.
    pub is_email_confirmed: bool,
    /// `profile.email`.
    pub email: Option<String>,
}

/// An account of the user pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What the pool calls it, for ever.
    pub sub: String,
    /// Its address, if it is of the form that is accepted here.
    pub address: Option<EmailAddress>,
    /// Whether sign-up was completed.
    pub confirmed: bool,
    /// Whether the address was shown to be theirs.
    pub email_verified: bool,
    /// Whether it may be used.
    pub enabled: bool,
}

/// Why somebody in Slack is none of our users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NotLinked {
    /// Nobody has signed up with their address.
    NotSignedUp,
    /// They have begun to, and not confirmed their address.
    NotConfirmed,
    /// An administrator has locked their account, or the policy blocks their address.
    Disabled,
    /// Their agent was removed, and they have not signed in since.
    Removed,
    /// Their mailbox was entered for an account that has another by now, so it isn't clear which is
    /// theirs.
    Ambiguous,
    /// It is a bot.
    Bot,
    /// They have been deactivated in Slack.
    Deactivated,
    /// They are a guest of the workspace.
    Guest,
    /// They are of another workspace.
    OtherWorkspace,
    /// Slack does not tell their address.
    AddressUnknown,
    /// They have not shown Slack that the address is theirs.
    AddressNotConfirmed,
    /// Their address is not of the form that is accepted here.
    AddressNotAccepted,
}

impl NotLinked {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NotSignedUp,
        Self::NotConfirmed,
        Self::Disabled,
        Self::Removed,
        Self::Ambiguous,
        Self::Bot,
        Self::Deactivated,
        Self::Guest,
        Self::OtherWorkspace,
        Self::AddressUnknown,
        Self::AddressNotConfirmed,
        Self::AddressNotAccepted,
    ];

    /// What they read in the thread. Others may read it too.
    pub fn text(self, sign_up_url: &str) -> String {
        let text = match self {
            Self::NotSignedUp => {
                return format!(
                    "You don't have an agent yet. Sign up at {sign_up_url} with the email address \
                     you use in Slack, then write to me again."
                );
            }
            Self::NotConfirmed => {
                return format!(
                    "Your sign-up isn't complete yet: confirm your email address at {sign_up_url} \
                     with the code you were sent, then write to me again."
                );
            }
            Self::Removed => {
                return format!(
                    "Your agent was removed. Sign in at {sign_up_url} to get a new one, then write \
                     to me again."
                );
            }
            Self::Disabled => {
                "Your account is locked. An administrator of the platform can unlock it."
            }
            Self::Ambiguous => {
                "I can't tell which account is yours. An administrator of the platform can sort \
                 this out."
            }
            Self::Bot => "I answer people, not bots.",
            Self::Deactivated => "I only answer active members of this workspace.",
            Self::Guest => "I only answer full members of this workspace, not guests.",
            Self::OtherWorkspace => {
                "I only answer members of the workspace that I am installed in."
            }
            Self::AddressUnknown => {
                "Slack doesn't tell me your email address, so I can't find your agent. An \
                 administrator of the workspace can help."
            }
            Self::AddressNotConfirmed => {
                "Your email address isn't confirmed in Slack yet. Confirm it there, then write to \
                 me again."
            }
            Self::AddressNotAccepted => {
                "The email address you use in Slack isn't of a kind that is accepted here."
            }
        };
        text.to_owned()
    }
}

/// The address that tells which of our users this is, if Slack vouches for it.
pub fn address(profile: &SlackProfile, our_team: &TeamId) -> Result<EmailAddress, NotLinked> {
    if profile.is_bot || profile.id.as_str() == SLACKBOT {
        return Err(NotLinked::Bot);
    }
    if profile.is_stranger || profile.team_id != *our_team {
        return Err(NotLinked::OtherWorkspace);
    }
    if profile.deleted {
        return Err(NotLinked::Deactivated);
    }
    if profile.is_restricted || profile.is_ultra_restricted {
        return Err(NotLinked::Guest);
    }
    let email = profile.email.as_deref().unwrap_or_default();
    if email.is_empty() {
        return Err(NotLinked::AddressUnknown);
    }
    if !profile.is_email_confirmed {
        return Err(NotLinked::AddressNotConfirmed);
    }
    EmailAddress::parse(email).map_err(|_| NotLinked::AddressNotAccepted)
}

/// The mailbox that the address belongs to, if the policy lets it be anybody's.
pub fn mailbox(address: &EmailAddress, policy: &Policy) -> Result<CanonicalAddress, NotLinked> {
    policy.identity(address).map_err(|denied| match denied {
        Denied::AddressBlocked => NotLinked::Disabled,
        Denied::PlusTagRefused | Denied::DomainNotAllowed | Denied::ProviderNotAllowed => {
            NotLinked::AddressNotAccepted
        }
    })
}

/// The account that a mailbox was entered for, if it is still that mailbox's and may be used.
///
/// Its address is looked at again. An entry that was made while tags meant something else may lead to
/// an account of another mailbox, and that would be somebody else's agent.
pub fn account<'a>(
    found: Option<&'a Account>,
    mailbox: &CanonicalAddress,
    policy: &Policy,
) -> Result<&'a Account, NotLinked> {
    let account = found.ok_or(NotLinked::NotSignedUp)?;
    let its_own = account.address.as_ref();
    let its_own = its_own.and_then(|address| policy.identity(address).ok());
    if its_own.as_ref() != Some(mailbox) {
        return Err(NotLinked::Ambiguous);
    }
    if !account.enabled {
        return Err(NotLinked::Disabled);
    }
    if account.confirmed && account.email_verified {
        return Ok(account);
    }
    Err(NotLinked::NotConfirmed)
}

/// Slack's own bot, which `users.info` doesn't call one.
const SLACKBOT: &str = "USLACKBOT";

#[cfg(test)]
mod tests {
    use super::*;

    fn team() -> TeamId {
        TeamId::parse("T0CARAPACE").unwrap()
    }

    fn member() -> SlackProfile {
        SlackProfile {
            id: SlackUserId::parse("U0ADA").unwrap(),
            team_id: team(),
            deleted: false,
            is_bot: false,
            is_app_user: false,
            is_restricted: false,
            is_ultra_restricted: false,
            is_stranger: false,
            is_email_confirmed: true,
            email: Some("Ada@Example.com".to_owned()),
        }
    }

    fn confirmed(sub: &str) -> Account {
        Account {
            sub: sub.to_owned(),
            address: Some(parse("ada@example.com")),
            confirmed: true,
            email_verified: true,
            enabled: true,
        }
    }

    #[test]
    fn a_full_member_with_a_confirmed_address_is_known_by_it() {
        let known = EmailAddress::parse("Ada@example.com").unwrap();
        assert_eq!(address(&member(), &team()), Ok(known.clone()));
        let app_user = SlackProfile {
            is_app_user: true,
            ..member()
        };
        assert_eq!(address(&app_user, &team()), Ok(known));
    }

    #[test]
    fn whoever_else_is_in_slack_is_nobody_here() {
        type Change = fn(&mut SlackProfile);
        let table: [(NotLinked, Change); 14] = [
            (NotLinked::Bot, |user| user.is_bot = true),
            (NotLinked::Bot, |user| {
                user.id = SlackUserId::parse("USLACKBOT").unwrap();
            }),
            (NotLinked::OtherWorkspace, |user| user.is_stranger = true),
            (NotLinked::OtherWorkspace, |user| {
                user.team_id = TeamId::parse("T0OTHER").unwrap();
            }),
            (NotLinked::OtherWorkspace, |user| {
                user.team_id = TeamId::parse("E0CARAPACE").unwrap();
            }),
            (NotLinked::Deactivated, |user| user.deleted = true),
            (NotLinked::Guest, |user| user.is_restricted = true),
            (NotLinked::Guest, |user| user.is_ultra_restricted = true),
            (NotLinked::AddressUnknown, |user| user.email = None),
            (NotLinked::AddressUnknown, |user| {
                user.email = Some(String::new());
            }),
            (NotLinked::AddressNotConfirmed, |user| {
                user.is_email_confirmed = false;
            }),
            (NotLinked::AddressNotAccepted, |user| {
                user.email = Some("ada".to_owned());
            }),
            (NotLinked::AddressNotAccepted, |user| {
                user.email = Some("\"ada\"@example.com".to_owned());
            }),
            (NotLinked::AddressNotAccepted, |user| {
                user.email = Some("ada@example.com@evil.example".to_owned());
            }),
        ];
        for (why, change) in table {
            let mut user = member();
            change(&mut user);
            assert_eq!(address(&user, &team()), Err(why), "{user:?}");
        }
    }

    fn policy(tags: &str) -> Policy {
        let policy = serde_json::json!({
            "version": 1,
            "allowed_domains": ["example.com"],
            "blocked_addresses": ["eve@example.com"],
            "plus_tags": tags,
            "sign_ups_per_domain_per_hour": 1
        });
        Policy::parse(&policy.to_string()).unwrap()
    }

    fn parse(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    /// I6
    #[test]
    fn a_tag_is_left_out_only_where_the_policy_says_that_it_makes_nobody_else() {
        for (tags, text, says) in [
            ("same_identity", "Ada+x@example.com", Ok("ada@example.com")),
            ("distinct", "Ada+x@example.com", Ok("ada+x@example.com")),
            ("refused", "Ada@example.com", Ok("ada@example.com")),
            (
                "refused",
                "ada+x@example.com",
                Err(NotLinked::AddressNotAccepted),
            ),
            (
                "same_identity",
                "eve+x@example.com",
                Err(NotLinked::Disabled),
            ),
        ] {
            let mailbox = mailbox(&parse(text), &policy(tags)).map(|one| one.to_string());
            assert_eq!(mailbox, says.map(str::to_owned), "{tags} {text}");
        }
    }

    #[test]
    fn a_mailbox_counts_only_for_an_account_that_is_in_use() {
        type Change = fn(&mut Account);
        let policy = policy("same_identity");
        let mailbox = mailbox(&parse("ada@example.com"), &policy).unwrap();
        let ada = confirmed("sub-1");
        assert_eq!(account(Some(&ada), &mailbox, &policy), Ok(&ada));
        assert_eq!(
            account(None, &mailbox, &policy),
            Err(NotLinked::NotSignedUp)
        );
        let table: [(NotLinked, Change); 5] = [
            (NotLinked::NotConfirmed, |user| user.confirmed = false),
            (NotLinked::NotConfirmed, |user| user.email_verified = false),
            (NotLinked::Disabled, |user| user.enabled = false),
            (NotLinked::Disabled, |user| {
                user.enabled = false;
                user.confirmed = false;
            }),
            (NotLinked::Ambiguous, |user| user.address = None),
        ];
        for (why, change) in table {
            let mut user = ada.clone();
            change(&mut user);
            assert_eq!(
                account(Some(&user), &mailbox, &policy),
                Err(why),
                "{user:?}"
            );
        }
    }

    /// I6
    #[test]
    fn the_account_of_another_mailbox_is_nobodys_whatever_was_entered() {
        for (tags, entered, has, theirs) in [
            (
                "same_identity",
                "ada@example.com",
                "ADA+x@example.com",
                true,
            ),
            ("same_identity", "ada@example.com", "bob@example.com", false),
            ("same_identity", "ada@example.com", "ada@example.org", false),
            // Entered while tags were left out.
            ("distinct", "ada@example.com", "ada+x@example.com", false),
            ("refused", "ada@example.com", "ada+x@example.com", false),
        ] {
            let policy = policy(tags);
            let mailbox = mailbox(&parse(entered), &policy).unwrap();
            let user = Account {
                address: Some(parse(has)),
                ..confirmed("sub-1")
            };
            let says = if theirs {
                Ok(&user)
            } else {
                Err(NotLinked::Ambiguous)
            };
            assert_eq!(
                account(Some(&user), &mailbox, &policy),
                says,
                "{tags} {has}"
            );
        }
    }

    #[test]
    fn the_link_is_told_to_those_whom_it_helps() {
        let url = "https://sign-up.example.com/";
        for why in NotLinked::ALL {
            let text = why.text(url);
            let helps = matches!(
                why,
                NotLinked::NotSignedUp | NotLinked::NotConfirmed | NotLinked::Removed
            );
            assert_eq!(text.contains(url), helps, "{why:?}: {text}");
            assert!(
                (10..300).contains(&text.len()) && !text.contains("  "),
                "{text}"
            );
        }
    }

    #[test]
    fn a_reason_is_written_as_it_is_called() {
        for why in NotLinked::ALL {
            let json = serde_json::to_string(&why).unwrap();
            assert_eq!(json, format!("\"{why:?}\""));
            assert_eq!(serde_json::from_str::<NotLinked>(&json).unwrap(), why);
        }
    }
}
