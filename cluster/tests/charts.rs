//! The charts, rendered by the real Helm, and the examples beside them, held against the real schemas.
//!
//! Needs `HELM` (a Helm 4 binary) and `AGENT_SANDBOX_MODULE` (the directory of the Go module
//! `sigs.k8s.io/agent-sandbox` at the version we deploy).

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is test code, helpers included"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use helm::{Chart, Rendered};
use schemas::CustomResources;

mod helm;
mod schemas;

const EXTENSIONS: &str = "extensions.agents.x-k8s.io/v1beta1";

fn agents() -> Chart {
    Chart::new("cluster/charts/agents", "agents")
}

fn production() -> Chart {
    agents().values("cluster/tests/values/production.yaml")
}

fn local() -> Chart {
    agents()
        .values("tests/local/values/agents.yaml")
        .values("tests/local/values/agents-scripted.yaml")
}

fn model_gateway() -> Chart {
    Chart::new("tests/stand-ins/chart", "model-gateway")
        .values("tests/local/values/model-gateway.yaml")
}

/// The stand-in that has the real LiteLLM behind it.
fn model_gateway_with_litellm() -> Chart {
    let file = "cluster/charts/model-gateway/files/config.yaml";
    let config =
        fs::read_to_string(helm::repository().join(file)).expect("LiteLLM's configuration");
    model_gateway()
        .values("tests/local/values/model-gateway-litellm.yaml")
        .set("litellm.config", &json!(config))
}

fn production_model_gateway() -> Chart {
    Chart::new("cluster/charts/model-gateway", "model-gateway")
        .values("cluster/tests/values/model-gateway.yaml")
}

fn slack() -> Chart {
    Chart::new("tests/stand-ins/slack-chart", "slack").values("tests/local/values/slack.yaml")
}

fn every_chart() -> Vec<Rendered> {
    [
        production(),
        local(),
        model_gateway(),
        model_gateway_with_litellm(),
        production_model_gateway(),
        slack(),
    ]
    .iter()
    .map(|chart| chart.render().expect("renders"))
    .collect()
}

/// The example network policies, by the namespace after which their file is named.
fn example_policies() -> BTreeMap<String, Rendered> {
    let directory = helm::repository().join("cluster/examples/network-policies");
    fs::read_dir(directory)
        .expect("the examples")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|file| {
            let namespace = file.file_stem().and_then(OsStr::to_str).expect("a name");
            (namespace.to_owned(), Rendered::of_file(&file))
        })
        .collect()
}

fn agent_sandbox_module() -> PathBuf {
    PathBuf::from(helm::tool(
        "AGENT_SANDBOX_MODULE",
        "the directory of the Go module sigs.k8s.io/agent-sandbox",
    ))
}

fn custom_resources() -> CustomResources {
    CustomResources::of_agent_sandbox(&agent_sandbox_module())
}

/// The pod templates of the sandboxes.
fn sandbox_pods(rendered: &Rendered) -> Vec<PodTemplateSpec> {
    let pods: Vec<PodTemplateSpec> = rendered
        .custom(EXTENSIONS, "SandboxTemplate")
        .into_iter()
        .map(|template| {
            serde_json::from_value(template["spec"]["podTemplate"].clone()).expect("a pod")
        })
        .collect();
    assert!(!pods.is_empty(), "the chart renders no SandboxTemplate");
    pods
}

/// The specs of every pod that any of our charts makes.
fn every_pod() -> Vec<PodSpec> {
    let mut pods = Vec::new();
    for rendered in every_chart() {
        for deployment in rendered.of::<Deployment>() {
            pods.extend(deployment.spec.template.spec);
        }
        if !rendered.custom(EXTENSIONS, "SandboxTemplate").is_empty() {
            pods.extend(
                sandbox_pods(&rendered)
                    .into_iter()
                    .filter_map(|pod| pod.spec),
            );
        }
    }
    assert_eq!(
        pods.len(),
        7,
        "two templates in production, one locally, three model gateways and Slack"
    );
    pods
}

fn is_an_agents(pod: &PodSpec) -> bool {
    pod.containers
        .iter()
        .any(|container| container.name == "agentd")
}

fn container<'a>(pod: &'a PodSpec, name: &str) -> &'a Container {
    pod.containers
        .iter()
        .find(|container| container.name == name)
        .expect(name)
}

fn mounts(container: &Container) -> BTreeMap<&str, (&str, bool)> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    mounts
        .iter()
        .map(|mount| {
            (
                mount.name.as_str(),
                (mount.mount_path.as_str(), mount.read_only == Some(true)),
            )
        })
        .collect()
}

fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.cloned().unwrap_or_default();
    assert_eq!(
        selector.match_expressions, None,
        "this test reads matchLabels only"
    );
    selector
        .match_labels
        .unwrap_or_default()
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

fn policy<'a>(policies: &'a [NetworkPolicy], name: &str) -> Option<&'a NetworkPolicy> {
    policies
        .iter()
        .find(|policy| policy.metadata.name.as_deref() == Some(name))
}

fn refusal(chart: &Chart) -> String {
    chart.render().expect_err("Helm has to refuse these values")
}

#[test]
fn a_production_cluster_renders_as_recorded() {
    insta::assert_snapshot!(production().render().expect("renders").text);
}

#[test]
fn the_local_stack_renders_as_recorded() {
    insta::assert_snapshot!(local().render().expect("renders").text);
}

#[test]
fn the_model_gateways_stand_in_renders_as_recorded() {
    insta::assert_snapshot!(model_gateway().render().expect("renders").text);
}

#[test]
fn the_stand_in_before_litellm_renders_as_recorded() {
    insta::assert_snapshot!(model_gateway_with_litellm().render().expect("renders").text);
}

#[test]
fn a_production_model_gateway_renders_as_recorded() {
    insta::assert_snapshot!(production_model_gateway().render().expect("renders").text);
}

#[test]
fn slacks_stand_in_renders_as_recorded() {
    insta::assert_snapshot!(slack().render().expect("renders").text);
}

#[test]
fn the_api_server_would_keep_every_field_of_every_object() {
    let schemas = custom_resources();
    let findings: Vec<String> = every_chart()
        .iter()
        .chain(example_policies().values())
        .flat_map(|rendered| rendered.objects.iter())
        .flat_map(|object| schemas.findings(object))
        .collect();
    assert_eq!(findings, Vec::<String>::new());
}

#[test]
fn a_misspelt_or_misplaced_field_is_found_wherever_it_is() {
    let schemas = custom_resources();
    let rendered = production().render().expect("renders");
    let spoilt = |kind: &str, pointer: &str, value: Value| -> Vec<String> {
        let object = rendered
            .objects
            .iter()
            .find(|object| object["kind"] == kind)
            .expect(kind);
        let mut object = object.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).expect(parent)[field] = value;
        schemas.findings(&object)
    };

    insta::assert_json_snapshot!([
        spoilt(
            "SandboxTemplate",
            "/spec/networkPolicyManagment",
            json!("Unmanaged")
        ),
        spoilt(
            "SandboxTemplate",
            "/spec/networkPolicyManagement",
            json!("None")
        ),
        spoilt(
            "SandboxTemplate",
            "/spec/podTemplate/spec/hostNetwerk",
            json!(true)
        ),
        spoilt(
            "SandboxTemplate",
            "/spec/podTemplate/spec/containers/0/securityContext/readonlyRootFilesystem",
            json!(true)
        ),
        spoilt(
            "SandboxTemplate",
            "/spec/podTemplate/spec/terminationGracePeriodSeconds",
            json!("60")
        ),
        spoilt("SandboxTemplate", "/metadata/label", json!({})),
        spoilt("SandboxWarmPool", "/spec/replicas", json!(-1)),
        spoilt("NetworkPolicy", "/spec/policyType", json!(["Egress"])),
        spoilt("Role", "/rules/0/verb", json!(["get"])),
        spoilt("RuntimeClass", "/kind", json!("RuntimeKlass")),
    ]);
}

#[test]
fn only_agentd_sees_the_users_key_and_the_trusted_keys() {
    for pod in every_pod().iter().filter(|pod| is_an_agents(pod)) {
        assert_eq!(pod.init_containers, None);
        assert_eq!(
            pod.share_process_namespace,
            Some(false),
            "/proc would show agentd's memory"
        );

        let agentd = mounts(container(pod, "agentd"));
        assert_eq!(agentd["agentd-private"], ("/var/lib/agentd", false));
        assert_eq!(agentd["agentd-jwks"], ("/etc/agentd", true));

        let agent = mounts(container(pod, "agent"));
        let names: Vec<_> = agent.keys().copied().collect();
        assert_eq!(names, ["agent-tmp", "config", "state", "workspace"]);
        assert_eq!(
            agent["config"],
            ("/config", true),
            "the agent must not rewrite its own rules"
        );

        let volumes = pod.volumes.as_deref().expect("volumes");
        let private = volumes
            .iter()
            .find(|volume| volume.name == "agentd-private")
            .expect("a volume");
        let private = private.empty_dir.as_ref().expect("an emptyDir");
        assert_eq!(
            private.medium.as_deref(),
            Some("Memory"),
            "a key on a disk outlives its pod"
        );
    }
}

#[test]
fn the_agents_pod_is_ready_when_agentd_says_so() {
    for pod in every_pod().iter().filter(|pod| is_an_agents(pod)) {
        let agentd = container(pod, "agentd");
        let port = &agentd.ports.as_deref().expect("ports")[0];
        assert_eq!(port.container_port, 18790);
        let probes = [&agentd.startup_probe, &agentd.readiness_probe];
        for probe in probes.map(|probe| probe.as_ref().expect("a probe")) {
            let get = probe.http_get.as_ref().expect("an HTTP probe");
            assert_eq!(get.path.as_deref(), Some("/readyz"));
            assert_eq!(
                get.port,
                IntOrString::String(port.name.clone().expect("a name"))
            );
        }
        let agent = container(pod, "agent");
        assert!(
            agent.ports.is_none(),
            "OpenClaw listens on loopback, agentd is the only way in"
        );
        assert!(agent.readiness_probe.is_none() && agent.startup_probe.is_none());
    }
}

#[test]
fn no_secret_reaches_a_container_through_its_environment() {
    for pod in every_pod() {
        for container in &pod.containers {
            assert_eq!(container.env_from, None);
            for variable in container.env.as_deref().unwrap_or_default() {
                let source = variable.value_from.clone().unwrap_or_default();
                // LiteLLM takes these from nowhere else, and no agent's code runs beside it.
                let litellms = ["LITELLM_MASTER_KEY", "DATABASE_URL", "LITELLM_SALT_KEY"];
                if container.name == "litellm" && litellms.contains(&variable.name.as_str()) {
                    assert_eq!(variable.value, None, "{}", variable.name);
                    continue;
                }
                assert_eq!(source.secret_key_ref, None, "{}", variable.name);
                assert_eq!(source.config_map_key_ref, None, "{}", variable.name);
            }
        }
    }
}

/// The profile `restricted`, which the namespaces also enforce: here it fails before a deployment does.
#[test]
fn every_pod_has_no_token_no_root_and_no_capability() {
    for pod in every_pod() {
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.enable_service_links, Some(false));
        assert_eq!(pod.host_network.or(pod.host_pid).or(pod.host_ipc), None);
        let context = pod.security_context.expect("a security context");
        assert_eq!(
            (context.run_as_non_root, context.run_as_user),
            (Some(true), Some(1000))
        );
        assert_eq!(
            (context.run_as_group, context.fs_group),
            (Some(1000), Some(1000))
        );
        assert_eq!(
            context.seccomp_profile.expect("a profile").type_,
            "RuntimeDefault"
        );
        for container in &pod.containers {
            let context = container
                .security_context
                .clone()
                .expect("a security context");
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.privileged, Some(false));
            assert_eq!(context.read_only_root_filesystem, Some(true));
            assert_eq!(context.run_as_user, None, "the pod's uid holds");
            let capabilities = context.capabilities.expect("capabilities");
            assert_eq!(
                (capabilities.drop, capabilities.add),
                (Some(vec!["ALL".to_owned()]), None)
            );
        }
        for volume in pod.volumes.unwrap_or_default() {
            let harmless = volume.empty_dir.is_some()
                || volume.config_map.is_some()
                || volume.secret.is_some();
            assert!(harmless, "{} reaches outside of the pod", volume.name);
        }
    }
    let gateway = Chart::new("tests/stand-ins/chart", "model-gateway");
    let slack = Chart::new("tests/stand-ins/slack-chart", "slack");
    for rendered in [production(), production_model_gateway(), gateway, slack]
        .iter()
        .map(|chart| chart.render().expect("renders"))
    {
        let namespace = rendered.custom("v1", "Namespace").remove(0);
        let labels = &namespace["metadata"]["labels"];
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    }
}

#[test]
fn every_policy_selects_pods_that_nobody_has_claimed_yet() {
    for rendered in [production(), local()]
        .iter()
        .map(|chart| chart.render().expect("renders"))
    {
        let policies = rendered.of::<NetworkPolicy>();
        for pod in sandbox_pods(&rendered) {
            let labels = pod
                .metadata
                .and_then(|metadata| metadata.labels)
                .expect("labels");
            for policy in &policies {
                let spec = policy.spec.as_ref().expect("a spec");
                assert!(
                    selects(spec.pod_selector.as_ref(), &labels),
                    "{:?}",
                    policy.metadata.name
                );
            }
        }
        for template in rendered.custom(EXTENSIONS, "SandboxTemplate") {
            assert_eq!(template["spec"]["networkPolicyManagement"], "Unmanaged");
        }
    }
}

#[test]
fn what_no_policy_allows_is_denied_in_both_directions_even_without_a_label() {
    for rendered in every_chart() {
        let policies = rendered.of::<NetworkPolicy>();
        let closed = policies.iter().any(|policy| {
            let spec = policy.spec.clone().unwrap_or_default();
            selects(spec.pod_selector.as_ref(), &BTreeMap::new())
                && spec.policy_types == Some(vec!["Ingress".to_owned(), "Egress".to_owned()])
                && spec.egress.is_none()
        });
        assert!(closed, "a pod without labels would have a network");
        policies.into_iter().for_each(assert_every_rule_is_bounded);
    }
}

/// Every rule says who and on which port: what it leaves out would mean all there is.
fn assert_every_rule_is_bounded(policy: NetworkPolicy) {
    let name = policy.metadata.name;
    let spec = policy.spec.expect("a spec");
    for rule in spec.ingress.unwrap_or_default() {
        let peers = rule.from.unwrap_or_default();
        assert!(!peers.is_empty(), "{name:?} admits everybody");
        assert!(
            rule.ports.is_some_and(|ports| !ports.is_empty()),
            "{name:?} admits on every port"
        );
    }
    for rule in spec.egress.unwrap_or_default() {
        let peers: Vec<NetworkPolicyPeer> = rule.to.unwrap_or_default();
        assert!(!peers.is_empty(), "{name:?} lets out to everywhere");
        assert!(
            rule.ports.is_some_and(|ports| !ports.is_empty()),
            "{name:?} lets out on every port"
        );
    }
}

/// The one policy of an example, which is in the namespace the file is named after.
fn example(namespace: &str) -> NetworkPolicySpec {
    let policies = example_policies()[namespace].of::<NetworkPolicy>();
    let [policy] = policies.as_slice() else {
        panic!("{namespace} has {} policies", policies.len())
    };
    assert_eq!(policy.metadata.namespace.as_deref(), Some(namespace));
    policy.spec.clone().expect("a spec")
}

fn ports(ports: Option<Vec<NetworkPolicyPort>>) -> Vec<(String, i32)> {
    ports
        .unwrap_or_default()
        .into_iter()
        .map(|port| match (port.protocol, port.port) {
            (Some(protocol), Some(IntOrString::Int(number))) => (protocol, number),
            other => panic!("a port by protocol and number, not {other:?}"),
        })
        .collect()
}

fn tcp(port: i32) -> Vec<(String, i32)> {
    vec![("TCP".to_owned(), port)]
}

/// The addresses that a rule names.
fn blocks(peers: Option<Vec<NetworkPolicyPeer>>) -> Vec<String> {
    peers
        .unwrap_or_default()
        .into_iter()
        .filter_map(|peer| Some(peer.ip_block?.cidr))
        .collect()
}

#[test]
fn the_example_policies_isolate_in_both_directions_and_open_nothing_wholly() {
    let examples = example_policies();
    assert_eq!(
        examples.keys().collect::<Vec<_>>(),
        ["agent-sandbox-system", "kube-system", "model-gateway"]
    );
    for (namespace, manifests) in examples {
        assert_eq!(manifests.objects.len(), 1);
        assert_eq!(
            example(&namespace).policy_types,
            Some(vec!["Ingress".to_owned(), "Egress".to_owned()])
        );
        manifests
            .of::<NetworkPolicy>()
            .into_iter()
            .for_each(assert_every_rule_is_bounded);
    }
}

#[test]
fn the_example_for_coredns_is_for_the_pods_that_agents_may_ask() {
    let policies = production()
        .render()
        .expect("renders")
        .of::<NetworkPolicy>();
    let asked = policy(&policies, "agent-to-dns").and_then(|policy| policy.spec.clone());
    let asked = asked.and_then(|spec| spec.egress).expect("rules").remove(0);
    let peer = asked.to.expect("peers").remove(0);
    assert_eq!(
        peer.namespace_selector.and_then(|it| it.match_labels),
        Some(BTreeMap::from([(
            "kubernetes.io/metadata.name".to_owned(),
            "kube-system".to_owned()
        )]))
    );

    let coredns = example("kube-system");
    assert_eq!(coredns.pod_selector, peer.pod_selector);
    let answers = coredns.ingress.expect("rules").remove(0);
    assert_eq!(ports(answers.ports), ports(asked.ports));
    let everybody = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    assert_eq!(answers.from, Some(vec![everybody]));
}

#[test]
fn the_example_for_agent_sandbox_is_for_its_controller_and_the_port_of_its_webhook() {
    let manifest =
        Rendered::of_file(&agent_sandbox_module().join("k8s/extensions.controller.yaml"));
    let controller = manifest.of::<Deployment>().remove(0);
    let namespace = controller.metadata.namespace.expect("a namespace");
    let pod = controller.spec.template;
    let labels = pod.metadata.and_then(|metadata| metadata.labels);
    let container = pod.spec.expect("a spec").containers.remove(0);
    let webhook = container
        .ports
        .into_iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some("webhook"))
        .expect("a webhook");

    let policy = example(&namespace);
    assert!(selects(
        policy.pod_selector.as_ref(),
        &labels.expect("labels")
    ));
    let called = policy.ingress.expect("rules").remove(0);
    assert_eq!(ports(called.ports), tcp(webhook.container_port));
    // It needs the API server as CoreDNS does, from which it is also called.
    let api_server = |egress: Option<_>| {
        let mut rules: Vec<_> = egress.expect("rules");
        rules.retain(|rule: &NetworkPolicyEgressRule| ports(rule.ports.clone()) == tcp(443));
        blocks(rules.remove(0).to)
    };
    let reached = api_server(policy.egress);
    assert_eq!(reached, api_server(example("kube-system").egress));
    let services = ["172.20.0.1/32", "10.100.0.1/32"];
    assert_eq!(reached[..2], services);
    assert_eq!(reached[2..], blocks(called.from));
}

#[test]
fn the_example_for_the_model_gateway_is_for_the_pods_that_agents_may_call() {
    let rendered = production().render().expect("renders");
    let policies = rendered.of::<NetworkPolicy>();
    let called = policy(&policies, "agent-to-model-gateway").and_then(|policy| policy.spec.clone());
    let called = called
        .and_then(|spec| spec.egress)
        .expect("rules")
        .remove(0);

    let gateway = example("model-gateway");
    let peer = called.to.expect("peers").remove(0);
    assert_eq!(gateway.pod_selector, peer.pod_selector);
    let labels = peer.namespace_selector.and_then(|it| it.match_labels);
    assert_eq!(
        labels.expect("labels")["kubernetes.io/metadata.name"],
        "model-gateway"
    );
    let answers = gateway.ingress.expect("rules").remove(0);
    assert_eq!(ports(answers.ports), ports(called.ports));
    let agents = &answers.from.expect("peers")[0];
    for pod in sandbox_pods(&rendered) {
        let labels = pod.metadata.and_then(|metadata| metadata.labels);
        assert!(selects(
            agents.pod_selector.as_ref(),
            &labels.expect("labels")
        ));
    }
    let namespace = rendered.custom("v1", "Namespace").remove(0);
    assert_eq!(
        agents
            .namespace_selector
            .as_ref()
            .and_then(|it| it.match_labels.as_ref())
            .expect("labels")["kubernetes.io/metadata.name"],
        namespace["metadata"]["name"]
    );
}

#[test]
fn agents_reach_no_private_and_no_link_local_address() {
    let forbidden = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "100.64.0.0/10",
    ];
    let mut ranges = 0;
    for rendered in [production(), local()]
        .iter()
        .map(|chart| chart.render().expect("renders"))
    {
        for policy in rendered.of::<NetworkPolicy>() {
            for peer in policy
                .spec
                .into_iter()
                .flat_map(|spec| spec.egress.unwrap_or_default())
                .flat_map(|rule| rule.to.unwrap_or_default())
            {
                let Some(block) = peer.ip_block else { continue };
                ranges += 1;
                assert_eq!(
                    block.cidr, "0.0.0.0/0",
                    "IPv6 stays denied as long as no rule names it"
                );
                let except = block.except.expect("exceptions");
                for range in forbidden {
                    assert!(
                        except.iter().any(|excepted| excepted == range),
                        "{range} is reachable"
                    );
                }
            }
        }
    }
    assert_eq!(ranges, 2, "one range for each of the two clusters");
}

#[test]
fn without_an_internet_rule_agents_reach_nothing_but_the_gateway_and_dns() {
    let rendered = production()
        .set("egress.internet.enabled", &json!(false))
        .render()
        .expect("renders");
    let peers: Vec<_> = rendered
        .of::<NetworkPolicy>()
        .into_iter()
        .filter_map(|policy| policy.spec?.egress)
        .flatten()
        .flat_map(|rule| rule.to.unwrap_or_default())
        .collect();
    assert_eq!(peers.len(), 2);
    assert!(peers.iter().all(|peer| peer.ip_block.is_none()));
}

#[test]
fn nobody_may_call_agentd_until_the_control_planes_range_is_known() {
    let open = production()
        .render()
        .expect("renders")
        .of::<NetworkPolicy>();
    let rule = policy(&open, "control-plane-to-agentd").and_then(|policy| policy.spec.clone());
    let rule = rule.and_then(|spec| spec.ingress).expect("rules").remove(0);
    let ranges: Vec<_> = rule
        .from
        .expect("peers")
        .into_iter()
        .filter_map(|peer| Some(peer.ip_block?.cidr))
        .collect();
    assert_eq!(ranges, ["10.0.16.0/20", "10.0.32.0/20"]);
    assert_eq!(
        rule.ports.expect("ports")[0].port,
        Some(IntOrString::Int(18790))
    );

    let closed = production()
        .set("controlPlane.cidrs", &json!([]))
        .render()
        .expect("renders");
    assert!(policy(&closed.of::<NetworkPolicy>(), "control-plane-to-agentd").is_none());
}

#[test]
fn agents_and_the_model_gateway_agree_on_pods_port_and_namespace() {
    let agents = local().render().expect("renders");
    let gateway = model_gateway().render().expect("renders");
    let deployment = gateway.of::<Deployment>().remove(0);
    let pod = deployment.spec.template;
    let gateway_labels = pod
        .metadata
        .and_then(|metadata| metadata.labels)
        .expect("labels");
    let gateway_port = pod.spec.expect("a spec").containers[0]
        .ports
        .as_deref()
        .expect("ports")[0]
        .container_port;

    let policies = agents.of::<NetworkPolicy>();
    let egress = policy(&policies, "agent-to-model-gateway").and_then(|policy| policy.spec.clone());
    let rule = egress
        .and_then(|spec| spec.egress)
        .expect("rules")
        .remove(0);
    let peer = &rule.to.expect("peers")[0];
    assert!(selects(peer.pod_selector.as_ref(), &gateway_labels));
    let namespace =
        |name: &str| BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
    assert!(selects(
        peer.namespace_selector.as_ref(),
        &namespace("model-gateway")
    ));
    assert!(!selects(
        peer.namespace_selector.as_ref(),
        &namespace("kube-system")
    ));
    assert_eq!(
        rule.ports.expect("ports")[0].port,
        Some(IntOrString::Int(gateway_port))
    );

    let agent_labels = sandbox_pods(&agents)
        .remove(0)
        .metadata
        .and_then(|metadata| metadata.labels);
    let agent_labels = agent_labels.expect("labels");
    let ingress = gateway
        .of::<NetworkPolicy>()
        .remove(0)
        .spec
        .and_then(|spec| spec.ingress);
    let peers = ingress.expect("rules").remove(0).from.expect("peers");
    assert!(selects(peers[0].pod_selector.as_ref(), &agent_labels));
    assert!(selects(
        peers[0].namespace_selector.as_ref(),
        &namespace("agents")
    ));
    assert_eq!(
        peers[1].ip_block.as_ref().expect("a range").cidr,
        "10.244.0.1/32"
    );

    let service = gateway.custom("v1", "Service").remove(0);
    let url = format!(
        "http://{}:4000",
        service["spec"]["clusterIP"].as_str().expect("an address")
    );
    let variable = "AGENTD_MODEL_GATEWAY_URL";
    let pod = sandbox_pods(&agents).remove(0).spec.expect("a spec");
    let env = container(&pod, "agentd")
        .env
        .clone()
        .expect("an environment");
    let given = env
        .into_iter()
        .find(|entry| entry.name == variable)
        .and_then(|entry| entry.value);
    assert_eq!(given, Some(url));
}

#[test]
fn a_function_may_touch_claims_and_nothing_that_looks_into_a_vm() {
    let rendered = production().render().expect("renders");
    let granted: BTreeMap<String, Vec<String>> = rendered
        .of::<Role>()
        .into_iter()
        .map(|role| {
            let rules = role.rules.unwrap_or_default().into_iter();
            let lines = rules.flat_map(|rule| {
                let verbs = rule.verbs.join(" ");
                let resources = rule.resources.unwrap_or_default();
                resources
                    .into_iter()
                    .map(move |resource| format!("{resource}: {verbs}"))
                    .collect::<Vec<_>>()
            });
            (role.metadata.name.unwrap_or_default(), lines.collect())
        })
        .collect();
    insta::assert_json_snapshot!(granted);

    let groups: Vec<_> = rendered
        .of::<RoleBinding>()
        .into_iter()
        .flat_map(|binding| {
            let role = binding.role_ref.name;
            binding
                .subjects
                .unwrap_or_default()
                .into_iter()
                .map(move |subject| (role.clone(), subject.name))
        })
        .collect();
    let expected = [
        ("sandbox-claim", "carapace:sandbox-claim"),
        ("sandbox-bind", "carapace:sandbox-bind"),
        ("sandbox-retire", "carapace:sandbox-retire"),
        ("conversation-turn", "carapace:conversation-turn"),
    ];
    assert_eq!(
        groups,
        expected.map(|(role, group)| (role.to_owned(), group.to_owned()))
    );
    assert!(
        rendered
            .objects
            .iter()
            .all(|object| object["kind"] != "ClusterRole")
    );
}

#[test]
fn a_pool_with_a_template_of_its_own_leaves_the_others_alone() {
    let rendered = production().render().expect("renders");
    let references: Vec<_> = rendered
        .custom(EXTENSIONS, "SandboxWarmPool")
        .into_iter()
        .map(|pool| {
            (
                pool["metadata"]["name"].clone(),
                pool["spec"]["sandboxTemplateRef"]["name"].clone(),
            )
        })
        .collect();
    assert_eq!(
        references,
        [
            (json!("agents"), json!("agents")),
            (json!("canary"), json!("canary"))
        ]
    );

    let templates = rendered.custom(EXTENSIONS, "SandboxTemplate");
    let mut canary = templates[1]["spec"].clone();
    let pod = canary["podTemplate"]["spec"]
        .as_object_mut()
        .expect("a pod");
    assert_eq!(
        pod.remove("nodeSelector"),
        Some(json!({ "carapace.dev/channel": "candidate" }))
    );
    assert!(pod.remove("tolerations").is_some());
    assert_eq!(
        canary, templates[0]["spec"],
        "beside the nodes there is no difference"
    );
}

#[test]
fn values_that_would_not_work_are_refused_with_the_reason() {
    let two = json!([{ "name": "agents", "replicas": 1 }, { "name": "agents", "replicas": 2 }]);
    let long = json!([{ "name": "a".repeat(58), "replicas": 1 }]);
    let private = json!(r#"{"keys":[{"kty":"EC","crv":"P-256","x":"x","y":"y","d":"d"}]}"#);
    for (chart, reason) in [
        (agents(), "images.agentd.repository is empty"),
        (
            production().set("image", &json!({})),
            "additional properties 'image' not allowed",
        ),
        (
            production().set("pools[0].name", &json!("Agents_1")),
            "at '/pools/0/name'",
        ),
        (production().set("pools", &long), "at '/pools/0/name'"),
        (production().set("pools", &json!([])), "at '/pools'"),
        (
            production().set("pools", &two),
            "pools: the name \"agents\" occurs twice",
        ),
        (
            production().set("controlPlane.cidrs", &json!(["10.0.0.0"])),
            "at '/controlPlane/cidrs/0'",
        ),
        (
            production().set("controlPlane.cidrs", &json!(["0.0.0.0/0"])),
            "which is everybody",
        ),
        (
            production().set("controlPlane.jwks", &json!("-----BEGIN")),
            "no JSON Web Key Set",
        ),
        (
            production().set("controlPlane.jwks", &private),
            "contains a private key",
        ),
        (
            production().set("controlPlane.groups.sandboxBind", &json!("system:masters")),
            "groups under system: belong to Kubernetes",
        ),
        (
            production().set("egress.internet.exceptCidrs", &json!(["10.0.0.0/8"])),
            "exceptCidrs must contain 172.16.0.0/12",
        ),
        (
            production().set(
                "modelGateway.podLabels",
                &json!({ "app.kubernetes.io/name": null }),
            ),
            "at '/modelGateway/podLabels'",
        ),
        (
            production().set("images.agent.digest", &json!("sha256:abc")),
            "at '/images/agent/digest'",
        ),
        (
            model_gateway().set("replicas", &json!(2)),
            "additional properties 'replicas' not allowed",
        ),
    ] {
        let said = refusal(&chart);
        assert!(
            said.contains(reason),
            "expected {reason:?}, but Helm said: {said}"
        );
    }
}

/// LiteLLM's configuration, as the chart gives it to LiteLLM.
fn litellm_config(rendered: &Rendered) -> Value {
    let map = rendered.custom("v1", "ConfigMap").remove(0);
    let text = map["data"]["config.yaml"].as_str().expect("a file");
    serde_saphyr::from_str(text).expect("YAML")
}

#[test]
fn litellm_gets_the_configuration_that_is_tested_and_a_guardrail_only_if_one_is_named() {
    let file = helm::repository().join("cluster/charts/model-gateway/files/config.yaml");
    let text = fs::read_to_string(file).expect("LiteLLM's configuration");
    let tested: Value = serde_saphyr::from_str(&text).expect("YAML");
    let without = production_model_gateway()
        .set("bedrock.guardrail", &json!({"id": "", "version": ""}))
        .render()
        .expect("renders");
    assert_eq!(litellm_config(&without), tested);

    let mut with = litellm_config(&production_model_gateway().render().expect("renders"));
    let models = with["model_list"].as_array_mut().expect("models");
    for model in models {
        let params = model["litellm_params"].as_object_mut().expect("parameters");
        let guardrail = params.remove("guardrailConfig").expect("a guardrail");
        assert_eq!(guardrail["guardrailIdentifier"], "gr1a2b3c4d5e");
        assert_eq!(guardrail["guardrailVersion"], "3");
    }
    assert_eq!(with, tested);
    assert_eq!(
        litellm_config(&model_gateway_with_litellm().render().expect("renders")),
        tested,
        "the local stack runs the same"
    );
}

#[test]
fn agents_ask_for_a_model_that_litellm_has() {
    let agents = production().render().expect("renders");
    let pod = sandbox_pods(&agents).remove(0).spec.expect("a spec");
    let env = container(&pod, "agentd").env.clone().expect("variables");
    let asked = env.iter().find(|entry| entry.name == "AGENTD_MODEL");
    let asked = asked
        .and_then(|entry| entry.value.as_deref())
        .expect("a model");
    let config = litellm_config(&production_model_gateway().render().expect("renders"));
    let models = config["model_list"].as_array().expect("models");
    assert!(
        models.iter().any(|model| model["model_name"] == asked),
        "{asked}"
    );
}

#[test]
fn the_model_gateway_has_no_aws_key_and_reaches_nothing_but_what_it_needs() {
    let rendered = production_model_gateway().render().expect("renders");
    assert!(!rendered.text.contains("AWS_ACCESS_KEY_ID"));
    assert!(!rendered.text.contains("AWS_SECRET_ACCESS_KEY"));
    let policies = rendered.of::<NetworkPolicy>();
    let all = policy(&policies, "deny-all").and_then(|policy| policy.spec.clone());
    let all = all.expect("a policy");
    assert_eq!((all.ingress, all.egress), (None, None));
    let litellm = policy(&policies, "litellm").and_then(|policy| policy.spec.clone());
    let egress = litellm.and_then(|spec| spec.egress).expect("rules");
    let ranges: Vec<String> = egress
        .iter()
        .flat_map(|rule| rule.to.clone().unwrap_or_default())
        .filter_map(|peer| peer.ip_block.map(|block| block.cidr))
        .collect();
    assert_eq!(
        ranges,
        ["169.254.170.23/32", "10.0.48.0/20", "10.0.64.0/24"]
    );

    let closed = Chart::new("cluster/charts/model-gateway", "model-gateway")
        .set("bedrock.region", &json!("eu-west-1"))
        .set("bedrock.model", &json!("m"))
        .render()
        .expect("renders");
    let policies = closed.of::<NetworkPolicy>();
    let litellm = policy(&policies, "litellm").and_then(|policy| policy.spec.clone());
    let egress = litellm.and_then(|spec| spec.egress).expect("rules");
    assert_eq!(egress.len(), 2, "DNS and Pod Identity: {egress:?}");
}

#[test]
fn a_model_gateway_without_a_model_or_with_half_a_guardrail_is_refused() {
    for (key, value, reason) in [
        ("bedrock.region", json!(""), "bedrock.region is empty"),
        ("bedrock.model", json!(""), "bedrock.model is empty"),
        (
            "bedrock.guardrail.version",
            json!(""),
            "guardrail.version is empty",
        ),
        ("bedrock.guardrail.id", json!(""), "guardrail.id is empty"),
        (
            "controlPlane.cidrs",
            json!(["0.0.0.0/0"]),
            "which is everybody",
        ),
        ("replicas", json!(0), "replicas"),
        ("masterKeys", json!({}), "masterKeys"),
    ] {
        let said = refusal(&production_model_gateway().set(key, &value));
        assert!(said.contains(reason), "{key}: {said}");
    }
}
