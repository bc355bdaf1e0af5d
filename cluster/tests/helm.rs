//! Renders a chart with the real Helm, and reads what needs no rendering.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A chart, where it is installed, and the values it gets.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    directory: PathBuf,
    namespace: &'static str,
    arguments: Vec<String>,
}

/// What is applied to a cluster: the text, and the objects in it.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    pub(crate) objects: Vec<Value>,
}

impl Chart {
    /// A chart by its directory, relative to the repository's root.
    pub(crate) fn new(directory: &str, namespace: &'static str) -> Self {
        Self {
            directory: repository().join(directory),
            namespace,
            arguments: Vec::new(),
        }
    }

    /// Adds a values file, relative to the repository's root.
    pub(crate) fn values(mut self, file: &str) -> Self {
        self.arguments.push("--values".to_owned());
        self.arguments
            .push(repository().join(file).display().to_string());
        self
    }

    /// Sets one value, given as JSON.
    pub(crate) fn set(mut self, key: &str, json: &Value) -> Self {
        self.arguments.push("--set-json".to_owned());
        self.arguments.push(format!("{key}={json}"));
        self
    }

    /// Renders the chart, or returns what Helm said against it.
    pub(crate) fn render(&self) -> Result<Rendered, String> {
        let helm = tool("HELM", "the path of a Helm 4 binary");
        let output = Command::new(&helm)
            .args(["template", "release"])
            .arg(&self.directory)
            .args(["--namespace", self.namespace])
            .args(&self.arguments)
            // Helm reads its own configuration from the home directory; none of it may matter here.
            .env_clear()
            .output()
            .unwrap_or_else(|error| panic!("cannot run HELM={helm}: {error}"));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8(output.stdout).expect("Helm prints UTF-8");
        Ok(Rendered::of_text(text))
    }
}

impl Rendered {
    /// The manifests in a file.
    pub(crate) fn of_file(file: &Path) -> Self {
        let text = fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        Self::of_text(text)
    }

    fn of_text(text: String) -> Self {
        let objects = serde_saphyr::from_multiple(&text)
            .unwrap_or_else(|error| panic!("this is no YAML: {error}\n{text}"));
        Self { text, objects }
    }

    /// Every object of a kind that Kubernetes itself defines.
    pub(crate) fn of<K: Resource + DeserializeOwned>(&self) -> Vec<K> {
        self.custom(K::API_VERSION, K::KIND)
            .into_iter()
            .map(|object| serde_json::from_value(object.clone()).expect("deserialises"))
            .collect()
    }

    /// Every object of a kind, as JSON.
    pub(crate) fn custom(&self, api_version: &str, kind: &str) -> Vec<&Value> {
        self.objects
            .iter()
            .filter(|object| object["apiVersion"] == api_version && object["kind"] == kind)
            .collect()
    }
}

/// What an environment variable points at. There is no fallback to a program on the `PATH`: a test
/// that passes with another version than the pinned one proves nothing.
pub(crate) fn tool(variable: &str, meaning: &str) -> String {
    env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set; it has to be {meaning}. `cargo xtask test` sets it.")
    })
}

/// The top of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARAPACE_ROOT"))
}
