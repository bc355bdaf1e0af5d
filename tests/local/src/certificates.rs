//! The stack's own certificate authority, and a certificate for each part that talks to the API.
//!
//! Every stack makes its own, so nothing of one stack opens another, and no credential is fixed.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the certificate of {subject}: {source}")]
    Sign {
        subject: String,
        source: rcgen::Error,
    },
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// The authority. Its key never leaves the process that starts the stack.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Who a client is for Kubernetes: the user is the common name, the groups are the organizations.
pub(crate) struct Identity<'a> {
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [&'a str],
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(dir: &Path) -> Result<Self, CertificateError> {
        fs::create_dir_all(dir).map_err(|source| CertificateError::Write {
            path: dir.to_owned(),
            source,
        })?;
        let mut params = params("carapace-local", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = KeyPair::generate()
            .and_then(|key| CertifiedIssuer::self_signed(params, key))
            .map_err(sign_error("carapace-local"))?;
        let authority = Self {
            dir: dir.to_owned(),
            issuer,
        };
        write(&authority.path(), authority.pem().as_bytes())?;
        Ok(authority)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A certificate for a server under each of `names`, host names and addresses alike.
    pub(crate) fn server(
        &self,
        file: &str,
        names: &[&str],
    ) -> Result<Certificate, CertificateError> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(sign_error(file))?;
        params.distinguished_name = subject(file, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, &params)
    }

    /// A certificate for a client.
    pub(crate) fn client(
        &self,
        file: &str,
        identity: &Identity<'_>,
    ) -> Result<Certificate, CertificateError> {
        let mut params = params(identity.user, identity.groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, &params)
    }

    /// A kubeconfig whose holder is `identity`.
    pub(crate) fn kubeconfig(
        &self,
        path: &Path,
        server: &str,
        identity: &Identity<'_>,
    ) -> Result<(), CertificateError> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let client = self.client(&file, identity)?;
        let read = |path: &Path| {
            fs::read(path)
                .map(|bytes| STANDARD.encode(bytes))
                .map_err(|source| CertificateError::Write {
                    path: path.to_owned(),
                    source,
                })
        };
        let user = json!({
            "client-certificate-data": read(&client.certificate)?,
            "client-key-data": read(&client.key)?,
        });
        self.kubeconfig_of(path, server, &user)
    }

    /// A kubeconfig whose holder has a bearer token.
    pub(crate) fn kubeconfig_with_token(
        &self,
        path: &Path,
        server: &str,
        token: &str,
    ) -> Result<(), CertificateError> {
        self.kubeconfig_of(path, server, &json!({ "token": token }))
    }

    fn kubeconfig_of(
        &self,
        path: &Path,
        server: &str,
        user: &serde_json::Value,
    ) -> Result<(), CertificateError> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "carapace",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": STANDARD.encode(self.pem()),
                },
            }],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "carapace", "context": { "cluster": "carapace", "user": "user" } }],
            "current-context": "carapace",
        });
        write(path, format!("{config:#}\n").as_bytes())
    }

    /// A key pair without a certificate, for signing service account tokens.
    pub(crate) fn key_pair(&self, file: &str) -> Result<Certificate, CertificateError> {
        let key = KeyPair::generate().map_err(sign_error(file))?;
        let paths = self.paths(file, "pub");
        write(&paths.certificate, key.public_key_pem().as_bytes())?;
        write(&paths.key, key.serialize_pem().as_bytes())?;
        Ok(paths)
    }

    fn sign(
        &self,
        file: &str,
        params: &CertificateParams,
    ) -> Result<Certificate, CertificateError> {
        let key = KeyPair::generate().map_err(sign_error(file))?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(sign_error(file))?;
        let paths = self.paths(file, "crt");
        write(&paths.certificate, certificate.pem().as_bytes())?;
        write(&paths.key, key.serialize_pem().as_bytes())?;
        Ok(paths)
    }

    fn paths(&self, file: &str, extension: &str) -> Certificate {
        Certificate {
            certificate: self.dir.join(format!("{file}.{extension}")),
            key: self.dir.join(format!("{file}.key")),
        }
    }
}

fn params(user: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(user, groups);
    params
}

fn subject(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    name
}

fn sign_error(subject: &str) -> impl FnOnce(rcgen::Error) -> CertificateError {
    let subject = subject.to_owned();
    move |source| CertificateError::Sign { subject, source }
}

/// Keys and kubeconfigs are for their owner alone.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CertificateError> {
    fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| CertificateError::Write {
            path: path.to_owned(),
            source,
        })
}
