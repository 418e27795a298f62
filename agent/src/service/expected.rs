//! The call that tells what Backend's Config must be.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::config::{AlertLevels, ConfigEnd, ConfigEntry, Digest};
use keepsake_core::error::{Error, Kind, Result, ResultExt as _};
use keepsake_proto::convert;
use keepsake_proto::status::to_status;
use keepsake_proto::v1::{self, config_expected_response::Told};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Inner;
use crate::engine::Context;
use crate::engine::config_source::{ConfigSource, Entries};

/// A caller that takes nothing for so long is dropped.
const IDLE: Duration = Duration::from_mins(10);

type Answer = std::result::Result<v1::ConfigExpectedResponse, Status>;

impl Inner {
    pub(super) fn config_expected(
        self: &Arc<Self>,
        request: v1::ConfigExpectedRequest,
    ) -> Result<ReceiverStream<Answer>> {
        let (run, step) = self.key(request.key)?;
        self.own(&request.component)?;
        let levels = convert::alert_levels_from_wire(request.alert_levels)?;
        self.source()?;
        // What is half loaded would be half of everything, and the rest would be called surplus.
        if let Some(loads) = self.table.running().iter().find(|o| o.changes_live_data()) {
            return Err(Error::new(
                Kind::Busy,
                format!("{} of run {} is going on: ask after it", loads.what, loads.run),
            ));
        }
        tracing::info!(target: "audit", call = "ConfigExpected", run = %run, step = %step, "tells what the Config must be");
        let (answers, receiver) = mpsc::channel(4);
        let inner = self.clone();
        self.tracker.spawn(async move {
            let cx = Context::new(inner.stop.child_token()).0;
            let told = tokio::select! {
                biased;
                told = inner.tell(levels, &answers, &cx) => told,
                () = answers.closed() => Err(Error::new(Kind::Cancelled, "the caller hung up")),
            };
            if let Err(e) = told {
                tracing::warn!(target: "audit", call = "ConfigExpected", run = %run, kind = e.kind().as_str(), "failed: {}", e.chain());
                let _hung_up = answers.send(Err(to_status(&e))).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Tells everything, and the end only when everything was told.
    async fn tell(&self, levels: AlertLevels, answers: &mpsc::Sender<Answer>, cx: &Context) -> Result<()> {
        let mut told = WireEntries { answers, digest: Digest::default() };
        let end = self.source()?.expected(levels, &mut told, cx).await?;
        let (entries, digest) = std::mem::take(&mut told.digest).finish();
        let end = ConfigEnd { entries, digest: digest.to_vec().into(), kinds: end.kinds, at_least: end.at_least };
        told.send(Told::End(convert::config_end_to_wire(&end))).await
    }

    fn source(&self) -> Result<&dyn ConfigSource> {
        let none = || {
            let text = format!(
                "{} is no database of System that could be asked: it is of engine {}",
                self.component, self.engine_name
            );
            Error::new(Kind::Unsupported, text)
        };
        self.engine.config_source().ok_or_else(none)
    }
}

/// Entries on their way over the wire.
struct WireEntries<'a> {
    answers: &'a mpsc::Sender<Answer>,
    digest: Digest,
}

impl WireEntries<'_> {
    async fn send(&self, told: Told) -> Result<()> {
        let sent = self.answers.send(Ok(v1::ConfigExpectedResponse { told: Some(told) }));
        let sent = tokio::time::timeout(IDLE, sent)
            .await
            .or_kind(Kind::Timeout, format!("the caller took nothing for {IDLE:?}"))?;
        sent.map_err(|_| Error::new(Kind::Cancelled, "the caller hung up"))
    }
}

#[async_trait]
impl Entries for WireEntries<'_> {
    async fn tell(&mut self, entries: Vec<ConfigEntry>) -> Result<()> {
        for entry in &entries {
            self.digest.take(entry);
        }
        let entries = entries.into_iter().map(convert::config_entry_to_wire).collect();
        self.send(Told::Batch(v1::ConfigBatch { entries })).await
    }
}
