//! What reaches the thread that owns the machine, and the way for HTTP to ask it something.

use sarsen_edge::connection::Connection;
use sarsen_protocol::message::{AnyMessage, ErrorBody, Request};
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};

use crate::core::event::OrderId;

/// Inputs that may wait for the machine's thread; whoever sends more waits.
const INPUTS_MAX: usize = 4096;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A peer has said hello.
    Opened(Connection),
    /// A peer asks.
    Request {
        /// Its connection's number.
        connection: u64,
        /// Its number for the request.
        request: u64,
        /// What it asks.
        message: AnyMessage,
    },
    /// A connection has ended; nothing of it comes after this.
    Closed {
        /// Its number.
        connection: u64,
    },
    /// A chunkserver has answered an order. It keeps its place among the requests of its connection.
    OrderDone {
        /// The connection that the order went over.
        connection: u64,
        /// The order.
        order: OrderId,
        /// The answer.
        answer: Answer,
    },
    /// Something inside this process asks.
    Question {
        /// What.
        message: AnyMessage,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
}

/// The answer to an order, or to a question from inside this process.
pub(crate) type Answer = Result<AnyMessage, (Status, ErrorBody)>;

/// The sending and the taking end of the machine's inputs.
pub(crate) fn channel() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
    mpsc::channel(INPUTS_MAX)
}

/// Asks the machine from inside this process.
#[derive(Clone, Debug)]
pub(crate) struct Questions(pub(crate) mpsc::Sender<Input>);

impl Questions {
    /// Asks, and waits for the answer.
    pub(crate) async fn ask<R>(&self, question: R) -> Result<R::Reply, (Status, ErrorBody)>
    where
        R: Request + Into<AnyMessage>,
        R::Reply: TryFrom<AnyMessage, Error = AnyMessage>,
    {
        let gone = || (Status::ShuttingDown, ErrorBody::new("the master is ending"));
        let (answer, answered) = oneshot::channel();
        let question = Input::Question {
            message: question.into(),
            answer,
        };
        self.0.send(question).await.map_err(|_| gone())?;
        let answer = answered.await.map_err(|_| gone())??;
        R::Reply::try_from(answer).map_err(|other| {
            let text = format!("the answer was a {}", other.kind().name());
            (Status::Internal, ErrorBody::new(text))
        })
    }
}
