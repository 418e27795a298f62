//! How a plan stops and starts the applications: by hooks, by scaling in a cluster, or not at all.

use super::Action;
use crate::topology::InstallationSettings;
use crate::topology::kubernetes::By;

/// The actions that stop the applications and that start them again; none when a person does it.
pub(super) fn stop_and_start(installation: &InstallationSettings) -> Option<(Action, Action)> {
    if let Some(hooks) = &installation.hooks {
        return Some((
            Action::Quiesce { commands: hooks.quiesce.clone(), namespace: None },
            Action::ResumeWorkloads { commands: hooks.resume.clone(), namespace: None },
        ));
    }
    let settings = installation.kubernetes.as_ref().filter(|k| k.by == By::Scale)?;
    let namespace = Some(settings.namespace.clone());
    Some((
        Action::Quiesce { commands: Vec::new(), namespace: namespace.clone() },
        Action::ResumeWorkloads { commands: Vec::new(), namespace },
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::Topology;

    fn planned(platform: &str) -> Option<(String, String)> {
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
installations:
  - name: prod
{platform}
    components:
      - {{ name: system-mysql, engine: mysql, agent: 'http://localhost:9090' }}
"
        );
        let topology = Topology::parse(&text, Path::new("/")).unwrap();
        stop_and_start(&topology.installations[0]).map(|(stop, start)| (stop.to_string(), start.to_string()))
    }

    #[test]
    fn a_plan_says_how_the_applications_stop() {
        assert_eq!(planned(""), None);
        let hooks = "    hooks: { quiesce: [[stop, all]], resume: [[start, all]] }";
        assert_eq!(planned(hooks), Some(("run stop all".to_owned(), "run start all".to_owned())));
        let scaled = planned("    platform: kubernetes\n    kubernetes: { namespace: threescale }").unwrap();
        assert_eq!(scaled.0, "scale the applications in namespace threescale to 0, the operator first");
        let back = "scale the applications in namespace threescale back to what they were, the operator last";
        assert_eq!(scaled.1, back);
        assert_eq!(planned("    platform: kubernetes\n    kubernetes: { namespace: threescale, by: none }"), None);
    }

    #[test]
    fn plans_of_before_are_read() {
        let old = r#"{ "action": "quiesce", "commands": [["stop"]] }"#;
        let read: Action = serde_json::from_str(old).unwrap();
        assert_eq!(read, Action::Quiesce { commands: vec![vec!["stop".to_owned()]], namespace: None });
        assert!(!serde_json::to_string(&read).unwrap().contains("namespace"));
    }
}
