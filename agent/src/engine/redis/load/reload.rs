//! The load by DEBUG RELOAD: the RDB is laid into the data folder and the server told to read it.
//!
//! A replica would not notice: what changes is not in the stream it follows. So there may be none.

use std::time::Duration;

use keepsake_core::error::{Context as _, Result};
use keepsake_core::format::rdb::Walked;

use super::super::connection::{Info, Server};
use super::super::dump::{OTHER_CHILD, wait_for_no_child};
use super::super::settings::{LoadMethod, Settings};
use super::super::stages::step;
use super::durable::Held;
use super::{Load, lay_out};

/// The server answers when it has read everything.
const READING: Duration = Duration::from_hours(2);

/// Why it cannot be loaded so.
pub(super) async fn refusal(server: &Server, settings: &Settings, info: &Info) -> Result<Option<String>> {
    let why = if settings.redis_data_dir.is_none() {
        "it needs the server's data folder (--redis-data-dir)".to_owned()
    } else if info.speaks_as().0 < 6 {
        format!("{} saves before it reloads: it knows NOSAVE from 6.0 on", info.name())
    } else if info.number("connected_slaves") > 0 {
        format!("{} replicas are attached, which would keep the old data: detach them", info.number("connected_slaves"))
    } else if let Err(e) = server.ask::<redis::Value>(&["DEBUG", "HELP"]).await {
        format!("the server does not allow DEBUG to this agent (enable-debug-command, ACL): {}", e.chain())
    } else {
        return Ok(lay_out::cannot_hand_over(settings));
    };
    Ok(Some(why))
}

/// Loads.
pub(super) async fn load(server: &Server, load: &Load<'_>, walked: &Walked) -> Result<()> {
    let info = server.info().await?;
    let places = lay_out::Places::of(server, load.settings, &info).await?;
    let new = lay_out::bring(load, walked.length).await?;
    step(load.cx, "the RDB is brought").await;
    load.put_back.note(server, &["save"]).await?;
    step(load.cx, "changing settings").await;
    let reloaded = async {
        // A save that ends now would put the old data in the place of the new file.
        server.set_config("save", "").await?;
        load.cx.unless_cancelled(wait_for_no_child(server, OTHER_CHILD)).await?;
        load.cx.check()?;
        load.cx.phase("loading", 0);
        (load.touching)(LoadMethod::Reload)?;
        step(load.cx, "about to touch").await;
        places.replace_rdb(&new, &load.put_back.folder().join("aside"), load.cx).await?;
        let patient = Server::connect_patiently(load.settings, READING).await?;
        patient.ask::<()>(&["DEBUG", "RELOAD", "NOSAVE"]).await.context("reload (the server's log says more)")
    };
    let reloaded = reloaded.await;
    step(load.cx, "making durable").await;
    // Whatever came of it: what the server holds now is what its files must hold.
    // Though the RDB is laid out: a save that somebody has begun before the server took it ends afterwards, with the old data.
    let settled = load.put_back.settle(server, Held::Unknown).await;
    reloaded?;
    settled
}
