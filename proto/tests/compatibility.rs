//! What was once served stays served: the current descriptors against those that were committed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Set to 1, it writes the committed file anew, unless something would break.
const UPDATE: &str = "KEEPSAKE_UPDATE_DESCRIPTORS";

/// Everything a peer relies on: a path, and what must stay as it is there.
type Facts = BTreeMap<String, String>;

fn facts(set: &FileDescriptorSet) -> Facts {
    let mut all = Facts::new();
    for file in set.file.iter().filter(|f| f.package().starts_with("keepsake.")) {
        let package = file.package();
        for message in &file.message_type {
            message_facts(package, message, &mut all);
        }
        for word in &file.enum_type {
            enum_facts(package, word, &mut all);
        }
        for service in &file.service {
            let path = format!("{package}.{}", service.name());
            for method in &service.method {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                all.insert(
                    format!("{path}/{}", method.name()),
                    format!(
                        "({}{}) returns ({}{})",
                        stream(method.client_streaming()),
                        method.input_type(),
                        stream(method.server_streaming()),
                        method.output_type()
                    ),
                );
            }
            all.insert(path, "service".to_owned());
        }
    }
    all
}

fn message_facts(parent: &str, message: &DescriptorProto, all: &mut Facts) {
    let path = format!("{parent}.{}", message.name());
    for field in &message.field {
        all.insert(format!("{path}.{}", field.name()), field_fact(message, field));
    }
    for nested in &message.nested_type {
        message_facts(&path, nested, all);
    }
    for word in &message.enum_type {
        enum_facts(&path, word, all);
    }
    all.insert(path, "message".to_owned());
}

fn field_fact(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field.oneof_index.and_then(|n| message.oneof_decl.get(usize::try_from(n).ok()?));
    format!(
        "number {}, {} {:?} {}{}{}",
        field.number(),
        field.label().as_str_name(),
        field.r#type(),
        field.type_name(),
        oneof.map(|o| format!(", one of {}", o.name())).unwrap_or_default(),
        if field.proto3_optional() { ", optional" } else { "" },
    )
}

fn enum_facts(parent: &str, word: &EnumDescriptorProto, all: &mut Facts) {
    let path = format!("{parent}.{}", word.name());
    for value in &word.value {
        all.insert(format!("{path}.{}", value.name()), format!("number {}", value.number()));
    }
    all.insert(path, "enum".to_owned());
}

/// What old peers would miss, one line each.
fn broken(old: &Facts, new: &Facts) -> Vec<String> {
    old.iter()
        .filter_map(|(path, was)| match new.get(path) {
            None => Some(format!("{path} is gone (was: {was})")),
            Some(is) if is != was => Some(format!("{path} was: {was}; now: {is}")),
            Some(_) => None,
        })
        .collect()
}

fn added<'a>(old: &Facts, new: &'a Facts) -> Vec<&'a str> {
    new.keys().filter(|path| !old.contains_key(*path)).map(String::as_str).collect()
}

fn current() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(keepsake_proto::DESCRIPTORS).unwrap_or_default();
    for file in &mut set.file {
        // Comments and line numbers: no part of what is served.
        file.source_code_info = None;
    }
    set
}

#[test]
fn nothing_that_was_served_is_missing_or_changed() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("descriptors/keepsake.agent.v1.binpb");
    let update = std::env::var_os(UPDATE).is_some_and(|v| v == "1");
    let committed = match std::fs::read(&path) {
        Err(e) if update && e.kind() == std::io::ErrorKind::NotFound => FileDescriptorSet::default(),
        read => FileDescriptorSet::decode(read.unwrap().as_slice()).unwrap(),
    };
    let (old, new) = (facts(&committed), facts(&current()));
    assert!(!new.is_empty());
    assert!(update || !old.is_empty(), "the committed descriptors hold nothing");
    let broken = broken(&old, &new);
    assert!(broken.is_empty(), "peers of an older version would break (add v2 instead):\n{}", broken.join("\n"));
    if update {
        std::fs::write(&path, current().encode_to_vec()).unwrap();
        return;
    }
    let added = added(&old, &new);
    assert!(
        added.is_empty(),
        "these are new, which is allowed, and not yet protected:\n{}\nCommit them: {UPDATE}=1 cargo test -p keepsake-proto --test compatibility, then git add {}",
        added.join("\n"),
        path.display()
    );
}

/// The current descriptors with one thing changed.
fn changed(change: impl FnOnce(&mut prost_types::FileDescriptorProto)) -> Facts {
    let mut set = current();
    let file = set.file.iter_mut().find(|f| f.package() == "keepsake.agent.v1").unwrap_or_else(|| unreachable!());
    change(file);
    facts(&set)
}

fn message<'a>(file: &'a mut prost_types::FileDescriptorProto, name: &str) -> &'a mut DescriptorProto {
    file.message_type.iter_mut().find(|m| m.name() == name).unwrap_or_else(|| unreachable!())
}

fn field<'a>(file: &'a mut prost_types::FileDescriptorProto, of: &str, name: &str) -> &'a mut FieldDescriptorProto {
    message(file, of).field.iter_mut().find(|f| f.name() == name).unwrap_or_else(|| unreachable!())
}

#[test]
fn each_kind_of_break_is_found_where_it_is() {
    use prost_types::field_descriptor_proto::{Label, Type};
    let old = facts(&current());
    assert!(broken(&old, &old).is_empty());
    let check = |what: &str, at: &str, new: Facts| {
        let found = broken(&old, &new);
        assert!(found.iter().any(|line| line.starts_with(&format!("keepsake.agent.v1.{at} "))), "{what}: {found:?}");
    };
    check("a field's number", "OperationKey.step", changed(|f| field(f, "OperationKey", "step").number = Some(9)));
    check("a field's name", "OperationKey.step", changed(|f| field(f, "OperationKey", "step").name = Some("x".into())));
    check("a field's type", "Segment.length", changed(|f| field(f, "Segment", "length").set_type(Type::Sint64)));
    check("a field's label", "Segment.length", changed(|f| field(f, "Segment", "length").set_label(Label::Repeated)));
    check(
        "a field's message",
        "DumpDone.report",
        changed(|f| field(f, "DumpDone", "report").type_name = Some(".keepsake.agent.v1.StageReport".into())),
    );
    check(
        "a field out of its oneof",
        "DumpResponse.chunk",
        changed(|f| field(f, "DumpResponse", "chunk").oneof_index = None),
    );
    check(
        "a field that is gone",
        "Failure.text",
        changed(|f| message(f, "Failure").field.retain(|x| x.name() != "text")),
    );
    check(
        "the value of a map",
        "DumpReport.CountsEntry.value",
        changed(|f| {
            let report = message(f, "DumpReport");
            for x in report.nested_type.iter_mut().filter(|m| m.name() == "CountsEntry").flat_map(|m| &mut m.field) {
                if x.name() == "value" {
                    x.set_type(Type::String);
                }
            }
        }),
    );
    check("a message that is gone", "Nothing", changed(|f| f.message_type.retain(|m| m.name() != "Nothing")));
    check("a service that is gone", "Agent", changed(|f| f.service.clear()));
    check("a method that is gone", "Agent/Cancel", changed(|f| f.service[0].method.retain(|m| m.name() != "Cancel")));
    let method = |name: &'static str, change: fn(&mut prost_types::MethodDescriptorProto)| {
        changed(move |f| f.service[0].method.iter_mut().filter(|m| m.name() == name).for_each(change))
    };
    check("what a method takes", "Agent/Load", method("Load", |m| m.input_type = Some(".x.Y".into())));
    check("streaming up", "Agent/Load", method("Load", |m| m.client_streaming = Some(false)));
    check("streaming down", "Agent/Watch", method("Watch", |m| m.server_streaming = Some(false)));
    check("the package", "Agent", changed(|f| f.package = Some("keepsake.agent.v2".into())));
}

#[test]
fn words_of_an_enum_are_compared() {
    let set = |number| FileDescriptorSet {
        file: vec![prost_types::FileDescriptorProto {
            package: Some("keepsake.x".into()),
            enum_type: vec![EnumDescriptorProto {
                name: Some("Word".into()),
                value: vec![prost_types::EnumValueDescriptorProto {
                    name: Some("ONE".into()),
                    number: Some(number),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    assert!(broken(&facts(&set(1)), &facts(&set(1))).is_empty());
    assert_eq!(broken(&facts(&set(1)), &facts(&set(2))).len(), 1);
    assert_eq!(broken(&facts(&set(1)), &Facts::new()).len(), 2);
}

#[test]
fn an_addition_breaks_nothing_and_is_named() {
    let old = facts(&current());
    let new = changed(|f| {
        let mut more = field(f, "Failure", "text").clone();
        more.name = Some("more".into());
        more.number = Some(3);
        message(f, "Failure").field.push(more);
    });
    assert!(broken(&old, &new).is_empty());
    assert_eq!(added(&old, &new), ["keepsake.agent.v1.Failure.more"]);
}
