//! `cargo xtask test`: a list of jobs, each of which counts what passed and what failed.

mod count;
mod fuzz;
mod jobs;

use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use count::Count;
use jobs::{ALL, Company, Job, LINT};

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
    println!("\n{total}");
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

fn run_jobs(ui: Ui, chosen: &[(&'static Job, Option<String>)]) -> Count {
    let started = Instant::now();
    let mut total = Count::default();
    let mut aside = Vec::new();
    for (job, filter) in chosen {
        if job.company == Company::Next && chosen.len() > 1 {
            ui.heading(&format!("{} runs beside the next jobs", job.name));
            aside.push(Aside::start(job, filter.as_deref()));
            continue;
        }
        if job.company == Company::Nobody {
            total += end(ui, &mut aside);
        }
        begin(ui, job);
        let begun = Instant::now();
        let count = (job.run)(ui, filter.as_deref());
        total += close(ui, count, begun.elapsed());
    }
    total += end(ui, &mut aside);
    ui.heading(&format!("All jobs in {}", human(started.elapsed())));
    total
}

fn begin(ui: Ui, job: &Job) {
    ui.heading(&format!("{}: {}", job.name, job.checks));
}

/// Says how a job ended. One that could not even run counts as one failure: never as nothing.
fn close(ui: Ui, count: Result<Count>, took: Duration) -> Count {
    let count = count.unwrap_or_else(|error| {
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
        human(took)
    ));
    count
}

/// Waits for the jobs that run beside the others, and shows what they had to say.
fn end(ui: Ui, aside: &mut Vec<Aside>) -> Count {
    let mut total = Count::default();
    for Aside { job, running } in aside.drain(..) {
        let step = ui.step(&format!("{}, which began before", job.name), None);
        let ended = running.join();
        step.quiet();
        begin(ui, job);
        let (count, took) = match ended {
            Ok(Ended { count, said, took }) => {
                print!("{said}");
                (count, took)
            }
            Err(_) => (Err(anyhow!("who waited for it panicked")), Duration::ZERO),
        };
        total += close(ui, count, took);
    }
    total
}

/// A job under way in a process of its own, so that what it says can be shown in one piece.
struct Aside {
    job: &'static Job,
    running: JoinHandle<Ended>,
}

/// How such a job ended; it has nothing to say if all is well.
struct Ended {
    count: Result<Count>,
    said: String,
    took: Duration,
}

impl Aside {
    fn start(job: &'static Job, filter: Option<&str>) -> Self {
        let asked = [Some(job.name), filter].into_iter().flatten();
        let asked = asked.collect::<Vec<_>>().join(":");
        let running = thread::spawn(move || {
            let begun = Instant::now();
            let mut said = String::new();
            let count = by_itself(&asked, &mut said);
            Ended {
                count,
                said,
                took: begun.elapsed(),
            }
        });
        Self { job, running }
    }
}

fn by_itself(asked: &str, said: &mut String) -> Result<Count> {
    let output = Command::new(std::env::current_exe()?)
        .args(["test", "--only", asked])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting the job {asked} by itself"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        said.push_str(&stdout);
        said.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    count::total(&stdout)
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
