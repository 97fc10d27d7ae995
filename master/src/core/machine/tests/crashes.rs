//! Random requests, retries and crashes, against what a client was told.
//!
//! A crash keeps any part of the log that reaches at least as far as what was flushed. Whatever
//! was answered must be so afterwards, and be answered the same when it is asked again; what was
//! not answered is asked again until it is, and must not have been done twice.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A new request goes out: to make a folder, move one, or remove one.
    Make(u8),
    Move(u8, u8),
    Remove(u8),
    /// The nth request ever made goes out again.
    Again(usize),
    /// So many of the entries under way are flushed.
    Flush(usize),
    /// The master dies, and of the entries under way so many had reached the disk.
    Crash(usize),
}

/// The client's side: requests, and what each was answered with.
#[derive(Default)]
struct Client {
    requests: Vec<AnyMessage>,
    answers: Vec<Option<Result<AnyMessage, Failure>>>,
    waiting: Vec<(Token, usize)>,
}

fn steps() -> impl Strategy<Value = Step> {
    let name = || 0..6_u8;
    prop_oneof![
        4 => name().prop_map(Step::Make),
        2 => (name(), name()).prop_map(|(from, to)| Step::Move(from, to)),
        2 => name().prop_map(Step::Remove),
        2 => (0..40_usize).prop_map(Step::Again),
        3 => (0..4_usize).prop_map(Step::Flush),
        1 => (0..4_usize).prop_map(Step::Crash),
    ]
}

/// The request that a step sends, if it sends a new one. All of a client's requests stay
/// outstanding, so that every answer has to be kept.
fn new_request(rig: &mut Rig, step: &Step) -> Option<AnyMessage> {
    let path = |name: u8| format!("/{name}");
    let request = RequestId {
        number: rig.numbers + 1,
        lowest_outstanding: 1,
        session: rig.session,
    };
    let message = match *step {
        Step::Make(name) => MakeFolder {
            request,
            path: path(name),
            parents: false,
        }
        .into(),
        Step::Move(from, to) => Rename {
            request,
            source: path(from),
            target: path(to),
        }
        .into(),
        Step::Remove(name) => Remove {
            request,
            path: path(name),
            recursive: false,
            purge: false,
        }
        .into(),
        Step::Again(_) | Step::Flush(_) | Step::Crash(_) => return None,
    };
    rig.numbers += 1;
    Some(message)
}

impl Client {
    fn send(&mut self, rig: &mut Rig, at: usize) {
        let token = rig.send(CLIENT, self.requests[at].clone());
        self.waiting.push((token, at));
        self.collect(rig);
    }

    /// Takes the replies that are there; one that was given before must be the same.
    fn collect(&mut self, rig: &mut Rig) {
        for action in rig.actions() {
            if let Action::Reply { to, reply } = action {
                let at = self
                    .waiting
                    .iter()
                    .position(|(token, _)| *token == to)
                    .unwrap();
                let (_, request) = self.waiting.remove(at);
                let first = self.answers[request].get_or_insert_with(|| reply.clone());
                assert_eq!(*first, reply, "{:?}", self.requests[request]);
            }
        }
    }

    fn flush(&mut self, rig: &mut Rig, count: usize) {
        let index = rig.machine.state().index + count as u64;
        rig.machine
            .handle_flushed(index.min(rig.log.len() as u64), rig.now);
        self.collect(rig);
    }

    fn crash(&mut self, rig: &mut Rig, kept: usize) {
        let flushed = usize::try_from(rig.machine.state().index).unwrap();
        rig.log.truncate(flushed + kept);
        *rig = rig.restarted(config());
        self.waiting.clear();
    }

    fn step(&mut self, rig: &mut Rig, step: &Step) {
        if let Some(request) = new_request(rig, step) {
            self.requests.push(request);
            self.answers.push(None);
            self.send(rig, self.requests.len() - 1);
        }
        match *step {
            Step::Again(at) if at < self.requests.len() => self.send(rig, at),
            Step::Flush(count) => self.flush(rig, count),
            Step::Crash(kept) => self.crash(rig, kept),
            _ => {}
        }
    }
}

/// No request id is in the log twice, and the log says what the machine's state says.
fn check_log(rig: &Rig) {
    let mut state = State::default();
    let mut seen = BTreeSet::new();
    for entry in &rig.log {
        assert!(!apply(&mut state, entry).repeated, "{entry:?}");
        if let Some(request) = entry.request {
            assert!(seen.insert(request.number), "{entry:?}");
        }
    }
    assert_eq!(state, *rig.machine.state());
}

proptest! {
    #[test]
    fn what_was_answered_stays_and_nothing_is_done_twice(
        steps in prop::collection::vec(steps(), 1..80),
    ) {
        let (mut rig, mut client) = (Rig::new(), Client::default());
        for step in &steps {
            client.step(&mut rig, step);
        }
        client.crash(&mut rig, 1);
        for at in 0..client.requests.len() {
            client.send(&mut rig, at);
        }
        client.flush(&mut rig, usize::MAX >> 1);
        prop_assert!(client.answers.iter().all(Option::is_some));
        check_log(&rig);
    }
}
