//! Following a coordinator in the cluster to its end: by the run's records, where they can be read from here, else by its log.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Installation;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::args::Args;
use crate::cli::backup::{self, BackedUp};
use crate::cli::report::Terminal;
use crate::cli::{carry, output};
use crate::exit::Exit;
use crate::platform::kubernetes::coordinator::{Coordinator, State};
use crate::run::Reporter;
use crate::run::follow::Follower;
use crate::topology::InstallationSettings;

/// Between two looks.
const BEAT: Duration = Duration::from_secs(1);

/// A coordinator that is followed.
pub(super) struct Following<'a> {
    args: &'a Args,
    installation: &'a Installation,
    word: &'static str,
    job: Coordinator,
    records: Option<Follower>,
    terminal: Terminal,
    /// It must run within this time.
    to_start: Duration,
    /// So many lines of its log were told.
    lines: usize,
    /// How it is, as was said last.
    said: String,
    unread: bool,
}

impl<'a> Following<'a> {
    /// One that was made just now.
    pub(super) fn new(
        args: &'a Args,
        installation: &'a InstallationSettings,
        word: &'static str,
        job: Coordinator,
        records: Option<Follower>,
    ) -> Self {
        let limit = installation.kubernetes.as_ref().map_or(600, |k| k.deadline);
        Self {
            args,
            installation: &installation.name,
            word,
            job,
            records,
            terminal: Terminal::new(),
            to_start: Duration::from_secs(limit.into()),
            lines: 0,
            said: String::new(),
            unread: false,
        }
    }

    /// Follows it, and gives the exit status: the coordinator's own. Whatever happens, the Secret does not outlive it.
    ///
    /// # Errors
    /// It never ran, was taken away, or cannot be followed any longer; each with what to do.
    pub(super) async fn until_ended(mut self, cancel: &CancellationToken) -> Result<Exit> {
        let done = self.follow(cancel).await;
        // Whoever has not begun by now cannot without its Secret, and must not begin when nobody looks.
        let stale = done.is_err() && !self.has_begun() && !self.has_run();
        let dropped = if stale { self.job.take_back().await } else { self.job.drop_identity().await };
        if let Err(e) = dropped {
            output::say(&e.chain());
        }
        match done {
            // It is followed no longer, and is at work all the same: nobody may take that for a restore of which nothing is left.
            Err(e) if !stale && self.word != "backup" => {
                output::error(self.args, &e);
                output::say(&format!(
                    "{} is not followed any more, and may be at work. {}",
                    self.job,
                    self.how_to_go_on()
                ));
                Ok(Exit::Halted)
            }
            done => done,
        }
    }

    /// Whether the run's first record is there. The set's identity was read before it.
    fn has_begun(&self) -> bool {
        self.records.as_ref().is_some_and(|r| r.epoch().is_some())
    }

    fn has_run(&self) -> bool {
        self.job.has_run()
    }

    async fn follow(&mut self, cancel: &CancellationToken) -> Result<Exit> {
        let since = Instant::now();
        loop {
            // First the Job and then the records: of one that has ended all records are there.
            let state = self.job.look().await?;
            self.tell().await?;
            let is_over = matches!(state, State::Ended { .. } | State::Gone(_));
            if (self.has_begun() || is_over)
                && let Err(e) = self.job.drop_identity().await
            {
                output::say(&e.chain());
            }
            match state {
                State::Ended { code, why } => return self.ended(code, &why).await,
                State::Gone(why) => return self.gone(&why).await,
                State::Running => self.is("runs"),
                State::Waiting(why) => {
                    if since.elapsed() >= self.to_start {
                        let seconds = self.to_start.as_secs();
                        let text = format!("{} has not begun after {seconds} s, and is taken back: {why}", self.job);
                        return Err(Error::new(Kind::Timeout, text));
                    }
                    self.is(&format!("waits: {why}"));
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return self.left().await,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// Says how it is, once.
    fn is(&mut self, how: &str) {
        if self.said != how {
            output::say(&format!("{} {how}", self.job));
            how.clone_into(&mut self.said);
        }
    }

    /// Tells what is new.
    async fn tell(&mut self) -> Result<()> {
        let Some(records) = &mut self.records else {
            let log = match self.job.log().await {
                Ok(log) => log,
                Err(e) => {
                    self.cannot_read(&e);
                    return Ok(());
                }
            };
            for line in log.lines().skip(self.lines) {
                output::say(line);
                self.lines += 1;
            }
            return Ok(());
        };
        match records.read_on().await {
            Ok(events) => {
                self.unread = false;
                if let Some(plan) = records.plan() {
                    for event in &events {
                        self.terminal.event(plan, event);
                    }
                }
                Ok(())
            }
            Err(e) if e.kind().retry() => {
                self.cannot_read(&e);
                Ok(())
            }
            Err(e) => Err(e.context(format!("{} goes on, and cannot be followed by its records", self.job))),
        }
    }

    /// It is tried again; said once.
    fn cannot_read(&mut self, why: &Error) {
        if !self.unread {
            output::say(&format!("{} is not heard now: {}", self.job, why.chain()));
            self.unread = true;
        }
    }

    /// What came of it.
    async fn ended(&self, code: Option<i32>, why: &str) -> Result<Exit> {
        let exit = code.and_then(Exit::of_code);
        let Some(records) = &self.records else {
            let done = json!({ "job": self.job.job(), "namespace": self.job.namespace(), "exit_code": code });
            output::result(self.args, &done, String::new)?;
            return Ok(exit.unwrap_or_else(|| self.lost(why)));
        };
        let story = match records.story().await {
            Ok(story) => story,
            // The coordinator has told how it ended.
            Err(e) => {
                output::say(&format!("the run's records cannot be read now: {}", e.chain()));
                return Ok(exit.unwrap_or_else(|| self.lost(why)));
            }
        };
        let Some(story) = story else {
            let text = if exit == Some(Exit::Done) {
                format!(
                    "{} has succeeded, and none of its records are in the repository that is reached from here: is it the same one?",
                    self.job
                )
            } else {
                let told = self.job.last_words().await;
                format!("{} has ended before its run was begun: {why}; {told}", self.job)
            };
            let error = Error::new(Kind::Internal, text);
            return match exit {
                Some(exit) if exit != Exit::Done => {
                    output::error(self.args, &error);
                    Ok(exit)
                }
                _ => Err(error),
            };
        };
        let status = story.status();
        let Some((outcome, note)) = status.ended.clone().or(status.rests.clone()) else {
            let told = self.job.last_words().await;
            let lost = self.lost(&format!("{why}; {told}"));
            return Ok(exit.unwrap_or(lost));
        };
        let (root, plan) = (story.root(), story.plan());
        if plan.is_backup() {
            backup::print(self.args, &[BackedUp::of(root, outcome, note)])?;
        } else {
            carry::print(self.args, (root.plan.word(), plan), root.epoch.0, outcome, note, status.looks(plan))?;
        }
        Ok(exit.unwrap_or_else(|| Exit::of_outcome(outcome)))
    }

    /// It ended in the middle of its work. Nobody knows that nothing was changed, so that is never its status, but of a backup, which changes nothing.
    fn lost(&self, why: &str) -> Exit {
        let text =
            format!("the coordinator {} is gone in the middle of its work: {why}. {}", self.job, self.how_to_go_on());
        output::error(self.args, &Error::new(Kind::Internal, text));
        if self.word == "backup" { Exit::Failed } else { Exit::Halted }
    }

    fn how_to_go_on(&self) -> String {
        let name = self.installation;
        if self.word == "backup" {
            return "The next backup takes over".to_owned();
        }
        format!(
            "Go on with `keepsake --in-cluster resume --installation {name} --coordinator-is-gone`; see `keepsake runs --installation {name}`"
        )
    }

    /// Somebody has taken it away: what is made in its place begins nothing, and does not stay.
    async fn gone(&mut self, why: &str) -> Result<Exit> {
        if let Err(e) = self.job.take_back().await {
            output::say(&e.chain());
        }
        if let Some(records) = &self.records
            && let Some(story) = records.story().await?
            && story.status().ended.or(story.status().rests).is_some()
        {
            return self.ended(None, why).await;
        }
        if self.has_begun() || self.records.is_none() {
            return Ok(self.lost(why));
        }
        Err(Error::new(Kind::Conflict, format!("{why} before its run was begun: nothing was done")))
    }

    /// Nobody wants to follow it any longer.
    async fn left(&mut self) -> Result<Exit> {
        self.tell().await?;
        if self.job.holds_identity() && !self.has_begun() {
            self.job.take_back().await?;
            self.tell().await?;
            if self.has_begun() {
                let text = "had begun by then, and was asked to stop: it puts back what it has done";
                output::say(&format!("{} {text}. See `keepsake runs --installation {}`", self.job, self.installation));
                return Ok(Exit::Halted);
            }
            output::say(&format!(
                "{} had not read the set's identity yet, and was taken back: nothing was begun",
                self.job
            ));
            return Ok(Exit::Cancelled);
        }
        let (name, namespace) = (self.installation, self.job.namespace());
        let records = match self.records.as_ref().and_then(Follower::epoch) {
            Some(epoch) => format!("`keepsake runs {epoch} --installation {name}`, "),
            None => String::new(),
        };
        output::say(&format!(
            "{} goes on. Look at it with {records}`kubectl --namespace {namespace} logs --follow job/{}`; stop it with `keepsake cancel --installation {name}`",
            self.job,
            self.job.job()
        ));
        Ok(Exit::Cancelled)
    }
}
