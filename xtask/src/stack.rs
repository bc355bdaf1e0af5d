//! `cargo xtask stack`: a local stack by hand.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use carapace_local::Stack;

use crate::cli;
use crate::setup;
use crate::ui::Ui;

/// Runs one of the stack's commands.
pub(crate) fn run(ui: Ui, command: &cli::Stack) -> Result<()> {
    match command {
        cli::Stack::Up(options) => up(ui, options),
        cli::Stack::Down(at) => down(ui, at),
        cli::Stack::Status(at) => status(ui, at),
        cli::Stack::Logs {
            state_dir,
            part,
            follow,
        } => logs(ui, state_dir, part.as_deref(), *follow),
    }
}

fn up(ui: Ui, options: &cli::StackOptions) -> Result<()> {
    let state_dir = setup::state_dir(options.state_dir.state_dir.as_deref(), "default")?;
    setup::check_free(&state_dir)?;
    setup::prepare(ui, options.node)?;
    ui.heading("Starting a stack");
    let images = if options.node == cli::Node::Gvisor {
        setup::build_images(ui, cli::Agent::Scripted)?
    } else {
        setup::Images::default()
    };
    let stack = setup::start(
        ui,
        &setup::up_options(options.node, &state_dir, images),
        true,
    )?;
    let info = stack.info();
    ui.heading("It is up");
    ui.row("AWS", info.aws_endpoint.as_deref().unwrap_or("none"));
    ui.row(
        "Kubernetes",
        format!("export KUBECONFIG={}", info.kubeconfig.display()),
    );
    ui.row("Logs", info.logs_dir.display());
    ui.row(
        "Stop it",
        format!("cargo xtask stack down --state-dir {}", state_dir.display()),
    );
    Ok(())
}

fn down(ui: Ui, at: &cli::StateDir) -> Result<()> {
    let step = ui.step("stopping the stack", None);
    attach(at)?.down()?;
    step.done("everything that was started is stopped");
    Ok(())
}

fn status(ui: Ui, at: &cli::StateDir) -> Result<()> {
    let stack = attach(at)?;
    ui.heading(&format!("Stack in {}", stack.info().state_dir.display()));
    let parts = stack.status()?;
    for part in &parts {
        match &part.exited {
            None => ui.row(
                &part.name,
                format!("pid {}, {} MiB", part.pid, part.rss_kib / 1024),
            ),
            Some(how) => ui.row(&part.name, format!("ended: {how}")),
        }
    }
    let down = parts.iter().filter(|part| !part.is_up()).count();
    if down > 0 {
        bail!(
            "{down} part(s) are down; their logs are in {}",
            stack.info().logs_dir.display()
        );
    }
    Ok(())
}

fn logs(ui: Ui, at: &cli::StateDir, part: Option<&str>, follow: bool) -> Result<()> {
    // Logs outlive their stack: they are looked at most when it is gone.
    let directory = setup::state_dir(at.state_dir.as_deref(), "default")?.join("logs");
    let Some(part) = part else {
        ui.heading(&format!("Logs in {}", directory.display()));
        for entry in std::fs::read_dir(&directory)
            .with_context(|| format!("no logs in {}", directory.display()))?
        {
            let entry = entry?;
            ui.row(
                &entry.file_name().to_string_lossy(),
                format!("{} bytes", entry.metadata()?.len()),
            );
        }
        return Ok(());
    };
    print_log(&directory.join(format!("{part}.log")), follow)
}

fn print_log(path: &Path, follow: bool) -> Result<()> {
    let file = File::open(path).with_context(|| {
        format!(
            "opening {}; `logs` without a part lists them",
            path.display()
        )
    })?;
    let mut reader = BufReader::new(file);
    let mut out = std::io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? > 0 {
            out.write_all(&line)?;
        } else if follow {
            out.flush()?;
            // A file has no end to wait for: look again, from where the last look stopped.
            thread::sleep(Duration::from_millis(200));
            let at = reader.stream_position()?;
            reader.seek(SeekFrom::Start(at))?;
        } else {
            return Ok(());
        }
    }
}

fn attach(at: &cli::StateDir) -> Result<Stack> {
    Ok(Stack::attach(setup::state_dir(
        at.state_dir.as_deref(),
        "default",
    )?)?)
}
