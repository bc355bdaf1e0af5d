//! Fuzzing, for a bounded time: libFuzzer, with the compiler's own coverage, on the pinned stable
//! toolchain. It begins with the corpus that the unit tests read, so that seconds are enough to get
//! past the first comparisons; what it finds on the way is kept from run to run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::count::Count;
use crate::lambdas::target_dir;
use crate::process::{cargo, quietly, root};
use crate::ui::Ui;

/// For each target.
const SECONDS: u32 = 10;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz` passes on for a sanitizer of `none`. All of it is stable.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// A target, the longest input that it is worth to try, and where it begins.
const TARGETS: &[(&str, u32, &str)] = &[
    ("address", 300, "addresses.json"),
    ("policy", 2000, "policies.json"),
];

/// Builds the targets and runs one after the other.
pub(super) fn run(ui: Ui, filter: Option<&str>) -> Result<Count> {
    // Its own directory: other flags would have every crate compiled again, back and forth.
    let out = target_dir().join("fuzz");
    let step = ui.step(
        "building the fuzz targets",
        Some(std::time::Duration::from_secs(60)),
    );
    quietly(
        cargo()
            .args(["build", "--quiet", "--locked", "--release"])
            // With a target named, build scripts and macros are built without the flags.
            .args(["--target", TRIPLE, "--manifest-path"])
            .arg(root().join("tests/fuzz/Cargo.toml"))
            .env("CARGO_TARGET_DIR", &out)
            .env("RUSTFLAGS", FLAGS),
    )?;
    step.quiet();
    let mut count = Count::default();
    for (target, max_len, corpus) in TARGETS {
        if filter.is_some_and(|wanted| wanted != *target) {
            continue;
        }
        let work = out.join("corpus").join(target);
        let seeds = out.join("seeds").join(target);
        let findings = out.join("findings");
        for folder in [&work, &seeds, &findings] {
            fs::create_dir_all(folder)?;
        }
        seed(corpus, &seeds)?;
        let step = ui.step(
            &format!("fuzzing {target}"),
            Some(std::time::Duration::from_secs(SECONDS.into())),
        );
        let output = Command::new(out.join(TRIPLE).join("release").join(target))
            .arg(format!("-max_total_time={SECONDS}"))
            .arg(format!("-max_len={max_len}"))
            .arg(format!("-artifact_prefix={}/{target}-", findings.display()))
            .args(["-timeout=5", "-rss_limit_mb=1024"])
            .args([&work, &seeds])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting the fuzz target {target}"))?;
        step.quiet();
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let runs = log
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("Done "));
            ui.holds(&format!("{target}: {}", runs.unwrap_or("done")));
            count += Count::ONE;
        } else {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            eprintln!(
                "what the target {target} fell over is in {}",
                findings.display()
            );
            count.failed += 1;
        }
    }
    Ok(count)
}

/// Writes every address or policy of a corpus into a file of its own.
fn seed(corpus: &str, into: &Path) -> Result<()> {
    let file = root().join("crates/core/tests/corpus").join(corpus);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let corpus: Value = serde_json::from_str(&text)?;
    let lists = [&corpus, &corpus["accepted"], &corpus["hostile"]];
    let entries = lists.into_iter().filter_map(Value::as_array).flatten();
    for (n, entry) in entries.enumerate() {
        let entry = [entry, &entry["text"], &entry["address"]]
            .into_iter()
            .find_map(Value::as_str)
            .with_context(|| format!("{} has something else than texts in it", file.display()))?;
        fs::write(into.join(n.to_string()), entry)?;
    }
    Ok(())
}
