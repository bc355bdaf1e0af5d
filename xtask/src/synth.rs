//! The CDK app as CloudFormation templates.

use std::process::Command;

use anyhow::Result;

use crate::cli::{self, Stage};
use crate::process::{quietly, root};
use crate::ui::Ui;
use crate::{lambdas, npm};

/// Builds the functions as they are deployed and synthesises the app around them.
pub(crate) fn run(ui: Ui, options: &cli::Synth) -> Result<()> {
    let directory = root().join("cdk");
    let step = ui.step(
        "the Lambda functions, size-optimised",
        Some(std::time::Duration::from_secs(260)),
    );
    let (functions, _) = lambdas::build(lambdas::For::Deployment)?;
    step.done("the Lambda functions");
    let step = ui.step("cdk synth", Some(std::time::Duration::from_secs(15)));
    npm::install(&directory)?;
    let stage = match options.stage {
        Stage::Aws => "aws",
        Stage::Local => "local",
    };
    quietly(
        Command::new(directory.join("node_modules/.bin/cdk"))
            .args(["synth", "--quiet", "-c", &format!("stage={stage}"), "-c"])
            .arg(format!("lambdaDir={}", functions.display()))
            .args(options.context.iter().flat_map(|value| ["-c", value]))
            .current_dir(&directory),
    )?;
    step.done(&format!(
        "the templates for stage {stage} are in {}",
        directory.join("cdk.out").display()
    ));
    Ok(())
}
