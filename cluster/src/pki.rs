//! The cluster's certificate authority and what it signs. Made in memory, new for every cluster.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::files;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refuses.
    #[error("make the certificate of {subject}: {error}")]
    Certificate {
        /// Its common name.
        subject: String,
        /// Why.
        #[source]
        error: rcgen::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` into `folder`, and returns their paths.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf), Error> {
        let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        files::write(&certificate, &self.certificate)?;
        files::write(&key, &self.key)?;
        Ok((certificate, key))
    }
}

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new() -> Result<Self, Error> {
        let failed = |error| Error::Certificate { subject: "the authority".to_owned(), error };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "postern-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(failed)?;
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key).map_err(failed)? })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A user's certificate: Kubernetes reads the user's name and group from it.
    ///
    /// # Errors
    /// No key can be made.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Pair, Error> {
        self.sign(user, group, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server's certificate for these host names and addresses.
    ///
    /// # Errors
    /// A name is none, or no key can be made.
    pub fn server(&self, name: &str, hosts: &[String]) -> Result<Pair, Error> {
        self.sign(name, None, hosts, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn sign(
        &self,
        subject: &str,
        organization: Option<&str>,
        hosts: &[String],
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Pair, Error> {
        let failed = |error| Error::Certificate { subject: subject.to_owned(), error };
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key pair that signs service account tokens: the private and the public half, PEM.
///
/// # Errors
/// No key can be made.
pub fn signing_key() -> Result<(String, String), Error> {
    let failed = |error| Error::Certificate { subject: "service account tokens".to_owned(), error };
    let key = KeyPair::generate().map_err(failed)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}
