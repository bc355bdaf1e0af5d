//! Who may have an agent.

use anyhow::Result;
use carapace_e2e::Platform;
use carapace_e2e::aws;
use carapace_e2e::identity::User;

use crate::ui::Ui;

/// Refuses one person, accepts another; returns the one who is in.
pub(super) fn run(ui: Ui, platform: &Platform) -> Result<User> {
    let refused = "mallory@elsewhere.example";
    let error = aws::expect_error(platform.sign_up(refused), "UserLambdaValidationException")?;
    ui.holds(&format!("{refused} is refused: {}", error.message));

    let email = format!(
        "ada-{}@example.com",
        ulid::Ulid::generate().to_string().to_lowercase()
    );
    platform.sign_up(&email)?;
    ui.holds(&format!(
        "{email} is accepted; a code is sent to the mailbox"
    ));
    platform.confirm(&email)?;
    ui.holds("the code from the mailbox confirms it");
    let user = platform.sign_in(&email)?;
    ui.holds(&format!(
        "signed in; the platform knows this person as {}",
        user.key
    ));
    Ok(user)
}
