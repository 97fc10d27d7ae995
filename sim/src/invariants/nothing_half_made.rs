//! What a master says of names is what its log says at that moment: no change that is not
//! acknowledged yet, none that is half done, no file before its publication.

use sarsen_protocol::id::FileId;
use sarsen_protocol::message::{AnyMessage, NodeType};
use sarsen_protocol::status::{Retry, Status};

use super::{Facts, Invariant};
use crate::observation::Observation;
use crate::oracle::names::Node;

/// Nothing to remember.
#[derive(Debug, Default)]
pub struct NothingHalfMade;

impl Invariant for NothingHalfMade {
    fn name(&self) -> &'static str {
        "nothing half made"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        let Observation::Answered { question, answer } = observation else {
            return Ok(());
        };
        // A master that can't say anything yet says nothing wrong.
        if answer.is_err_and(|status: Status| status.retry() == Retry::Wait) {
            return Ok(());
        }
        let names = &facts.names;
        let broken = |expected: String| {
            Err(format!(
                "{question:?} was answered with {answer:?}, to be expected: {expected}"
            ))
        };
        match (question, answer) {
            (AnyMessage::Stat(asked), answer) => {
                let expected = names.find(&asked.path);
                let told = match answer {
                    Ok(AnyMessage::StatReply(reply)) => Ok(node(&reply.node)),
                    Err(status) => Err(*status),
                    Ok(_) => return broken("a StatReply".to_owned()),
                };
                match told == expected {
                    true => Ok(()),
                    false => broken(format!("{expected:?}")),
                }
            }
            (AnyMessage::Locate(asked), answer) => {
                let expected = match asked.file_id {
                    FileId::NONE => names.find(&asked.path),
                    id if names.is_published(id) => Ok(Node::File(id)),
                    _ => Err(Status::NotFound),
                };
                let expected = match expected {
                    Ok(Node::Folder(_)) => Err(Status::IsAFolder),
                    other => other,
                };
                let told = match answer {
                    Ok(AnyMessage::LocateReply(reply)) => Ok(node(&reply.node)),
                    Err(status) => Err(*status),
                    Ok(_) => return broken("a LocateReply".to_owned()),
                };
                match told == expected {
                    true => Ok(()),
                    false => broken(format!("{expected:?}")),
                }
            }
            (AnyMessage::List(asked), Ok(AnyMessage::ListReply(reply))) => {
                let expected = names.list(&asked.path);
                let told = reply
                    .entries
                    .iter()
                    .map(|entry| (entry.name.as_str(), node(&entry.node)));
                match names
                    .find(&asked.path)
                    .is_ok_and(|node| matches!(node, Node::File(_)))
                    || told.eq(expected.iter().map(|(name, node)| (*name, *node)))
                {
                    true => Ok(()),
                    false => broken(format!("{expected:?}")),
                }
            }
            (AnyMessage::ListTrash(_), Ok(AnyMessage::TrashListed(reply))) => {
                let told = reply
                    .entries
                    .iter()
                    .map(|entry| (entry.entry, entry.path.as_str()));
                let expected = names
                    .trash()
                    .iter()
                    .map(|(entry, it)| (*entry, it.path.as_str()));
                match told.eq(expected) {
                    true => Ok(()),
                    false => broken(format!("{:?}", names.trash())),
                }
            }
            _ => Ok(()),
        }
    }
}

const fn node(node: &sarsen_protocol::message::Node) -> Node {
    match node.node_type {
        NodeType::File => Node::File(node.file_id),
        NodeType::Folder => Node::Folder(node.file_id),
    }
}
