//! Specs that the node's operator keeps in files, and containers whose record was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use belay_engine::labels;
use belay_protocol::{Problem, ProblemCode, RefusedSpec, SpecFault, WorkloadName};

use super::NodeTask;
use crate::context::Context;
use crate::core::container;
use crate::core::dependencies::{Graph, admit};
use crate::core::record::{Declaration, Source, TABLE, WorkloadRecord};
use crate::core::spec::{self, WorkloadSpec};
use crate::problems;
use crate::workload::{Beginning, Occasion, WorkloadCommand};

/// A file of `workloads.d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFile {
    /// Its path.
    pub path: PathBuf,
    /// Its text, or why it could not be read.
    pub text: Result<String, String>,
}

impl SpecFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// What a set of files declares.
#[derive(Debug, Default)]
struct Declared {
    specs: BTreeMap<WorkloadName, (Declaration, WorkloadSpec)>,
    refused: Vec<RefusedSpec>,
}

/// Reads all files. Two that declare one workload are both refused: neither is the right one.
fn read(files: &[SpecFile]) -> Declared {
    let mut declared = Declared::default();
    let mut twice: BTreeSet<WorkloadName> = BTreeSet::new();
    for file in files {
        let name = file.name();
        let directory = file.path.parent().map(|d| d.display().to_string()).unwrap_or_default();
        let parsed = match &file.text {
            Ok(text) => spec::parse(text, &name, std::path::Path::new(&directory))
                .map(|spec| (text.clone(), spec)),
            Err(error) => Err(vec![fault(&name, "(file)", error, "a file that can be read")]),
        };
        match parsed {
            Ok((text, spec)) => {
                let declaration =
                    Declaration { spec: text, file: name.clone(), directory, source: Source::File };
                let workload = spec.name.clone();
                if let Some((first, _)) = declared.specs.get(&workload) {
                    let found = format!("{workload}, which {} declares too", first.file);
                    let expected = "a name that no other file declares";
                    declared.refused.push(RefusedSpec {
                        faults: vec![fault(&name, "name", &found, expected)],
                        file: name,
                    });
                    twice.insert(workload);
                } else {
                    declared.specs.insert(workload, (declaration, spec));
                }
            }
            Err(faults) => declared.refused.push(RefusedSpec { file: name, faults }),
        }
    }
    for workload in twice {
        if let Some((first, _)) = declared.specs.remove(&workload) {
            let found = format!("{workload}, which another file declares too");
            let faults = vec![fault(&first.file, "name", &found, "a name of its own")];
            declared.refused.push(RefusedSpec { file: first.file, faults });
        }
    }
    declared
}

fn fault(file: &str, key: &str, found: &str, expected: &str) -> SpecFault {
    SpecFault {
        file: file.to_owned(),
        key: key.to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
        nearest: None,
    }
}

impl NodeTask {
    /// Takes what `workloads.d` holds now.
    ///
    /// A file that is refused changes nothing about its workload; a file that is gone ends it.
    pub(super) fn declare(&mut self, files: &[SpecFile], occasion: Occasion) {
        let mut declared = read(files);
        self.refuse_dependencies(&mut declared);
        for refused in &declared.refused {
            for fault in &refused.faults {
                tracing::error!("{fault}");
            }
        }
        let refused: BTreeSet<_> = declared.refused.iter().map(|spec| spec.file.clone()).collect();
        let gone: Vec<_> = self
            .declared
            .iter()
            .filter(|(name, file)| !refused.contains(*file) && !declared.specs.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.declared.remove(&name);
            let left = crate::core::dependencies::dependants(&self.graph(), &name);
            if !left.is_empty() {
                let left: Vec<_> = left.iter().map(WorkloadName::as_str).collect();
                tracing::warn!(workload = %name, "its file is gone, and {} depend on it", left.join(", "));
            }
            if let Some(handle) = self.handles.get(&name) {
                super::deliver(handle, WorkloadCommand::Undeclare);
            }
        }
        self.context.board.show_refused(declared.refused);
        for (name, (declaration, spec)) in declared.specs {
            if !self.handles.contains_key(&name) {
                self.begin(name.clone(), Beginning::New);
            }
            self.declared.insert(name.clone(), declaration.file.clone());
            if let Some(handle) = self.handles.get(&name) {
                let spec = Box::new(spec);
                let declare = WorkloadCommand::Declare { declaration, spec, occasion };
                super::deliver(handle, declare);
            }
        }
    }

    /// Refuses the files whose workloads depend on what is not there, or on themselves.
    fn refuse_dependencies(&self, declared: &mut Declared) {
        let graph = self.graph();
        let kept = |name: &WorkloadName| {
            // A workload whose file is gone is about to be removed; one whose file is refused stays.
            self.declared.get(name).is_none_or(|file| {
                declared.specs.contains_key(name)
                    || declared.refused.iter().any(|refused| refused.file == *file)
            })
        };
        let mut known: Graph = graph.into_iter().filter(|(name, _)| kept(name)).collect();
        for name in self.handles.keys().filter(|name| kept(name)) {
            // One that shows nothing, as after an upgrade that refuses its spec, is there all the same.
            known.entry(name.clone()).or_default();
        }
        let needs = |spec: &WorkloadSpec| super::dependencies::needs(spec);
        let wanted: Graph =
            declared.specs.iter().map(|(name, (_, spec))| (name.clone(), needs(spec))).collect();
        for (name, refusal) in admit(&known, &wanted).refused {
            if let Some((declaration, _)) = declared.specs.remove(&name) {
                let faults = vec![super::dependencies::fault(&declaration.file, &refusal)];
                declared.refused.push(RefusedSpec { file: declaration.file, faults });
            }
        }
    }

    /// The problem of removing a workload that a file declares: it would come back.
    pub(super) fn is_declared(&self, workload: &WorkloadName) -> Option<Problem> {
        let file = self.declared.get(workload)?;
        Some(Problem::new(
            ProblemCode::OwnedByFile,
            format!("{workload} is declared by {file}"),
            format!("delete {file} and reload belayd, or stop it: belay stop {workload}"),
        ))
    }

    /// Takes over containers of this node whose record is lost. Their labels say what they are.
    pub(super) async fn adopt_unknown(&mut self) {
        let filter = format!("{}={}", labels::INSTANCE, self.context.instance);
        let Context { engine, instance, .. } = &*self.context;
        // At belayd's start all workloads look at the same moment; a later try looks for itself.
        let first = self.first_look.take();
        let shared = match &first {
            Some(first) => first.all(engine, instance).await.map(<[_]>::to_vec),
            None => engine.list(&[filter]).await.ok(),
        };
        let Some(containers) = shared else { return };
        self.adopted = true;
        let mut newest: BTreeMap<WorkloadName, (u64, Declaration)> = BTreeMap::new();
        for found in &containers {
            let label = |name| found.labels.get(name);
            let name = label(labels::WORKLOAD).and_then(|name| name.parse().ok());
            let generation = label(labels::GENERATION).and_then(|text| text.parse().ok());
            let declaration = container::declaration_of(found);
            let (Some(name), Some(generation), Some(declaration)) = (name, generation, declaration)
            else {
                tracing::warn!(container = %found.name, "carries this node's label and cannot be \
                    read; it is left alone");
                continue;
            };
            if self.handles.contains_key(&name) {
                continue;
            }
            let kept = newest.entry(name).or_insert((generation, declaration.clone()));
            if generation > kept.0 {
                *kept = (generation, declaration);
            }
        }
        for (name, (generation, declaration)) in newest {
            tracing::warn!(workload = %name, generation, "its record is lost and rebuilt from its container");
            let record = WorkloadRecord {
                generation,
                newest_generation: generation,
                ..WorkloadRecord::first(declaration)
            };
            match self.context.ledger.put(TABLE, name.as_str(), &record).await {
                Ok(()) => self.begin(name, Beginning::Known(Box::new(record), Arc::default())),
                Err(error) => {
                    tracing::error!(workload = %name, "{}", problems::with_causes(&error));
                    self.adopted = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SpecFile {
        SpecFile { path: path.into(), text: Ok(text.into()) }
    }

    #[test]
    fn two_files_for_one_workload_are_both_refused() {
        let files = [
            file("/w/a.toml", "name = \"web\"\nimage = \"x\""),
            file("/w/b.toml", "name = \"web\"\nimage = \"y\""),
            file("/w/c.toml", "name = \"db\"\nimage = \"z\""),
        ];
        let declared = read(&files);
        assert_eq!(declared.specs.len(), 1);
        let mut refused: Vec<_> = declared.refused.iter().map(|spec| &*spec.file).collect();
        refused.sort_unstable();
        assert_eq!(refused, ["/w/a.toml", "/w/b.toml"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused_with_the_reason() {
        let unreadable =
            SpecFile { path: "/w/a.toml".into(), text: Err("Permission denied".into()) };
        let declared = read(&[unreadable]);
        assert_eq!(
            declared.refused[0].faults[0].to_string(),
            "/w/a.toml: (file): found Permission denied, expected a file that can be read"
        );
    }
}
