//! Would the API server take an object as it is written?
//!
//! It would take more than it keeps: a field that a structural schema does not know is dropped in
//! silence, and a misspelt `readOnlyRootFilesystem` is then a writable root. So every schema is closed
//! before it is used, and Kubernetes' own kinds have to survive a round through their types.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The custom resource definitions of one release of agent-sandbox, by `apiVersion/kind`.
pub(crate) struct CustomResources(BTreeMap<String, Validator>);

impl CustomResources {
    /// Reads the definitions from the Go module's directory.
    pub(crate) fn of_agent_sandbox(module: &Path) -> Self {
        let directory = module.join("k8s/crds");
        let files = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", directory.display()));
        let mut validators = BTreeMap::new();
        for file in files {
            let path = file.expect("a directory entry").path();
            let text = fs::read_to_string(&path).expect("a readable file");
            let definition: Value = serde_saphyr::from_str(&text).expect("a CRD in YAML");
            let spec = &definition["spec"];
            for version in spec["versions"].as_array().expect("versions") {
                let mut schema = version["schema"]["openAPIV3Schema"].clone();
                close(&mut schema);
                // The CRD leaves these to Kubernetes, and so does this test: see `findings`.
                schema["properties"]["metadata"] = json!({ "type": "object" });
                let key = key(
                    &format!("{}/{}", text_of(&spec["group"]), text_of(&version["name"])),
                    text_of(&spec["names"]["kind"]),
                );
                let validator = jsonschema::validator_for(&schema).expect("a JSON Schema");
                validators.insert(key, validator);
            }
        }
        Self(validators)
    }

    /// What is wrong with an object, one finding a line; nothing means that the API server would take
    /// it and keep every field.
    pub(crate) fn findings(&self, object: &Value) -> Vec<String> {
        let (api_version, kind) = (text_of(&object["apiVersion"]), text_of(&object["kind"]));
        let name = format!("{kind} {}", text_of(&object["metadata"]["name"]));
        let found = match self.0.get(&key(api_version, kind)) {
            Some(validator) => {
                let mut found: Vec<_> = validator
                    .iter_errors(object)
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                found.extend(lost::<ObjectMeta>(&object["metadata"], "/metadata"));
                if let Some(pod) = object.pointer("/spec/podTemplate/spec") {
                    // The CRD describes pods loosely; Kubernetes' own type is the second opinion.
                    found.extend(lost::<PodSpec>(pod, "/spec/podTemplate/spec"));
                }
                found
            }
            None => core_kind(api_version, kind, object),
        };
        found
            .into_iter()
            .map(|finding| format!("{name}: {finding}"))
            .collect()
    }
}

fn core_kind(api_version: &str, kind: &str, object: &Value) -> Vec<String> {
    match (api_version, kind) {
        ("v1", "ConfigMap") => lost::<ConfigMap>(object, ""),
        ("v1", "Namespace") => lost::<Namespace>(object, ""),
        ("v1", "Service") => lost::<Service>(object, ""),
        ("v1", "ServiceAccount") => lost::<ServiceAccount>(object, ""),
        ("apps/v1", "Deployment") => lost::<Deployment>(object, ""),
        ("networking.k8s.io/v1", "NetworkPolicy") => lost::<NetworkPolicy>(object, ""),
        ("node.k8s.io/v1", "RuntimeClass") => lost::<RuntimeClass>(object, ""),
        ("rbac.authorization.k8s.io/v1", "Role") => lost::<Role>(object, ""),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => lost::<RoleBinding>(object, ""),
        _ => vec![format!(
            "no schema is known for {api_version} {kind}: add one to schemas.rs"
        )],
    }
}

/// The fields that a type does not know, or why the value is none of that type.
fn lost<T: DeserializeOwned + Serialize>(value: &Value, path: &str) -> Vec<String> {
    match serde_json::from_value::<T>(value.clone()) {
        Err(error) => vec![format!("{path}: {error}")],
        Ok(typed) => {
            let kept = serde_json::to_value(&typed).expect("serialises");
            let mut found = Vec::new();
            compare(value, &kept, path, &mut found);
            found
        }
    }
}

fn compare(written: &Value, kept: &Value, path: &str, found: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (name, value) in written {
                let path = format!("{path}/{name}");
                match kept.get(name) {
                    Some(kept) => compare(value, kept, &path, found),
                    None => found.push(format!("{path}: unknown field")),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (index, (value, kept)) in written.iter().zip(kept).enumerate() {
                compare(value, kept, &format!("{path}/{index}"), found);
            }
        }
        _ if written == kept => {}
        _ => found.push(format!("{path}: {written} would become {kept}")),
    }
}

/// Closes a structural schema: an object with known properties has no others, as the API server's
/// pruning would make it, but with an error instead of silence.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    let keeps_unknown =
        object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if object.contains_key("properties")
        && !object.contains_key("additionalProperties")
        && !keeps_unknown
    {
        object.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for child in ["items", "additionalProperties"] {
        object.get_mut(child).map(close);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(close);
    }
}

fn key(api_version: &str, kind: &str) -> String {
    format!("{api_version}/{kind}")
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
