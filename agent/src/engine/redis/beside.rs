//! Loads that can be undone: what is to be loaded lies beside the live data, and what was live is kept until it is no longer wanted.
//!
//! A stage writes and checks `staged.rdb`. A commit saves what is live into `safety.rdb`, writes down that the live data may change from now on, loads, and counts.
//! A rollback loads the safety RDB in the same way. Each goes on from what the folder says, whoever began it.

use std::fs::File;

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::rdb::{Walked, walk};
use keepsake_core::id::RunKey;
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::Counts;

use super::connection::Server;
use super::file::{FileSink, FileSource, Part, drop_parts};
use super::load::{Load, Whither};
use super::room::Room;
use super::settings::LoadMethod;
use super::stages::{Going, Held, JOINED, Phase, Run, SAFETY, STAGED, State, step};
use super::{ARTIFACT, Redis, dump, load, preflight, queues};
use crate::engine::{CommitReport, Context, Sink as _, Source, StageReport, only_artifact};

/// Brings the dump beside the live data and checks it.
pub(super) async fn stage(
    redis: &Redis,
    server: &Server,
    key: &RunKey,
    from: &dyn Source,
    cx: &Context,
) -> Result<StageReport> {
    if let Some(run) = redis.stages.find(key.run)? {
        match run.state()? {
            Some(state) if is_of(&state, from)? => match again(redis, server, &run, &state, cx).await {
                Err(e) if e.kind() == Kind::Corrupt && state.phase == Phase::Staged => {
                    tracing::warn!("what was staged is damaged, and is staged anew: {}", e.chain());
                }
                done => return done,
            },
            Some(State { phase: Phase::Loading | Phase::Committed | Phase::Undoing, .. }) => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("run {} has begun to commit another dump than this: roll it back first", run.id),
                ));
            }
            Some(_) | None => {}
        }
        redis.stages.discard(run, cx).await?;
    }
    if let Some(why) = redis.stages.refusal() {
        return Err(Error::new(Kind::Denied, why));
    }
    let run = redis.stages.begin(key.run)?;
    step(cx, "staging").await;
    match Box::pin(fill(redis, server, &run, from, cx)).await {
        Ok(report) => Ok(report),
        Err(e) => {
            // Nothing of it is of use, and it takes room.
            if let Err(left) = redis.stages.discard(run, cx).await {
                tracing::warn!("a stage that failed: {}", left.chain());
            }
            Err(e)
        }
    }
}

/// Whether that is what was staged.
fn is_of(state: &State, from: &dyn Source) -> Result<bool> {
    let (_, length) = only_artifact(from, ARTIFACT)?;
    let same = from.recorded().is_none_or(|recorded| recorded.counts == state.set.counts);
    Ok(same && state.set.length == length && state.queues == from.queues())
}

/// Checks what was staged before.
async fn again(redis: &Redis, server: &Server, run: &Run, state: &State, cx: &Context) -> Result<StageReport> {
    let source = FileSource::open(run.folder().join(STAGED), state.staged.length, state.staged.report())?;
    let walked = load::check(&source, cx).await?;
    let mut report = StageReport { bytes: state.set.length, counts: walked.counts(), warnings: state.said.clone() };
    if state.phase == Phase::Staged {
        let (warnings, _) = load::admit(server, &redis.settings, &walked, &source).await?;
        report.warnings.extend(warnings);
    }
    Ok(report)
}

async fn fill(redis: &Redis, server: &Server, run: &Run, from: &dyn Source, cx: &Context) -> Result<StageReport> {
    let (_, length) = only_artifact(from, ARTIFACT)?;
    let policy = from.queues();
    preflight::refuse(preflight::load_problems(&server.info().await?))?;
    let live = match policy {
        QueuePolicy::Keep => Some(queues::live_queues(server, &redis.settings, run.folder(), cx).await?),
        QueuePolicy::Restore | QueuePolicy::Drop => None,
    };
    let joined = live.as_ref().map_or(0, |live| live.length().saturating_add(length));
    Room::of(server, &redis.settings, length, joined).await?.for_stage(redis.stages.home())?;

    let part = Part::create(run.folder(), STAGED)?;
    let mut said = Vec::new();
    let (counts, in_set) = match policy {
        QueuePolicy::Restore => {
            let counts = copy(from, &part, cx).await?;
            (counts.clone(), counts)
        }
        QueuePolicy::Keep | QueuePolicy::Drop => {
            let made = queues::splice_into(from, None, part.file()?, cx).await?;
            said.push(match &live {
                Some(live) => queues::told_of_kept(live.keys()),
                None => queues::told_of_dropped(&made),
            });
            let in_set = made.parts.first().map(Walked::counts).unwrap_or_default();
            (made.counts(), in_set)
        }
    };
    let path = part.keep()?;
    step(cx, "the dump is beside the data").await;

    // What is on the disk is what will be loaded, so that is what is checked.
    let length_of = |path: &std::path::Path| {
        std::fs::metadata(path).map(|m| m.len()).map_err(|e| Error::io(format!("look at {}", path.display()), e))
    };
    let staged = Held::of(length_of(&path)?, counts, from.recorded());
    let source = FileSource::open(path, staged.length, staged.report())?;
    let walked = load::check(&source, cx).await?;
    let (warnings, _) = load::admit(server, &redis.settings, &walked, &source).await?;
    if let Some(live) = live {
        // Whether both can be one is known now, not only when writers are stopped.
        queues::splice_into(&source, Some(live.file), std::io::sink(), cx).await?;
    }
    let report = StageReport { bytes: length, counts: walked.counts(), warnings: [said.clone(), warnings].concat() };
    let set = Held::of(length, in_set, from.recorded());
    run.write(&State { run: run.id, phase: Phase::Staged, queues: policy, set, staged, said, going: None })?;
    step(cx, "staged").await;
    Ok(report)
}

/// Writes the source into the file as it is; gives what was counted in it.
async fn copy(from: &dyn Source, part: &Part, cx: &Context) -> Result<Counts> {
    let (name, length) = only_artifact(from, ARTIFACT)?;
    cx.phase("staging", length);
    let mut artifact = FileSink(part).artifact(&name).await?;
    let mut checking = Checking::start(walk);
    let what = || format!("artifact {name}");
    let mut reader = from.open(&name).await?;
    while let Some(chunk) = cx.unless_cancelled(reader.read()).await? {
        cx.advance(chunk.len() as u64);
        checking.feed(chunk.clone()).await.with_context(what)?;
        artifact.write(chunk).await?;
    }
    let counts = checking.finish().await.with_context(what)?.counts();
    artifact.finish().await?;
    if let Some(recorded) = from.recorded() {
        load::compare(&counts, recorded)?;
    }
    Ok(counts)
}

/// Puts what is staged in the place of the live data.
pub(super) async fn commit(redis: &Redis, run: &Run, cx: &Context) -> Result<CommitReport> {
    let unfinished = || {
        Error::new(
            Kind::Conflict,
            format!("the stage of run {} has not finished, and nothing was touched: stage again", run.id),
        )
    };
    let state = run.state()?.ok_or_else(unfinished)?;
    let server = reach(redis, &state).await?;
    let going = match (state.phase, &state.going) {
        (Phase::Committed, _) => return load::live_counts(&server).await,
        (Phase::Loading | Phase::Undoing, Some(going)) => going.clone(),
        (Phase::Staged | Phase::Loading | Phase::Undoing, _) => {
            match Box::pin(secure(redis, &server, run, &state, cx)).await {
                Ok(going) => going,
                Err(e) => {
                    // Half a copy takes room that the next attempt needs.
                    if let Err(left) = drop_parts(run.folder()).and_then(|()| run.free_reserve()) {
                        tracing::warn!("a commit that failed before it touched anything: {}", left.chain());
                    }
                    return Err(e);
                }
            }
        }
    };
    let report = put(redis, &server, run, &state, &going, Whither::Forward, cx).await?;
    let now = run.state()?.unwrap_or(state);
    run.write(&State { phase: Phase::Committed, ..now })?;
    step(cx, "committed").await;
    Ok(report)
}

/// Saves what is live now, and makes ready what is loaded. Writers are stopped; nothing is touched yet.
async fn secure(redis: &Redis, server: &Server, run: &Run, state: &State, cx: &Context) -> Result<Going> {
    let info = server.info().await?;
    preflight::refuse(preflight::load_problems(&info))?;
    let method = load::choose(server, &redis.settings, &info, None).await?;
    let keeps = state.queues == QueuePolicy::Keep;
    drop_parts(run.folder())?;
    // How long the live queues are is not known yet; they are the lesser part.
    let joined = if keeps { state.staged.length } else { 0 };
    Room::of(server, &redis.settings, state.staged.length, joined).await?.for_commit(run.folder())?;

    run.reserve()?;
    let part = Part::create(run.folder(), SAFETY)?;
    step(cx, "saving what is live").await;
    let dumped = Box::pin(dump::dump(server, &redis.settings, None, &FileSink(&part), cx)).await;
    let report = dumped.context("save what is live now, so that it can be brought back")?;
    let length = part.file()?.metadata().map_err(|e| Error::io("look at the safety RDB", e))?.len();
    let path = part.keep()?;
    let safety = Held::of(length, report.counts.clone(), Some(&report));
    step(cx, "what is live is saved").await;
    if !keeps {
        return Ok(Going { method, safety, loaded: state.staged.clone() });
    }
    // What was queued since the stage is kept, too.
    let source = FileSource::open(run.folder().join(STAGED), state.staged.length, state.staged.report())?;
    let live = File::open(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    let part = Part::create(run.folder(), JOINED)?;
    let made = queues::splice_into(&source, Some(live), part.file()?, cx).await?;
    part.keep()?;
    let loaded = Held { length: made.length, counts: made.counts(), used_memory: state.staged.used_memory.clone() };
    step(cx, "the live queues are in it").await;
    Ok(Going { method, safety, loaded })
}

/// Loads one of the two, and proves it.
async fn put(
    redis: &Redis,
    server: &Server,
    run: &Run,
    state: &State,
    going: &Going,
    whither: Whither,
    cx: &Context,
) -> Result<CommitReport> {
    let (name, held, phase) = match (whither, state.queues) {
        (Whither::Back, _) => (SAFETY, &going.safety, Phase::Undoing),
        (Whither::Forward, QueuePolicy::Keep) => (JOINED, &going.loaded, Phase::Loading),
        (Whither::Forward, QueuePolicy::Restore | QueuePolicy::Drop) => (STAGED, &going.loaded, Phase::Loading),
    };
    let source = FileSource::open(run.folder().join(name), held.length, held.report())?;
    let touching =
        |method| run.write(&State { phase, going: Some(Going { method, ..going.clone() }), ..state.clone() });
    let untouched = || run.write(state);
    let load = Load {
        settings: &redis.settings,
        marker: &redis.marker,
        put_back: &redis.put_back,
        source: &source,
        file: source.path(),
        whither,
        before: Some(going.method),
        cx,
        touching: &touching,
        untouched: &untouched,
    };
    Box::pin(load::commit(server, load)).await
}

/// Brings back what was live before, if it may have been changed, and drops the load.
pub(super) async fn rollback(redis: &Redis, run: Run, cx: &Context) -> Result<()> {
    if let Some(state) = run.state()?
        && let Some(going) = &state.going
    {
        run.free_reserve()?;
        let server = reach(redis, &state).await?;
        let back = put(redis, &server, &run, &state, going, Whither::Back, cx).await;
        back.with_context(|| format!("bring back what was live before, which is in {}", run.folder().display()))?;
        step(cx, "what was live is back").await;
    } else {
        redis.settle_what_is_owed().await?;
    }
    redis.stages.discard(run, cx).await
}

/// Drops what this run has staged, for a load of another kind.
///
/// # Errors
/// `Conflict` once it has begun to commit.
pub(super) async fn drop_untouched(redis: &Redis, run: Run, cx: &Context) -> Result<()> {
    match run.state()?.map(|state| state.phase) {
        None | Some(Phase::Staged) => redis.stages.discard(run, cx).await,
        Some(Phase::Loading | Phase::Committed | Phase::Undoing) => Err(Error::new(
            Kind::Conflict,
            format!("run {} has begun to commit what it has staged: roll it back before it loads in place", run.id),
        )),
    }
}

/// Drops what a rollback would need.
///
/// # Errors
/// `Conflict` while the live data may be a part of something: what was live before is the only whole copy of it.
pub(super) async fn finalize(redis: &Redis, run: Run, cx: &Context) -> Result<()> {
    if let Some(State { phase: Phase::Loading | Phase::Undoing, .. }) = run.state()? {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "the load of run {} is half made: commit it or roll it back first, what was live before is not dropped",
                run.id
            ),
        ));
    }
    redis.settle_what_is_owed().await?;
    redis.stages.discard(run, cx).await
}

/// The server, wherever an earlier attempt has left it.
async fn reach(redis: &Redis, state: &State) -> Result<Server> {
    let half_made = matches!(state.phase, Phase::Loading | Phase::Undoing);
    let shut_down = half_made && state.going.as_ref().is_some_and(|g| g.method == LoadMethod::Restart);
    let server = match Server::connect(&redis.settings).await {
        // Shut down for the load by an agent that did not live to start it again.
        Err(e) if shut_down && e.kind() == Kind::Unavailable => load::bring_back(&redis.settings).await?,
        Ok(server) if half_made && server.info().await?.is("loading", "1") => {
            load::wait_until_loaded(&redis.settings).await?
        }
        done => done?,
    };
    redis.settle_leftover(&server).await?;
    Ok(server)
}
