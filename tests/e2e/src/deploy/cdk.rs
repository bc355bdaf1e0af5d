//! The CDK app and CLI exactly as for AWS; only the endpoint is another, and the stage.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow};
use carapace_local::{NodeKind, Stack, StackInfo};
use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Sources, run_logged};
use crate::identity;
use crate::platform::OUTPUTS_FILE;

/// The CLI's output directory, in the stack's.
const CDK_OUT: &str = "cdk.out";
/// In it, what its templates were made of: see [`synthesise`].
const MADE_OF: &str = ".made-of";
/// Where the CLI keeps the functions' zip files, below its output directory.
const ZIPS: &str = ".cache";

/// `cdk bootstrap`: the account gets its asset bucket and deployment roles.
pub fn bootstrap(stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let info = stack.info();
    let mut command = cli(stack, sources);
    command
        .args([
            "bootstrap",
            &format!("aws://{}/{}", info.account, info.region),
        ])
        // Where there is no app: the CLI would synthesise it, and use nothing of it.
        .current_dir(&info.state_dir);
    run_logged(command, info, "cdk-bootstrap")
}

/// `cdk synth`, unless the templates are those of the same app, functions and context already.
pub fn synthesise(stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let info = stack.info();
    let context = context(info, sources);
    let made_of = made_of(sources, &context)?;
    let output = info.state_dir.join(CDK_OUT);
    let note = output.join(MADE_OF);
    if fs::read_to_string(&note).is_ok_and(|was| was == made_of) {
        return Ok(());
    }
    // Before anything else goes: who dies half-way must not leave a note of what is no longer whole.
    if note.exists() {
        fs::remove_file(&note).with_context(|| format!("removing {}", note.display()))?;
    }
    clear(&output).with_context(|| format!("clearing {}", output.display()))?;
    let mut command = cli(stack, sources);
    command
        .args(["synth", "--quiet", "--output"])
        .arg(&output)
        .args(context.iter().flat_map(|value| ["-c", value]))
        .current_dir(sources.root.join("cdk"));
    run_logged(command, info, "cdk-synth")?;
    fs::write(&note, made_of).with_context(|| format!("writing {}", note.display()))
}

/// `cdk deploy --all` of what [`synthesise`] made: network, cluster, control plane, identity.
pub fn deploy(stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let info = stack.info();
    identity::store_provider_secrets(info)?;
    let output = info.state_dir.join(CDK_OUT);
    let mut command = cli(stack, sources);
    command
        .args(["deploy", "--all", "--require-approval", "never"])
        .args(["--concurrency", "4", "--outputs-file"])
        .arg(info.state_dir.join(OUTPUTS_FILE))
        .arg("--app")
        .arg(&output)
        .args(["--progress", "events"])
        .current_dir(sources.root.join("cdk"));
    run_logged(command, info, "cdk-deploy")?;
    forget_old_zips(&output)
}

fn cli(stack: &Stack, sources: &Sources<'_>) -> Command {
    let mut command = stack.command(sources.root.join("cdk/node_modules/.bin/cdk"));
    command
        .arg("--no-color")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("CDK_DISABLE_CLI_TELEMETRY", "true")
        .env("CDK_DISABLE_VERSION_CHECK", "1")
        .env_remove("AWS_CA_BUNDLE");
    command
}

/// What the app is told, as `-c` takes it.
fn context(info: &StackInfo, sources: &Sources<'_>) -> Vec<String> {
    let mut context = vec![
        "stage=local".to_owned(),
        format!("lambdaDir={}", sources.lambdas.display()),
        // Said here although the stage knows them: a context file of the operator's own would win.
        format!("account={}", info.account),
        format!("region={}", info.region),
        // The policy's own domains.
        "allowedEmailDomains=".to_owned(),
        "signUpPolicy=../tests/local/values/sign-up-policy.json".to_owned(),
        "federatedSignIn=true".to_owned(),
    ];
    if info.node == NodeKind::Kwok {
        // No pod answers on a simulated node. Loopback refuses at once, where a service's address
        // would lead out of the machine.
        context.push("modelGatewayUrl=http://127.0.0.1:9".to_owned());
        context.push("slackApiUrl=http://127.0.0.1:9/api".to_owned());
    } else {
        context.push(format!("modelGatewayUrl={}", info.model_gateway_url));
    }
    if let Some(faults) = sources.faults {
        context.push(format!("faultDir={}", faults.display()));
    }
    context
}

/// A hash of all that the templates depend on: the app with the versions of its packages, the state
/// machines, the policy, the functions and the context.
fn made_of(sources: &Sources<'_>, context: &[String]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    for value in context {
        add(value.as_bytes());
    }
    let mut texts = Vec::new();
    files(&sources.root.join("cdk"), &mut texts)?;
    files(&sources.root.join("statemachines"), &mut texts)?;
    files(&sources.root.join("tests/local/values"), &mut texts)?;
    // The operator's own context.
    texts.extend(std::env::home_dir().map(|home| home.join(".cdk.json")));
    for path in texts {
        add(path.as_os_str().as_bytes());
        match fs::read(&path) {
            Ok(text) => add(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => add(&[]),
            Err(error) => return Err(anyhow!(error).context(format!("reading {}", path.display()))),
        }
    }
    // Programs count by size and time, as they do for the CLI: to read them takes as long as it saves.
    let mut programs = Vec::new();
    files(sources.lambdas, &mut programs)?;
    for path in programs {
        let of = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?;
        let written = of.modified()?.duration_since(UNIX_EPOCH)?;
        add(path.as_os_str().as_bytes());
        add(&of.len().to_le_bytes());
        add(&written.as_nanos().to_le_bytes());
    }
    Ok(HEXLOWER.encode(&hash.finalize()))
}

/// The files below a directory, in order, without what tools put there.
fn files(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = directory.read_dir().and_then(Iterator::collect);
    let mut entries: Vec<fs::DirEntry> =
        entries.with_context(|| format!("reading {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name == "node_modules" || name == CDK_OUT {
            continue;
        }
        if entry.file_type()?.is_dir() {
            files(&entry.path(), into)?;
        } else {
            into.push(entry.path());
        }
    }
    Ok(())
}

/// Empties the CLI's output directory: every version of a function that was ever deployed from here
/// would stay in it. The zip files are kept, since each bears the hash of its content, and to make them
/// takes longer than all else of a deployment: see [`forget_old_zips`].
fn clear(output: &Path) -> io::Result<()> {
    let entries = match output.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == ZIPS {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes the zip files that belong to nothing in the output directory.
fn forget_old_zips(output: &Path) -> Result<()> {
    let mut current = BTreeSet::new();
    for entry in output.read_dir()? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".assets.json") {
            let assets: Value = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| format!("reading {}", path.display()))?;
            let files = assets["files"].as_object().into_iter().flatten();
            current.extend(files.map(|(hash, _)| format!("{hash}.zip")));
        }
    }
    let Ok(zips) = output.join(ZIPS).read_dir() else {
        return Ok(());
    };
    for zip in zips {
        let zip = zip?;
        if !current.contains(&*zip.file_name().to_string_lossy()) {
            fs::remove_file(zip.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zip_files_outlive_a_deployment_as_long_as_they_are_used() {
        let name = format!("carapace-zips-{}", ulid::Ulid::generate());
        let output = std::env::temp_dir().join(name);
        clear(&output).unwrap();
        fs::create_dir_all(output.join(ZIPS)).unwrap();
        fs::create_dir(output.join("asset.1")).unwrap();
        fs::write(output.join("Stack.template.json"), "{}").unwrap();
        for zip in ["1.zip", "2.zip", "1.zip.abc._tmp"] {
            fs::write(output.join(ZIPS).join(zip), "").unwrap();
        }
        let names = |directory: &Path| {
            let entries = directory.read_dir().unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        clear(&output).unwrap();
        assert_eq!(names(&output), [ZIPS]);
        assert_eq!(names(&output.join(ZIPS)).len(), 3);

        let assets = json!({ "files": { "1": {}, "template": {} } });
        fs::write(output.join("Stack.assets.json"), assets.to_string()).unwrap();
        forget_old_zips(&output).unwrap();
        assert_eq!(names(&output.join(ZIPS)), ["1.zip"]);
        fs::remove_dir_all(&output).unwrap();
    }

    #[test]
    fn templates_are_made_anew_when_anything_they_are_made_of_has_changed() {
        let root = std::env::temp_dir().join(format!("carapace-app-{}", ulid::Ulid::generate()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cdk/lib/user/user.ts", "1");
        put("cdk/node_modules/a/index.js", "1");
        put("statemachines/a.asl.json", "{}");
        put("tests/local/values/sign-up-policy.json", "{}");
        put("lambdas/a/bootstrap", "1");
        let lambdas = root.join("lambdas");
        let sources = Sources {
            root: &root,
            agent: "scripted",
            litellm: false,
            lambdas: &lambdas,
            faults: None,
        };
        let now = |context: &str| made_of(&sources, &[context.to_owned()]).unwrap();
        let mut seen = BTreeSet::from([now("a=1")]);
        assert!(seen.insert(now("a=2")));
        put("cdk/node_modules/a/index.js", "2");
        assert!(!seen.insert(now("a=1")));
        for (path, text) in [
            ("cdk/lib/user/user.ts", "2"),
            ("cdk/lib/user/more.ts", "1"),
            ("statemachines/a.asl.json", "{ }"),
            ("tests/local/values/sign-up-policy.json", "{ }"),
            ("lambdas/a/bootstrap", "12"),
        ] {
            put(path, text);
            assert!(seen.insert(now("a=1")), "{path} is not seen");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
