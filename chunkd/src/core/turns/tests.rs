//! Besides single steps, clients that want without end, beside something that moves a fixed number
//! of bytes a second and shares it out by turn: what disks, processors and networks do.

use super::*;

const MIB: u64 = 1024 * 1024;

const ONE: Client = Client::Dialer(StartNonce(1));
const MANY: Client = Client::Dialer(StartNonce(64));

const TICK: Duration = Duration::from_micros(100);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Where a connection of a client is with its frame.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Wanted,
    Waits(WaitId),
    /// What is left of it.
    Moves(u64),
}

/// A client with some connections, each of which always wants another frame.
struct Wants {
    client: Client,
    frame_len: u64,
    /// What each of its connections can take in a tick, whatever we do.
    own_pace: u64,
    /// When it is there.
    from: Duration,
    to: Duration,
    connections: Vec<Frame>,
    got: u64,
}

impl Wants {
    fn new(client: Client, connections: usize) -> Self {
        Self {
            client,
            frame_len: MIB,
            own_pace: u64::MAX,
            from: Duration::ZERO,
            to: Duration::MAX,
            connections: vec![Frame::Wanted; connections],
            got: 0,
        }
    }
}

/// A server that moves so many bytes in a tick.
struct Server {
    turns: Turns,
    now: Duration,
    pace: u64,
    clients: Vec<Wants>,
    held: usize,
}

impl Server {
    fn new(megabytes_per_second: u64, clients: Vec<Wants>) -> Self {
        let mut turns = Turns::default();
        for wants in &clients {
            wants
                .connections
                .iter()
                .for_each(|_| turns.enter(wants.client));
        }
        Self {
            turns,
            now: Duration::ZERO,
            pace: megabytes_per_second * 100,
            clients,
            held: 0,
        }
    }

    /// Goes on for so long; what each client got meanwhile.
    fn run(&mut self, time: Duration) -> Vec<u64> {
        let before: Vec<u64> = self.clients.iter().map(|it| it.got).collect();
        let end = self.now + time;
        while self.now < end {
            self.begin_frames();
            self.now += TICK;
            self.move_bytes();
            self.look();
        }
        let now = self.clients.iter().map(|it| it.got);
        now.zip(before).map(|(now, before)| now - before).collect()
    }

    fn begin_frames(&mut self) {
        for wants in &mut self.clients {
            if self.now < wants.from || self.now >= wants.to {
                continue;
            }
            for frame in &mut wants.connections {
                if let Frame::Wanted = frame {
                    *frame = match self.turns.begin(self.now, wants.client, wants.frame_len) {
                        Begun::Now => Frame::Moves(wants.frame_len),
                        Begun::Later(wait) => {
                            self.held += 1;
                            Frame::Waits(wait)
                        }
                    };
                }
            }
        }
    }

    /// Shares the tick out by turn; what one can't take the others get.
    fn move_bytes(&mut self) {
        let mut takes: Vec<(&mut Frame, u64, usize)> = Vec::new();
        for (index, wants) in self.clients.iter_mut().enumerate() {
            let moving = wants.connections.iter_mut();
            let moving = moving.filter(|it| matches!(it, Frame::Moves(_)));
            takes.extend(moving.map(|frame| (frame, wants.own_pace, index)));
        }
        takes.sort_by_key(|(_, own_pace, _)| *own_pace);
        let (mut pace, mut others) = (self.pace, takes.len() as u64);
        let mut moved = Vec::new();
        for (frame, own_pace, index) in takes {
            let Frame::Moves(left) = frame else { continue };
            let some = (pace / others).min(own_pace).min(*left);
            (pace, others, *left) = (pace - some, others - 1, *left - some);
            let is_through = *left == 0;
            if is_through {
                *frame = Frame::Wanted;
            }
            moved.push((index, some, is_through));
        }
        for (index, some, is_through) in moved {
            let wants = &mut self.clients[index];
            wants.got += some;
            if is_through {
                self.turns.end(self.now, wants.client);
            }
        }
    }

    fn look(&mut self) {
        if self.now.as_millis().is_multiple_of(PATIENCE.as_millis()) {
            for wants in &self.clients {
                self.turns.handle_timeout(self.now, wants.client);
            }
        }
        while let Some(granted) = self.turns.poll_granted() {
            let all = self.clients.iter_mut();
            let mut all =
                all.flat_map(|it| it.connections.iter_mut().map(|frame| (it.frame_len, frame)));
            let is_it =
                |(_, it): &(u64, &mut Frame)| matches!(it, Frame::Waits(wait) if *wait == granted);
            let (len, frame) = all.find(is_it).expect("somebody waits for it");
            *frame = Frame::Moves(len);
        }
    }
}

/// The share of the first, in percent, over five seconds once they have begun.
fn share_of_first(clients: Vec<Wants>, megabytes_per_second: u64) -> u64 {
    let mut server = Server::new(megabytes_per_second, clients);
    server.run(ms(1_000));
    let got = server.run(ms(5_000));
    got[0] * 100 / got.iter().sum::<u64>()
}

#[test]
fn one_connection_gets_half_beside_sixty_four_whatever_the_pace() {
    for megabytes_per_second in [100, 400, 2_000, 10_000] {
        let clients = vec![Wants::new(ONE, 1), Wants::new(MANY, 64)];
        let share = share_of_first(clients, megabytes_per_second);
        assert!(
            (45..=55).contains(&share),
            "{share} % at {megabytes_per_second}"
        );
    }
}

/// One connection with small frames, each of which counts for more than its bytes.
#[test]
fn small_frames_get_as_much_time_as_large_ones() {
    let cut = Wants {
        frame_len: COST_MIN,
        ..Wants::new(ONE, 1)
    };
    let share = share_of_first(vec![cut, Wants::new(MANY, 64)], 100);
    assert!((40..=55).contains(&share), "{share} %");
}

#[test]
fn a_copy_and_many_clients_get_alike() {
    let clients = vec![
        Wants::new(Client::Chunkserver(ServerId(1)), 1),
        Wants::new(MANY, 64),
        Wants::new(Client::Session(SessionId(5)), 16),
        Wants::new(Client::Unknown, 4),
    ];
    let mut server = Server::new(2_000, clients);
    server.run(ms(1_000));
    let got = server.run(ms(5_000));
    let all: u64 = got.iter().sum();
    for share in got.iter().map(|got| got * 100 / all) {
        assert!((20..=30).contains(&share), "{got:?}");
    }
}

#[test]
fn who_is_alone_never_waits() {
    let mut server = Server::new(2_000, vec![Wants::new(MANY, 64)]);
    server.run(ms(1_000));
    assert_eq!(server.held, 0);
}

/// As many connections each: nobody is ahead for long, and little is held up.
#[test]
fn who_has_as_much_as_others_hardly_waits() {
    let clients = (1..=4).map(|n| Wants::new(Client::Dialer(StartNonce(n)), 4));
    let mut server = Server::new(2_000, clients.collect());
    let frames = server.run(ms(2_000)).iter().sum::<u64>() / MIB;
    assert!(
        server.held as u64 * 20 < frames,
        "{} of {frames}",
        server.held
    );
}

#[test]
fn who_waits_for_a_network_of_its_own_holds_nobody_back() {
    // 4 MB/s: a frame in a quarter of a second.
    let slow = Wants {
        own_pace: 400,
        ..Wants::new(ONE, 1)
    };
    let mut server = Server::new(2_000, vec![slow, Wants::new(MANY, 64)]);
    server.run(ms(1_000));
    let got = server.run(ms(2_000));
    let possible = 4_000_000_000 * 64 / 65;
    assert!(got[1] > possible * 9 / 10, "{got:?}");
}

/// Connections that stall for good, as those of a reader that reads nothing, and whose turns never
/// end, must hold up neither others nor the rest of their own client.
#[test]
fn who_stalls_holds_nobody_up_and_not_itself() {
    let mut turns = Turns::default();
    for client in [ONE, MANY] {
        turns.enter(client);
    }
    for _ in 0..16 {
        turns.begin(ms(0), ONE, MIB);
        turns.begin(ms(0), MANY, MIB);
    }
    let much_later = ms(10_000);
    let mut at = much_later;
    let mut begun = 0;
    for _ in 0..10 {
        if turns.begin(at, MANY, MIB) == Begun::Now {
            begun += 1;
        }
        at += PATIENCE;
        turns.handle_timeout(at, MANY);
        while turns.poll_granted().is_some() {
            begun += 1;
        }
    }
    assert!(begun >= 10, "{begun}");
}

#[test]
fn who_comes_back_gets_its_share_and_not_what_it_missed() {
    let comes_back = Wants {
        from: ms(3_000),
        ..Wants::new(ONE, 16)
    };
    let mut server = Server::new(2_000, vec![comes_back, Wants::new(MANY, 64)]);
    server.run(ms(3_000));
    let got = server.run(ms(2_000));
    let share = got[0] * 100 / (got[0] + got[1]);
    assert!((45..=55).contains(&share), "{share} %");
}

#[test]
fn what_one_leaves_the_other_takes() {
    let leaves = Wants {
        to: ms(1_000),
        ..Wants::new(ONE, 1)
    };
    let mut server = Server::new(2_000, vec![leaves, Wants::new(MANY, 64)]);
    server.run(ms(1_100));
    assert!(server.run(ms(1_000))[1] > 1_900_000_000);
}

/// Step for step: one ahead has one turn at a time, in the order in which they came.
#[test]
fn one_ahead_has_one_turn_at_a_time() {
    let mut turns = Turns::default();
    for client in [ONE, MANY] {
        turns.enter(client);
    }
    let now = ms(1);
    assert_eq!(turns.begin(now, ONE, MIB), Begun::Now);
    // As far as the lead goes, and one that passes it.
    for _ in 0..5 {
        assert_eq!(turns.begin(now, MANY, MIB), Begun::Now);
    }
    let Begun::Later(first) = turns.begin(now, MANY, MIB) else {
        panic!("too far ahead");
    };
    let Begun::Later(second) = turns.begin(now, MANY, MIB) else {
        panic!("behind another that waits");
    };
    for _ in 0..4 {
        turns.end(now, MANY);
        assert_eq!(turns.poll_granted(), None, "one is in hand still");
    }
    turns.end(now, MANY);
    assert_eq!(turns.poll_granted(), Some(first));
    assert_eq!(turns.poll_granted(), None);
    // The other's next frames bring the lead down.
    for _ in 0..2 {
        turns.end(now, ONE);
        assert_eq!(turns.poll_granted(), None);
        assert_eq!(turns.begin(now, ONE, MIB), Begun::Now);
    }
    assert_eq!(turns.poll_granted(), Some(second));
}
