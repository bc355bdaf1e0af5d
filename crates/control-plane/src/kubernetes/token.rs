//! The bearer token with which an IAM role calls an EKS cluster.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4::SigningParams,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use carapace_core::ports::Trouble;

use crate::aws::chain;

/// How long the signature is good: what the AWS CLI asks for.
const LIFETIME: Duration = Duration::from_mins(1);

/// A token for the cluster of this name, signed with the credentials of `config`.
pub(super) async fn presign(config: &SdkConfig, cluster: &str) -> Result<String, Trouble> {
    let region = config
        .region()
        .ok_or_else(|| refused("no AWS region is set"))?;
    let provider = config
        .credentials_provider()
        .ok_or_else(|| refused("there are no AWS credentials"))?;
    let credentials =
        provider
            .provide_credentials()
            .await
            .map_err(|error| Trouble::Unavailable {
                service: "the credential provider",
                why: chain(&error),
            })?;
    presigned(credentials, region.as_ref(), cluster, SystemTime::now())
        .map_err(|error| refused(&chain(error.as_ref())))
}

fn refused(why: &str) -> Trouble {
    Trouble::Refused {
        service: "the signing of a cluster token",
        why: why.to_owned(),
    }
}

fn presigned(
    credentials: Credentials,
    region: &str,
    cluster: &str,
    now: SystemTime,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let identity = credentials.into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(settings)
        .build()?
        .into();
    // The regional endpoint: the global one is what EKS asks about only in us-east-1.
    let url =
        format!("https://sts.{region}.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15");
    // The cluster's name is signed too, so another cluster can't use the token.
    let headers = [("x-k8s-aws-id", cluster)];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &parameters)?.into_parts();
    let mut request = http::Request::get(&url).body(())?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(format!(
        "k8s-aws-v1.{}",
        URL_SAFE_NO_PAD.encode(request.uri().to_string())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_presigned_request_that_names_the_cluster_and_no_secret() {
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "the-secret",
            Some("the-session".into()),
            None,
            "test",
        );
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_007);
        let token = presigned(credentials, "eu-west-1", "carapace", now).unwrap();
        let url = URL_SAFE_NO_PAD
            .decode(token.strip_prefix("k8s-aws-v1.").unwrap())
            .unwrap();
        let url = String::from_utf8(url).unwrap();
        assert!(!url.contains("the-secret"), "{url}");
        insta::assert_snapshot!(url.replace('&', "\n&"));
    }
}
