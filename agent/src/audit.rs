//! Who is calling, whether they may, and one line of log for every call.

use std::path::PathBuf;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use rustls_pki_types::{CertificateDer, ServerName};
use tonic::Request;

use crate::config::{Allow, Role};

/// Judges callers by the DNS names in their certificates.
#[derive(Debug)]
pub(crate) struct Gate {
    allow: Vec<Allow>,
    plaintext: bool,
    /// A file without which nobody may do what takes `restore`.
    opened_by: Option<PathBuf>,
}

/// Somebody who may make this call.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    who: String,
}

impl Gate {
    /// With `plaintext` there are no certificates, and everybody on loopback may do everything.
    pub(crate) fn new(allow: Vec<Allow>, plaintext: bool, opened_by: Option<PathBuf>) -> Self {
        Self { allow, plaintext, opened_by }
    }

    /// Why this caller may not restore now, if so: asked before anything is begun, as one who may not begin a load may not take it back either.
    pub(crate) fn cannot_restore<T>(&self, request: &Request<T>) -> Option<String> {
        self.let_in(request, Role::Restore).err().map(|e| e.chain())
    }

    /// Why nobody may restore now, if so.
    fn closed(&self) -> Option<String> {
        let file = self.opened_by.as_ref().filter(|file| !matches!(file.try_exists(), Ok(true)))?;
        Some(format!(
            "there is no {}, which is what lets this agent restore, and is made for that (a Secret comes into a running pod in about a minute)",
            file.display()
        ))
    }

    /// Lets a caller in for one call, or refuses; a refusal is logged.
    pub(crate) fn admit<T>(&self, request: &Request<T>, needed: Role, call: &str) -> Result<Caller> {
        let admitted = self.let_in(request, needed);
        if let Err(e) = &admitted {
            tracing::warn!(target: "audit", call, "refused: {}", e.chain());
        }
        admitted
    }

    fn let_in<T>(&self, request: &Request<T>, needed: Role) -> Result<Caller> {
        if self.plaintext {
            return Ok(Caller { who: "somebody on loopback".to_owned() });
        }
        let certificates = request.peer_certs();
        let shown = certificates.as_ref().and_then(|chain| chain.first());
        let certificate = shown.ok_or_else(|| Error::new(Kind::Denied, "no certificate was shown"))?;
        self.judge(certificate, needed)
    }

    fn judge(&self, certificate: &CertificateDer<'_>, needed: Role) -> Result<Caller> {
        let certificate =
            webpki::EndEntityCert::try_from(certificate).or_kind(Kind::Denied, "read the caller's certificate")?;
        let who = certificate.valid_dns_names().collect::<Vec<_>>().join(",");
        if let (Role::Restore, Some(why)) = (needed, self.closed()) {
            return Err(Error::new(Kind::Denied, format!("{who} may not restore now: {why}")));
        }
        let is = |name: &str| {
            ServerName::try_from(name).is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        };
        if self.allow.iter().any(|a| a.role.includes(needed) && is(&a.name)) {
            return Ok(Caller { who });
        }
        Err(Error::new(
            Kind::Denied,
            format!(
                "{who} may not {}: start the agent with --allow {}={who} if it should",
                needed.as_str(),
                needed.as_str()
            ),
        ))
    }
}

impl Caller {
    /// The line of log for a call: who, what, which run, and the result.
    pub(crate) fn log(&self, call: &str, about: &str, result: std::result::Result<(), &Error>) {
        match result {
            Ok(()) => tracing::info!(target: "audit", who = %self.who, call, about, "done"),
            Err(e) => {
                tracing::warn!(target: "audit", who = %self.who, call, about, kind = e.kind().as_str(), "failed: {}", e.chain());
            }
        }
    }
}
