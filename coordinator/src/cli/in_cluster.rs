//! `--in-cluster`: the coordinator is a Job in the installation's cluster, and this command makes it, opens what only its user can open, and follows it.

mod arguments;
mod follow;

use keepsake_core::clock;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Installation, RunId};
use keepsake_core::record::Record;
use keepsake_core::repository::Repository;
use keepsake_core::repository::seal::{Identities, SetKey};
use keepsake_core::secret::Secret;

use self::follow::Following;
use super::args::{Args, Backup, Command, Rebuild, Restore, Resume};
use super::backup::installations;
use super::restore::confirm;
use super::resume::{asked, interrupted};
use super::{output, restore};
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::platform::kubernetes::Kubernetes;
use crate::platform::kubernetes::coordinator::Order;
use crate::run::claim;
use crate::run::follow::Follower;
use crate::run::status::StepStatus;
use crate::run::story::unfinished;
use crate::topology::{InstallationSettings, KubernetesSettings};

/// What is to be done in the cluster.
struct Errand<'a> {
    installation: &'a InstallationSettings,
    /// As the Job is named.
    word: &'static str,
    /// Tells the Job from others of the same word.
    mark: RunId,
    arguments: Vec<String>,
    /// The run's id and its records, where they can be read from here.
    run: Option<RunId>,
    records: Option<Follower>,
    identity: Option<SetKey>,
}

/// Whether a command can be carried out by a coordinator in the cluster.
pub(super) fn can(command: &Command) -> bool {
    matches!(
        command,
        Command::Backup(_)
            | Command::Restore(_)
            | Command::Rebuild(_)
            | Command::Resume(_)
            | Command::Finalize(_)
            | Command::Rollback(_)
            | Command::Cancel(_)
    )
}

/// What is said of all others.
pub(super) fn refused() -> Error {
    let text = "--in-cluster goes with backup, restore, rebuild, resume, finalize, rollback and cancel; this command works where you sit: leave --in-cluster out";
    Error::new(Kind::Invalid, text)
}

/// Runs a command in the cluster.
pub(super) async fn run(args: &Args, app: &App) -> Result<Exit> {
    let errand = match &args.command {
        Command::Backup(command) => Box::pin(backup(app, command)).await?,
        Command::Restore(command) => Box::pin(restore(app, command)).await?,
        Command::Rebuild(command) => Box::pin(rebuild(app, command)).await?,
        Command::Resume(command) => Box::pin(resume(app, command)).await?,
        Command::Finalize(command) => {
            let installation = app.topology.installation(command.installation.as_ref())?;
            plain(installation, "finalize", arguments::finalize(command, &installation.name)?)
        }
        Command::Rollback(command) => {
            let installation = app.topology.installation(command.installation.as_ref())?;
            plain(installation, "rollback", arguments::rollback(command, &installation.name)?)
        }
        Command::Cancel(command) => {
            let installation = app.topology.installation(command.installation.as_ref())?;
            plain(installation, "cancel", arguments::cancel(command, &installation.name)?)
        }
        _ => return Err(refused()),
    };
    carry_out(args, errand).await
}

/// One whose run is not known before: it is followed by what the coordinator says.
fn plain<'a>(installation: &'a InstallationSettings, word: &'static str, arguments: Vec<String>) -> Errand<'a> {
    let mark = RunId::generate();
    Errand { installation, word, mark, arguments, run: None, records: None, identity: None }
}

async fn backup<'a>(app: &'a App, command: &Backup) -> Result<Errand<'a>> {
    let chosen = installations(&app.topology, &command.which)?;
    let [installation] = chosen.as_slice() else {
        let text = "a Job is of one installation, so that its run can be followed: name one with --installation";
        return Err(Error::new(Kind::Invalid, text));
    };
    let name = &installation.name;
    let run = RunId::generate();
    let arguments = arguments::backup(command, name, run)?;
    settings(installation)?;
    let records = match records(app, name, run).await {
        Ok(records) => {
            may_begin(app, name).await?;
            Some(records)
        }
        // What cannot be believed is not passed over, as if it were only far away.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable | Kind::Timeout | Kind::Unsupported) => {
            output::say(&format!(
                "the repository cannot be reached from here, so the Job's log is told in the place of the run's records: {}",
                e.chain()
            ));
            None
        }
        Err(e) => return Err(e),
    };
    Ok(Errand { installation, word: "backup", mark: run, arguments, run: Some(run), records, identity: None })
}

async fn restore<'a>(app: &'a App, command: &Restore) -> Result<Errand<'a>> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let name = &installation.name;
    settings(installation)?;
    restore::objects(command)?;
    let run = RunId::generate();
    // Refused before anything is opened.
    arguments::restore(command, name, keepsake_core::id::SetId::generate(), run, false)?;
    let repository = app.repository().await.context(REACHED)?;
    let record = catalog::find(&repository, name, &command.set).await?;
    may_begin(app, name).await?;
    let identity = open(&repository, &record, identities(&command.identities)?.as_ref()).await?;
    let arguments = arguments::restore(command, name, record.set, run, identity.is_some())?;
    let what = format!(
        "The live data of {name} is replaced with that of {} (set {}), by a coordinator in the cluster.",
        record.finished, record.set
    );
    confirm(command.yes.as_ref(), installation, &[], &what)?;
    let records = Some(records(app, name, run).await?);
    Ok(Errand { installation, word: "restore", mark: run, arguments, run: Some(run), records, identity })
}

async fn rebuild<'a>(app: &'a App, command: &Rebuild) -> Result<Errand<'a>> {
    let installation = app.topology.installation(command.set.installation.as_ref())?;
    let name = &installation.name;
    let namespace = &settings(installation)?.namespace;
    let run = RunId::generate();
    // Refused before anything is opened.
    arguments::rebuild(command, name, keepsake_core::id::SetId::generate(), run, false)?;
    let repository = app.repository().await.context(REACHED)?;
    let record = catalog::find(&repository, name, &command.set.set).await?;
    may_begin(app, name).await?;
    let identity = open(&repository, &record, identities(&command.identities)?.as_ref()).await?;
    let arguments = arguments::rebuild(command, name, record.set, run, identity.is_some())?;
    let then = if command.objects_only { "" } else { ", and its stores are filled with its data" };
    let what = format!(
        "An installation is built in namespace {namespace} from the set of {} ({}){then}, by a coordinator in the cluster.",
        record.finished, record.set
    );
    confirm(command.yes.as_ref(), installation, &[], &what)?;
    let records = Some(records(app, name, run).await?);
    Ok(Errand { installation, word: "rebuild", mark: run, arguments, run: Some(run), records, identity })
}

/// Why a repository that cannot be reached from here is the end of it.
const REACHED: &str = "the set is opened where you sit, so the repository must be reached from here";

async fn resume<'a>(app: &'a App, command: &Resume) -> Result<Errand<'a>> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let name = &installation.name;
    settings(installation)?;
    let repository = app.repository().await.context(REACHED)?;
    let story = interrupted(&app.runs()?, installation, command.coordinator_is_gone).await?;
    let (plan, status, run) = (story.plan(), story.status(), story.root().run);
    let mut identity = None;
    let then = plan.then().is_some();
    if status.back.is_none() && (!status.passed || then) && plan.is_restore() {
        let waiting = status.not_loaded(plan);
        // What is staged may be gone with the agent that had it: an identity that is given is handed over then, too, and not insisted on. The data of a
        // rebuild's second plan is not staged yet.
        let must = then || waiting.iter().any(|step| status.steps.get(&step.id) != Some(&StepStatus::Succeeded));
        let given = identities(&command.identities)?;
        if (then || !waiting.is_empty()) && (must || given.is_some()) {
            let set = plan.set.ok_or_else(|| Error::new(Kind::Internal, "the restore names no set"))?;
            let record = repository.record(name, set).await?;
            identity = open(&repository, &record, given.as_ref()).await.context("stage what is not staged yet")?;
        }
        confirm(command.yes.as_ref(), installation, &[plan], &asked(plan))?;
    }
    let arguments = arguments::resume(command, name, run, identity.is_some())?;
    let records = Some(records(app, name, run).await?);
    let mark = RunId::generate();
    Ok(Errand { installation, word: "resume", mark, arguments, run: Some(run), records, identity })
}

/// The set's own key, which is all that is handed over.
async fn open(repository: &Repository, record: &Record, identities: Option<&Identities>) -> Result<Option<SetKey>> {
    Ok(repository.unsealer(record, identities).await?.1)
}

/// The records of a run that is about to be begun.
async fn records(app: &App, installation: &Installation, run: RunId) -> Result<Follower> {
    app.repository().await?;
    Follower::new(app.runs()?, installation, run).await
}

/// What the coordinator would refuse is refused before it is made.
async fn may_begin(app: &App, installation: &Installation) -> Result<()> {
    match unfinished(&app.runs()?, installation, None).await? {
        Some(other) => claim::judge(&other),
        None => Ok(()),
    }
}

/// Where it runs.
fn settings(installation: &InstallationSettings) -> Result<&KubernetesSettings> {
    installation.kubernetes.as_ref().ok_or_else(|| {
        let text = format!(
            "installation {} has no `platform: kubernetes` in the topology here, so nobody knows its cluster: write `platform: kubernetes` and \
             `kubernetes: {{ namespace: NAME }}`",
            installation.name
        );
        Error::new(Kind::Invalid, text)
    })
}

async fn carry_out(args: &Args, errand: Errand<'_>) -> Result<Exit> {
    let settings = settings(errand.installation)?;
    let order = Order {
        cron_job: args.cluster.cron_job().to_owned(),
        account: args.cluster.account_of(errand.word),
        name: format!("keepsake-{}-{}", errand.word, errand.mark),
        installation: errand.installation.name.clone(),
        run: errand.run,
        arguments: arguments::in_time(errand.arguments, clock::now(), settings.deadline)?,
        by: claim::by(),
        with_identity: errand.identity.is_some(),
    };
    let cancel = super::on_signal("asked to stop: the coordinator is not followed any longer");
    let cluster = Kubernetes::new(settings.clone());
    let identity = errand.identity.as_ref().map(SetKey::identity).map(|i| Secret::new(i.expose()));
    drop(errand.identity);
    let job = Box::pin(cluster.start_coordinator(&order, identity.as_ref())).await?;
    drop(identity);
    output::say(&format!("{job} is made from the template of cronjob/{}", order.cron_job));
    let following = Following::new(args, errand.installation, errand.word, job, errand.records);
    Box::pin(following.until_ended(&cancel)).await
}
