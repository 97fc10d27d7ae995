//! The namespace against the plainest model there is: a flat map of paths.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::core::command::{Command, FolderMade, TrashEmptied, TrashRestored};
use crate::core::path::Path;
use crate::core::refusal::Refusal;
use crate::core::scripted::{Script, removed, renamed};
use crate::core::session::Answer;

/// What is at each path but the root's, and what was removed, newest last.
#[derive(Clone, Default)]
struct Model {
    tree: BTreeMap<Path, Kind>,
    trash: Vec<(Path, Vec<(String, Kind)>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

#[derive(Clone, Debug)]
enum Step {
    MakeFolder(Path, bool),
    Upload(Path),
    Rename(Path, Path),
    Remove(Path, bool, bool),
    Restore(usize, Option<Path>),
    Empty,
}

impl Model {
    fn kind(&self, path: &Path) -> Option<Kind> {
        if path.is_root() {
            Some(Kind::Folder)
        } else {
            self.tree.get(path).copied()
        }
    }

    /// The folders above, from the root down.
    fn above(path: &Path) -> Vec<Path> {
        let mut above: Vec<Path> =
            std::iter::successors(path.split_last().map(|(up, _)| up), |up| {
                up.split_last().map(|(up, _)| up)
            })
            .collect();
        above.reverse();
        above
    }

    /// Whether a path can be looked up, if folders may be missing or not.
    fn reach(&self, path: &Path, parents: bool) -> Result<(), Refusal> {
        for folder in Self::above(path) {
            match self.kind(&folder) {
                Some(Kind::Folder) => {}
                Some(Kind::File) => return Err(Refusal::NotAFolder),
                None if parents => return Ok(()),
                None => return Err(Refusal::NotFound),
            }
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> Result<Kind, Refusal> {
        self.reach(path, false)?;
        self.kind(path).ok_or(Refusal::NotFound)
    }

    fn put(&mut self, path: &Path, kind: Kind) {
        for folder in Self::above(path)
            .into_iter()
            .filter(|folder| !folder.is_root())
        {
            self.tree.insert(folder, Kind::Folder);
        }
        self.tree.insert(path.clone(), kind);
    }

    /// Takes a path and all below it out, with what each adds to the path.
    fn take(&mut self, path: &Path) -> Vec<(String, Kind)> {
        let taken = |at: &Path| at == path || at.is_below(path);
        let rows: Vec<_> = self.tree.iter().filter(|(at, _)| taken(at)).collect();
        let rows = rows
            .into_iter()
            .map(|(at, kind)| (at.as_str()[path.as_str().len()..].to_owned(), *kind));
        let rows = rows.collect();
        self.tree.retain(|at, _| !taken(at));
        rows
    }

    fn put_all(&mut self, path: &Path, rows: Vec<(String, Kind)>) {
        for (rest, kind) in rows {
            self.put(&Path::parse(&format!("{path}{rest}")).unwrap(), kind);
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Refusal> {
        match step {
            Step::MakeFolder(path, parents) => {
                self.reach(path, *parents)?;
                match self.kind(path) {
                    Some(Kind::Folder) if *parents => Ok(()),
                    Some(_) => Err(Refusal::AlreadyExists),
                    None => {
                        self.put(path, Kind::Folder);
                        Ok(())
                    }
                }
            }
            Step::Upload(path) => {
                self.reach(path, false)?;
                match self.kind(path) {
                    Some(Kind::Folder) => Err(Refusal::IsAFolder),
                    Some(Kind::File) => Err(Refusal::AlreadyExists),
                    None => {
                        self.put(path, Kind::File);
                        Ok(())
                    }
                }
            }
            Step::Rename(source, target) => {
                if source.is_root() || target.is_root() || target.is_below(source) {
                    return Err(Refusal::InvalidArgument);
                }
                self.find(source)?;
                self.reach(target, false)?;
                if self.kind(target).is_some() {
                    return Err(Refusal::AlreadyExists);
                }
                let rows = self.take(source);
                self.put_all(target, rows);
                Ok(())
            }
            Step::Remove(path, recursive, purge) => {
                if path.is_root() {
                    return Err(Refusal::InvalidArgument);
                }
                self.find(path)?;
                if !recursive && self.tree.keys().any(|at| at.is_below(path)) {
                    return Err(Refusal::NotEmpty);
                }
                let rows = self.take(path);
                if !purge {
                    self.trash.push((path.clone(), rows));
                }
                Ok(())
            }
            Step::Restore(nth, target) => {
                let (path, rows) = self.trash.get(*nth).cloned().ok_or(Refusal::NotFound)?;
                let target = target.clone().unwrap_or(path);
                self.reach(&target, true)?;
                if self.kind(&target).is_some() {
                    return Err(Refusal::AlreadyExists);
                }
                self.trash.remove(*nth);
                self.put_all(&target, rows);
                Ok(())
            }
            Step::Empty => {
                self.trash.clear();
                Ok(())
            }
        }
    }
}

/// Carries a step out on the real namespace.
fn carry_out(script: &mut Script, step: &Step) -> Result<(), Refusal> {
    let command: Command = match step {
        Step::MakeFolder(path, parents) => FolderMade {
            parents: *parents,
            path: path.clone(),
        }
        .into(),
        Step::Upload(path) => {
            let begun = script
                .request(crate::core::scripted::pending(path.as_str()))
                .answer;
            match begun {
                Answer::Pending { file, .. } => {
                    crate::core::scripted::published(file, path.as_str(), &[]).into()
                }
                Answer::Refused(refusal) => return Err(refusal),
                other => panic!("{other:?}"),
            }
        }
        Step::Rename(source, target) => renamed(source.as_str(), target.as_str()).into(),
        Step::Remove(path, recursive, purge) => removed(path.as_str(), *recursive, *purge).into(),
        Step::Restore(nth, target) => {
            let mut trash: Vec<_> = script.state.namespace.trash().collect();
            trash.sort_by_key(|(_, trashed)| trashed.deleted_ms);
            let entry = trash
                .get(*nth)
                .map_or(sarsen_protocol::id::FileId(u64::MAX), |row| row.0);
            TrashRestored {
                entry,
                target: target.clone(),
            }
            .into()
        }
        Step::Empty => TrashEmptied {
            entry: sarsen_protocol::id::FileId::NONE,
        }
        .into(),
    };
    match script.request(command).answer {
        Answer::Refused(refusal) => Err(refusal),
        _ => Ok(()),
    }
}

/// The real namespace as the model would have it.
fn flatten(script: &Script) -> BTreeMap<Path, Kind> {
    let namespace = &script.state.namespace;
    let mut tree = BTreeMap::new();
    for visit in namespace.walk(super::ROOT).skip(1) {
        let text = namespace.path_of(visit.id).unwrap();
        assert_eq!(visit.path_len, text.len(), "the walk adds up lengths");
        let kind = if visit.node.as_file().is_some() {
            Kind::File
        } else {
            Kind::Folder
        };
        tree.insert(Path::parse(&text).unwrap(), kind);
    }
    tree
}

fn paths() -> impl Strategy<Value = Path> {
    prop::collection::vec("[abc]", 0..4)
        .prop_map(|names| Path::parse(&format!("/{}", names.join("/"))).unwrap())
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (paths(), any::<bool>()).prop_map(|(path, parents)| Step::MakeFolder(path, parents)),
        4 => paths().prop_map(Step::Upload),
        4 => (paths(), paths()).prop_map(|(source, target)| Step::Rename(source, target)),
        2 => (paths(), any::<bool>(), any::<bool>())
            .prop_map(|(path, recursive, purge)| Step::Remove(path, recursive, purge)),
        2 => (0_usize..3, prop::option::of(paths()))
            .prop_map(|(nth, target)| Step::Restore(nth, target)),
        1 => Just(Step::Empty),
    ]
}

proptest! {
    #[test]
    fn every_step_is_taken_or_refused_as_the_model_says(
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let (mut script, mut model) = (Script::new(), Model::default());
        for step in &steps {
            let (expected, got) = (model.step(step), carry_out(&mut script, step));
            prop_assert_eq!(got, expected, "{:?}", step);
            prop_assert_eq!(&flatten(&script), &model.tree, "{:?}", step);
            prop_assert_eq!(script.state.namespace.trash().len(), model.trash.len());
        }
        let bytes = crate::core::checkpoint::encode(&script.state);
        prop_assert_eq!(crate::core::checkpoint::decode(&bytes).unwrap(), script.state);
    }
}

/// A stack of the thread's would not hold a frame a level for a tree this deep.
#[test]
fn the_deepest_tree_is_walked_and_removed() {
    let mut script = Script::new();
    let deep = format!("/{}", vec!["d"; 255].join("/"));
    let path = Path::parse(&deep).unwrap();
    let made = script.request(FolderMade {
        parents: true,
        path,
    });
    assert!(matches!(made.answer, Answer::Id(_)));
    assert_eq!(script.state.namespace.walk(super::ROOT).count(), 256);
    assert!(matches!(
        script.request(removed("/d", true, true)).answer,
        Answer::Removed { .. }
    ));
    assert_eq!(script.state.namespace.walk(super::ROOT).count(), 1);
}
