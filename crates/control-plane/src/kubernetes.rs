//! The cluster's API server, reached as an IAM role.
//!
//! EKS takes a presigned `GetCallerIdentity` request as a bearer token: whoever holds it can prove,
//! for as long as the signature is good, that STS would recognise them. An access entry maps the
//! role to a Kubernetes group, and RBAC does the rest. No kubeconfig and no secret is stored
//! anywhere.

mod kinds;
mod token;

use std::{str::FromStr, sync::Arc, time::Duration};

use carapace_core::ports::Trouble;
use kube::{
    Client, Config,
    config::{
        AuthInfo, Cluster as ClusterInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo,
        NamedCluster, NamedContext,
    },
};
use tokio::{sync::Mutex, time::Instant};

pub(crate) use self::kinds::{PodMetadata, SandboxClaim, SandboxClaimSpec, WarmPoolRef};
use crate::{
    aws::{Aws, boxed, chain},
    claims::ClaimApi,
    config::Environment,
};

pub(crate) const SERVICE: &str = "the Kubernetes API server";

/// How long a client is used. Its token is good for 60 seconds, and a request needs a few.
const FRESH: Duration = Duration::from_secs(45);

/// The claims, from `CLUSTER_NAME`, `CLUSTER_ENDPOINT`, `CLUSTER_CA` and `AGENTS_NAMESPACE`.
pub fn claims(environment: &mut Environment<'_>, aws: &Arc<Aws>) -> Option<ClaimApi> {
    let name = environment.required("CLUSTER_NAME");
    let endpoint = environment.required::<Endpoint>("CLUSTER_ENDPOINT");
    let ca = environment.required("CLUSTER_CA");
    let namespace = environment.required("AGENTS_NAMESPACE");
    let address = ClusterAddress {
        name: name?,
        endpoint: endpoint?,
        ca: ca?,
    };
    Some(ClaimApi::new(
        Cluster::new(Arc::clone(aws), address),
        namespace?,
    ))
}

/// The cluster as the configuration names it.
#[derive(Debug, Clone)]
struct ClusterAddress {
    /// The EKS name of the cluster; the token is good for no other.
    name: String,
    /// `https://…`, without a path.
    endpoint: Endpoint,
    /// The certificate authority of the API server, as EKS gives it: PEM in base64.
    ca: String,
}

/// An HTTPS address. A token must not travel in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint(String);

/// A text that is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must begin with https://")]
struct NotHttps;

impl FromStr for Endpoint {
    type Err = NotHttps;

    fn from_str(text: &str) -> Result<Self, NotHttps> {
        if text.starts_with("https://") {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotHttps)
        }
    }
}

/// The cluster's API server.
pub struct Cluster {
    aws: Arc<Aws>,
    address: ClusterAddress,
    /// A client lives as long as its token: both are made together when the last has grown old.
    current: Mutex<Option<(Instant, Client)>>,
}

impl Cluster {
    /// The cluster at this address; nothing is called yet.
    fn new(aws: Arc<Aws>, address: ClusterAddress) -> Self {
        Self {
            aws,
            address,
            current: Mutex::new(None),
        }
    }

    /// A client whose token is good for a while yet.
    pub async fn client(&self) -> Result<Client, Trouble> {
        let mut current = self.current.lock().await;
        if let Some((made_at, client)) = current.as_ref()
            && made_at.elapsed() < FRESH
        {
            return Ok(client.clone());
        }
        let client = self.connect().await?;
        *current = Some((Instant::now(), client.clone()));
        Ok(client)
    }

    async fn connect(&self) -> Result<Client, Trouble> {
        let config = self.aws.config().await;
        let token = boxed(token::presign(config, &self.address.name)).await?;
        let refused = |error: &dyn std::error::Error| Trouble::Refused {
            service: SERVICE,
            why: format!("no client could be made for it: {}", chain(error)),
        };
        let kubeconfig = kubeconfig(&self.address, token);
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| refused(&error))?;
        config.proxy_url = None;
        config.connect_timeout = Some(Duration::from_secs(2));
        // A watch is quiet for as long as nothing happens; calls have a timeout of their own.
        config.read_timeout = None;
        Client::try_from(config).map_err(|error| refused(&error))
    }
}

fn kubeconfig(address: &ClusterAddress, token: String) -> Kubeconfig {
    let name = "cluster".to_owned();
    let cluster = ClusterInfo {
        server: Some(address.endpoint.0.clone()),
        certificate_authority_data: Some(address.ca.clone()),
        ..ClusterInfo::default()
    };
    let user = AuthInfo {
        token: Some(token.into()),
        ..AuthInfo::default()
    };
    let context = Context {
        cluster: name.clone(),
        user: Some(name.clone()),
        ..Context::default()
    };
    Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(cluster),
            ..Default::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(user),
            ..Default::default()
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(context),
            ..Default::default()
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from;

    #[test]
    fn everything_that_is_wrong_with_the_clusters_variables_is_said_at_once() {
        let aws = Arc::new(Aws::default());
        let read = |name: &str| match name {
            "CLUSTER_ENDPOINT" => Some("http://cluster".to_owned()),
            "CLUSTER_CA" => Some("LS0tLS1C".to_owned()),
            _ => None,
        };
        let wrong = from(&read, |environment| claims(environment, &aws).map(drop)).unwrap_err();
        insta::assert_snapshot!(
            wrong,
            @r#"the function is not configured: CLUSTER_NAME is not set; CLUSTER_ENDPOINT is "http://cluster": it must begin with https://; AGENTS_NAMESPACE is not set"#
        );
    }
}
