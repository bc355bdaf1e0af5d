//! `cargo xtask test`: a list of jobs, each of which counts what passed and what failed.

mod count;
mod fuzz;
mod jobs;

use std::time::Instant;

use anyhow::{Result, bail};

use count::Count;
use jobs::{ALL, Job, LINT};

use crate::cli;
use crate::ui::{Ui, human};

/// Runs the jobs that were asked for; fails if anything in them failed.
pub(crate) fn run(ui: Ui, options: &cli::Test) -> Result<()> {
    if options.list {
        ui.heading("Jobs of `cargo xtask test`");
        for job in ALL {
            ui.row(job.name, job.checks);
        }
        return Ok(());
    }
    let chosen = choose(&options.only)?;
    let total = run_jobs(ui, &chosen);
    // The last line, in the words that tools look for.
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!(
            "{} check(s) failed; what they printed is above",
            total.failed
        );
    }
    Ok(())
}

/// Runs the jobs that read the code.
pub(crate) fn lint(ui: Ui) -> Result<()> {
    let chosen: Vec<_> = ALL[..LINT].iter().map(|job| (job, None)).collect();
    let total = run_jobs(ui, &chosen);
    if total.failed > 0 {
        bail!(
            "{} check(s) failed; what they printed is above",
            total.failed
        );
    }
    Ok(())
}

fn run_jobs(ui: Ui, chosen: &[(&Job, Option<String>)]) -> Count {
    let started = Instant::now();
    let mut total = Count::default();
    for (job, filter) in chosen {
        ui.heading(&format!("{}: {}", job.name, job.checks));
        let begun = Instant::now();
        // A job that could not even run counts as one failure: never as nothing.
        let count = (job.run)(ui, filter.as_deref()).unwrap_or_else(|error| {
            ui.fails(&format!("{error:#}"));
            Count {
                passed: 0,
                failed: 1,
            }
        });
        ui.note(&format!(
            "{} passed, {} failed in {}",
            count.passed,
            count.failed,
            human(begun.elapsed())
        ));
        total += count;
    }
    ui.heading(&format!("All jobs in {}", human(started.elapsed())));
    total
}

fn choose(only: &[String]) -> Result<Vec<(&'static Job, Option<String>)>> {
    if only.is_empty() {
        return Ok(ALL.iter().map(|job| (job, None)).collect());
    }
    only.iter()
        .map(|wanted| {
            let (name, filter) = match wanted.split_once(':') {
                Some((name, filter)) => (name, Some(filter.to_owned())),
                None => (wanted.as_str(), None),
            };
            match ALL.iter().find(|job| job.name == name) {
                Some(job) => Ok((job, filter)),
                None => bail!("there is no job `{name}`; `cargo xtask test --list` names them"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lint_runs_what_needs_no_stack() {
        let names: Vec<_> = ALL[..LINT].iter().map(|job| job.name).collect();
        assert_eq!(names, ["fmt", "clippy", "deny", "asl", "docs"]);
    }

    #[test]
    fn an_unknown_job_is_an_error_that_says_where_the_names_are() {
        let error = choose(&["speling".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("--list"), "{error}");
    }

    #[test]
    fn a_filter_is_passed_to_the_job() {
        let chosen = choose(&["scenarios:twins".to_owned()]).unwrap();
        assert_eq!(chosen[0].1.as_deref(), Some("twins"));
    }
}
