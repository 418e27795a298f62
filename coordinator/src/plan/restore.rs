//! The plan of a restore: all components or none, up to the point of no return.

pub(crate) mod preflight;
mod queues;

use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, SetId};
use keepsake_core::queues::{QueuePolicy, has_queues, is_queues_server};
use keepsake_core::record::{ComponentRecord, Record, Status};
use serde::{Deserialize, Serialize};

use super::after;
use super::applications::around_a_restore;
use super::config::{self, Resync};
use super::make_set::{self, Wanted};
use super::objects::{ObjectPolicy, are_objects};
use super::{Action, CheckAt, Goal, Plan, Safety, Stage, Step, Undo, files};
use crate::inventory::{Found, Inventory};
use crate::topology::{ComponentSettings, Consistency, InstallationSettings};

/// Why a load that was asked for in place cannot be undone.
const IN_PLACE: &str = "it is loaded over the live data, as asked for with --in-place";

/// What an operator may choose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct Wishes {
    /// Only these components; all that the set has if none is named, but for a server of queues alone.
    pub only: Vec<Component>,
    /// What becomes of queues.
    pub queues: Vec<(Component, QueuePolicy)>,
    /// The id of the set that is made of the present state before; none is made without.
    pub safety: Option<SetId>,
    /// The old data stays until `finalize` or `rollback`.
    pub keep_old: bool,
    /// Over the live data, for want of room.
    pub in_place: bool,
    /// The set may be of another release of 3scale.
    pub other_release: bool,
    /// Who makes the Config equal.
    pub resync: Resync,
    /// Whether alert levels are part of that; found from the release of 3scale if it is not said.
    pub alert_levels: Option<AlertLevels>,
    /// What becomes of the cluster's objects.
    pub objects: ObjectPolicy,
    /// The same run has built the installation before, its objects too.
    pub rebuilt: bool,
}

/// What is done with one component.
struct Part<'a> {
    component: &'a ComponentSettings,
    queues: QueuePolicy,
    cannot_undo: Option<String>,
    /// Its load goes over the live data.
    in_place: bool,
    /// Whether that was done is told by the store itself.
    is_told: bool,
    /// It is loaded when nothing but the point of no return is left: its load is whole or nothing, and nothing else is made equal to it.
    is_last: bool,
}

/// Plans a restore.
///
/// # Errors
/// `Invalid` when the set lacks what is asked for; `Unavailable` when an agent cannot be asked; `Unsupported` when an engine differs; `Conflict` when an
/// earlier restore's old data is still kept, or the set is of another release; `Busy` when there is too little room.
pub fn plan(
    installation: &InstallationSettings,
    inventory: &Inventory,
    record: &Record,
    wishes: &Wishes,
) -> Result<Plan> {
    let mut notes = Vec::new();
    let parts = parts(installation, inventory, record, wishes, &mut notes)?;
    preflight::nothing_is_kept(installation, inventory)?;
    preflight::release(inventory, record, wishes, &mut notes)?;
    for entry in &record.components {
        if installation.components.iter().all(|c| c.name != entry.component) {
            notes.push(format!(
                "the set also has {}, which the topology does not know: it is not restored",
                entry.component
            ));
        }
    }
    if record.cut.is_none() {
        notes.push("the set has no cut: its stores were dumped at different moments".to_owned());
    }
    let mut stages = Vec::new();
    let placed: Vec<_> = parts.iter().map(|p| &p.component.name).collect();
    let around = around_a_restore(installation, &placed, wishes.rebuilt, &mut notes)?;
    stages.extend(around.stop);
    stages.extend(around.close);
    let safety = if let Some(set) = wishes.safety {
        if wishes.rebuilt {
            notes.push(
                "a safety set is made of what was built anew, too: databases outside of the namespace outlive it, and somebody may have written since \
                 (--no-safety leaves it out)"
                    .to_owned(),
            );
        }
        Some(make_safe(installation, inventory, &parts, set, &mut stages, &mut notes)?)
    } else {
        notes
            .push("no safety set is made: nothing remembers the present state once the restore is finished".to_owned());
        None
    };
    if wishes.in_place {
        notes.push(
            "in place, as asked for: the live data is overwritten component by component. If that fails half way, what was there before is only in the \
             safety set, or nowhere, and the way out is to restore again"
                .to_owned(),
        );
    }
    let config = make_equal(installation, inventory, record, &parts, wishes, &mut notes)?;
    stages.extend(config.first);
    let (last, first): (Vec<_>, Vec<_>) = parts.iter().partition(|p| p.is_last);
    stages.extend(load(&parts, &first, wishes)?);
    stages.extend(config.before);
    // Whatever can still turn the run comes before.
    stages.extend(last.into_iter().filter_map(alone).collect::<Result<Vec<_>>>()?);
    stages.push(Stage {
        title: "point of no return".to_owned(),
        steps: vec![Action::PointOfNoReturn.step(Undo::Nothing)?],
    });
    stages.extend(config.behind);
    stages.extend(around.start);
    let writes_objects = matches!(wishes.objects, ObjectPolicy::Replace { .. })
        && parts.iter().any(|p| are_objects(&p.component.engine));
    let about = after::About { placed: &placed, by_rake: config.by_rake, writes_objects };
    stages.extend(after::stages(installation, about, &mut notes)?);
    let mut again =
        each("check again", &parts, |component| Action::Check { component, at: CheckAt::Live }.step(Undo::Nothing))?;
    again.steps.extend(after::check(installation)?);
    stages.push(again);
    if wishes.keep_old {
        notes.push(format!(
            "the old data is kept, and takes its room, until `keepsake finalize --installation {0}` drops it or `keepsake rollback --installation {0} \
             --discard-writes` puts it back; until then there is no other restore",
            installation.name
        ));
    } else {
        stages.push(each("drop the old data", &parts, |component| Action::Finalize { component }.step(Undo::Nothing))?);
    }
    let files_elsewhere = match files::elsewhere(installation, inventory) {
        Ok(place) => place,
        // That is no reason not to bring data back.
        Err(e) => {
            notes.push(e.chain());
            None
        }
    };
    Ok(Plan {
        goal: Goal::Restore { epoch: record.epoch, safety, keep_old: wishes.keep_old },
        installation: installation.name.clone(),
        set: Some(record.set),
        stages,
        notes,
        files_elsewhere,
        place: None,
    })
}

/// What is done about the Config of Backend.
fn make_equal(
    installation: &InstallationSettings,
    inventory: &Inventory,
    record: &Record,
    parts: &[Part<'_>],
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<config::Stages> {
    let Some(mut pair) = config::pair(installation, AlertLevels::default()) else {
        return Ok(config::Stages::default());
    };
    let placed: Vec<_> = parts.iter().map(|p| &p.component.name).collect();
    // The release of the database that will be there then.
    let live = || inventory.of(&pair.system).and_then(|f| f.as_ref().ok()?.facts.get(preflight::SCHEMA));
    let of_the_set = record.release.get(preflight::SCHEMA).filter(|_| placed.contains(&&pair.system));
    let release = of_the_set.or_else(live).map(String::as_str);
    pair.alert_levels = wishes.alert_levels.unwrap_or_else(|| config::alert_levels(release));
    config::stages(&pair, &placed, inventory, wishes.resync, notes)
}

/// A stage in which the same is done with all components together.
fn each<'a>(
    title: &str,
    parts: impl IntoIterator<Item = &'a Part<'a>>,
    step: impl Fn(Component) -> Result<Step>,
) -> Result<Stage> {
    let steps = parts.into_iter().map(|part| step(part.component.name.clone())).collect::<Result<_>>()?;
    Ok(Stage { title: title.to_owned(), steps })
}

/// From the first byte that is staged to the last look before the point of no return. What cannot be undone comes last and one by one: whatever fails
/// before it can be undone, and of several the fewest are loaded when one fails.
fn load(parts: &[Part<'_>], first: &[&Part<'_>], wishes: &Wishes) -> Result<Vec<Stage>> {
    let rollback = |component: &Component| Undo::by(Action::Rollback { component: component.clone() });
    let stage = parts.iter().map(|part| {
        let component = part.component.name.clone();
        let undo = rollback(&component);
        // Objects are always kept beside what replaces them: they take no room.
        let (in_place, objects) = if are_objects(&part.component.engine) {
            (false, wishes.objects)
        } else {
            (part.in_place, ObjectPolicy::default())
        };
        Action::Stage { component, queues: part.queues, in_place, objects }.step(undo)
    });
    let mut stages =
        vec![Stage { title: "read and check the whole set".to_owned(), steps: stage.collect::<Result<_>>()? }];
    let mut together = Vec::new();
    for part in first.iter().filter(|p| p.cannot_undo.is_none()) {
        let component = part.component.name.clone();
        let undo = rollback(&component);
        together.push(Action::Commit { component }.step(undo)?);
    }
    if !together.is_empty() {
        stages.push(Stage { title: "load".to_owned(), steps: together });
    }
    stages.extend(first.iter().copied().filter_map(alone).collect::<Result<Vec<_>>>()?);
    let look = |component| Action::Check { component, at: CheckAt::Loaded }.step(Undo::Nothing);
    if !first.is_empty() {
        stages.push(each("check", first.iter().copied(), look)?);
    }
    Ok(stages)
}

/// The load of what cannot be undone; none of what can.
fn alone(part: &Part<'_>) -> Option<Result<Stage>> {
    let why = part.cannot_undo.clone()?;
    let component = part.component.name.clone();
    let title = format!("load {component}, which cannot be undone");
    let commit = Action::Commit { component }.step(Undo::Impossible { why, told: part.is_told });
    Some(commit.map(|commit| Stage { title, steps: vec![commit] }))
}

/// The stages that make the safety set. It has a cut if it can: the applications are stopped, so nobody waits for it.
fn make_safe(
    installation: &InstallationSettings,
    inventory: &Inventory,
    parts: &[Part<'_>],
    set: SetId,
    stages: &mut Vec<Stage>,
    notes: &mut Vec<String>,
) -> Result<Safety> {
    let chosen: Vec<_> = parts.iter().map(|p| p.component).collect();
    let consistency = match installation.consistency {
        Consistency::Required | Consistency::Preferred => Consistency::Preferred,
        Consistency::None => Consistency::None,
    };
    let mut about = Vec::new();
    let wanted = Wanted { installation, inventory, chosen: &chosen, consistency };
    stages.extend(make_set::stages(&wanted, "safety set: ", &mut about)?);
    notes.extend(about.into_iter().map(|note| format!("safety set: {note}")));
    notes.push(format!(
        "the present state is kept as safety set {set}; a store that is too broken to be dumped is named in it and does not stop the restore"
    ));
    let left_out =
        installation.components.iter().map(|c| c.name.clone()).filter(|n| chosen.iter().all(|c| &c.name != n));
    Ok(Safety { set, left_out: left_out.collect() })
}

/// What is done with each component, or why nothing can be.
fn parts<'a>(
    installation: &'a InstallationSettings,
    inventory: &Inventory,
    record: &Record,
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<Vec<Part<'a>>> {
    let only = &wishes.only;
    for name in only {
        installation.component(name)?;
    }
    let policies = queues::policies(installation, only, &wishes.queues)?;
    let asked = |name: &Component| {
        if only.is_empty() { !is_queues_server(name) || policies.contains_key(name) } else { only.contains(name) }
    };
    if record.status != Status::Complete && only.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("set {} is partial: name what to restore from it with --component", record.set),
        ));
    }
    let pair = config::pair(installation, AlertLevels::default());
    let in_pair = |name: &Component| pair.as_ref().is_some_and(|p| p.system == *name || p.backend == *name);
    let mut parts = Vec::new();
    let mut lacking = Vec::new();
    for component in installation.components.iter().filter(|c| asked(&c.name)) {
        let name = &component.name;
        if are_objects(&component.engine) && !has_objects(record, name, wishes, notes)? {
            continue;
        }
        let entry = dumped(record, name)?;
        let found = answer(inventory, component, entry)?;
        found.may_load(name)?;
        notes.extend(found.problems.iter().map(|p| format!("{name}: {p}")));
        let policy = policies.get(name).copied().unwrap_or_default();
        if !policy.is_restore() && !has_queues(&entry.engine) {
            return Err(Error::new(
                Kind::Invalid,
                format!("--queues {name}={policy}: a component of engine {} has no queues to tell apart", entry.engine),
            ));
        }
        if has_queues(&entry.engine) {
            notes.extend(queues::note(name, policy, entry));
        }
        let in_place = wishes.in_place && !are_objects(&entry.engine);
        let cannot_undo = if in_place { Some(IN_PLACE.to_owned()) } else { found.cannot_undo.clone() };
        let is_whole = !in_place && preflight::is_loaded_whole(name, found, wishes, notes)?;
        let (in_place, is_last) = (in_place || is_whole, is_whole && !in_pair(name));
        if !in_place {
            lacking.extend(preflight::lacks_room(entry, found));
        }
        let is_told = found.in_place_is_told;
        parts.push(Part { component, queues: policy, cannot_undo, in_place, is_told, is_last });
    }
    for name in installation.components.iter().map(|c| &c.name).filter(|n| only.is_empty() && !asked(n)) {
        notes.push(format!(
            "{name} is a server of queues alone and is not restored: what ran since the dump would run again. To restore it: --queues {name}=restore"
        ));
    }
    if parts.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("nothing of set {} would be restored", record.set)));
    }
    preflight::room(&lacking)?;
    Ok(parts)
}

/// Whether the cluster's objects are restored: not if nobody wants them, nor from a set of before they were in one.
fn has_objects(record: &Record, name: &Component, wishes: &Wishes, notes: &mut Vec<String>) -> Result<bool> {
    if wishes.rebuilt {
        notes.push("Secrets, ConfigMaps and 3scale's other objects were made by the first plan of this run".to_owned());
        return Ok(false);
    }
    let is_named = wishes.only.contains(name);
    if wishes.objects == ObjectPolicy::Skip {
        if is_named {
            return Err(Error::new(Kind::Invalid, format!("--component {name} and --objects skip: choose one")));
        }
        notes.push("Secrets, ConfigMaps and 3scale's other objects stay as they are, as asked for".to_owned());
        return Ok(false);
    }
    if !is_named && record.component(name).is_none_or(|entry| entry.dump.is_none()) {
        notes.push(
            "the set has no objects of the cluster: Secrets, ConfigMaps and 3scale's others stay as they are"
                .to_owned(),
        );
        return Ok(false);
    }
    Ok(true)
}

/// What the set has of a component.
fn dumped<'r>(record: &'r Record, name: &Component) -> Result<&'r ComponentRecord> {
    let entry = record
        .component(name)
        .ok_or_else(|| Error::new(Kind::Invalid, format!("set {} does not have component {name}", record.set)))?;
    if entry.dump.is_none() {
        return Err(Error::new(
            Kind::Invalid,
            format!("component {name} failed in set {}: there is nothing to restore", record.set),
        ));
    }
    Ok(entry)
}

/// What the agent said, if it serves what was dumped.
fn answer<'i>(inventory: &'i Inventory, component: &ComponentSettings, entry: &ComponentRecord) -> Result<&'i Found> {
    let name = &component.name;
    let found = match inventory.of(name) {
        Some(Ok(found)) => found,
        Some(Err(failure)) => return Err(Error::from(failure.clone()).context(format!("ask the agent of {name}"))),
        None => return Err(Error::new(Kind::Internal, format!("component {name} was not asked"))),
    };
    if found.engine != entry.engine || component.engine != entry.engine {
        return Err(Error::new(
            Kind::Unsupported,
            format!("component {name} was dumped by engine {}; its agent serves {}", entry.engine, found.engine),
        ));
    }
    Ok(found)
}
