//! `init` and `keys`: who can open backups, and who may sign them.

use std::path::PathBuf;

use clap::Subcommand;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Installation;
use keepsake_core::repository::seal::{SetKey, check_recipient};
use keepsake_core::repository::sets::SetState;
use keepsake_core::repository::sign::{PublicKey, SigningKey};
use keepsake_core::repository::trust::Trust;
use keepsake_core::repository::{Encryption, Init, Repository};
use keepsake_core::secret::Secret;
use serde::Serialize;

use super::args::{Args, EncryptionArg, Init as InitArgs};
use super::output;
use crate::app::{App, identities};
use crate::exit::Exit;
use crate::pki::{write_private, write_public};

/// `keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make an age identity, a signing key, or both. Nothing is overwritten.
    Generate(Generate),
    /// List the keys that hold now.
    List,
    /// Add recipients or signers.
    Add(Change),
    /// Seal no new set to these recipients. What they could open before they can open still.
    Retire(Retire),
    /// Prove that an identity opens the latest set of each installation.
    Test(Held),
    /// Seal the keys of all sets to the recipients that hold now, beside the old ones.
    Rekey(Held),
}

/// `keys generate`
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// Where the age identity is written (0600). Keep it away from the machines that back up.
    #[arg(long)]
    pub identity: Option<PathBuf>,
    /// Where the signing key is written (0600), its public half beside it as `.pub`.
    #[arg(long)]
    pub signing_key: Option<PathBuf>,
}

/// `keys add`
#[derive(Debug, clap::Args)]
pub struct Change {
    /// An age recipient.
    #[arg(long = "recipient")]
    pub recipients: Vec<String>,
    /// A file with a signer's public key (PEM).
    #[arg(long = "signer")]
    pub signers: Vec<PathBuf>,
}

/// `keys retire`
#[derive(Debug, clap::Args)]
pub struct Retire {
    /// An age recipient.
    #[arg(long = "recipient", required = true)]
    pub recipients: Vec<String>,
}

/// Identities held.
#[derive(Debug, clap::Args)]
pub struct Held {
    /// A file with an age identity.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',', required = true)]
    pub identities: Vec<PathBuf>,
}

/// Makes a repository.
pub(super) async fn init(args: &Args, app: &App, command: &InitArgs) -> Result<Exit> {
    let encryption = match command.encryption {
        EncryptionArg::None => Encryption::None,
        EncryptionArg::Age => {
            Encryption::Age { recipients: command.recipients.clone(), single: command.single_recipient }
        }
    };
    let init = Init { encryption, signers: vec![app.signing_key()?.public()] };
    let (repository, probe) = Repository::init(app.store()?, &init).await?;
    let trust = Trust::of(repository.config());
    if let Some(given) = &app.topology.repository.trust {
        // Made and checked against what the topology trusts: better now than at the first backup.
        Repository::open(app.store()?, given).await.context("the new repository is not what the topology trusts")?;
    } else {
        app.pin(&trust)?;
    }
    output::result(args, &trust, || {
        format!(
            "repository {} in {}\ncreate-only: proven with {} creates of one key at the same moment\nsigners:    {}\nrecipients: {}\npinned in {}\n\n{}\n",
            repository.config().repository,
            repository.store().url(),
            probe.creates,
            trust.signers.join("\n            "),
            if trust.recipients.is_empty() { "(none)".to_owned() } else { trust.recipients.join("\n            ") },
            app.pin_path().display(),
            if repository.is_encrypted() {
                "Whoever loses the identities of all recipients loses every backup. Keep them apart from this machine, and try them:\n\
                 keepsake keys test --identity FILE"
            } else {
                "NOT ENCRYPTED: whoever can read the repository reads every password and every row."
            }
        )
    })?;
    if let Some(left) = &probe.left {
        output::say(&format!("the probe {left} could not be removed; delete it by hand"));
    }
    Ok(Exit::Done)
}

/// Makes keys; needs no topology.
pub(super) fn generate(args: &Args, command: &Generate) -> Result<Exit> {
    #[derive(Serialize, Default)]
    struct Made {
        recipient: Option<String>,
        signer: Option<String>,
    }
    if command.identity.is_none() && command.signing_key.is_none() {
        return Err(Error::new(Kind::Invalid, "say where: --identity FILE, --signing-key FILE, or both"));
    }
    let mut made = Made::default();
    if let Some(path) = &command.identity {
        let key = SetKey::generate();
        let text = format!("# public key: {}\n{}\n", key.recipient(), key.identity().expose());
        write_private(path, &Secret::new(text))?;
        made.recipient = Some(key.recipient().to_owned());
    }
    if let Some(path) = &command.signing_key {
        let (key, pem) = SigningKey::generate()?;
        write_private(path, &pem)?;
        write_public(&path.with_added_extension("pub"), &key.public().to_pem())?;
        made.signer = Some(key.public().fingerprint());
    }
    output::result(args, &made, || {
        let mut out = String::new();
        if let Some(recipient) = &made.recipient {
            out.push_str(&format!("recipient {recipient}\n"));
        }
        if let Some(signer) = &made.signer {
            out.push_str(&format!("signer    {signer}\n"));
        }
        out
    })?;
    Ok(Exit::Done)
}

/// Runs the other subcommands.
pub(super) async fn run(args: &Args, app: &App, command: &Keys) -> Result<Exit> {
    let mut repository = app.repository().await?;
    match command {
        Keys::Generate(command) => generate(args, command),
        Keys::List => list(args, &repository),
        Keys::Add(change) => {
            for recipient in &change.recipients {
                check_recipient(recipient)?;
            }
            let signers = change
                .signers
                .iter()
                .map(|path| {
                    let text =
                        std::fs::read_to_string(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
                    PublicKey::try_from(text).with_context(|| format!("signer {}", path.display()))
                })
                .collect::<Result<Vec<_>>>()?;
            repository.change_keys(&app.signing_key()?, change.recipients.clone(), Vec::new(), signers).await?;
            list(args, &repository)
        }
        Keys::Retire(retire) => {
            for recipient in &retire.recipients {
                if !repository.keys().recipients.contains(recipient) {
                    return Err(Error::new(Kind::Invalid, format!("{recipient} is not a recipient now")));
                }
            }
            repository.change_keys(&app.signing_key()?, Vec::new(), retire.recipients.clone(), Vec::new()).await?;
            list(args, &repository)
        }
        Keys::Test(held) => test(args, &repository, held).await,
        Keys::Rekey(held) => rekey(args, &repository, held).await,
    }
}

fn list(args: &Args, repository: &Repository) -> Result<Exit> {
    let keys = repository.keys();
    let signers: Vec<_> = keys.signers.iter().map(PublicKey::fingerprint).collect();
    let value = serde_json::json!({ "recipients": keys.recipients, "signers": signers, "changes": keys.changes });
    output::result(args, &value, || {
        let recipients = keys.recipients.iter().map(|r| format!("recipient {r}\n"));
        recipients.chain(signers.iter().map(|s| format!("signer    {s}\n"))).collect()
    })?;
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Tested {
    installation: Installation,
    set: Option<String>,
    opens: bool,
    note: String,
}

async fn test(args: &Args, repository: &Repository, held: &Held) -> Result<Exit> {
    let Some(identities) = identities(&held.identities)? else {
        return Err(Error::new(Kind::Invalid, "give an identity file"));
    };
    let mut all = Vec::new();
    for installation in repository.installations().await? {
        let tested = match repository.latest(&installation).await? {
            None => Tested { installation, set: None, opens: false, note: "it has no complete set".to_owned() },
            Some(record) => {
                let opened = repository.open_set_key(&record, &identities).await;
                let note = match &opened {
                    Ok(Some(_)) => "the identity opens it".to_owned(),
                    Ok(None) => "it is not sealed".to_owned(),
                    Err(e) => e.chain(),
                };
                Tested { installation, set: Some(record.set.to_string()), opens: opened.is_ok(), note }
            }
        };
        all.push(tested);
    }
    output::result(args, &all, || {
        let rows: Vec<_> = all
            .iter()
            .map(|t| {
                let word = if t.opens { "opens" } else { "DOES NOT OPEN" };
                vec![
                    t.installation.to_string(),
                    t.set.clone().unwrap_or_else(|| "-".to_owned()),
                    word.to_owned(),
                    t.note.clone(),
                ]
            })
            .collect();
        output::table(&["INSTALLATION", "LATEST SET", "RESULT", "NOTE"], &rows)
    })?;
    let good = !all.is_empty() && all.iter().all(|t| t.opens);
    if all.is_empty() {
        output::say("there is no set to try the identity on");
    }
    Ok(if good { Exit::Done } else { Exit::Found })
}

async fn rekey(args: &Args, repository: &Repository, held: &Held) -> Result<Exit> {
    let Some(identities) = identities(&held.identities)? else {
        return Err(Error::new(Kind::Invalid, "give an identity file"));
    };
    let mut written = Vec::new();
    for installation in repository.installations().await? {
        for entry in repository.sets(&installation).await? {
            match entry.state {
                SetState::Recorded(record) => written.extend(repository.rekey(&record, &identities).await?),
                SetState::Unfinished => {}
                SetState::Unbelievable(e) => {
                    output::say(&format!("set {} of {installation} is passed over: {}", entry.id, e.chain()));
                }
            }
        }
    }
    output::result(args, &written, || format!("{} sets sealed again\n", written.len()))?;
    Ok(Exit::Done)
}
