//! Backend's Config over gRPC: what one agent expects is piped to another, and what differs comes back.
//!
//! Entries travel through here as they are; only differences are understood.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::config::{Counters, Difference};
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_proto::convert;
use keepsake_proto::status::from_status;
use keepsake_proto::v1::{
    self, config_apply_request, config_apply_response, config_compare_request, config_compare_response,
    config_expected_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::GrpcFleet;
use super::operation::answered;
use crate::fleet::config::{ConfigChanged, ConfigChanges, ConfigCompared, ConfigOrder, Differences};

/// An agent that says nothing for so long has lost the server or us. The system database may take its time for the first entry.
const SILENT: Duration = Duration::from_mins(5);
/// Messages that are under way at the same time.
const UNDER_WAY: usize = 4;

impl GrpcFleet {
    pub(super) async fn compare(&self, order: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        let (requests, receiver) = mpsc::channel(UNDER_WAY);
        let key = convert::key_to_wire(&order.key.run, &order.key.step);
        let begin = v1::ConfigCompareBegin {
            key: Some(key.clone()),
            component: order.backend.to_string(),
            keys_per_second: order.keys_per_second,
            of_a_run: order.of_a_run,
        };
        send(&requests, config_compare_request::Part::Begin(begin)).await?;
        let mut backend = self.dialer(order.backend)?.client()?;
        let answers = answered(backend.config_compare(ReceiverStream::new(receiver))).await;
        let mut answers = answers.with_context(|| ask(order.backend))?.into_inner();
        let mut system = self.dialer(order.system)?.client()?;
        let request = v1::ConfigExpectedRequest {
            key: Some(key),
            component: order.system.to_string(),
            alert_levels: convert::alert_levels_to_wire(order.alert_levels),
        };
        let expected = answered(system.config_expected(request)).await.with_context(|| ask(order.system))?.into_inner();
        let piping = pipe(expected, requests, order.system);
        tokio::pin!(piping);
        let listening = listen(&mut answers, found, order.backend);
        tokio::pin!(listening);
        // Whichever fails first is the cause; the other is dropped, which its agent hears.
        let mut piped = None;
        loop {
            tokio::select! {
                done = &mut listening => {
                    let compared = done?;
                    // What was compared before all was piped was not compared with all.
                    let at_least = piped.ok_or_else(|| Error::new(Kind::Internal, format!("{} ended its comparison before all had come", order.backend)))?;
                    return Ok(ConfigCompared { at_least, ..compared });
                }
                done = &mut piping, if piped.is_none() => match done? {
                    Some(at_least) => piped = Some(at_least),
                    // It does not listen any more, and says why.
                    None => return Err(why(listening.await)),
                },
            }
        }
    }

    pub(super) async fn change(&self, order: &ConfigOrder<'_>, durable: bool) -> Result<Box<dyn ConfigChanges>> {
        let (requests, receiver) = mpsc::channel(UNDER_WAY);
        let begin = v1::ConfigApplyBegin {
            key: Some(convert::key_to_wire(&order.key.run, &order.key.step)),
            component: order.backend.to_string(),
            keys_per_second: order.keys_per_second,
            durable,
        };
        let part = Some(config_apply_request::Part::Begin(begin));
        requests.send(v1::ConfigApplyRequest { part }).await.map_err(|_| gone())?;
        let mut client = self.dialer(order.backend)?.client()?;
        let answers = answered(client.config_apply(ReceiverStream::new(receiver))).await;
        let answers = answers.with_context(|| ask(order.backend))?.into_inner();
        Ok(Box::new(GrpcChanges { requests, answers, sent: 0, backend: order.backend.clone() }))
    }
}

fn ask(component: &Component) -> String {
    format!("ask the agent of {component}")
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "the agent listens no more")
}

/// Why a comparison ended before its time.
fn why(ended: Result<ConfigCompared>) -> Error {
    ended.err().unwrap_or_else(|| Error::new(Kind::Internal, "the comparison ended before all had come"))
}

async fn send(
    requests: &mpsc::Sender<v1::ConfigCompareRequest>,
    part: config_compare_request::Part,
) -> Result<(), Error> {
    requests.send(v1::ConfigCompareRequest { part: Some(part) }).await.map_err(|_| gone())
}

/// Pipes what is expected; gives what the counters must have reached, or `None` when nobody listens.
async fn pipe(
    mut expected: Streaming<v1::ConfigExpectedResponse>,
    requests: mpsc::Sender<v1::ConfigCompareRequest>,
    system: &Component,
) -> Result<Option<Counters>> {
    loop {
        let next = message(&mut expected, system).await?;
        match next.and_then(|r| r.told) {
            Some(config_expected_response::Told::Batch(batch)) => {
                if send(&requests, config_compare_request::Part::Batch(batch)).await.is_err() {
                    return Ok(None);
                }
            }
            Some(config_expected_response::Told::End(end)) => {
                let at_least = convert::config_end_from_wire(end.clone())?.at_least;
                let sent = send(&requests, config_compare_request::Part::End(end)).await;
                return Ok(sent.is_ok().then_some(at_least));
            }
            None => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!(
                        "the agent of {system} told what is expected without its end: nothing is called surplus for it"
                    ),
                ));
            }
        }
    }
}

/// Takes differences to the end of the comparison.
async fn listen(
    answers: &mut Streaming<v1::ConfigCompareResponse>,
    found: &mut dyn Differences,
    backend: &Component,
) -> Result<ConfigCompared> {
    let mut told = 0;
    loop {
        let Some(answer) = message(answers, backend).await? else {
            return Err(Error::new(
                Kind::Unavailable,
                format!("the agent of {backend} ended the comparison without a word"),
            ));
        };
        match answer.told {
            Some(config_compare_response::Told::Differences(some)) => {
                let some: Vec<Difference> =
                    some.differences.into_iter().map(convert::difference_from_wire).collect::<Result<_>>()?;
                told += some.len() as u64;
                found.take(some).await?;
            }
            Some(config_compare_response::Told::Compared(compared)) => {
                if compared.differences != told {
                    let text = format!("{told} differences came, and {} were told", compared.differences);
                    return Err(Error::new(Kind::Corrupt, text));
                }
                let found = convert::counters_from_wire(compared.found, "compared.found")?;
                return Ok(ConfigCompared {
                    keys: compared.keys,
                    scanned: compared.scanned,
                    found,
                    at_least: Counters::default(),
                });
            }
            // A word of a newer agent.
            Some(config_compare_response::Told::Progress(_)) | None => {}
        }
    }
}

async fn message<T>(stream: &mut Streaming<T>, component: &Component) -> Result<Option<T>> {
    let late = |_| Error::new(Kind::Timeout, format!("the agent of {component} has said nothing for {SILENT:?}"));
    let next = tokio::time::timeout(SILENT, stream.message()).await.map_err(late)?;
    next.map_err(|status| from_status(&status)).with_context(|| ask(component))
}

/// Changes on their way.
struct GrpcChanges {
    requests: mpsc::Sender<v1::ConfigApplyRequest>,
    answers: Streaming<v1::ConfigApplyResponse>,
    sent: u64,
    backend: Component,
}

impl GrpcChanges {
    /// Sends, or says why the agent does not listen any more.
    async fn send(&mut self, part: config_apply_request::Part) -> Result<()> {
        let send = self.requests.send(v1::ConfigApplyRequest { part: Some(part) });
        // Progress is read as well: an agent that cannot tell it would wait.
        tokio::pin!(send);
        loop {
            tokio::select! {
                sent = &mut send => return match sent {
                    Ok(()) => Ok(()),
                    Err(_) => Err(match message(&mut self.answers, &self.backend).await {
                        Err(e) => e,
                        Ok(_) => gone(),
                    }),
                },
                answer = self.answers.message() => match answer {
                    Err(status) => return Err(from_status(&status).context(ask(&self.backend))),
                    Ok(Some(v1::ConfigApplyResponse { told: Some(config_apply_response::Told::Progress(_)) | None })) => {}
                    Ok(Some(v1::ConfigApplyResponse { told: Some(config_apply_response::Told::Applied(_)) }) | None) => {
                        return Err(gone());
                    }
                },
            }
        }
    }
}

#[async_trait]
impl ConfigChanges for GrpcChanges {
    async fn make(&mut self, some: Vec<Difference>) -> Result<()> {
        self.sent += some.len() as u64;
        let differences = some.into_iter().map(convert::difference_to_wire).collect();
        self.send(config_apply_request::Part::Changes(v1::ConfigDifferences { differences })).await
    }

    async fn finish(mut self: Box<Self>, at_least: Counters) -> Result<ConfigChanged> {
        let at_least = Some(convert::counters_to_wire(at_least));
        let end = v1::ConfigApplyEnd { changes: self.sent, at_least };
        self.send(config_apply_request::Part::End(end)).await?;
        loop {
            // Making it durable takes as long as the server takes to write all that it has, and progress is told meanwhile only while it changes.
            let answer =
                self.answers.message().await.map_err(|s| from_status(&s)).with_context(|| ask(&self.backend))?;
            match answer.map(|a| a.told) {
                Some(Some(config_apply_response::Told::Applied(applied))) => {
                    return Ok(ConfigChanged {
                        made: applied.made,
                        overtaken: applied.overtaken,
                        before: convert::counters_from_wire(applied.before, "applied.before")?,
                        after: convert::counters_from_wire(applied.after, "applied.after")?,
                    });
                }
                Some(Some(config_apply_response::Told::Progress(_)) | None) => {}
                None => {
                    let text = format!("the agent of {} ended the changes without a word", self.backend);
                    return Err(Error::new(Kind::Unavailable, text));
                }
            }
        }
    }
}
