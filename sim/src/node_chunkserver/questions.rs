//! The control port: what `chunkd/src/server/questions.rs` does around the shipped answers.

use sarsen_chunkd::core::member::Refusal;
use sarsen_chunkd::core::mutation::Answer;
use sarsen_chunkd::server::leases::message_of;
use sarsen_chunkd::server::questions::{admit_newest, answer_from_store};
use sarsen_protocol::deframe::{Frame, any_frame, error_frame};
use sarsen_protocol::message::{AnyMessage, Kind};

use super::open_chunks::{Answerer, unknown};
use super::{ChunkserverEvent, Process};
use crate::net::ConnId;
use crate::node_master::reply_kind;
use crate::world::World;

impl Process {
    /// Somebody asks.
    pub(super) fn asked(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        match frame.any_message() {
            Ok(AnyMessage::Newest(newest)) => {
                let who = Answerer::Question(conn, request_id);
                let admitted = admit_newest(&self.server, &newest, world.unix_ms());
                let asked = admitted.and_then(|()| {
                    let asked = self.ask_newest(world, &newest, who);
                    asked.map_err(|_| unknown())
                });
                if let Err(refusal) = asked {
                    self.answer_newest(world, conn, request_id, Err(refusal));
                }
            }
            Ok(message) => {
                let event = ChunkserverEvent::Question(conn, request_id, Box::new(message));
                self.plan_disk(world, event, 30, 900);
            }
            Err(_) => self.drop_accepted(world, conn),
        }
    }

    /// The store is asked.
    pub(super) fn question_due(
        &mut self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        question: &AnyMessage,
    ) {
        let is_open = |handle| self.is_open(handle);
        let answer = answer_from_store(&self.server, question, is_open, world.unix_ms());
        if !self.is_dead() {
            self.reply(world, conn, request_id, question.kind(), answer);
        }
    }

    /// A chunk's machine has answered which state is the newest.
    pub(super) fn answer_newest(
        &self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        answer: Result<Answer, Refusal>,
    ) {
        let answer = answer.map(message_of);
        self.reply(world, conn, request_id, Kind::Newest, answer);
    }

    fn reply(
        &self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        asked: Kind,
        answer: Result<AnyMessage, Refusal>,
    ) {
        let frame = match &answer {
            Ok(message) => any_frame(message, request_id).unwrap_or_default(),
            Err((status, error)) => error_frame(reply_kind(asked), request_id, *status, error),
        };
        world.send(self.node, conn, frame);
    }
}
